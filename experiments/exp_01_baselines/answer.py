"""The answer of exp_01_baselines in sentences, from the figures of its record and the verdict on each row."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def answer(results: Mapping[str, Any]) -> dict[str, Any]:
    """The sentences, most important first."""
    config = json.loads(Path("config.json").read_text())
    rows = judge().verdicts(results, config)
    sentences = [best(rows, key=key, limit=config["budget"][name]) for key, name in BUDGETS]
    sentences += [parts(rows), int8(rows)]
    return {"answer": [s for s in sentences if s], "notes": [TIMES]}


TIMES = (
    "End to end is preprocessing, NPU and postprocessing. The NPU's part is Qualcomm's estimate at the size "
    "of the budget; the other two were measured on the CPU of the machine that ran this, by numpy code."
)
BUDGETS = (("verdict", "ms"), ("tight_verdict", "tight_ms"))


def judge() -> Any:
    """The module verdict.py beside this file."""
    found = importlib.util.spec_from_file_location("verdict", Path(__file__).with_name("verdict.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def best(rows: Sequence[Mapping[str, Any]], *, key: str, limit: float) -> str:
    """Which stay within a budget, and the most accurate of them."""
    kept = [row for row in rows if row[key] == "keep"]
    dropped = [row["id"] for row in rows if row[key] == "drop"]
    if not kept:
        return f"Nothing stays within {limit:g} ms end to end at {rows[0]['at']} pixels."
    told = (
        f"Within {limit:g} ms end to end at {kept[0]['at']} pixels: {len(kept)} of {len(rows)} "
        f"configurations; the most accurate is {kept[0]['id']} with mAP50-95 {100 * kept[0]['map']:.1f} in "
        f"{kept[0]['end_to_end_ms']:.1f} ms"
    )
    return told + (f"; dropped: {', '.join(dropped)}." if dropped else "; none is dropped.")


def parts(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much of the time is not the NPU's."""
    share = [1 - row["npu_ms"] / row["end_to_end_ms"] for row in rows]
    return (
        f"Pre- and postprocessing on the CPU are {100 * min(share):.0f} to {100 * max(share):.0f}% of the "
        f"end-to-end time at {rows[0]['at']} pixels (verdict.svg); latencies below are of the size that "
        "accuracy was scored at."
    )


def int8(rows: Sequence[Mapping[str, Any]]) -> str:
    """What INT8 costs and buys against FP16, model by model."""
    wide = {row["model"]: row for row in rows if row["plan"] == "fp16"}
    told = [
        f"{row['model']} {100 * (row['map'] - wide[row['model']]['map']):+.1f} points and "
        f"{wide[row['model']]['npu_ms'] / row['npu_ms']:.1f} times faster on the NPU"
        for row in rows
        if row["plan"] == "w8a8" and row["model"] in wide
    ]
    return f"INT8 against FP16: {'; '.join(told)}." if told else ""
