"""Tiny constants that guard a division, a root or a logarithm, and become zero when quantized."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network, Op
from hexpath_quant.plans import Plan

SAYS = "epsilons below half a step of the tensor that they are added to"

GUARDED = ("divide", "reciprocal", "sqrt", "log", "pow")
FAR_FROM_ZERO_STEPS = 8.0
REMEDY = (
    "use a floor of several steps of the tensor in place of the epsilon, or show that the value never nears"
    " zero"
)


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a finding for each guard that is lost."""
    for op in network.of_kind("add", "clamp"):
        small = [n for n in op.numbers if 0 < abs(n) < 1e-2]
        if small and any(reader.kind in GUARDED for reader in network.readers(op.output)):
            yield from _one(network, op=op, epsilon=small[0], bits=plan.activation_bits)


def _one(network: Network, *, op: Op, epsilon: float, bits: int) -> Iterator[Finding]:
    stats = network.stats[op.output]
    step = stats.step(bits)
    if epsilon >= step / 2:
        return
    needed = stats.quantile(0.0) < FAR_FROM_ZERO_STEPS * step
    yield Finding(
        rule="epsilon",
        where=op.name,
        figure=epsilon / step,
        limit=0.5,
        reason=f"the guard {epsilon:g} is {epsilon / step:.1g} of a step and rounds to zero; the value that"
        f" it guards comes within {stats.quantile(0.0) / step:.2g} steps of zero",
        remedy=REMEDY,
        severity=Severity.SEVERE if needed else Severity.NOTE,
    )
