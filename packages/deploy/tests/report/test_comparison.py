"""Losses, speedups and the plan that heads the report."""

from __future__ import annotations

from typing import Any

import pytest

from hexpath_deploy.errors import ResultsError
from hexpath_deploy.report import Comparison, compare
from hexpath_deploy.report.comparison import headline, primary_metric
from hexpath_deploy.report.known_error import KnownError, deviations, known_error, precision, table


def by_id(record: dict[str, Any], **options: Any) -> dict[str, Comparison]:
    return {item.plan.id: item for item in compare(record, **options)}


def test_loss_overall_and_by_class(record: dict[str, Any]) -> None:
    found = by_id(record)["w4a8-raw-qat"]
    assert found.loss["map"] == pytest.approx(0.645 - 0.6315)
    assert found.class_loss["vehicle"]["map"] == pytest.approx(0.774 - 0.7578)
    assert by_id(record)["fp32"].loss == {}


def test_speedup(record: dict[str, Any]) -> None:
    assert by_id(record)["w8a8-raw-ptq"].speedup == pytest.approx(4.73 / 1.39)
    assert by_id(record, against="fp16-raw")["w8a8-raw-ptq"].speedup == pytest.approx(5.3 / 1.39)
    del record["against"]
    assert by_id(record)["w8a8-raw-ptq"].against == "fp16-raw"


def test_speedup_against_unknown(record: dict[str, Any]) -> None:
    with pytest.raises(ResultsError, match="no plan is called 'fp16_raw'; did you mean 'fp16-raw'"):
        compare(record, against="fp16_raw")


def test_no_speedup_between_estimate_and_measurement(record: dict[str, Any]) -> None:
    for row in record["results"]:
        if row["id"] == "w8a8-raw-ptq" and "latency" in row:
            row["latency"]["source"] = "measured"
    assert by_id(record)["w8a8-raw-ptq"].speedup is None


def test_no_loss_on_another_sample(record: dict[str, Any]) -> None:
    # FP32 on 100 images is no reference for 32 of them, unless the row says what FP32 scores there.
    rows = [
        row for row in record["results"] if row["plan"] == "fp32" or row.get("evaluated_on") == "emulator"
    ]
    record["results"] = rows
    del record["against"]
    assert by_id(record)["w8a8-raw-ptq"].loss["map"] == pytest.approx(0.646 - 0.641)
    for row in rows:
        row.pop("same_images", None)
    assert by_id(record)["w8a8-raw-ptq"].loss == {}


def test_losses_stay_within_a_model(record: dict[str, Any]) -> None:
    for row in record["results"]:
        if row["id"] == "w8a8-raw-ptq":
            row["model"] = "yolo11s"
    assert by_id(record)["w8a8-raw-ptq"].loss == {}


def head(record: dict[str, Any]) -> str | None:
    best = headline(record, found=compare(record))
    return best.plan.id if best else None


def test_headline(record: dict[str, Any]) -> None:
    assert head(record) == "w8a8-raw-ptq"
    assert head(record | {"headline": "w4a8-raw-qat"}) == "w4a8-raw-qat"
    without = [row for row in record["results"] if row["id"] != "fp32"]
    assert head(record | {"results": without}) == "fp16-raw"
    del record["against"]
    assert head(record | {"results": []}) is None


def test_primary_metric(record: dict[str, Any]) -> None:
    assert primary_metric(record) == "map"
    assert primary_metric({"results": [{"metrics": {"miou": 0.5}}]}) == "miou"


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("w8a8", "8"),
        ("w4a8", "8"),
        ("w8a16", "16"),
        ("fp16", "float"),
        ("mixed", None),
        ("w8a8-pertensor", "8"),
    ],
)
def test_precision(plan: str, expected: str | None) -> None:
    assert precision(plan) == expected


def test_known_error_is_computed_from_the_table() -> None:
    for plan in ("w8a8", "w8a16", "fp16"):
        rows = [row for row in table()["rows"] if row["precision"] == plan]
        errors = [error for row in rows for error in deviations(row)]
        known = known_error(plan)
        assert known is not None
        assert (known.low, known.high, known.cases) == (min(errors), max(errors), len(errors))
    assert KnownError(low=-0.21, high=0.14, cases=4).text == "\u221221 to +14%"
    assert known_error("mixed") is None
