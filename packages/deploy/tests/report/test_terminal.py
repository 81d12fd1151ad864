"""The results table of the terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from hexpath_deploy.report import summary
from hexpath_deploy.report.terminal import wants_colour


def test_table(record: dict[str, Any]) -> None:
    lines = summary(record).splitlines()
    row = next(line for line in lines if "w8a8-raw-ptq" in line)
    expected = "* w8a8-raw-ptq 64.5 \u22120.1 64.1 (64.3) ~1.39 1.22-1.61 3.40x 3.90 yes"
    assert " ".join(row.split()) == expected
    assert any("no measurement" in line for line in lines)
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in summary(record)
    assert "\x1b[31m" in summary(record, colour=True)


def test_long_names_and_control_characters(record: dict[str, Any]) -> None:
    for row in record["results"]:
        row["id"] += "\x1b[2J" + "x" * 80
        row.pop("same_images", None)
    del record["against"]
    text = summary(record)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_empty_columns_are_left_out(record: dict[str, Any]) -> None:
    record["results"] = record["results"][:1]
    del record["against"]
    head = summary(record).splitlines()[2]
    assert head.split() == ["plan", "mAP50-95"]
    assert summary({**record, "results": []}).splitlines()[2].split() == ["plan"]


def test_missing_operators_and_disagreement(record: dict[str, Any]) -> None:
    row = next(row for row in record["results"] if row["id"] == "w8a8-raw-ptq")
    row["latency"]["missing_ops"] = 2
    row["agreement"]["verdict"] = "fail"
    text = summary(record)
    assert "~1.39+" in text
    assert " NO" in text
    assert "leaves operators out" in text


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_command(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from hexpath_deploy.report import summary_command

    parser = argparse.ArgumentParser()
    summary_command.add_parser(parser.add_subparsers())
    assert summary_command.run(parser.parse_args(["summary", str(run_folder / "results.json")])) == 0
    assert "w8a8-raw-qat" in capsys.readouterr().out
