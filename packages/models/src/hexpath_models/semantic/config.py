"""What decides the result of training a segmentation network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..dataset import image_size
from ..errors import OptionError, nearest
from .registry import check_options, find_semantic

SCHEDULES = ("cosine", "poly")
LOSS_NAMES = ("focal", "cross-entropy", "ohem")
WEIGHTINGS = ("none", "balanced")


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """Settings of one run.

    imgsz: of the windows that a step sees; deploy: of whole images, as validated (default: imgsz).
    lr: peak rate of the head; backbone_lr: of everything else (default: lr, and a tenth of it where training
    starts from weights). warmup: epochs of linear rise. clip: norm of the gradient. ema: decay, 0 for none.
    weighting: balanced multiplies each pixel's loss by 1/sqrt of its class's share.
    """

    model: str = "ddrnet23_slim"
    epochs: int = 20
    imgsz: str = "320"
    deploy: str = ""
    batch: int = 8
    lr: float = 3e-3
    backbone_lr: float | None = None
    weight_decay: float = 0.01
    loss: str = "focal"
    weighting: str = "balanced"
    schedule: str = "cosine"
    warmup: float = 1.0
    ema: float = 0.99
    clip: float = 1.0
    patience: int = 50
    seed: int = 0
    device: str = "cpu"
    pretrained: bool = False
    weights: str = ""
    bfloat16: bool | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(find_semantic(self.model), self.options)
        for size in (self.imgsz, self.deploy or self.imgsz):
            image_size(size)
        _one_of("loss", self.loss, LOSS_NAMES)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("class weights", self.weighting, WEIGHTINGS)
        for name, value in (("epochs", self.epochs), ("patience", self.patience)):
            if value < 1:
                raise OptionError(f"{name} is {value}, it must be at least 1")
        if self.batch < 2:
            raise OptionError(f"batch is {self.batch}, batch norm over a pooled map needs at least 2")
        if self.lr <= 0 or (self.backbone_lr or self.lr) <= 0:
            raise OptionError(f"lr {self.lr} and backbone-lr {self.backbone_lr} must be above 0")
        if not 0 <= self.ema < 1 or self.warmup < 0 or self.clip <= 0 or self.weight_decay < 0:
            raise OptionError(
                f"ema {self.ema} must be in [0, 1), warmup {self.warmup} and weight decay "
                f"{self.weight_decay} not below 0, clip {self.clip} above 0"
            )
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise OptionError(f"device {self.device!r} is not cpu, cuda or cuda:N; training runs on one")

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) at which the network is deployed, and of the windows that training sees."""
        return image_size(self.deploy or self.imgsz), image_size(self.imgsz)

    @property
    def rates(self) -> tuple[float, float]:
        """Peak learning rates of the backbone and of the head."""
        starts = self.pretrained or bool(self.weights)
        return self.backbone_lr or (self.lr / 10 if starts else self.lr), self.lr


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise OptionError(f"unknown {name} {value!r}; {nearest(value, known)}")
