"""What a post-training method is made of (changes before, ranges, changes behind), and how these compose."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch.fx
from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor

from hexpath_quant.plans import Plan
from hexpath_quant.sim import build_sim, calibrate

Batches = Callable[[], Iterator[Tensor]]


class Method(Protocol):
    """A step that says what it does (``SAYS``) and where it comes from (``PAPER``)."""

    SAYS: str
    PAPER: str


class Before(Method, Protocol):
    """Changes the float network, without changing what it computes."""

    def equalize(self, prepared: torch.fx.GraphModule, *, example: Tensor) -> None:
        """Change ``prepared`` in place."""
        ...


class Ranges(Method, Protocol):
    """Says how ranges are observed."""

    SCHEME: QuantScheme
    PERCENTILE: float | None


class Behind(Method, Protocol):
    """Changes the calibrated simulation, knowing the float network."""

    def correct(
        self, sim: QuantizationSimModel, *, reference: torch.fx.GraphModule, batches: Batches
    ) -> None:
        """Change ``sim`` in place; ``reference`` is the float network with the same graph."""
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Steps in the order in which they are taken."""

    before: tuple[Before, ...]
    ranges: Ranges
    behind: tuple[Behind, ...]

    def quantize(
        self,
        prepared: torch.fx.GraphModule,
        *,
        example: Tensor,
        plan: Plan,
        batches: Batches,
        input_range: tuple[float, float] | None,
    ) -> QuantizationSimModel:
        """Return a calibrated simulation of ``prepared``; ``batches`` starts anew at each call."""
        for step in self.before:
            step.equalize(prepared, example=example)
        reference = copy.deepcopy(prepared) if self.behind else prepared
        sim = build_sim(
            prepared, example=example, plan=plan, scheme=self.ranges.SCHEME, input_range=input_range
        )
        if self.ranges.PERCENTILE is not None:
            sim.set_percentile_value(self.ranges.PERCENTILE)
        calibrate(sim, batches=batches())
        for change in self.behind:
            change.correct(sim, reference=reference, batches=batches)
            calibrate(sim, batches=batches())
        return sim
