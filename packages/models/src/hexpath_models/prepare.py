"""The one place that turns an Ultralytics model into a static network for quantizers and exporters.

The prepared network computes exactly what the original computes, and besides

- `torch.fx.symbolic_trace` takes it: no shape is read from a tensor, no control flow depends on one;
- every activation and every pooling step is a module of its own, so that a quantizer can watch each apart;
- parameters keep Ultralytics' names (`model.0.conv.weight` to `model.23.cv2.0.2.bias`), BatchNorm unfolded.

A new block is one more entry in blocks.py, a new end of the graph one more in heads.py.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .blocks import plain_blocks, static_blocks
from .environment import offline
from .errors import PreparationError
from .heads import HEADS, Branch, Decode, Head, choose_branch, output_names, parse_branch, parse_head

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

__all__ = [
    "Branch",
    "Decode",
    "Head",
    "PreparedDetector",
    "choose_branch",
    "output_names",
    "parse_branch",
    "parse_head",
    "prepare",
]


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


def prepare(
    model: nn.Module, *, head: Head, image_size: tuple[int, int], branch: Branch | None = None
) -> PreparedDetector:
    """Return a static copy of an unfused Ultralytics detection or segmentation model, in evaluation mode.

    image_size: (height, width) in pixels, multiples of the largest stride. branch: of a head that has two;
    by default the one-to-one branch.
    Raises PreparationError for a fused model, a head or block that is not known here, a branch that the head
    does not have, or an impossible image size.
    """
    offline()
    source: Any = copy.deepcopy(model).cpu().float().eval()
    detect = source.model[-1]
    _check(source, image_size)
    kept = choose_branch(detect, head=head, wanted=branch)
    _note_attention_sizes(source, image_size)
    _replace_blocks(source)
    layers = [*source.model[:-1], _as_layer(HEADS[head](detect, image_size, kept), detect)]
    prepared = PreparedDetector(layers, output_names=output_names(detect, head=head), image_size=image_size)
    _own_activations(prepared)
    for parameter in prepared.parameters():
        parameter.requires_grad_(True)
    for module in prepared.modules():
        if isinstance(module, Decode) and module.dfl is not None:
            module.dfl.requires_grad_(False)
    return prepared.eval()


def _check(model: Any, image_size: tuple[int, int]) -> None:
    from ultralytics.nn.modules.head import Detect, Segment, Segment26, v10Detect

    heads, known = (Detect, Segment, Segment26, v10Detect), {*static_blocks(), *plain_blocks()}
    if model.is_fused():
        raise PreparationError("the model's BatchNorm is folded already; prepare the unfused model")
    if type(model.model[-1]) not in heads:
        names = ", ".join(kind.__name__ for kind in heads)
        raise PreparationError(f"cannot prepare a {type(model.model[-1]).__name__} head; known: {names}")
    for layer in model.model[:-1]:
        for module in layer.modules():
            if type(module).__module__.startswith("ultralytics") and type(module) not in known:
                raise PreparationError(
                    f"the block {type(module).__name__} has no static form here; known families are YOLOv3, "
                    "YOLOv5, YOLOv8, YOLOv9, YOLOv10, YOLO11 and YOLO26"
                )
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
    blocks = static_blocks()
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
