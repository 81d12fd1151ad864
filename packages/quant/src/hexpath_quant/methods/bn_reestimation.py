"""Batch-norm re-estimation: gives each channel back the mean and variance that its batch norm stood for.

``prepare`` has folded the batch norms, as the NPU wants them. Estimating a norm anew behind quantized layers
and folding it again is then one step: of each layer that took one in, mean and standard deviation of every
channel are measured behind the quantized layers before it, and weight, its scale and bias are changed so that
they are those of the float network on the same images. Integers stay as they are, only the scale moves (as in
AIMET's fold_all_batch_norms_to_scale).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor

from hexpath_quant.methods.layers import Visit, Walk, first_images
from hexpath_quant.prepare import had_norm

SAYS = "restores each channel's mean and variance where a batch norm was folded (per-tensor: its mean)"
PAPER = "Nagel et al., Overcoming Oscillations in Quantization-Aware Training, ICML 2022, section 4.1"
IMAGES = 32
LARGEST = 2.0  # change of a channel's scale; more is a channel that quantization emptied


def correct(sim: QuantizationSimModel, *, reference: torch.fx.GraphModule, batches: Any) -> None:
    """Re-estimate the folded norms of ``sim``, in the order of the graph, on up to 32 images."""
    images = first_images(batches(), count=IMAGES)
    wanted: dict[str, tuple[Tensor, Tensor]] = {}

    def note(visit: Visit) -> bool:
        if had_norm(visit.layer):
            wanted[visit.name] = statistics(visit)
        return False

    def fold(visit: Visit) -> bool:
        if visit.name not in wanted:
            return False
        fold_again(visit, mean=wanted[visit.name][0], deviation=wanted[visit.name][1])
        return True

    with torch.no_grad():
        Walk(reference, visit=note).run_on(images)
        Walk(sim.model, visit=fold).run_on(images)


def statistics(visit: Visit) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel."""
    return visit.output.mean(dim=visit.others), visit.output.std(dim=visit.others, correction=0)


def fold_again(visit: Visit, *, mean: Tensor, deviation: Tensor) -> None:
    """Change weight, weight scale and bias of a layer so that its channels get this mean and deviation."""
    layer, (found_mean, found_deviation) = visit.layer, statistics(visit)
    quantizer = layer.param_quantizers["weight"]
    scale = torch.ones_like(mean)
    if quantizer is not None and quantizer.get_scale().numel() == len(mean):
        scale = (deviation / found_deviation).nan_to_num(1.0, 1.0, 1.0).clamp(1 / LARGEST, LARGEST)
        factor = scale.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight.mul_(factor)
        along = scale.view(quantizer.min.shape)
        quantizer.set_range(quantizer.min * along, quantizer.max * along)
        quantizer.allow_overwrite(False)
    layer.bias.sub_(found_mean).mul_(scale).add_(mean)
