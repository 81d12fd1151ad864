"""W&B: offline, without a network, without a key in any file; a failure loses nothing."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fixture_run
import pytest

from hexpath_deploy.cli import main
from hexpath_deploy.errors import ReportError, TrackingError
from hexpath_deploy.report import tracking

KEY = "feedc0de" * 5


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses every connection that leaves this machine; wandb's own service is local."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise AssertionError(f"connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", guarded)


def test_mode_and_project(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    assert (tracking.mode(), tracking.project()) == ("offline", "hexpath")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert (tracking.mode(), tracking.project()) == ("online", "mine")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracking.mode() == "offline"


def test_tables(record: dict[str, Any]) -> None:
    columns, rows = tracking.row_table(record)
    assert len(rows) == len(record["results"])
    first = dict(zip(columns, rows[1], strict=True))
    assert (first["id"], first["latency_ms"], first["map"]) == ("fp16-raw", 5.3, 0.645)
    assert dict(zip(columns, rows[0], strict=True))["latency_ms"] is None
    columns, rows = tracking.class_table(record)
    assert ["fp32", "ort", "vehicle", "map", 0.774] in rows


def test_scalars(record: dict[str, Any]) -> None:
    found = tracking.scalars(record)
    assert found["w8a8-raw-ptq/latency_ms_estimate"] == 1.39
    assert found["w4a8-raw-qat/loss_points"] == pytest.approx(1.35)
    assert found["headline"] == "w8a8-raw-ptq"


def whole(path: Path) -> bytes:
    """A wandb run file without the 7 bytes that head each block of 32 KiB and may split a word."""
    data = path.read_bytes()
    return b"".join(data[start + 7 : start + 32768] for start in range(0, len(data), 32768))


def test_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    path = fixture_run.write_run(tmp_path)
    before = path.read_bytes()
    assert main(["report", str(path), "--out", str(tmp_path / "report.html")]) == 0
    assert main(["log", str(path)]) == 0
    told = capsys.readouterr().out
    assert "wandb: offline, project hexpath" in told
    assert "wandb sync" in told
    assert path.read_bytes() == before
    written = [file for file in (tmp_path / "wandb").rglob("*") if file.is_file() and not file.is_symlink()]
    names = {file.name.split("_")[0] for file in written}
    assert {"results", "per", "report"} <= names
    run_file = whole(next(file for file in written if file.suffix == ".wandb"))
    for words in (b"exp_99_fixture/default", b"exp_99_fixture-default-results", b"dataset_fingerprint"):
        assert words in run_file
    for file in [*written, tmp_path / "report.html"]:
        assert KEY.encode() not in file.read_bytes() + whole(file), file


def test_without_wandb(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main(["log", str(run_folder / "results.json")]) == 92
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "hexpath-deploy: error: wandb is not installed: pip install 'hexpath-deploy[wandb]'; "
        "the record and the report need none"
    ]


class FakeError(Exception):
    """Stands for wandb.errors.Error."""


def fake(*, refuses: tuple[str, ...]) -> SimpleNamespace:
    asked: list[str] = []

    def init(*, mode: str, **_: Any) -> Any:
        asked.append(mode)
        if mode in refuses:
            raise FakeError(f"no {mode}")
        raise OSError("disk is read-only")

    return SimpleNamespace(
        errors=SimpleNamespace(Error=FakeError), Settings=lambda **_: None, init=init, asked=asked
    )


@pytest.mark.parametrize(
    ("refuses", "asked", "message"),
    [
        (
            ("online", "offline"),
            ["online", "offline"],
            "W&B took nothing .no offline.; .*results.json is complete",
        ),
        (("online",), ["online", "offline"], "W&B took nothing .disk is read-only."),
    ],
)
def test_failures_fall_back_and_lose_nothing(
    tmp_path: Path,
    record: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    refuses: tuple[str, ...],
    asked: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    wandb = fake(refuses=refuses)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    path = fixture_run.write_run(tmp_path)
    before = path.read_bytes()
    with pytest.raises(TrackingError, match=message):
        tracking.log(record, path=path, report=None, folder=tmp_path)
    assert wandb.asked == asked
    assert path.read_bytes() == before


def test_a_record_with_a_key_is_not_sent(
    tmp_path: Path, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    record["config"]["note"] = KEY
    path = tmp_path / "results.json"
    path.write_text(json.dumps(record))
    with pytest.raises(ReportError, match=r"results\.json holds the value of a secret environment variable"):
        tracking.log(record, path=path, report=None, folder=tmp_path)
