"""Ultralytics' own losses in float32, for its trainer and for the raw outputs of a prepared network.

Import this module only after `environment.offline()`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from ultralytics.nn.modules.head import Segment26
from ultralytics.utils.loss import E2ELoss, SegmentLoss26, v8DetectionLoss, v8SegmentationLoss

from .heads import Branch, columns

_NAMES = {"boxes": "boxes", "scores": "scores", "masks": "mask_coefficient"}


class Float32Loss(v8DetectionLoss):
    """Ultralytics' detection loss outside autocast, on float32 copies of the predictions."""

    def loss(self, preds: dict[str, Any], batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss (3,) times the batch size, and its parts."""
        wide = {name: _widened(value) for name, value in preds.items()}
        with torch.autocast(device_type=wide["boxes"].device.type, enabled=False):
            result: tuple[Tensor, dict[str, Tensor]] = super().loss(wide, batch)
        return result


class Float32SegmentationLoss(Float32Loss, v8SegmentationLoss):
    """The same of YOLO11's instance masks, (5,)."""


class Float32SegmentationLoss26(Float32Loss, SegmentLoss26):
    """The same of YOLO26's instance masks, (5,)."""


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    return type(value)(map(_widened, value)) if isinstance(value, (list, tuple)) else value


def _kind(model: Any) -> type[Float32Loss]:
    detect = model.model[-1]
    if isinstance(detect, Segment26):
        return Float32SegmentationLoss26
    return Float32SegmentationLoss if hasattr(detect, "proto") else Float32Loss


def training_loss(model: Any) -> Any:
    """Return the loss that Ultralytics trains the model with: of both branches where there are two."""
    kind = _kind(model)
    two = getattr(model.model[-1], "one2one_cv2", None) is not None
    return E2ELoss(model, kind) if two else kind(model)


class RawLoss:
    """The loss of one branch, from the raw outputs of a prepared network."""

    def __init__(self, model: Any, *, branch: Branch) -> None:
        # What E2ELoss gives its two branches.
        topk = {"tal_topk": 7, "tal_topk2": 1} if branch is Branch.ONE_TO_ONE else {"tal_topk": 10}
        self._loss = _kind(model)(model, **topk)
        self._kinds = list(columns(model.model[-1], branch=branch))

    def __call__(self, outputs: tuple[Tensor, ...], batch: dict[str, Any]) -> Tensor:
        """Return the sum of the parts (a scalar, mean over the images), in float32."""
        count = len(self._kinds)
        levels = outputs[: len(outputs) // count * count]
        predictions: dict[str, Any] = {
            _NAMES[kind]: torch.cat([level.flatten(2) for level in levels[index::count]], 2)
            for index, kind in enumerate(self._kinds)
        }
        predictions["feats"] = list(levels[0::count])  # only their shapes are read
        if "masks" in self._kinds:
            predictions["proto"] = outputs[-1]
        total: Tensor = self._loss.loss(predictions, batch)[0].sum()
        return total / outputs[0].shape[0]
