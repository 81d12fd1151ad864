"""Division by something that was computed, as in linear attention.

The NPU divides by a quantized value: where that rounds to zero, or to a step or two, the quotient is
arbitrary (Cai et al., EfficientViT, ICCV 2023, divide by a sum of ReLU kernels).
"""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import MOVES, Network, Op
from hexpath_quant.plans import Plan

SAYS = "divisions whose divisor comes within a few steps of zero, or shares a tensor with the dividend"

SEVERE_STEPS = 2.0  # half a step of rounding is then a quarter of the value
WARNING_STEPS = 8.0
SHARE = 0.05  # of the values may lie closer to zero
REMEDY = (
    "divide the factors by the number of positions before they are multiplied, compute divisor and dividend"
    " as separate tensors, put a floor of some steps under the divisor, and give both 16 bits"
)
TIED = MOVES | {"add", "clamp"}  # x + epsilon and clamp(x, epsilon) are still x


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a finding for each division whose divisor is small in steps of its own or the shared tensor."""
    for op in network.of_kind("divide", "reciprocal"):
        divisor = op.inputs[-1] if op.inputs else ""
        if divisor in network.stats:
            yield from _one(network, op=op, divisor=divisor, bits=plan.activation_bits)


def _one(network: Network, *, op: Op, divisor: str, bits: int) -> Iterator[Finding]:
    source = network.origin(divisor, through=TIED)
    shared = op.kind == "divide" and network.origin(op.inputs[0], through=TIED) == source
    carrier = network.stats[source] if shared and source in network.stats else network.stats[divisor]
    step = carrier.step(bits)
    figure = network.stats[divisor].quantile(SHARE) / step
    if figure >= WARNING_STEPS:
        return
    told = "with its dividend it shares one tensor, whose" if shared else "its tensor's"
    yield Finding(
        rule="division",
        where=op.name,
        figure=figure,
        limit=SEVERE_STEPS if figure < SEVERE_STEPS else WARNING_STEPS,
        reason=f"{SHARE:.0%} of the divisor's values lie below {figure:.2g} steps of zero; {told} peak is"
        f" {carrier.peak:.3g}",
        remedy=REMEDY,
        severity=Severity.SEVERE if figure < SEVERE_STEPS else Severity.WARNING,
    )
