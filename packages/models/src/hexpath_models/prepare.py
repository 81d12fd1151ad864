"""The one place that turns an Ultralytics DetectionModel into a static network for quantizers and exporters.

The prepared network computes exactly what the original computes, and besides

- `torch.fx.symbolic_trace` takes it: no shape is read from a tensor, no control flow depends on one;
- every activation and every pooling step is a module of its own, so that a quantizer can watch each apart;
- parameters keep Ultralytics' names (`model.0.conv.weight` to `model.23.cv2.0.2.bias`), BatchNorm unfolded.

A new head (instance segmentation, YOLO26) is one more entry in HEADS; a new block one more in STATIC_BLOCKS.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .environment import offline
from .errors import OptionError, PreparationError, nearest

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle


class Head(StrEnum):
    """What the network hands out: tensors per level, boxes and scores decoded, or both in one tensor."""

    RAW = "raw"
    DECODED = "decoded"
    PLAIN = "plain"


def parse_head(text: str) -> Head:
    """Return the head of that name; raise OptionError with the nearest one."""
    if text not in set(Head):
        raise OptionError(f"unknown head {text!r}; {nearest(text, list(Head))}")
    return Head(text)


class SplitC2f(nn.Module):
    """C2f and C3k2 with a split of fixed sizes in place of `list(chunk)`."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m, self.c = source.cv1, source.cv2, source.m, source.c

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H, W) for float32 (N, C1, H, W)."""
        parts = torch.split(self.cv1(x), [self.c, self.c], 1)
        kept = [parts[0], parts[1]]
        for block in self.m:
            kept.append(block(kept[-1]))
        return self.cv2(torch.cat(kept, 1))  # type: ignore[no-any-return]


class StaticSPPF(nn.Module):
    """SPPF with one pooling module a step: a module that runs three times has one range for three tensors."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2 = source.cv1, source.cv2
        self.m = nn.ModuleList(copy.deepcopy(source.m) for _ in range(getattr(source, "n", 3)))
        self.add = getattr(source, "add", False)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C2, H, W) for float32 (N, C1, H, W)."""
        kept = [self.cv1(x)]
        for pool in self.m:
            kept.append(pool(kept[-1]))
        y = self.cv2(torch.cat(kept, 1))
        return y + x if self.add else y  # type: ignore[no-any-return]


class StaticC2PSA(nn.Module):
    """C2PSA with an indexed split."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m, self.c = source.cv1, source.cv2, source.m, source.c

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) for float32 (N, C, H, W)."""
        parts = torch.split(self.cv1(x), [self.c, self.c], 1)
        return self.cv2(torch.cat([parts[0], self.m(parts[1])], 1))  # type: ignore[no-any-return]


class StaticAttention(nn.Module):
    """Multi-head self-attention over the H x W positions of a feature map of known size."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.pe = source.qkv, source.proj, source.pe
        self.num_heads, self.key_dim, self.head_dim = source.num_heads, source.key_dim, source.head_dim
        self.scale = source.scale
        self.softmax = nn.Softmax(dim=-1)
        self.height, self.width = source.static_size

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) for float32 (N, C, H, W)."""
        sizes = [self.key_dim, self.key_dim, self.head_dim]
        positions = self.height * self.width
        qkv = self.qkv(x).reshape(-1, self.num_heads, sum(sizes), positions)
        parts = torch.split(qkv, sizes, 2)
        query, key, value = parts[0] * self.scale, parts[1], parts[2]
        weights = self.softmax(torch.matmul(query.transpose(2, 3), key))
        channels = self.num_heads * self.head_dim
        mixed = torch.matmul(value, weights.transpose(2, 3)).reshape(-1, channels, self.height, self.width)
        position = self.pe(value.reshape(-1, channels, self.height, self.width))
        return self.proj(mixed + position)  # type: ignore[no-any-return]


class RawDetect(nn.Module):
    """Detect without decoding: DFL logits (N, 4*reg_max, H/S, W/S), scores (N, nc, H/S, W/S) per level."""

    def __init__(self, source: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.cv2, self.cv3 = source.cv2, source.cv3

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes and scores of each level in turn, finest level first."""
        outputs: list[Tensor] = []
        for feature, box_head, class_head in zip(features, self.cv2, self.cv3, strict=True):
            outputs += [box_head(feature), class_head(feature)]
        return tuple(outputs)


