"""Where the graph ends: raw tensors of each level, decoded boxes, or Ultralytics' own single output.

Heads with two branches (YOLO26, YOLOv10) are cut to one of them: `one-to-one` gives each object one box, so
that the best scores are the answer, taken outside the graph; `one-to-many` needs non-maximum suppression.
"""

from __future__ import annotations

import copy
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import StaticProto26
from .errors import OptionError, PreparationError, nearest


class Head(StrEnum):
    """What the network hands out: tensors per level, boxes and scores decoded, or both in one tensor."""

    RAW = "raw"
    DECODED = "decoded"
    PLAIN = "plain"


class Branch(StrEnum):
    """Which branch of the head is kept; a head of one branch is one-to-many."""

    ONE_TO_ONE = "one-to-one"
    ONE_TO_MANY = "one-to-many"


def parse_head(text: str) -> Head:
    """Return the head of that name; raise OptionError with the nearest one."""
    if text not in set(Head):
        raise OptionError(f"unknown head {text!r}; {nearest(text, list(Head))}")
    return Head(text)


def parse_branch(text: str) -> Branch:
    """Return the branch of that name; raise OptionError with the nearest one."""
    if text not in set(Branch):
        raise OptionError(f"unknown branch {text!r}; {nearest(text, list(Branch))}")
    return Branch(text)


def choose_branch(detect: Any, *, head: Head, wanted: Branch | None) -> Branch:
    """Return the branch to keep: one-to-one where there is one, except for the plain head.

    Ultralytics' own export with top-k in the graph is not offered: top-k takes ten times the rest of the
    network on the NPU. Raises PreparationError for a branch that the head does not have.
    """
    has_one_to_one = getattr(detect, "one2one_cv2", None) is not None
    if wanted is Branch.ONE_TO_ONE and not has_one_to_one:
        raise PreparationError(f"a {type(detect).__name__} head without one-to-one branch; use one-to-many")
    if wanted is Branch.ONE_TO_ONE and head is Head.PLAIN:
        raise PreparationError(
            "plain and one-to-one together is top-k in the graph, which the NPU is slow at; use head=raw"
        )
    default = Branch.ONE_TO_ONE if has_one_to_one and head is not Head.PLAIN else Branch.ONE_TO_MANY
    return wanted or default


def columns(detect: Any, *, branch: Branch) -> dict[str, str]:
    """Return what the head computes per level, and the attribute that holds its convolutions."""
    prefix = "one2one_" if branch is Branch.ONE_TO_ONE else ""
    kinds = {"boxes": "cv2", "scores": "cv3"} | ({"masks": "cv4"} if hasattr(detect, "proto") else {})
    return {kind: prefix + attribute for kind, attribute in kinds.items()}


def output_names(detect: Any, *, head: Head) -> tuple[str, ...]:
    """Return the names of the output tensors of a head, in order."""
    masks = hasattr(detect, "proto")
    if head is Head.PLAIN:
        return ("output0", "output1") if masks else ("output0",)
    kinds = ("boxes", "scores", "masks") if masks else ("boxes", "scores")
    last = ("prototypes",) if masks else ()
    if head is Head.DECODED:
        return (*kinds, *last)
    steps = [int(stride) for stride in detect.stride.tolist()]
    return (*(f"{kind}_{step}" for step in steps for kind in kinds), *last)


