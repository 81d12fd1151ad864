"""The segmentation networks that this package knows, with what their authors publish about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, UnknownModelError, nearest

if TYPE_CHECKING:
    from torch import nn

    from .network import SemanticNetwork

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class SemanticCard:
    """One network as published: mIoU in percent on `trained_on`, millions of parameters with its classes.

    weights_files: names under which the published weights are looked for; mean, std: of R, G, B in [0, 1].
    options: settings of the architecture and what they may be; note: what its users should know first.
    hub: where transformers fetches the weights from, for a network that it owns; a local folder goes first.
    """

    name: str
    trained_on: str
    classes: int
    published_miou: float
    params_m: float
    stride: int
    weights_files: tuple[str, ...]
    source: str
    licence: str
    note: str
    make: Callable[..., nn.Module]
    task: str = "semantic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hub: str = ""


def _segformer(*, classes: int, **options: str) -> nn.Module:
    from ..nets.segformer import Fusion, segformer_b0

    return segformer_b0(classes=classes, fusion=Fusion(options.get("fusion", Fusion.ONCE)))


def _ddrnet(*, classes: int) -> nn.Module:
    from ..nets.ddrnet import ddrnet23_slim

    return ddrnet23_slim(classes=classes)


def _efficientvit(*, classes: int, **options: str) -> nn.Module:
    from ..nets.efficientvit import Attention, Upsampling, efficientvit_seg_b1

    return efficientvit_seg_b1(
        classes=classes,
        attention=Attention(options.get("attention", Attention.JOINT)),
        floor=float(options.get("floor", 0.0)),
        upsampling=Upsampling(options.get("upsampling", Upsampling.BILINEAR)),
    )


SEMANTIC: dict[str, SemanticCard] = {
    card.name: card
    for card in (
        SemanticCard(
            name="ddrnet23_slim",
            trained_on="Cityscapes",
            classes=19,
            published_miou=77.8,
            params_m=5.7,
            stride=8,
            # The second is the authors' name, the third that of Qualcomm's copy of the same file.
            weights_files=("ddrnet23_slim_cityscapes.pth", "best_val_smaller.pth", "DDRNet23s_imagenet.pth"),
            source="https://github.com/ydhongHIT/DDRNet (Cityscapes, DDRNet_23_slim)",
            licence="MIT",
            note="convolutions only: the INT8-safe one",
            make=_ddrnet,
        ),
        SemanticCard(
            name="efficientvit_seg_b1",
            trained_on="Cityscapes",
            classes=19,
            published_miou=80.5,
            params_m=4.8,
            stride=8,
            weights_files=("efficientvit_seg_b1_cityscapes.pt",),
            source="https://huggingface.co/han-cai/efficientvit-seg (efficientvit_seg_b1_cityscapes.pt)",
            licence="Apache-2.0",
            note="legacy for INT8: its linear attention can collapse; see attention=split and floor=",
            make=_efficientvit,
            options={
                "attention": ("joint", "split"),
                "floor": ("a number",),
                "upsampling": ("bilinear", "bicubic"),
            },
        ),
        SemanticCard(
            name="segformer_b0",
            trained_on="ADE20K",
            classes=150,
            published_miou=37.4,
            params_m=3.8,
            stride=4,
            weights_files=("segformer-b0-finetuned-ade-512-512",),
            source="https://huggingface.co/nvidia/segformer-b0-finetuned-ade-512-512",
            licence="NVIDIA, non-commercial",
            note="train with --lr 6e-5 from weights",
            make=_segformer,
            options={"fusion": ("once", "early", "late")},
            hub="nvidia/segformer-b0-finetuned-ade-512-512",
        ),
    )
}


def find_semantic(name: str) -> SemanticCard:
    """Return the card of a network; raise UnknownModelError with the nearest name."""
    if name not in SEMANTIC:
        raise UnknownModelError(f"unknown segmentation network {name!r}; {nearest(name, SEMANTIC)}")
    return SEMANTIC[name]


def check_options(card: SemanticCard, options: Mapping[str, str]) -> dict[str, str]:
    """Return the architecture's options; raise OptionError for a name or value that it does not have."""
    for name, value in options.items():
        if name not in card.options:
            raise OptionError(f"unknown option {name!r} of {card.name}; {nearest(name, card.options)}")
        allowed = card.options[name]
        if allowed == ("a number",):
            _number(name, value)
        elif value not in allowed:
            raise OptionError(f"option {name}={value!r} of {card.name}; {nearest(value, allowed)}")
    return dict(options)


def _number(name: str, value: str) -> None:
    try:
        good = 0 <= float(value) < float("inf")
    except ValueError:
        good = False
    if not good:
        raise OptionError(f"option {name}={value!r} is no number of at least 0")


def build_semantic(
    card: SemanticCard, *, classes: int, options: Mapping[str, str] | None = None
) -> SemanticNetwork:
    """Return the network with random weights and its normalization, in training mode.

    Raises OptionError for fewer than two classes or an option that the architecture does not have.
    """
    from .network import SemanticNetwork

    if classes < 2:
        raise OptionError(f"{card.name} with {classes} classes; a segmentation needs at least 2")
    chosen: dict[str, Any] = check_options(card, options or {})
    return SemanticNetwork(card.make(classes=classes, **chosen), mean=card.mean, std=card.std)
