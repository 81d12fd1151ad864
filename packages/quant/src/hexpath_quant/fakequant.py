"""Fake quantization with few passes over memory, and gradients for the ranges.

AIMET's kernels go through a tensor subclass and, without gradients, through torch's
fake_quantize, which is 25 times slower on a CPU than the four passes here.

The value is that of AIMET: with scale s and grid bounds a <= b (integers),
``y = s * clamp(round(x / s), a, b)``. The gradient passes where x was not clipped
(straight-through). The ranges' gradients are those of AIMET's range learning, which are
LSQ's for the scale and TQT's rule for clipped values: Esser et al., Learned Step Size
Quantization, ICLR 2020; Jain et al., Trained Quantization Thresholds, MLSys 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Grid:
    """An activation's quantization grid: multiples of ``scale`` from ``low`` to ``high`` (integers)."""

    scale: float
    low: float
    high: float
    steps: int
    symmetric: bool

    def range_gradients(self, *, scale_gradient: Tensor, offset_gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of minimum and maximum from those of scale and offset."""
        if self.symmetric:
            return -scale_gradient / self.steps, scale_gradient / self.steps
        # offset = round(min / scale) - qmin, straight-through: d/ds = -min / s^2, d/dmin = 1 / s
        total = scale_gradient - offset_gradient * self.low / self.scale
        return -total / self.steps + offset_gradient / self.scale, total / self.steps


def quantize_dequantize(x: Tensor, grid: Grid) -> Tensor:
    """Return float32 values of ``x`` on the grid; ``x`` is not changed."""
    y = torch.mul(x, 1.0 / grid.scale) if x.dtype == torch.float32 else x.float().mul_(1.0 / grid.scale)
    return y.round_().clamp_(grid.low, grid.high).mul_(grid.scale)


def saturated(quotient: Tensor) -> Tensor:
    """Return a quotient with -inf for 0/0: a grid takes that to its low end, as the exported file does.

    NaN would pass every later grid here, while onnxruntime and AIMET cut it off.
    """
    return torch.nan_to_num(quotient, nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))


def pass_unclipped(gradient: Tensor, x: Tensor, grid: Grid) -> Tensor:
    """Return the gradient with zeros where ``x`` lies outside the grid."""
    return torch.ops.aten.hardtanh_backward(  # type: ignore[no-any-return]
        gradient, x, (grid.low - 0.5) * grid.scale, (grid.high + 0.5) * grid.scale
    )


def _range_gradients(
    gradient: Tensor, passed: Tensor, x: Tensor, y: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Return the gradients of minimum and maximum, float32 scalars.

    With y = s q: inside, dy/ds = (y - x) / s; clipped, dy/ds = y / s and dy/doffset = s.
    """
    clipped = gradient - passed
    offset_gradient = clipped.sum(dtype=torch.float32) * grid.scale
    inside = (y - x).mul_(passed).sum(dtype=torch.float32)
    scale_gradient = (inside + clipped.mul_(y).sum(dtype=torch.float32)) / grid.scale
    return grid.range_gradients(scale_gradient=scale_gradient, offset_gradient=offset_gradient)


class FakeQuantize(torch.autograd.Function):
    """Activation: x (any shape, float32 or bfloat16) to the grid, in x's dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, minimum: Tensor, maximum: Tensor, grid: Grid) -> Tensor:
        y = quantize_dequantize(x, grid).to(x.dtype)
        ctx.grid, ctx.learned = grid, minimum.requires_grad or maximum.requires_grad
        ctx.save_for_backward(x, y if ctx.learned else None)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        passed = pass_unclipped(gradients[0], x, ctx.grid)
        if not ctx.learned:
            return passed, None, None, None
        low, high = _range_gradients(gradients[0], passed, x, y, ctx.grid)
        return passed, low, high, None


class FakeQuantizedSiLU(torch.autograd.Function):
    """Three quantizers in one: v = Q1(x), y = Q3(v * Q2(sigmoid(v))), as the NPU computes SiLU.

    Q2 (the sigmoid's, always [0, 1]) is not learned. The gradient of the sigmoid's rounding
    is left out (its size is below 1/510).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        min1: Tensor,
        max1: Tensor,
        min3: Tensor,
        max3: Tensor,
        grids: tuple[Grid, Grid, Grid],
    ) -> Tensor:
        v = quantize_dequantize(x, grids[0])
        gate = torch.sigmoid(v)
        gate.mul_(1.0 / grids[1].scale).round_().clamp_(grids[1].low, grids[1].high).mul_(grids[1].scale)
        z = gate.mul_(v).to(x.dtype)
        y = quantize_dequantize(z, grids[2]).to(x.dtype)
        ctx.grids = grids
        ctx.learned = (min1.requires_grad or max1.requires_grad, min3.requires_grad or max3.requires_grad)
        ctx.save_for_backward(x, v.to(x.dtype), z, y if ctx.learned[1] else None)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, v, z, y = ctx.saved_tensors
        grid1, _, grid3 = ctx.grids
        low1 = high1 = low3 = high3 = None
        passed = pass_unclipped(gradients[0], z, grid3)
        if ctx.learned[1]:
            low3, high3 = _range_gradients(gradients[0], passed, z, y, grid3)
        inner = torch.ops.aten.silu_backward(passed, v)
        result = pass_unclipped(inner, x, grid1)
        if ctx.learned[0]:
            low1, high1 = _range_gradients(inner, result, x, v, grid1)
        return result, low1, high1, low3, high3, None


class FakeQuantizeWeight(torch.autograd.Function):
    """Weight: float32 w to its grid; scale and bounds expand to w (per channel, tensor)."""

    @staticmethod
    def forward(
        ctx: Any,
        w: Tensor,
        minimum: Tensor,
        maximum: Tensor,
        scale: Tensor,
        low: Tensor,
        high: Tensor,
        steps: int,
    ) -> Tensor:
        ratio = w / scale
        rounded = ratio.round()
        q = rounded.clamp(low, high)
        ctx.steps, ctx.learned = steps, minimum.requires_grad or maximum.requires_grad
        inside = rounded == q
        ctx.save_for_backward(inside, torch.where(inside, q - ratio, q) if ctx.learned else None, minimum)
        return q * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inside, slope, minimum = ctx.saved_tensors
        passed = gradients[0] * inside
        if not ctx.learned:
            return passed, None, None, None, None, None, None
        step = (gradients[0] * slope).sum_to_size(minimum.shape) / ctx.steps
        return passed, -step, step, None, None, None, None
