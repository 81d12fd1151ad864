"""mAP of a network's outputs on a validation split, by Ultralytics' own code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from .environment import offline
from .loading import default_settings, to_float


@dataclass(frozen=True, kw_only=True)
class Score:
    """mAP at IoU 0.5 to 0.95 and at 0.5, in [0, 1], over all classes and by class name."""

    map: float
    map50: float
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)


def score(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[dict[str, Any]],
    *,
    source: Any,
    names: dict[int, str],
) -> Score:
    """Score `predict` on validation batches of the Ultralytics dataset `source`.

    predict: float32 (B, 3, H, W) in [0, 1] to (B, 4 + nc, A): boxes xywh in input pixels, scores in [0, 1].
    NMS and matching are those of Ultralytics' DetectionValidator (confidence 0.001, IoU 0.7).
    """
    import torch

    validator = _validator(source, names)
    with torch.inference_mode():
        for batch in batches:
            images = to_float(batch["img"])
            boxes = validator.postprocess(predict(images).float().cpu())
            validator.update_metrics(boxes, {**batch, "img": images})
    return _summary(validator, names)


def _validator(source: Any, names: dict[int, str]) -> Any:
    import torch

    settings_folder = offline()
    from ultralytics.models.yolo.detect import DetectionValidator

    validator: Any = DetectionValidator(
        dataloader=SimpleNamespace(dataset=source, sampler=None),
        save_dir=settings_folder / "validation",
        args=vars(_validation_settings()),
    )
    validator.device, validator.data, validator.training = torch.device("cpu"), {}, False
    validator.init_metrics(SimpleNamespace(names=names))
    return validator


def _validation_settings() -> SimpleNamespace:
    settings = default_settings(mode="val")
    del settings.augmentations
    return settings


def _summary(validator: Any, names: dict[int, str]) -> Score:
    results = validator.get_stats()
    box = validator.metrics.box
    per_class = {
        names[int(index)]: {"map": float(box.maps[int(index)]), "map50": float(box.all_ap[row][0])}
        for row, index in enumerate(validator.metrics.ap_class_index)
    }
    return Score(
        map=float(results["metrics/mAP50-95(B)"]),
        map50=float(results["metrics/mAP50(B)"]),
        per_class=per_class,
    )
