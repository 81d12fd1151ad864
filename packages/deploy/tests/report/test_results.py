"""The schema, and messages that name the field."""

from __future__ import annotations

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from hexpath_deploy.errors import ResultsError
from hexpath_deploy.report import load, validate
from hexpath_deploy.report.results import schema


def put(record: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(record)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def test_fixture_is_valid(record: dict[str, Any]) -> None:
    validate(record)


def test_schema_is_a_schema() -> None:
    jsonschema = importlib.import_module("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())


def test_smallest_record() -> None:
    validate(
        {
            "schema": 1,
            "experiment": "exp",
            "name": "n",
            "dataset": {"fingerprint": "sha256:" + "0" * 64},
            "tools": {},
            "results": [],
        }
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "schema is 2; this version of hexpath-deploy reads schema 1"),
        (("results", 1, "latency", "value_ms"), None, r"results\[1\]\.latency\.value_ms is null; leave out"),
        (("results", 1, "latency", "value_ms"), "5", r"results\[1\]\.latency\.value_ms: '5' is not of type"),
        (("results", 1, "latency", "value_ms"), 99.0, r"results\[1\]\.latency: 99.0 ms lies outside 4.52 to"),
        (
            ("results", 1, "latency", "source"),
            "guess",
            r"source is 'guess'; expected one of estimate, measured",
        ),
        (
            ("results", 0, "metrics", "map"),
            float("nan"),
            r"results\[0\]\.metrics\.map is nan; a figure is finite",
        ),
        (("results", 0, "metrics"), {}, r"results\[0\]\.metrics"),
        (
            ("results", 0, "sprill_mb"),
            1.0,
            r"results\[0\] has an unknown field 'sprill_mb'; did you mean 'spill_mb'",
        ),
        (("zzz",), 1, "the record has an unknown field 'zzz'; known: against"),
        (("results", 0, "sha256"), "xyz", r"results\[0\]\.sha256: 'xyz' does not match"),
        (("headline",), "w8a8-raw-ptp", "headline names no row: 'w8a8-raw-ptp'; did you mean 'w8a8-raw-ptq'"),
        (("against",), "???", "against names no row: '\\?\\?\\?'; there are fp32, "),
        (("samples", 0, "boxes", 0, "id"), "fp23", r"samples\[0\]\.boxes\[0\]\.id names no row: 'fp23'"),
        (("created",), "yesterday", "created: 'yesterday' does not match"),
    ],
)
def test_wrong_field(record: dict[str, Any], path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        validate(put(record, *path, value=value))


def test_missing_field(record: dict[str, Any]) -> None:
    del record["dataset"]["fingerprint"]
    with pytest.raises(ResultsError, match="dataset lacks 'fingerprint'"):
        validate(record)


def test_row_of_nothing(record: dict[str, Any]) -> None:
    for key in ("metrics", "per_class", "evaluated_on", "images"):
        del record["results"][0][key]
    with pytest.raises(ResultsError, match=r"results\[0\] has neither metrics nor latency"):
        validate(record)


def test_row_with_latency_alone(record: dict[str, Any]) -> None:
    for key in ("metrics", "per_class", "evaluated_on", "images"):
        del record["results"][1][key]
    validate(record)


def test_repeated_row(record: dict[str, Any]) -> None:
    record["results"].append(record["results"][0])
    with pytest.raises(ResultsError, match=r"repeats results\[0\]: id 'fp32' evaluated on ort"):
        validate(record)


def test_no_object() -> None:
    with pytest.raises(ResultsError, match="the record is a list; expected an object"):
        validate([])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file: .*`hexpath-deploy record` writes it"),
        (b"{\n,", "line 2: no JSON"),
        (b"\xff\xfe", "is no UTF-8 text"),
        (b'{"schema": 1}', r"results.json: the record lacks 'experiment'"),
    ],
)
def test_load_errors(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        load(path)


def test_load_folder(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"cannot be read: Is a directory; name the results\.json itself"):
        load(tmp_path)


def test_load_returns_the_record(run_folder: Path, record: dict[str, Any]) -> None:
    assert load(run_folder / "results.json") == json.loads(json.dumps(record))
