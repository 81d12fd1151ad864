"""Bias correction: takes back what rounding adds to the mean of each channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

SAYS = "adds to each bias what quantization took from its channel's mean, layer by layer; for low weight bits"
PAPER = "Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019"
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
IMAGES = 32


def correct(sim: QuantizationSimModel, *, reference: torch.fx.GraphModule, batches: Any) -> None:
    """Correct every bias of ``sim``, in the order of the graph, on up to 32 images.

    Each layer is corrected behind the corrected ones before it, as the paper's empirical form has it.
    """
    images = first_images(batches(), count=IMAGES)
    with torch.no_grad():
        wanted = _Means(reference)
        wanted.run(images)
        _Correcting(sim.model, wanted=wanted.means).run(images)


def first_images(batches: Any, *, count: int) -> Tensor:
    """Return the first images of an iterator over batches, at most ``count``."""
    found: list[Tensor] = []
    for batch in batches:
        found.append(batch)
        if sum(len(each) for each in found) >= count:
            break
    return torch.cat(found)[:count]


def channel_means(output: Tensor, *, layer: nn.Module) -> Tensor:
    """Return the mean of each output channel: axis 1 of a convolution, the last of a linear layer."""
    axis = output.dim() - 1 if isinstance(layer, nn.Linear) else 1
    return output.mean(dim=[a for a in range(output.dim()) if a != axis])


class _Means(torch.fx.Interpreter):
    """Run a network and keep the channel means of its layers, by node."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.means: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if isinstance(layer, LAYERS):
            self.means[n.name] = channel_means(value, layer=layer)
        return value


class _Correcting(torch.fx.Interpreter):
    """Run a simulation and move each bias by what its layer's output is off in the mean."""

    def __init__(self, module: torch.fx.GraphModule, *, wanted: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.wanted = wanted

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        layer: Any = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if n.name not in self.wanted or not isinstance(layer, LAYERS) or layer.bias is None:
            return value
        found = channel_means(value.as_subclass(Tensor), layer=layer)
        layer.bias.add_(self.wanted[n.name] - found)
        return super().run_node(n)
