"""Values beyond FP16: a float fallback on the NPU would overflow."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network
from hexpath_quant.plans import Plan

SAYS = "values that FP16 cannot hold"

LIMIT = 65504.0


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a finding for each operator whose output overflows where its inputs do not."""
    for op in network.ops:
        stats = network.stats.get(op.output)
        if stats is None or not stats.peak > LIMIT or op.kind == "move":
            continue
        if all(network.stats[name].peak <= LIMIT for name in network.activations(op)):
            yield Finding(
                rule="overflow",
                where=op.name,
                figure=stats.peak,
                limit=LIMIT,
                reason=f"values reach {stats.peak:.3g}: in FP16 they are infinite",
                remedy="scale the factors before they are multiplied (by the number of positions)",
                severity=Severity.WARNING,
            )
