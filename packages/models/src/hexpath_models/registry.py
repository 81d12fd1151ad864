"""The models that this package knows, with what their authors publish about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UnknownModelError, nearest

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model as published: COCO val2017 mAP50-95, millions of parameters, GFLOPs at 640, both fused.

    published_map is that of boxes after non-maximum suppression; published_mask_map that of instance masks;
    published_end_to_end_map that of the one-to-one branch, which needs no suppression.
    """

    name: str
    task: str
    published_map: float
    params_m: float
    gflops_640: float
    stride: int
    weights_file: str
    licence: str
    reg_max: int = 16
    published_mask_map: float | None = None
    published_end_to_end_map: float | None = None

    @property
    def config_file(self) -> str:
        """Ultralytics' own description of the architecture."""
        return f"{self.name}.yaml"


def _yolo(
    name: str, published_map: float, params_m: float, gflops: float, *, task: str = "detect", **more: Any
) -> ModelCard:
    return ModelCard(
        name=name,
        task=task,
        published_map=published_map,
        params_m=params_m,
        gflops_640=gflops,
        stride=32,
        weights_file=f"{name}.pt",
        licence="AGPL-3.0",
        **more,
    )


def _yolo11_seg(scale: str, box_map: float, mask_map: float, params_m: float, gflops: float) -> ModelCard:
    name = f"yolo11{scale}-seg"
    return _yolo(name, box_map, params_m, gflops, task="segment", published_mask_map=mask_map)


def _yolo26(scale: str, published_map: float, end_to_end: float, params_m: float, gflops: float) -> ModelCard:
    name = f"yolo26{scale}"
    return _yolo(name, published_map, params_m, gflops, reg_max=1, published_end_to_end_map=end_to_end)


# Source: Ultralytics' model pages (YOLO11, YOLO26) and task pages (detect, segment), on COCO.
MODELS: dict[str, ModelCard] = {
    card.name: card
    for card in (
        _yolo("yolo11n", 39.5, 2.6, 6.5),
        _yolo("yolo11s", 47.0, 9.4, 21.5),
        _yolo("yolo11m", 51.5, 20.1, 68.0),
        _yolo("yolo11l", 53.4, 25.3, 86.9),
        _yolo("yolo11x", 54.7, 56.9, 194.9),
        _yolo11_seg("n", 38.9, 32.0, 2.9, 10.4),
        _yolo11_seg("s", 46.6, 37.8, 10.1, 35.5),
        _yolo11_seg("m", 51.5, 41.5, 22.4, 123.3),
        _yolo11_seg("l", 53.4, 42.9, 27.6, 142.2),
        _yolo11_seg("x", 54.7, 43.8, 62.1, 319.0),
        _yolo26("n", 40.9, 40.1, 2.4, 5.4),
        _yolo26("s", 48.6, 47.8, 9.5, 20.7),
    )
}


def find_model(name: str) -> ModelCard:
    """Return the card of a model; raise UnknownModelError with the nearest name."""
    if name not in MODELS:
        raise UnknownModelError(f"unknown model {name!r}; {nearest(name, MODELS)}")
    return MODELS[name]


def build(card: ModelCard, *, names: dict[int, str]) -> nn.Module:
    """Return Ultralytics' model with random weights, unfused, in training mode, named classes."""
    return build_network(card.config_file, task=card.task, names=names)


def build_network(config: str | Mapping[str, Any], *, task: str, names: dict[int, str]) -> nn.Module:
    """Return the model of an Ultralytics YAML file, or of such a file's content, for the task."""
    from .environment import offline

    offline()
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    kind = {"detect": DetectionModel, "segment": SegmentationModel}[task]
    model: Any = kind(config if isinstance(config, str) else dict(config), nc=len(names), verbose=False)
    model.names = dict(names)
    return model  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Parameters in millions and GFLOPs at 640 x 640, of the fused model.

    Of a model with two branches the one-to-one branch is counted.
    """

    params_m: float
    gflops_640: float


def measure(card: ModelCard) -> Size:
    """Build the model with COCO's 80 classes, fuse it as the published table does, and count."""
    model: Any = build(card, names={i: str(i) for i in range(80)}).eval()
    from ultralytics.utils.torch_utils import get_flops

    if getattr(model.model[-1], "one2one_cv2", None) is not None:
        model.end2end = True
    fused = model.fuse(verbose=False)
    params = sum(parameter.numel() for parameter in fused.parameters())
    return Size(
        params_m=params / 1e6,
        gflops_640=float(get_flops(fused, 640)) + _transposed_surplus(fused),
    )


def _transposed_surplus(model: nn.Module) -> float:
    """Return the GFLOPs that the published tables count too many for the upsampling of mask prototypes.

    A 2x2 transposed convolution with stride 2 takes one kernel element an output pixel; the tables were
    made with a counter that took all four.
    """
    from torch import nn

    surplus = 0.0
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            macs = (640 // 4) ** 2 * module.in_channels * module.out_channels
            surplus += 2 * (module.kernel_size[0] * module.kernel_size[1] - 1) * macs / 1e9
    return surplus
