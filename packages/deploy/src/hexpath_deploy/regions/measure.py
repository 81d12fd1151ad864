"""Compiling plans of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hexpath_deploy.hexagon.cost import Compiler, Cost, Progress, Refusal, side_by_side
from hexpath_deploy.regions.isolate import isolate
from hexpath_deploy.regions.names import names_of
from hexpath_deploy.regions.network import Network
from hexpath_deploy.regions.precision import PRECISIONS
from hexpath_deploy.regions.rewrite import rewrite

Plan = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A network with the region of each operator, and the compiler that it meets; each compiles once."""

    network: Network
    regions: Mapping[str, str]
    compiler: Compiler

    @property
    def names(self) -> tuple[str, ...]:
        """Of the regions, in the order of the graph."""
        return names_of(self.regions)

    def cost(self, plan: Plan) -> Cost | Refusal:
        """Return what the whole network costs with a plan."""
        proto = rewrite(self.network, regions=self.regions, plan=plan)
        return self.compiler.cost(proto, fp16=uses_float(plan))

    def costs(
        self, plans: Sequence[Plan], *, workers: int, progress: Progress | None = None
    ) -> list[Cost | Refusal]:
        """Return the cost of each plan."""
        return side_by_side(self.cost, plans, workers=workers, progress=progress)

    def isolated(self, *, workers: int, progress: Progress | None = None) -> list[Cost | Refusal]:
        """Return the cost of each region cut out of the network."""
        return side_by_side(self.cut, self.names, workers=workers, progress=progress)

    def cut(self, region: str) -> Cost | Refusal:
        """Return the cost of one region alone."""
        return self.compiler.cost(isolate(self.network, regions=self.regions, region=region), fp16=False)


def uses_float(plan: Plan) -> bool:
    """Return whether a region of the plan computes in FP16."""
    return any(PRECISIONS[precision].activation_bits is None for precision in plan.values())
