"""AdaRound: learns for each weight whether to round up or down, so that its layer's output stays.

AIMET's own runs each layer over 32 whole images in every one of 10,000 iterations: hours on a CPU. This one
draws 4,096 positions of a layer's output once, keeps the products of what its weights multiply there (their
second moments, in which the squared error is exact), and takes 500 steps of the whole gradient: a minute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from aimet_torch.quantsim import QuantizationSimModel
from torch import Tensor, nn

from hexpath_quant.methods.layers import Visit, Walk, first_images
from hexpath_quant.progress import say

SAYS = "learns which weights to round up and which down, layer by layer; for 4-bit weights; takes minutes"
PAPER = "Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020"
IMAGES = 32
ROWS = 4096  # positions of a layer's output that are drawn
STEPS, RATE = 500, 5e-2
WARM_UP, BETA = 0.2, (20.0, 2.0)  # share of the steps without the pull; its exponent, first and last
PULL = 10.0  # to 0 or 1; the error counts 1 a weight where all are rounded to the nearest
STRETCH = 1.2, -0.1  # of the sigmoid, so that 0 and 1 are reached


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a weight can be: ``scale * (n + offset)`` for n from ``low`` to ``high``."""

    scale: Tensor
    offset: Tensor
    low: int
    high: int

    def values(self, steps: Tensor) -> Tensor:
        """Return the weights at these grid points, which need not be whole numbers."""
        return self.scale * (steps.clamp(self.low, self.high) + self.offset)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Rows of a layer's input and of the float output there.

    Attributes:
        source: float32 (groups, rows, inputs of a group), quantized as the layer sees it.
        wanted: float32 (groups, rows, outputs of a group), without the bias.
    """

    source: Tensor
    wanted: Tensor

    def error(self, weight: Tensor) -> Tensor:
        """Return the squared error, summed over the channels, mean over the rows, of (groups, out, in)."""
        found = torch.bmm(self.source, weight.transpose(1, 2))
        return (found - self.wanted).square().sum(dim=(0, 2)).mean()

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return S (groups, in, in), T (groups, out, in): the gradient by the weight W is 2 (W S - T)."""
        turned = self.source.transpose(1, 2) / self.source.shape[1]
        return torch.bmm(turned, self.source), torch.bmm(turned, self.wanted).transpose(1, 2)


def correct(sim: QuantizationSimModel, *, reference: torch.fx.GraphModule, batches: Any) -> None:
    """Round the weights of every convolution and linear layer of ``sim``, in the order of the graph.

    A layer is learned behind the rounded ones before it, towards the float network's output (the paper's
    asymmetric reconstruction). The weights end on their grid, whose scales are fixed from then on. Transposed
    convolutions and layers whose weights are not quantized stay.
    """
    images, wanted = first_images(batches(), count=IMAGES), dict[str, Tensor]()
    rounded = 0

    def note(visit: Visit) -> bool:
        if is_rounded(visit.layer):
            wanted[visit.name] = rows_of(visit.output, layer=visit.layer, where=places(visit.output, visit))
        return False

    def learn(visit: Visit) -> bool:
        nonlocal rounded
        if visit.name not in wanted or visit.layer.param_quantizers["weight"] is None:
            return False
        sample = sample_of(visit, wanted=wanted.pop(visit.name))
        round_weights(visit.layer, sample=sample)
        rounded += 1
        if rounded % 20 == 0:
            say(f"adaround: {rounded} layers")
        return True

    with torch.no_grad():
        Walk(reference, visit=note).run_on(images)
        Walk(sim.model, visit=learn).run_on(images)


def is_rounded(layer: nn.Module) -> bool:
    """Whether the layer's output is a product of patches of its input and its weights."""
    plain = (
        isinstance(layer, nn.Conv2d)
        and layer.padding_mode == "zeros"
        and layer.padding not in ("same", "valid")
    )
    return plain or isinstance(layer, nn.Linear)


def places(output: Tensor, visit: Visit) -> Tensor:
    """Return which rows of a layer's output are taken, int64; the same for the same layer and shape."""
    total = output.numel() // output.shape[visit.axis]
    generator = torch.Generator().manual_seed(sum(visit.name.encode()))
    return torch.randperm(total, generator=generator)[:ROWS].to(output.device)


