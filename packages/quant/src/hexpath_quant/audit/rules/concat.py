"""Concatenations whose parts have unlike ranges: the small part has no steps left."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network
from hexpath_quant.plans import Plan

SAYS = "concatenated tensors, of which one is small in steps of the other (boxes and scores)"

SEVERE_STEPS = 2.0
WARNING_STEPS = 8.0
REMEDY = (
    "hand the parts out as tensors of their own (of a detector: raw heads, boxes and scores apart), or scale"
    " them to like ranges before they are joined"
)


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a finding for each part whose peak is a few steps of the joined tensor."""
    for op in network.of_kind("concat"):
        step = network.stats[op.output].step(plan.activation_bits)
        for name in network.activations(op):
            figure = network.stats[name].peak / step
            if figure >= WARNING_STEPS or not figure:
                continue
            yield Finding(
                rule="concat",
                where=op.name,
                figure=figure,
                limit=SEVERE_STEPS if figure < SEVERE_STEPS else WARNING_STEPS,
                reason=f"part {name} peaks at {network.stats[name].peak:.3g}, the whole at"
                f" {network.stats[op.output].peak:.3g}: {figure:.2g} steps are left for the part",
                remedy=REMEDY,
                severity=Severity.SEVERE if figure < SEVERE_STEPS else Severity.WARNING,
            )
