"""Bias correction: takes back what rounding adds to the mean of each channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor

from hexpath_quant.methods.layers import Visit, Walk, first_images

SAYS = "adds to each bias what quantization took from its channel's mean, layer by layer; for low weight bits"
PAPER = "Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019"
IMAGES = 32


def correct(sim: QuantizationSimModel, *, reference: torch.fx.GraphModule, batches: Any) -> None:
    """Correct every bias of ``sim``, in the order of the graph, on up to 32 images.

    Each layer is corrected behind the corrected ones before it, as the paper's empirical form has it.
    """
    images, wanted = first_images(batches(), count=IMAGES), dict[str, Tensor]()

    def note(visit: Visit) -> bool:
        wanted[visit.name] = visit.output.mean(dim=visit.others)
        return False

    def move(visit: Visit) -> bool:
        if visit.name not in wanted or visit.layer.bias is None:
            return False
        visit.layer.bias.add_(wanted[visit.name] - visit.output.mean(dim=visit.others))
        return True

    with torch.no_grad():
        Walk(reference, visit=note).run_on(images)
        Walk(sim.model, visit=move).run_on(images)
