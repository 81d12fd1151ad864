"""Residual chains whose range grows, until what a branch adds is less than a step."""

from __future__ import annotations

from collections.abc import Iterator

from hexpath_quant.audit.findings import Finding, Severity
from hexpath_quant.audit.network import MOVES, Network, Op
from hexpath_quant.plans import Plan

SAYS = "additions in which one side is below a step of the sum; chains whose range grows"

LIMIT_STEPS = 0.5  # rms: most of what the branch adds then rounds to nothing
GROWTH = 8.0
LONG = 3
THROUGH = MOVES | {"relu"}
REMEDY = "give the chain 16 bits, or scale the branches so that the sum's range stays"


def check(network: Network, *, plan: Plan) -> Iterator[Finding]:
    """Yield a warning for a lost branch and a note for a growing chain."""
    chains: dict[str, tuple[str, ...]] = {}
    for op in network.of_kind("add"):
        sides = network.activations(op)
        if len(sides) == 2:
            yield from _lost(network, op=op, sides=sides, bits=plan.activation_bits)
            before = [chains[o] for o in (network.origin(s, through=THROUGH) for s in sides) if o in chains]
            chains[op.output] = (*max(before, key=len, default=()), op.output)
    ends = [chain for name, chain in chains.items() if not any(name in c[:-1] for c in chains.values())]
    for chain in ends:
        yield from _growth(network, chain=chain)


def _lost(network: Network, *, op: Op, sides: list[str], bits: int) -> Iterator[Finding]:
    step = network.stats[op.output].step(bits)
    weak = min(sides, key=lambda name: network.stats[name].rms)
    figure = network.stats[weak].rms / step
    if 0 < figure < LIMIT_STEPS:
        yield Finding(
            rule="residual",
            where=op.name,
            figure=figure,
            limit=LIMIT_STEPS,
            reason=f"{weak} adds {figure:.2g} steps (rms) to a sum that peaks at"
            f" {network.stats[op.output].peak:.3g}",
            remedy=REMEDY,
            severity=Severity.WARNING,
        )


def _growth(network: Network, *, chain: tuple[str, ...]) -> Iterator[Finding]:
    first, last = network.stats[chain[0]].peak, network.stats[chain[-1]].peak
    figure = last / max(first, 1e-30)
    if len(chain) >= LONG and figure > GROWTH:
        yield Finding(
            rule="residual",
            where=network.made_by[chain[-1]].name,
            figure=figure,
            limit=GROWTH,
            reason=f"over {len(chain)} additions the peak grows from {first:.3g} to {last:.3g}",
            remedy=REMEDY,
            severity=Severity.NOTE,
        )
