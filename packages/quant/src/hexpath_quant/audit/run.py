"""Hold a network against every rule."""

from __future__ import annotations

from hexpath_quant.audit.findings import Audit, severest_first
from hexpath_quant.audit.network import Network
from hexpath_quant.audit.rules import RULES
from hexpath_quant.plans import Plan


def audit(network: Network, *, plan: Plan, model: str, images: int) -> Audit:
    """Hold ``network`` against every rule at ``plan``'s bits.

    Args:
        network: from ``traced.network_of`` or ``onnx_file.network_of``.
        plan: precisions to audit for.
        model: name for the record.
        images: how many the ranges were measured on.
    """
    findings = [finding for rule in RULES.values() for finding in rule.check(network, plan=plan)]
    return Audit(
        model=model,
        plan=plan.name,
        images=images,
        operators=len(network.ops),
        findings=severest_first(findings),
    )
