"""Swish and GELU: a negative tail of a few tenths beside large positive values."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network, Op
from hexpath_quant.plans import Plan

SAYS = "swish, GELU and hard-swish whose negative tail is below a step"

LEAST = {"silu": 0.278, "gelu": 0.170, "hardswish": 0.375}  # depth of the negative tail
WARNING_STEPS = 0.5
NOTE_STEPS = 2.0
REMEDY = "clip the range (method sqnr or percentile), or give this activation 16 bits"


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a finding where the tail has less than two steps; below half a step it is gone."""
    for op in network.of_kind("silu", "gelu", "hardswish", "multiply"):
        kind = "silu" if op.kind == "multiply" and _is_silu(network, op) else op.kind
        if kind not in LEAST:
            continue
        stats = network.stats[op.output]
        figure = LEAST[kind] / stats.step(plan.activation_bits)
        if figure >= NOTE_STEPS:
            continue
        lost = figure < WARNING_STEPS
        yield Finding(
            rule="tails",
            where=op.name,
            figure=figure,
            limit=WARNING_STEPS if lost else NOTE_STEPS,
            reason=f"values reach {stats.high:.3g}: the negative tail of {kind} has {figure:.2g} steps",
            remedy=REMEDY,
            severity=Severity.WARNING if lost else Severity.NOTE,
        )


def _is_silu(network: Network, op: Op) -> bool:
    """x * sigmoid(x), as exporters write it."""
    for gate in op.inputs:
        made = network.made_by.get(gate)
        if made is not None and made.kind == "sigmoid" and set(op.inputs) == {gate, *made.inputs[:1]}:
            return True
    return False
