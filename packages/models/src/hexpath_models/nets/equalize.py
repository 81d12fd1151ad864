"""Bring the heads of a linear attention onto one scale: the same function, and a tensor that 8 bits can hold.

With a ReLU kernel num / (den + epsilon) does not change when q and k of a head are multiplied by positive
numbers (num and den are both multiplied by their product), nor when v is and the columns of the projection
behind it are divided. That is the equivariance that cross-layer equalization uses (Nagel et al. 2019,
arXiv:1906.04721), for the one place of EfficientViT that it does not reach. All heads share a tensor's 8-bit
scale; in trained networks their ranges differ up to 26 times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from .efficientvit import HEAD_DIM, LinearAttention

# By what a tensor of a head is multiplied when q, k, v are by 10^a, 10^b, 10^c: rows of exponents (a, b, c).
TENSORS = {
    "q": (1, 0, 0),
    "k": (0, 1, 0),
    "v": (0, 0, 1),
    "key_values": (0, 1, 1),
    "key_sum": (0, 1, 0),
    "denominator": (1, 1, 0),
    "numerator": (1, 1, 1),
}
SHARED = (0, 0, 0, 1, 2, 3, 4)  # q, k and v are parts of one tensor, so they want one range; others their own
LIMIT = 64.0  # of a factor: a head of a still smaller range hardly matters, and may grow on other images


def equalize_attention(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Rescale each head of each linear attention in `network`, in place; return how many attentions.

    batches: float32 (B, 3, H, W) images on which the ranges are observed. The factors are the least-squares
    solution (in logarithms) of every head having every tensor's common range. Outputs stay equal but for
    float rounding. Raises OptionError for a network without linear attention, or with a floor under its
    denominator, which is no longer the same function then.
    """
    attentions = [module for module in network.modules() if isinstance(module, LinearAttention)]
    if not attentions:
        raise OptionError("equalize: this network has no linear attention; leave the option out")
    if any(module.floor for module in attentions):
        raise OptionError("equalize and floor: the floor is in units that equalizing changes; choose one")
    for module, ranges in zip(attentions, _observe(network, attentions, batches), strict=True):
        _rescale(module, _factors(ranges).to(module.proj.conv.weight))
    return len(attentions)


def _observe(
    network: nn.Module, attentions: list[LinearAttention], batches: Iterable[Tensor]
) -> list[Tensor]:
    """Return per attention the largest magnitudes, (heads, TENSORS)."""
    seen = [torch.zeros(module.heads, len(TENSORS)) for module in attentions]

    def hook(index: int) -> Callable[..., None]:
        def observe(_: nn.Module, inputs: Any, qkv: Tensor) -> None:
            q, k, v = attentions[index].heads_of(qkv)
            keys = k / k.shape[-1]
            key_values, key_sum = v @ keys.transpose(-1, -2), keys.sum(-1, keepdim=True).transpose(-1, -2)
            tensors = (q, k, v, key_values, key_sum, key_sum @ q, key_values @ q)
            found = torch.stack([tensor.abs().amax((0, 2, 3)).cpu() for tensor in tensors], 1)
            seen[index] = torch.maximum(seen[index], found)

        return observe

    handles = [module.qkv.register_forward_hook(hook(index)) for index, module in enumerate(attentions)]
    try:
        with torch.no_grad():
            for images in batches:
                network(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _factors(ranges: Tensor) -> Tensor:
    """Return (heads, 3): by what q, k and v of each head are multiplied."""
    heads, alive = len(ranges), (ranges > 0).flatten()  # what is always 0 wants nothing
    wanted = torch.zeros(heads, len(TENSORS), 3 * heads + max(SHARED) + 1, dtype=torch.float64)
    for head in range(heads):
        for row, (exponents, shared) in enumerate(zip(TENSORS.values(), SHARED, strict=True)):
            wanted[head, row, 3 * head : 3 * head + 3] = torch.tensor(exponents, dtype=torch.float64)
            wanted[head, row, 3 * heads + shared] = -1
    logs = ranges.double().flatten()[alive].log()
    # The common ranges are free: of the many solutions, gelsd gives the one that changes least.
    found = torch.linalg.lstsq(wanted.flatten(0, 1)[alive], -logs[:, None], driver="gelsd").solution
    return found[: 3 * heads, 0].exp().clamp(1 / LIMIT, LIMIT).view(heads, 3)


def _rescale(module: LinearAttention, factors: Tensor) -> None:
    """Put the factors into the weights before and behind the attention."""
    half = (
        module.heads // 2
    )  # of the first scale; the second's q, k, v are made of theirs by two convolutions
    first, second = factors[:half], factors[half:]
    with torch.no_grad():
        module.qkv.conv.weight.unflatten(0, (half, 3, HEAD_DIM)).mul_(first[:, :, None, None, None, None])
        grouped = module.aggreg[0][1].weight  # type: ignore[index]
        grouped.unflatten(0, (half, 3, HEAD_DIM)).mul_((second / first)[:, :, None, None, None, None])
        projection = module.proj.conv.weight.unflatten(1, (module.heads, HEAD_DIM))
        projection.div_(factors[None, :, 2, None, None, None])
