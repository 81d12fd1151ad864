"""Ranges from the least and greatest value seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.plans import Plan
from hexpath_quant.sim import build_sim, calibrate

SAYS = "least and greatest value seen; fast, exact for what it saw, hurt by outliers"
PAPER = "Jacob et al., Quantization and Training of Neural Networks, CVPR 2018"


def quantize(
    prepared: nn.Module,
    *,
    example: Tensor,
    plan: Plan,
    batches: Callable[[], Iterator[Tensor]],
    input_range: tuple[float, float] | None,
) -> QuantizationSimModel:
    """Return a simulation with min-max ranges."""
    sim = build_sim(prepared, example=example, plan=plan, scheme=QuantScheme.min_max, input_range=input_range)
    calibrate(sim, batches=batches())
    return sim
