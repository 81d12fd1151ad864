"""What a loop says of itself."""

from __future__ import annotations

import time

import pytest

from hexpath_quant.progress import Ticker


def test_the_time_left_does_not_count_the_start_of_the_workers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 60.0, 65.0, 72.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    ticker = Ticker(total=101, label="layers")
    ticker.tick(1)
    ticker.tick(6)
    ticker.tick(13, note="loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "hexpath-quant: layers: 1/101",
        "hexpath-quant: layers: 13/101, 88 s left, loss 0.5",
    ]