def rows_of(output: Tensor, *, layer: nn.Module, where: Tensor) -> Tensor:
    """Return float32 (rows, channels) of an output (N, C, H, W), or (..., C) of a linear layer."""
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1])[where]
    _, _, height, width = output.shape
    image, y, x = where // (height * width), where // width % height, where % width
    return output[image, :, y, x]


def patches_of(source: Tensor, *, layer: Any, where: Tensor, height: int, width: int) -> Tensor:
    """Return float32 (rows, groups, inputs of a group): what a convolution multiplies at those places."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = layer.padding, layer.stride, layer.dilation
    padded = F.pad(source, (pad_x, pad_x, pad_y, pad_y))
    image, y, x = where // (height * width), where // width % height, where % width
    rows = y[:, None] * step_y + gap_y * torch.arange(layer.kernel_size[0], device=where.device)
    columns = x[:, None] * step_x + gap_x * torch.arange(layer.kernel_size[1], device=where.device)
    found = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (rows, ky, kx, C)
    return found.permute(0, 3, 1, 2).reshape(len(where), layer.groups, -1)


def sample_of(visit: Visit, *, wanted: Tensor) -> Sample:
    """Return the sample of a layer from its quantized input and the float rows (rows, channels)."""
    layer, where = visit.layer, places(visit.output, visit)
    quantizer = layer.input_quantizers[0]
    source = visit.source if quantizer is None else quantizer(visit.source).as_subclass(Tensor)
    if isinstance(layer, nn.Linear):
        found, groups = source.reshape(-1, source.shape[-1])[where][:, None], 1
    else:
        height, width = visit.output.shape[2:]
        found = patches_of(source, layer=layer, where=where, height=height, width=width)
        groups = layer.groups
    target = wanted if layer.bias is None else wanted - layer.bias
    return Sample(
        source=found.transpose(0, 1).contiguous(),
        wanted=target.reshape(len(where), groups, -1).transpose(0, 1).contiguous(),
    )


def round_weights(layer: Any, *, sample: Sample) -> None:
    """Set a layer's weights to the grid points that were learned, and fix the grid."""
    quantizer, groups = layer.param_quantizers["weight"], len(sample.source)
    grid = Grid(
        scale=quantizer.get_scale(),
        offset=quantizer.get_offset(),
        low=int(quantizer.qmin),
        high=int(quantizer.qmax),
    )
    steps = layer.weight / grid.scale - grid.offset
    up = learn_rounding(steps, grid=grid, sample=sample)
    shape = (groups, layer.weight.shape[0] // groups, -1)
    learned, nearest = grid.values(steps.floor() + up), grid.values(steps.round())
    if sample.error(learned.reshape(shape)) < sample.error(nearest.reshape(shape)):
        layer.weight.copy_(learned)
    else:
        layer.weight.copy_(nearest)
    quantizer.allow_overwrite(False)


def learn_rounding(steps: Tensor, *, grid: Grid, sample: Sample) -> Tensor:
    """Return 1.0 where a weight is to be rounded up, else 0.0; gradients are written out for speed."""
    shape = (len(sample.source), steps.shape[0] // len(sample.source), -1)
    floor, share = steps.floor(), (steps - steps.floor()).clamp(0.01, 0.99)
    wide, low = STRETCH
    unit = steps.numel() / sample.error(grid.values(steps.round()).reshape(shape)).clamp_min(1e-20)
    second, target = sample.moments()
    free = torch.logit((share - low) / wide)
    optimizer = torch.optim.Adam([free], lr=RATE, fused=True)
    for step in range(STEPS):
        gate = torch.sigmoid(free)
        up = (gate * wide + low).clamp_(0, 1)
        weight = grid.values(floor + up).reshape(shape)
        slope = 2 * unit * grid.scale * (torch.bmm(weight, second) - target).reshape(steps.shape)
        if step >= WARM_UP * STEPS:
            away, power = 2 * up - 1, exponent(step)
            slope -= 2 * PULL * power * away.sign() * away.abs().pow_(power - 1)
        inside = (up > 0) & (up < 1)
        free.grad = slope * inside * wide * gate * (1 - gate)
        optimizer.step()
    return (torch.sigmoid(free) * wide + low >= 0.5).to(steps)


def exponent(step: int) -> float:
    """Return the exponent of the pull to 0 or 1: high, and flat around a half, at first."""
    done = (step - WARM_UP * STEPS) / (STEPS * (1 - WARM_UP))
    first, last = BETA
    return last + 0.5 * (first - last) * (1 + math.cos(done * math.pi))
