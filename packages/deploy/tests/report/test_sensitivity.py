"""The section on sensitivity: bars, strip, classes, alarms, audit; nothing of it in a record without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_document import page

from hexpath_deploy.errors import ResultsError
from hexpath_deploy.report import validate
from hexpath_deploy.report.document import render
from hexpath_deploy.report.sensitivity import bars, panels, strip


def entry(kind: str, name: str, **more: Any) -> dict[str, Any]:
    made = {"kind": kind, "name": name, "part": "both", "plan": "w8a8", "sqnr_db": 35.0, "cosine": 0.999}
    return made | more


def analysis() -> dict[str, Any]:
    """SYNTHETIC figures."""
    classes = {"car": {"alone": 0.7, "without": 0.6}, "bike": {"alone": 0.1, "without": 0.35}}
    entries = [
        entry("network", "all"),
        entry("region", "stem", drop_alone=0.012, gain_without=0.004, per_class=classes),
        entry("region", "head.scores.8", drop_alone=-0.003, gain_without=0.051, per_class=classes),
        entry("layer", "model.0.conv", region="stem", operator="Conv2d", position=1, sqnr_db=18.0),
        entry("layer", "model.9.cv1", region="head.scores.8", operator="Conv2d", position=9, drop_alone=0.02),
    ]
    return {
        "schema": 1,
        "model": "yolo11n",
        "metric": "map",
        "plan": "w8a8",
        "images": 100,
        "share": 0.2,
        "float": {"metrics": {"map": 0.6}, "per_class": {"car": {"map": 0.8}, "bike": {"map": 0.4}}},
        "quantized": {"w8a8": {"metrics": {"map": 0.55}, "per_class": {}}},
        "entries": entries,
        "worst": ["model.9.cv1"],
        "trust": [
            {"kind": "layer", "estimate": "fisher", "truth": "drop_alone", "spearman": 0.71, "n": 30},
        ],
        "alarms": [
            {
                "class": "bike<script>",
                "plan": "w8a8",
                "metric": "map",
                "float": 0.4,
                "quantized": 0.0,
                "lost_share": 1.0,
                "vanished": True,
                "regions": [{"name": "head.scores.8"}],
                "layers": [{"name": "model.9.cv1"}],
            }
        ],
    }


AUDIT = {
    "schema": 1,
    "name": "plain",
    "model": "yolo11n",
    "plan": "w8a8",
    "verdict": "unsafe",
    "findings": [
        {
            "rule": "concat",
            "where": "cat",
            "severity": "severe",
            "reason": "0.4 steps",
            "remedy": "raw heads",
        },
        {"rule": "tails", "where": "act", "severity": "note", "reason": "small", "remedy": "none"},
    ],
}


def test_section(record: dict[str, Any], run_folder: Path) -> None:
    record |= {"sensitivity": [analysis()], "audits": [AUDIT]}
    read = page(record, run_folder)
    assert {"sensitivity", "audit"} <= set(read.ids)
    text = " ".join(" ".join(read.text).split())
    assert "yolo11n at w8a8: mAP50-95 60.0 in float, 55.0 quantized, on 100 images" in text
    assert "bike<script> vanishes (40.0 to 0.0); regions that did it: head.scores.8" in text
    assert "0.71" in text
    assert "0.4 steps" in text
    assert "tails" not in text  # a note


def test_nothing_where_nothing_was_analyzed(record: dict[str, Any], run_folder: Path) -> None:
    read = page(record, run_folder)
    assert not {"sensitivity", "audit"} & set(read.ids)


def test_no_alarm_is_said(record: dict[str, Any], run_folder: Path) -> None:
    record["sensitivity"] = [analysis() | {"alarms": []}]
    assert "No class loses more than 20 % of its figure." in render(record, root=run_folder)


def test_the_strip_is_in_the_networks_order_and_darkest_where_noise_is() -> None:
    layers = [e for e in analysis()["entries"] if e["kind"] == "layer"]
    drawn = str(strip(list(reversed(layers))))
    assert drawn.index("model.0.conv") < drawn.index("model.9.cv1")
    assert 'fill-opacity="1"' in drawn.split("model.0.conv")[0]
    assert strip([]) == bars([]) == ""


def test_the_worst_layers_come_first_and_matrix_has_every_class() -> None:
    panel = panels({"sensitivity": [analysis()]})[0]
    assert [e["name"] for e in panel.worst] == ["model.9.cv1", "model.0.conv"]
    assert panel.matrix[1][0] == "bike"
    assert panel.matrix[1][1] == pytest.approx((0.3, 0.3))


def test_a_broken_analysis_is_refused(record: dict[str, Any]) -> None:
    record["sensitivity"] = [{"schema": 1}]
    with pytest.raises(ResultsError, match="sensitivity"):
        validate(record)
