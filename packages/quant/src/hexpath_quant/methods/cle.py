"""Cross-layer equalization: moves scale between layers that follow each other."""

from __future__ import annotations

import torch.fx
from aimet_torch.cross_layer_equalization import equalize_bn_folded_model
from torch import Tensor

SAYS = "evens out weight ranges across conv-conv and conv-relu-conv pairs (no effect through SiLU)"
PAPER = "Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019"


def equalize(prepared: torch.fx.GraphModule, *, example: Tensor) -> None:
    """Equalize ``prepared`` in place."""
    equalize_bn_folded_model(prepared, None, [], dummy_input=example)
