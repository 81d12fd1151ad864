"""What each layer's rounding should cost, from one backward pass.

With g the gradient of the loss with respect to a layer's output and d the error that quantizing the layer
puts there, the loss moves by g.d to first order; the empirical Fisher estimate of the expected loss is the
mean over images of (g.d)^2 / 2 (Dong et al., HAWQ, ICCV 2019, use the Hessian's trace in its place). The
*diagonal* form, sum of g^2 d^2 / 2, takes the errors of single values as independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hexpath_quant.sensitivity.engine import Base, Engine, Part, Values, compute

Loss = Callable[[tuple[Tensor, ...]], Tensor]
Estimates = dict[tuple[str, Part], "Estimate"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one layer's part."""

    fisher: float
    diagonal: float


def estimates(engine: Engine, *, images: Tensor, loss: Loss | None) -> Estimates:
    """Return the estimates of every layer and part.

    Args:
        images: float32 (N, 3, H, W).
        loss: of the outputs, a mean over images; None: random signs over the outputs (their own noise).
    """
    values = _with_gradients(engine, images=images)
    outputs = engine.outputs(values)
    scalar = loss(outputs) if loss is not None else _random_signs(outputs)
    found = [values[engine.steps[engine.at_layer[layer]].name] for layer in engine.layers]
    gradients = torch.autograd.grad(scalar, found, allow_unused=True)
    result: Estimates = {}
    with torch.no_grad():
        for layer, gradient in zip(engine.layers, gradients, strict=True):
            for part in parts_of(engine, layer):
                result[layer, part] = _one(engine, layer, part=part, gradient=gradient, values=values)
    return result


def parts_of(engine: Engine, layer: str) -> list[Part]:
    """Return the parts that a layer has: without weights, both is activations."""
    return list(Part) if engine.has_weights(layer) else [Part.BOTH]


def _with_gradients(engine: Engine, *, images: Tensor) -> Values:
    with torch.enable_grad():
        return engine.run(images.clone().requires_grad_(True), base=Base.ALONE)


def _random_signs(outputs: tuple[Tensor, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    total = []
    for output in outputs:
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        total.append((output * signs).sum() / output.detach().square().sum().sqrt().clamp_min(1e-12))
    return torch.stack(total).sum()


def _one(engine: Engine, layer: str, *, part: Part, gradient: Any, values: Values) -> Estimate:
    step = engine.steps[engine.at_layer[layer]]
    before = values[step.name]
    if gradient is None or not isinstance(before, Tensor):
        return Estimate(fisher=0.0, diagonal=0.0)
    error = compute(step, values=values, on=part) - before
    moved = (gradient * error).flatten(1) * len(before)  # the loss is a mean over images
    return Estimate(
        fisher=float(moved.sum(1).square().mean()) / 2, diagonal=float(moved.square().sum(1).mean()) / 2
    )