class RawDetect(nn.Module):
    """Detect or Segment without decoding.

    Per level: box distances (N, 4 * reg_max, H/S, W/S), scores (N, nc, H/S, W/S) and, with masks, their
    coefficients (N, 32, H/S, W/S); then the mask prototypes (N, 32, H/4, W/4).
    """

    def __init__(self, source: Any, image_size: tuple[int, int], branch: Branch) -> None:
        super().__init__()
        self.attributes = tuple(columns(source, branch=branch).values())
        for name in self.attributes:
            setattr(self, name, getattr(source, name))
        self.proto = getattr(source, "proto", None)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the tensors of each level in turn, finest level first, and the prototypes."""
        outputs: list[Tensor] = []
        for level, feature in enumerate(features):
            outputs += [getattr(self, name)[level](feature) for name in self.attributes]
        if self.proto is not None:
            outputs.append(self.proto(features if isinstance(self.proto, StaticProto26) else features[0]))
        return tuple(outputs)


class Decode(nn.Module):
    """Raw outputs to boxes (N, 4, A), xywh centre in input pixels, scores (N, nc, A) after the sigmoid, and
    mask coefficients (N, 32, A) with the prototypes where there are masks.

    A counts the anchors of all levels, finest first, row by row. With reg_max above 1 the box sides are the
    expectations of the discrete distributions (Li et al. 2020, Generalized Focal Loss, arXiv:2006.04388).
    """

    anchors: Tensor
    strides: Tensor

    def __init__(self, source: Any, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.reg_max = source.reg_max
        self.channels = [4 * source.reg_max, source.nc]
        self.has_masks = hasattr(source, "proto")
        if self.has_masks:
            self.channels.append(source.nm)
        self.dfl = copy.deepcopy(source.dfl.conv) if self.reg_max > 1 else None
        self.softmax, self.sigmoid = nn.Softmax(dim=1), nn.Sigmoid()
        steps = [int(stride) for stride in source.stride.tolist()]
        anchors, strides = _anchors(steps, image_size)
        self.areas = [(image_size[0] // step) * (image_size[1] // step) for step in steps]
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def forward(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return (boxes, scores) or (boxes, scores, masks, prototypes)."""
        kinds = len(self.channels)
        levels = raw[: kinds * len(self.areas)]
        flat = [
            torch.cat([t.reshape(-1, c, a) for t, a in zip(levels[i::kinds], self.areas, strict=True)], 2)
            for i, c in enumerate(self.channels)
        ]
        parts = torch.split(self._sides(flat[0]), [2, 2], 1)
        low, high = torch.sub(self.anchors, parts[0]), torch.add(self.anchors, parts[1])
        boxes = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        masks = (flat[2], raw[-1]) if self.has_masks else ()
        return (boxes, self.sigmoid(flat[1]), *masks)

    def _sides(self, boxes: Tensor) -> Tensor:
        """Return the distances (N, 4, A) of left, top, right, bottom from the anchor, in cells."""
        if self.dfl is None:
            return boxes
        bins = boxes.reshape(-1, 4, self.reg_max, sum(self.areas)).transpose(1, 2)
        return self.dfl(self.softmax(bins)).reshape(-1, 4, sum(self.areas))  # type: ignore[no-any-return]


class DecodedDetect(RawDetect):
    """Detect or Segment that decodes in the graph, boxes and scores apart."""

    def __init__(self, source: Any, image_size: tuple[int, int], branch: Branch) -> None:
        super().__init__(source, image_size, branch)
        self.decode = Decode(source, image_size)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes (N, 4, A), scores (N, nc, A) and, with masks, coefficients and prototypes."""
        return self.decode(super().forward(features))  # type: ignore[no-any-return]


class PlainDetect(DecodedDetect):
    """The head with Ultralytics' own outputs: (N, 4 + nc [+ 32], A), and the prototypes."""

    def forward(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        """Return boxes, scores and coefficients in one tensor, prototypes in a second."""
        outputs = super().forward(features)
        return (torch.cat(list(outputs[:3]), 1), *outputs[3:])


HEADS: dict[Head, type[RawDetect]] = {
    Head.RAW: RawDetect,
    Head.DECODED: DecodedDetect,
    Head.PLAIN: PlainDetect,
}


def _anchors(strides: list[int], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return anchor centres (1, 2, A) in cells, x before y, and the stride of each, (1, 1, A)."""
    centres, scales = [], []
    for stride in strides:
        height, width = image_size[0] // stride, image_size[1] // stride
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()]))
        scales.append(torch.full((1, height * width), float(stride)))
    return torch.cat(centres, 1).unsqueeze(0), torch.cat(scales, 1).unsqueeze(0)
