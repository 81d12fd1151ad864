"""mIoU: one implementation for training, quantization and reports of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataFileError
from .dataset import IGNORE


@dataclass(frozen=True, kw_only=True)
class Score:
    """Over all pixels of all images together: mean IoU, pixel accuracy, IoU by class name, in [0, 1]."""

    miou: float
    pixel_accuracy: float
    per_class: dict[str, dict[str, float]]

    def metrics(self) -> dict[str, float]:
        """Return the figures of the whole, the first to be maximized."""
        return {"miou": self.miou, "pixel_accuracy": self.pixel_accuracy}


class Confusion:
    """Counts of pixels by true and found class, int64 (classes, classes)."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.table = torch.zeros(len(names), len(names), dtype=torch.int64)

    def add(self, found: Tensor, truth: Tensor) -> None:
        """Count one image or batch: integer classes of equal shape, IGNORE in `truth` left out."""
        classes = len(self.names)
        counts = truth != IGNORE
        pairs = truth[counts].long() * classes + found[counts].long()
        self.table += torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu()

    def score(self) -> Score:
        """Return IoU = hits / (truth + found - hits); a class without true pixels does not count.

        Raises DataFileError when no pixel has a class.
        """
        if not int(self.table.sum()):
            raise DataFileError("the masks hold nothing but ignored pixels; there is nothing to score")
        hits, truth, found = self.table.diagonal(), self.table.sum(1), self.table.sum(0)
        iou = hits.double() / (truth + found - hits).clamp_min(1)
        occurs = [kind for kind in self.names if int(truth[kind])]
        return Score(
            miou=float(iou[occurs].mean()),
            pixel_accuracy=float(hits.sum() / self.table.sum()),
            per_class={self.names[kind]: {"iou": float(iou[kind])} for kind in occurs},
        )


def classes_of(logits: Tensor, *, input_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the class of each pixel (B, *size): logits up to the input, then to the image, bilinearly."""
    for wanted in dict.fromkeys((input_size, size)):
        if tuple(logits.shape[-2:]) != wanted:
            logits = F.interpolate(logits.float(), size=wanted, mode="bilinear", align_corners=False)
    return logits.argmax(1)


def score(
    forward: Callable[[Tensor], tuple[Tensor, ...]],
    batches: Iterable[tuple[Tensor, list[Tensor]]],
    *,
    names: dict[int, str],
) -> Score:
    """Score `forward` (float32 images (B, 3, H, W) to logits) on (images, masks of the images' own sizes)."""
    confusion = Confusion(names)
    with torch.inference_mode():
        for images, masks in batches:
            logits = forward(images)[0].float().cpu()
            size = (int(images.shape[-2]), int(images.shape[-1]))
            for one, mask in zip(logits, masks, strict=True):
                found = classes_of(one[None], input_size=size, size=(int(mask.shape[0]), int(mask.shape[1])))
                confusion.add(found[0], mask)
    return confusion.score()
