"""Ranges that leave out the rarest values on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.plans import Plan
from hexpath_quant.sim import build_sim, calibrate

SAYS = "leaves out the rarest 0.01% on each side; for activations with outliers"
PERCENTILE = 99.99
PAPER = "McKinstry et al., Discovering Low-Precision Networks, 2018"


def quantize(
    prepared: nn.Module,
    *,
    example: Tensor,
    plan: Plan,
    batches: Callable[[], Iterator[Tensor]],
    input_range: tuple[float, float] | None,
) -> QuantizationSimModel:
    """Return a simulation with percentile ranges."""
    sim = build_sim(
        prepared,
        example=example,
        plan=plan,
        scheme=QuantScheme.post_training_percentile,
        input_range=input_range,
    )
    sim.set_percentile_value(PERCENTILE)
    calibrate(sim, batches=batches())
    return sim
