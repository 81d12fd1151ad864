"""Softmax: logits of a wide range, and probabilities below half a step."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network, Op
from hexpath_quant.plans import Plan

SAYS = "softmax over logits of a wide range, or with most of its mass below half a step"

ERROR_LIMIT = 0.10  # of a probability, by half a step of its logit
SEVERE_ERROR = 0.50
MASS_LIMIT = 0.20


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield findings of both kinds for each softmax."""
    for op in network.of_kind("softmax"):
        if op.inputs and op.inputs[0] in network.stats:
            yield from _logits(network, op=op, bits=plan.activation_bits)
        yield from _mass(network, op=op, bits=plan.activation_bits)


def _logits(network: Network, *, op: Op, bits: int) -> Iterator[Finding]:
    stats = network.stats[op.inputs[0]]
    error = stats.step(bits) / 2
    if error > ERROR_LIMIT:
        yield Finding(
            rule="softmax",
            where=op.name,
            figure=error,
            limit=ERROR_LIMIT,
            reason=f"logits from {stats.low:.3g} to {stats.high:.3g}: half a step changes a probability by"
            f" {error:.0%}",
            remedy="give the logits 16 bits, or clip the outlier channels that widen them",
            severity=Severity.SEVERE if error > SEVERE_ERROR else Severity.WARNING,
        )


def _mass(network: Network, *, op: Op, bits: int) -> Iterator[Finding]:
    stats = network.stats[op.output]
    values = stats.values
    lost = float(values[values < stats.step(bits) / 2].sum() / values.sum().clamp_min(1e-12))
    if lost > MASS_LIMIT:
        yield Finding(
            rule="softmax",
            where=op.name,
            figure=lost,
            limit=MASS_LIMIT,
            reason=f"{lost:.0%} of the probability lies in entries below half a step and rounds to zero",
            remedy="give the attention weights 16 bits: some are near 1, most of the others far below",
            severity=Severity.WARNING,
        )
