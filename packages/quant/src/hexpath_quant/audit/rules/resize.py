"""Resize modes that the NPU does not have, or computes otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network, Op
from hexpath_quant.plans import Plan

SAYS = "resizes in other modes than nearest and bilinear, or with aligned corners"


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a severe finding for a mode without an NPU operator, a note for aligned corners."""
    for op in network.of_kind("resize"):
        mode = str(op.settings.get("mode", "nearest"))
        if mode not in ("nearest", "bilinear", "linear", "nearest-exact") or op.settings.get("antialias"):
            yield Finding(
                rule="resize",
                where=op.name,
                figure=1.0,
                limit=0.0,
                reason=f"mode {mode}{_more(op)} has no operator on the NPU",
                remedy="use bilinear or nearest, or resize outside the graph",
                severity=Severity.SEVERE,
            )
        elif op.settings.get("align_corners"):
            yield Finding(
                rule="resize",
                where=op.name,
                figure=1.0,
                limit=0.0,
                reason="align_corners is true: toolchains differ in this mode",
                remedy="use align_corners=False, as the weights of most networks were trained",
                severity=Severity.NOTE,
            )


def _more(op: Op) -> str:
    return " with antialias" if op.settings.get("antialias") else ""
