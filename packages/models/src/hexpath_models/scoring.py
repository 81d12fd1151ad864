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
    """mAP at IoU 0.5 to 0.95 and at 0.5, in [0, 1], over all classes and by class name.

    The mask figures are those of instance masks, None for a detector.
    """

    map: float
    map50: float
    mask_map: float | None = None
    mask_map50: float | None = None
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_metrics(self) -> dict[str, float]:
        """Return the figures over all classes that there are, the one that is maximized first.

        That of masks where there are any: they need boxes and scores too, boxes need no masks.
        """
        found = {
            "mask_map": self.mask_map,
            "mask_map50": self.mask_map50,
            "map": self.map,
            "map50": self.map50,
        }
        return {name: value for name, value in found.items() if value is not None}


def score(
    predict: Callable[[Tensor], tuple[Tensor, ...]],
    batches: Iterable[dict[str, Any]],
    *,
    source: Any,
    names: dict[int, str],
    task: str = "detect",
    end_to_end: bool = False,
) -> Score:
    """Score `predict` on validation batches of the Ultralytics dataset `source`.

    predict: float32 (B, 3, H, W) in [0, 1] to (B, 4 + nc, A): boxes xywh in input pixels, scores in [0, 1];
    with end_to_end to (B, up to 300, 6): boxes xyxy, score, class. For the task `segment` 32 mask
    coefficients follow in the same tensor, and a second one holds the prototypes (B, 32, H/4, W/4).
    NMS and matching are those of Ultralytics' validators (confidence 0.001, IoU 0.7).
    """
    import torch

    validator = _validator(source, names, task=task)
    validator.end2end = end_to_end
    with torch.inference_mode():
        for batch in batches:
            images = to_float(batch["img"])
            found = tuple(output.float().cpu() for output in predict(images))
            detections = validator.postprocess(found if task == "segment" else found[0])
            validator.update_metrics(detections, {**batch, "img": images})
    return _summary(validator, names)


def _validator(source: Any, names: dict[int, str], *, task: str) -> Any:
    import torch

    settings_folder = offline()
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.models.yolo.segment import SegmentationValidator

    validator: Any = (SegmentationValidator if task == "segment" else DetectionValidator)(
        dataloader=SimpleNamespace(dataset=source, sampler=None),
        save_dir=settings_folder / "validation",
        args=vars(_validation_settings(task)),
    )
    validator.device, validator.data, validator.training = torch.device("cpu"), {}, False
    validator.init_metrics(SimpleNamespace(names=names))
    return validator


def _validation_settings(task: str) -> SimpleNamespace:
    settings = default_settings(mode="val", task=task)
    del settings.augmentations
    return settings


def _summary(validator: Any, names: dict[int, str]) -> Score:
    validator.get_stats()
    box, masks = validator.metrics.box, getattr(validator.metrics, "seg", None)
    per_class: dict[str, dict[str, float]] = {}
    for row, index in enumerate(validator.metrics.ap_class_index):
        found = _class_figures(box, index=int(index), row=row)
        if masks is not None:
            found |= {f"mask_{k}": v for k, v in _class_figures(masks, index=int(index), row=row).items()}
        per_class[names[int(index)]] = found
    return Score(
        map=float(box.map),
        map50=float(box.map50),
        mask_map=None if masks is None else float(masks.map),
        mask_map50=None if masks is None else float(masks.map50),
        per_class=per_class,
    )


def _class_figures(metric: Any, *, index: int, row: int) -> dict[str, float]:
    return {"map": float(metric.maps[index]), "map50": float(metric.all_ap[row][0])}
