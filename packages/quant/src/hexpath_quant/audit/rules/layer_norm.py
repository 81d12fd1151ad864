"""Norms computed at run time over channels of which a few are outliers (Bondarenko et al., EMNLP 2021)."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import Network
from hexpath_quant.plans import Plan

SAYS = "layer, group and instance norms with outlier channels in front"

LIMIT = 20.0  # the median channel then has a twentieth of the steps: four bits less
REMEDY = "give the norm's input 16 bits, or move the outliers' scale into the weights before it"


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a finding where the largest channel dwarfs the median one."""
    if plan.activation_bits > 8:
        return
    for op in network.of_kind("layer_norm"):
        if not op.inputs or op.inputs[0] not in network.stats:
            continue
        peaks = network.stats[op.inputs[0]].peaks
        figure = float(peaks.max() / peaks.median().clamp_min(1e-12))
        if figure > LIMIT:
            yield Finding(
                rule="layer_norm",
                where=op.name,
                figure=figure,
                limit=LIMIT,
                reason=f"the largest channel peaks at {float(peaks.max()):.3g}: {figure:.0f} medians",
                remedy=REMEDY,
                severity=Severity.WARNING,
            )
