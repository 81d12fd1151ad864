"""Losses of a segmentation; class weights multiply what is otherwise complete, never inside the logarithm.

logits: float32 (B, classes, h, w), first resized to the masks; truth: integer (B, H, W) with IGNORE.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import LossError
from .dataset import IGNORE

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _at_masks(logits: Tensor, truth: Tensor) -> Tensor:
    if logits.shape[-2:] == truth.shape[-2:]:
        return logits
    return F.interpolate(logits, size=truth.shape[-2:], mode="bilinear", align_corners=False)


def _by_pixel(logits: Tensor, truth: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return -log p of the true class, the class weight, and which pixels count; all (B, H, W)."""
    counts = truth != IGNORE
    if not bool(counts.any()):
        raise LossError("every pixel of this batch is ignored; look at the masks, or crop less tightly")
    surprise = F.cross_entropy(_at_masks(logits, truth), truth.long(), ignore_index=IGNORE, reduction="none")
    safe = truth.long().clamp_max(logits.shape[1] - 1)
    weight = torch.ones_like(surprise) if weights is None else weights.to(surprise)[safe]
    return surprise, weight, counts


def cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean(w_t * -log p_t) over the pixels that count."""
    surprise, weight, counts = _by_pixel(logits, truth, weights)
    return (weight * surprise)[counts].mean()


def focal(logits: Tensor, truth: Tensor, weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Return mean(w_t * (1 - p_t)^gamma * -log p_t) over the pixels that count.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv:1708.02002. p_t is the plain probability: a
    weight inside the cross-entropy would change it, and with it the focus.
    """
    surprise, weight, counts = _by_pixel(logits, truth, weights)
    focus = (1 - torch.exp(-surprise)) ** gamma
    return (weight * focus * surprise)[counts].mean()


def ohem(
    logits: Tensor, truth: Tensor, weights: Tensor | None = None, threshold: float = 0.7, least: float = 0.1
) -> Tensor:
    """Return the mean of w_t * -log p_t over hard pixels: p_t below `threshold`, at least the share `least`.

    Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining",
    arXiv:1604.03540, as DDRNet's authors train.
    """
    surprise, weight, counts = _by_pixel(logits, truth, weights)
    surprise, weight = surprise[counts], weight[counts]
    limit = -torch.log(torch.tensor(threshold)).to(surprise)
    kept = max(1, int(least * surprise.numel()))
    limit = torch.minimum(limit, surprise.detach().topk(kept).values[-1])
    hard = surprise >= limit
    return (weight * surprise)[hard].mean()


LOSSES: dict[str, Loss] = {"focal": focal, "cross-entropy": cross_entropy, "ohem": ohem}


def class_weights(counts: Tensor) -> Tensor:
    """Return float32 (classes,): 1 / sqrt(share of pixels), mean 1 over the classes that occur, at most 5."""
    share = counts.double() / counts.sum().clamp_min(1)
    weights = torch.where(counts > 0, share.clamp_min(1e-6).rsqrt(), torch.zeros_like(share))
    weights /= weights[counts > 0].mean()
    return torch.where(counts > 0, weights, torch.ones_like(weights)).clamp_max(5.0).float()
