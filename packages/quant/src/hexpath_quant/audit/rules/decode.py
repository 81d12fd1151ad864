"""Positions computed in the graph: coordinates of hundreds of pixels on one 8-bit grid."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network
from hexpath_quant.plans import Plan

SAYS = "outputs decoded in the graph by tables of positions or strides"

TABLE = 16  # values: fewer are constants of a formula, no table
LARGE = 8.0  # cells or pixels; a learned offset or a mask is smaller
STEP_LIMIT = 0.25  # pixels
COMPUTES = frozenset({"convolution", "linear", "matmul"})
REMEDY = "end the graph at the raw head tensors and decode outside, or give the decoding 16 bits"


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield one finding an output that is reached from arithmetic with a table of large values."""
    told: set[str] = set()
    for op in network.of_kind("add", "subtract", "multiply"):
        tables = [network.constants[n] for n in op.inputs if n in network.constants]
        if not any(t.numel() >= TABLE and float(t.abs().max()) >= LARGE for t in tables):
            continue
        output = network.reaches_output_without(op.output, kinds=COMPUTES)
        if output is None or output in told:
            continue
        told.add(output)
        stats = network.stats[network.outputs[output]]
        step = stats.step(plan.activation_bits)
        if step >= STEP_LIMIT:
            yield Finding(
                rule="decode",
                where=op.name,
                figure=step,
                limit=STEP_LIMIT,
                reason=f"output {output} holds positions up to {stats.peak:.3g}, a step is {step:.2g};"
                " every operator of the decoding adds its own rounding",
                remedy=REMEDY,
                severity=Severity.WARNING,
            )