class Decode(nn.Module):
    """Raw outputs to boxes (N, 4, A), xywh centre in input pixels, and scores (N, nc, A) after the sigmoid.

    A counts the anchors of all levels, finest first, row by row. The box sides are the expectations of the
    discrete distributions (Li et al. 2020, Generalized Focal Loss, arXiv:2006.04388).
    """

    anchors: Tensor
    strides: Tensor

    def __init__(self, source: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.reg_max, self.nc = source.reg_max, source.nc
        self.dfl = copy.deepcopy(source.dfl.conv)
        self.softmax, self.sigmoid = nn.Softmax(dim=1), nn.Sigmoid()
        steps = [int(stride) for stride in source.stride.tolist()]
        anchors, strides = _anchors(steps, image_size)
        self.areas = [(image_size[0] // step) * (image_size[1] // step) for step in steps]
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return (boxes, scores)."""
        pairs = [raw[0::2], raw[1::2]]
        boxes, scores = (
            torch.cat([t.reshape(-1, c, area) for t, area in zip(levels, self.areas, strict=True)], 2)
            for levels, c in zip(pairs, (4 * self.reg_max, self.nc), strict=True)
        )
        bins = boxes.reshape(-1, 4, self.reg_max, sum(self.areas)).transpose(1, 2)
        sides = self.dfl(self.softmax(bins)).reshape(-1, 4, sum(self.areas))
        parts = torch.split(sides, [2, 2], 1)
        low, high = torch.sub(self.anchors, parts[0]), torch.add(self.anchors, parts[1])
        return torch.cat([(low + high) / 2, high - low], 1) * self.strides, self.sigmoid(scores)


class DecodedDetect(nn.Module):
    """Detect that decodes in the graph, boxes and scores apart."""

    def __init__(self, source: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.cv2, self.cv3 = source.cv2, source.cv3
        self.decode = Decode(source, image_size)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes (N, 4, A) and scores (N, nc, A)."""
        pairs = zip(features, self.cv2, self.cv3, strict=True)
        raw = [head(feature) for feature, *heads in pairs for head in heads]
        return self.decode(tuple(raw))  # type: ignore[no-any-return]


class PlainDetect(DecodedDetect):
    """Detect with Ultralytics' own single output (N, 4 + nc, A)."""

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes and scores in one tensor."""
        return (torch.cat(list(super().forward(features)), 1),)


class PreparedDetector(nn.Module):
    """forward(images: float32 (N, 3, H, W) RGB in [0, 1]) -> tuple of tensors named by `output_names`."""

    def __init__(
        self, layers: list[nn.Module], *, output_names: tuple[str, ...], image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.model = nn.ModuleList(layers)
        self.sources: list[int | list[int]] = [layer.f for layer in layers]  # type: ignore[misc]
        self.output_names = output_names
        self.image_size = image_size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the head's tensors, see Head."""
        kept: list[Any] = []
        x: Any = images
        for layer, source in zip(self.model, self.sources, strict=True):
            if isinstance(source, list):
                inputs = [x if index == -1 else kept[index] for index in source]
                x = layer(inputs)
            else:
                x = layer(x if source == -1 else kept[source])
            kept.append(x)
        return x  # type: ignore[no-any-return]


def prepare(model: nn.Module, *, head: Head, image_size: tuple[int, int]) -> PreparedDetector:
    """Return a static copy of an unfused Ultralytics DetectionModel, in evaluation mode.

    image_size: (height, width) in pixels, multiples of the largest stride.
    Raises PreparationError for a fused model, a head that is not in HEADS or an impossible image size.
    """
    offline()
    source: Any = copy.deepcopy(model).cpu().float().eval()
    detect = source.model[-1]
    builders = _builders(detect)
    _check(source, image_size)
    _note_attention_sizes(source, image_size)
    _replace_blocks(source)
    layers = [*source.model[:-1], _as_layer(builders[head](detect, image_size), detect)]
    prepared = PreparedDetector(layers, output_names=output_names(detect, head=head), image_size=image_size)
    _own_activations(prepared)
    for parameter in prepared.parameters():
        parameter.requires_grad_(True)
    for decode in (m for m in prepared.modules() if isinstance(m, Decode)):
        decode.dfl.requires_grad_(False)
    return prepared.eval()


def output_names(detect: Any, *, head: Head) -> tuple[str, ...]:
    """Return the names of the output tensors of a head, in order."""
    if head is Head.PLAIN:
        return ("output0",)
    if head is Head.DECODED:
        return ("boxes", "scores")
    steps = [int(stride) for stride in detect.stride.tolist()]
    return tuple(f"{kind}_{step}" for step in steps for kind in ("boxes", "scores"))


def _builders(detect: Any) -> dict[Head, Callable[[Any, tuple[int, int]], nn.Module]]:
    for kind, builders in _heads().items():
        if type(detect) is kind:
            return builders
    known = ", ".join(kind.__name__ for kind in _heads())
    raise PreparationError(f"cannot prepare a {type(detect).__name__} head; known: {known}")


def _heads() -> dict[type, dict[Head, Callable[[Any, tuple[int, int]], nn.Module]]]:
    from ultralytics.nn.modules import Detect

    return {Detect: {Head.RAW: RawDetect, Head.DECODED: DecodedDetect, Head.PLAIN: PlainDetect}}


def _static_blocks() -> dict[type, Callable[[Any], nn.Module]]:
    from ultralytics.nn.modules import C2PSA, SPPF, C2f, C3k2
    from ultralytics.nn.modules.block import Attention

    return {C2f: SplitC2f, C3k2: SplitC2f, SPPF: StaticSPPF, C2PSA: StaticC2PSA, Attention: StaticAttention}


def _check(model: Any, image_size: tuple[int, int]) -> None:
    if model.is_fused():
        raise PreparationError("the model's BatchNorm is folded already; prepare the unfused model")
    if getattr(model.model[-1], "one2one_cv2", None) is not None:
        raise PreparationError("end-to-end heads are not prepared yet; use a model without one2one branch")
    stride = int(model.stride.max())
    if any(side < stride or side % stride for side in image_size):
        raise PreparationError(f"image size {image_size[0]}x{image_size[1]} is no multiple of {stride}")


def _note_attention_sizes(model: Any, image_size: tuple[int, int]) -> None:
    """Run the model once on zeros and write onto each attention block the (H, W) that it sees."""
    from ultralytics.nn.modules.block import Attention

    def note(module: Any, inputs: tuple[Tensor, ...]) -> None:
        module.static_size = tuple(int(side) for side in inputs[0].shape[2:])

    handles: list[RemovableHandle] = [
        module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, Attention)
    ]
    with torch.no_grad():
        model(torch.zeros(1, 3, *image_size))
    for handle in handles:
        handle.remove()


def _replace_blocks(module: nn.Module) -> None:
    blocks = _static_blocks()
    for name, child in list(module.named_children()):
        _replace_blocks(child)
        if type(child) in blocks:
            module._modules[name] = _as_layer(blocks[type(child)](child), child)


def _as_layer(module: nn.Module, source: nn.Module) -> nn.Module:
    """Carry over where Ultralytics' graph takes the layer's input from."""
    if hasattr(source, "f"):
        module.f = source.f
    return module


def _own_activations(root: nn.Module) -> None:
    """Give each place its own parameterless module where Ultralytics shares one (Conv.default_act)."""
    seen: set[int] = set()
    for module in list(root.modules()):
        for name, child in module._modules.items():
            if child is None:
                continue
            if id(child) in seen and not list(child.parameters()):
                child = module._modules[name] = copy.deepcopy(child)
            seen.add(id(child))
            if hasattr(child, "inplace"):
                setattr(child, "inplace", False)  # noqa: B010


def _anchors(strides: list[int], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return anchor centres (1, 2, A) in cells, x before y, and the stride of each, (1, 1, A)."""
    centres, scales = [], []
    for stride in strides:
        height, width = image_size[0] // stride, image_size[1] // stride
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        scales.append(torch.full((1, height * width), float(stride)))
    return torch.cat(centres, 1).unsqueeze(0), torch.cat(scales, 1).unsqueeze(0)
