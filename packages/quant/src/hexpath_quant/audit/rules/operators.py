"""Operators without a quantized form."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network
from hexpath_quant.plans import Plan

SAYS = "operators that cannot be quantized, and norms that could not be folded"


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a severe finding for each unknown operator, a note for each batch norm that is left."""
    for op in network.ops:
        if op.kind.startswith("unknown:"):
            yield Finding(
                rule="operators",
                where=op.name,
                figure=1.0,
                limit=0.0,
                reason=f"operator {op.kind.removeprefix('unknown:')} has no quantized form",
                remedy="write it with supported operators, or as a module that AIMET knows",
                severity=Severity.SEVERE,
            )
        elif op.kind == "batch_norm":
            yield Finding(
                rule="operators",
                where=op.name,
                figure=1.0,
                limit=0.0,
                reason="a batch norm that no convolution before it can take in costs a tensor more",
                remedy="nothing, unless latency matters: put the norm behind a convolution",
                severity=Severity.NOTE,
            )
