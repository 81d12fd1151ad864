"""The models that this package knows, with what their authors publish about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import UnknownModelError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model as published: COCO val2017 mAP50-95, millions of parameters, GFLOPs at 640, both fused."""

    name: str
    task: str
    published_map: float
    params_m: float
    gflops_640: float
    stride: int
    weights_file: str
    licence: str

    @property
    def config_file(self) -> str:
        """Ultralytics' own description of the architecture."""
        return f"{self.name}.yaml"


def _yolo11(scale: str, published_map: float, params_m: float, gflops: float) -> ModelCard:
    return ModelCard(
        name=f"yolo11{scale}",
        task="detect",
        published_map=published_map,
        params_m=params_m,
        gflops_640=gflops,
        stride=32,
        weights_file=f"yolo11{scale}.pt",
        licence="AGPL-3.0",
    )


# Source: Ultralytics' YOLO11 model page, detection on COCO.
MODELS: dict[str, ModelCard] = {
    card.name: card
    for card in (
        _yolo11("n", 39.5, 2.6, 6.5),
        _yolo11("s", 47.0, 9.4, 21.5),
        _yolo11("m", 51.5, 20.1, 68.0),
        _yolo11("l", 53.4, 25.3, 86.9),
        _yolo11("x", 54.7, 56.9, 194.9),
    )
}


def find_model(name: str) -> ModelCard:
    """Return the card of a model; raise UnknownModelError with the nearest name."""
    if name not in MODELS:
        raise UnknownModelError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def build(card: ModelCard, *, names: dict[int, str]) -> nn.Module:
    """Return Ultralytics' DetectionModel with random weights, unfused, in training mode, named classes."""
    from .environment import offline

    offline()
    from ultralytics.nn.tasks import DetectionModel

    model: nn.Module = DetectionModel(card.config_file, nc=len(names), verbose=False)
    model.names = dict(names)  # type: ignore[assignment]
    return model


@dataclass(frozen=True, kw_only=True)
class Size:
    """Parameters in millions and GFLOPs at 640 x 640, of the fused model."""

    params_m: float
    gflops_640: float


def measure(card: ModelCard) -> Size:
    """Build the model with COCO's 80 classes, fuse it as the published table does, and count."""
    model = build(card, names={i: str(i) for i in range(80)})
    from ultralytics.utils.torch_utils import get_flops

    fused = model.eval().fuse(verbose=False)  # type: ignore[operator]
    params = sum(parameter.numel() for parameter in fused.parameters())
    return Size(params_m=params / 1e6, gflops_640=float(get_flops(fused, 640)))
