"""Ranges with the least noise: clipping and rounding weighed against each other (TF-enhanced)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.plans import Plan
from hexpath_quant.sim import build_sim, calibrate

SAYS = "the range with the best signal-to-noise ratio over a histogram; for low bits"
PAPER = "AIMET, quantization scheme TF-enhanced (SQNR)"


def quantize(
    prepared: nn.Module,
    *,
    example: Tensor,
    plan: Plan,
    batches: Callable[[], Iterator[Tensor]],
    input_range: tuple[float, float] | None,
) -> QuantizationSimModel:
    """Return a simulation with least-noise ranges."""
    sim = build_sim(
        prepared,
        example=example,
        plan=plan,
        scheme=QuantScheme.post_training_tf_enhanced,
        input_range=input_range,
    )
    calibrate(sim, batches=batches())
    return sim
