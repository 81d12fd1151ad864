"""Cross-layer equalization, then min-max: moves scale between layers that follow each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aimet_torch.cross_layer_equalization import equalize_bn_folded_model
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.methods import minmax
from hexpath_quant.plans import Plan

SAYS = (
    "evens out weight ranges across conv-conv and conv-relu-conv pairs (no effect through SiLU), then minmax"
)
PAPER = "Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019"


def quantize(
    prepared: nn.Module,
    *,
    example: Tensor,
    plan: Plan,
    batches: Callable[[], Iterator[Tensor]],
    input_range: tuple[float, float] | None,
) -> QuantizationSimModel:
    """Return a simulation of the equalized model with min-max ranges."""
    equalize_bn_folded_model(prepared, None, [], dummy_input=example)
    return minmax.quantize(prepared, example=example, plan=plan, batches=batches, input_range=input_range)
