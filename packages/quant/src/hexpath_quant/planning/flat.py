"""What AI Hub's mixed precision does: the layers of worst SQNR, a flat share of them, to 16 bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hexpath_quant.plans import BASE, MixedPlan


def flat_plan(analysis: Mapping[str, Any], *, share: float, name: str, up: str = "w8a16") -> MixedPlan:
    """Return a plan that puts ``share`` of all layers, those of worst SQNR when quantized alone, to ``up``.

    The plan makes one region of them, whatever parts of the network they stand in.
    """
    layers = [
        e
        for e in analysis["entries"]
        if (e["kind"], e["plan"], e["part"]) == ("layer", analysis["plan"], "both")
    ]
    worst = sorted(layers, key=lambda e: e["sqnr_db"])[: math.ceil(share * len(layers))]
    modules = tuple(e["name"] for e in layers if e in worst)
    return MixedPlan(name=name, default=BASE, regions={name: up}, modules={name: modules})
