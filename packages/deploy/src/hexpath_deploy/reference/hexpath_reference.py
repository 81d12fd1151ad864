"""Around the network: from an image to what it takes, from what it returns to boxes, masks and classes.

This file needs numpy and nothing else, and may be copied. It is the reference for an implementation in
another language, and hexpath-deploy runs this very code when it scores a model. What it must know of a model
stands in two JSON files, `preprocess.json` and `postprocess.json`:

    pre, post = read_spec("preprocess.json"), read_spec("postprocess.json")
    tensor, placed = preprocess(pixels, spec=pre)          # pixels: uint8 RGB (height, width, 3), upright
    outputs = ...                                          # run the network on tensor: {name: array}
    found = postprocess(dequantize(outputs, spec=post), spec=post, placed=placed)

Two frames of reference occur: *canvas* pixels, those of the network's input, and *image* pixels, those of the
original. A pixel's centre lies at +0.5. Boxes are x0, y0, x1, y1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

SCHEMA = 1

Array: TypeAlias = npt.NDArray[np.generic]
Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Spec: TypeAlias = Mapping[str, Any]


def read_spec(path: str | Path) -> dict[str, Any]:
    """Read preprocess.json or postprocess.json.

    Raises:
        ValueError: it was written for another version of this file.
    """
    spec: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    if spec.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {spec.get('schema')}, this file reads schema {SCHEMA}")
    return spec


# --- Quantized numbers -------------------------------------------------------------------------------------


def quantize(values: Floats, *, scale: float, zero_point: int, dtype: str) -> Array:
    """Return stored = round(value / scale) + zero_point, half to even, saturated to `dtype`."""
    limits = np.iinfo(dtype)
    stored = np.rint(values / np.float32(scale)) + zero_point
    saturated: Array = np.clip(stored, limits.min, limits.max).astype(dtype)
    return saturated


def dequantize_one(stored: Array, *, scale: float, zero_point: int) -> Floats:
    """Return value = (stored - zero_point) * scale."""
    return (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def dequantize(outputs: Mapping[str, Array], *, spec: Spec) -> dict[str, Floats]:
    """Turn what the network returned into float32, output by output.

    Raises:
        ValueError: an output is missing, or is not of the type or shape that postprocess.json says.
    """
    values = {}
    for name, entry in spec["outputs"].items():
        if name not in outputs:
            raise ValueError(f"no output '{name}': the network returned {', '.join(outputs)}")
        stored = outputs[name]
        if str(stored.dtype) != entry["dtype"] or list(stored.shape) != entry["shape"]:
            raise ValueError(
                f"output '{name}' is {stored.dtype} {list(stored.shape)}, "
                f"postprocess.json says {entry['dtype']} {entry['shape']}"
            )
        if "scale" in entry:
            values[name] = dequantize_one(stored, scale=entry["scale"], zero_point=entry["zero_point"])
        else:
            values[name] = stored.astype(np.float32)
    return values


# --- Before the network ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Placed:
    """How an image of `original` (height, width) lies in a canvas: scaled to `inner`, at `top`, `left`."""

    original: tuple[int, int]
    canvas: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int

    def to_original(self, boxes: Floats) -> Floats:
        """Map boxes (N, 4) from canvas pixels to image pixels, clipped to the image."""
        height, width = self.original
        gain_y, gain_x = self.inner[0] / height, self.inner[1] / width
        shift = np.array([self.left, self.top] * 2, np.float32)
        mapped = (boxes - shift) / np.array([gain_x, gain_y] * 2, np.float32)
        return np.clip(mapped, 0, np.array([width, height] * 2, np.float32)).astype(np.float32)


def preprocess(pixels: Pixels, *, spec: Spec) -> tuple[Array, Placed]:
    """Turn an image, uint8 RGB (height, width, 3), into the network's input (1, 3, H, W).

    Also returns how the image lies in it. The input is float32 in [0, 1], or quantized, as
    `spec["input"]` says.
    """
    canvas, placed = place(pixels, spec=spec)
    return to_tensor(canvas, spec=spec), placed


def place(pixels: Pixels, *, spec: Spec) -> tuple[Pixels, Placed]:
    """Return the image on its canvas, uint8 RGB (H, W, 3)."""
    resize_spec = spec["resize"]
    size = (int(resize_spec["height"]), int(resize_spec["width"]))
    if resize_spec["mode"] == "stretch":
        return stretch(pixels, canvas=size)
    return letterbox(pixels, canvas=size, pad_value=int(resize_spec["pad_value"]))


def stretch(pixels: Pixels, *, canvas: tuple[int, int]) -> tuple[Pixels, Placed]:
    """Resize to the canvas, whatever becomes of the aspect ratio."""
    original = (pixels.shape[0], pixels.shape[1])
    placed = Placed(original=original, canvas=canvas, inner=canvas, top=0, left=0)
    return resize(pixels, size=canvas), placed


def letterbox(pixels: Pixels, *, canvas: tuple[int, int], pad_value: int = 114) -> tuple[Pixels, Placed]:
    """Resize by one ratio so that all of the image fits, and pad what is left of the canvas."""
    placed = fit((pixels.shape[0], pixels.shape[1]), canvas)
    full = np.full((*canvas, 3), pad_value, np.uint8)
    height, width = placed.inner
    full[placed.top : placed.top + height, placed.left : placed.left + width] = resize(
        pixels, size=placed.inner
    )
    return full, placed


def fit(original: tuple[int, int], canvas: tuple[int, int]) -> Placed:
    """Place an image of `original` (height, width) in the middle of `canvas`, scaled by the smaller ratio.

    `round` is half to even; half a pixel of padding more goes to the bottom and right.
    """
    gain = min(canvas[0] / original[0], canvas[1] / original[1])
    inner = (max(round(original[0] * gain), 1), max(round(original[1] * gain), 1))
    top, left = (round((canvas[i] - inner[i]) / 2 - 0.1) for i in (0, 1))
    return Placed(original=original, canvas=canvas, inner=inner, top=top, left=left)


def resize(pixels: Pixels, *, size: tuple[int, int]) -> Pixels:
    """Resize bilinearly to `size` (height, width), without antialiasing, like OpenCV's INTER_LINEAR.

    Rounds half up; OpenCV computes in fixed point and differs by at most one level.
    """
    if pixels.shape[:2] == size:
        return pixels
    y0, y1, fy = taps(pixels.shape[0], size[0])
    x0, x1, fx = taps(pixels.shape[1], size[1])
    rows = blend(pixels[y0], pixels[y1], fy[:, None, None])
    both = blend(rows[:, x0], rows[:, x1], fx[None, :, None])
    return (both + np.float32(0.5)).astype(np.uint8)


def blend(first: Array, second: Array, weight: Floats) -> Floats:
    """Return first + (second - first) * weight."""
    base = first.astype(np.float32)
    difference = second.astype(np.float32)
    difference -= base
    difference *= weight
    difference += base
    return difference


def taps(source: int, wanted: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Floats]:
    """Return for each of `wanted` pixels its two source pixels and the weight of the second.

    Pixel i lies at (i + 0.5) * source / wanted - 0.5 of the source; what lies outside is the border pixel.
    """
    centre = (np.arange(wanted) + 0.5) * (source / wanted) - 0.5
    first = np.floor(centre).astype(np.intp)
    weight = (centre - first).astype(np.float32)
    return np.clip(first, 0, source - 1), np.clip(first + 1, 0, source - 1), weight


def to_tensor(canvas: Pixels, *, spec: Spec) -> Array:
    """Turn uint8 RGB (H, W, 3) into the network's input (1, 3, H, W).

    A quantized input is a table of 256 numbers; at scale 1/255 and zero point 0 it is the pixel itself.
    """
    entry = spec["input"]
    if "scale" not in entry:
        return to_input(canvas)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    table = quantize(levels, scale=entry["scale"], zero_point=entry["zero_point"], dtype=entry["dtype"])
    planes = np.ascontiguousarray(canvas.transpose(2, 0, 1))[None]
    if entry["dtype"] == "uint8" and bool((table == np.arange(256)).all()):
        return planes
    return table[planes]


def to_input(canvas: Pixels) -> Floats:
    """Turn uint8 RGB (H, W, 3) into float32 (1, 3, H, W) in [0, 1]: value = pixel / 255."""
    planes = np.ascontiguousarray(canvas.transpose(2, 0, 1))[None]
    return planes.astype(np.float32) / np.float32(255)


# --- After the network -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mask:
    """One object's mask: `inside` bool (h, w) is its part from column `x` and row `y` on."""

    x: int
    y: int
    inside: Bools

    def full(self, shape: tuple[int, int]) -> Bools:
        """Return the mask over the whole image of `shape` (height, width)."""
        whole = np.zeros(shape, np.bool_)
        height, width = self.inside.shape
        whole[self.y : self.y + height, self.x : self.x + width] = self.inside
        return whole


@dataclass(frozen=True, kw_only=True)
class Detections:
    """`boxes` float32 (N, 4), `scores` float32 (N,), `classes` int64 (N,), best first.

    `coefficients` float32 (N, C) weigh the mask prototypes (C is 0 without masks); `masks` lie in an image of
    `shape` (height, width).
    """

    boxes: Floats
    scores: Floats
    classes: Ints
    coefficients: Floats
    masks: tuple[Mask, ...] = ()
    shape: tuple[int, int] = (0, 0)

    def take(self, index: npt.NDArray[Any]) -> Detections:
        """Return the detections at `index`."""
        return Detections(
            boxes=self.boxes[index],
            scores=self.scores[index],
            classes=self.classes[index],
            coefficients=self.coefficients[index],
        )


def postprocess(values: Mapping[str, Floats], *, spec: Spec, placed: Placed) -> Detections | Pixels:
    """Return what the network found in one image, in image pixels.

    Args:
        values: the outputs as float32, batch 1.
        spec: postprocess.json.
        placed: what `preprocess` said of the image.

    Returns:
        Detections, with masks when the task is `segment`; or when it is `semantic`, uint8 (height, width):
        the class of each pixel.
    """
    if spec["task"] == "semantic":
        return classify(values, spec=spec, placed=placed)
    return detect(values, spec=spec, placed=placed)


def detect(values: Mapping[str, Floats], *, spec: Spec, placed: Placed) -> Detections:
    """Decode, thin out overlaps, go back to image pixels, and make the masks."""
    on_canvas = thin_out(candidates(values, spec=spec), spec=spec)
    found = Detections(
        boxes=placed.to_original(on_canvas.boxes),
        scores=on_canvas.scores,
        classes=on_canvas.classes,
        coefficients=on_canvas.coefficients,
        shape=placed.original,
    )
    if "prototypes" not in spec:
        return found
    prototypes = values[spec["prototypes"]][0]
    return Detections(**{**vars(found), "masks": tuple(masks(found, prototypes=prototypes, placed=placed))})


# Decoding: every (anchor, class) whose score exceeds the threshold is a candidate, boxes in canvas pixels.


def candidates(values: Mapping[str, Floats], *, spec: Spec) -> Detections:
    """Return all candidates."""
    if spec["format"] == "yolo-raw":
        return join([raw_level(values, level=level, spec=spec) for level in spec["levels"]])
    if spec["format"] == "yolo-decoded":
        coefficients = values[spec["masks"]][0] if "masks" in spec else None
        boxes, scores = values[spec["boxes"]][0], values[spec["scores"]][0]
        return centred(boxes, scores, coefficients=coefficients, spec=spec)
    joined = values[spec["output"]][0]
    end = 4 + len(spec["classes"])
    return centred(joined[:4], joined[4:end], coefficients=joined[end:], spec=spec)


def join(parts: list[Detections]) -> Detections:
    """Put the levels' candidates one after the other."""
    return Detections(
        boxes=np.concatenate([part.boxes for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        coefficients=np.concatenate([part.coefficients for part in parts]),
    )


def centred(boxes: Floats, scores: Floats, *, coefficients: Floats | None, spec: Spec) -> Detections:
    """Pick from boxes (4, anchors) x, y (centre), width, height and probabilities (classes, anchors)."""
    classes, anchors = np.nonzero(scores > spec["confidence"])
    x, y, width, height = boxes[:, anchors]
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    found = Detections(
        boxes=corners.astype(np.float32),
        scores=scores[classes, anchors].astype(np.float32),
        classes=classes.astype(np.int64),
        coefficients=coefficients_at(anchors, coefficients),
    )
    return strongest(found, count=spec["candidates"])


def raw_level(values: Mapping[str, Floats], *, level: Spec, spec: Spec) -> Detections:
    """Pick from one level's class logits (1, classes, h, w) and sides (1, 4*reg_max, h, w).

    The threshold is compared as a logit, so that only candidates cost an exponential.
    """
    logits = values[level["scores"]][0]
    columns = logits.shape[2]
    flat = logits.reshape(logits.shape[0], -1)
    lowest = np.log(spec["confidence"] / (1 - spec["confidence"]))
    classes, anchors = np.nonzero(flat > lowest)
    wanted, where = np.unique(anchors, return_inverse=True)
    bins = values[level["boxes"]][0].reshape(4, spec["reg_max"], -1)[:, :, wanted]
    corners = corners_of(distances(bins), wanted, columns=columns, stride=level["stride"])
    weights = values[level["masks"]][0] if "masks" in level else None
    found = Detections(
        boxes=corners[where],
        scores=sigmoid(flat[classes, anchors]),
        classes=classes.astype(np.int64),
        coefficients=coefficients_at(anchors, weights),
    )
    return strongest(found, count=spec["candidates"])


def coefficients_at(anchors: npt.NDArray[np.intp], coefficients: Floats | None) -> Floats:
    """Return the mask coefficients (N, C) of anchors, of a tensor (C, anchors) or (C, h, w)."""
    if coefficients is None or not len(coefficients):
        return np.zeros((len(anchors), 0), np.float32)
    return coefficients.reshape(coefficients.shape[0], -1)[:, anchors].T.astype(np.float32)


def distances(bins: Floats) -> Floats:
    """Return the distances (4, N) in cells from a cell's centre to left, top, right, bottom.

    Of logits (4, reg_max, N) the expected value, sum_i i * softmax(bins)_i (distribution focal loss, Li
    et al. 2020, arXiv:2006.04388); with reg_max 1 the number itself is the distance.
    """
    if bins.shape[1] == 1:
        return bins[:, 0]
    shifted = np.exp(bins - bins.max(axis=1, keepdims=True))
    weights = np.arange(bins.shape[1], dtype=np.float32)
    expected: Floats = np.einsum("sbn,b->sn", shifted, weights).astype(np.float32)
    expected /= shifted.sum(axis=1)
    return expected


def corners_of(sides: Floats, anchors: npt.NDArray[np.intp], *, columns: int, stride: int) -> Floats:
    """Return boxes (N, 4) in canvas pixels of left, top, right, bottom (4, N) in cells.

    Anchor a is the cell in column a % columns and row a // columns; its centre is at +0.5.
    """
    x, y = anchors % columns + 0.5, anchors // columns + 0.5
    left, top, right, bottom = sides
    return (np.stack([x - left, y - top, x + right, y + bottom], axis=1) * stride).astype(np.float32)


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-values))."""
    result: Floats = np.float32(1) / (np.float32(1) + np.exp(-values))
    return result


def strongest(found: Detections, *, count: int) -> Detections:
    """Keep at most `count`, by score."""
    if len(found.scores) <= count:
        return found
    return found.take(np.argpartition(-found.scores, count)[:count])


# Thinning out: non-maximum suppression, or for networks that were trained to do without, just the best.


def thin_out(found: Detections, *, spec: Spec) -> Detections:
    """Keep the best of each object, at most `spec["detections"]`, best first."""
    best = found.take(np.argsort(-found.scores, kind="stable")[: spec["candidates"]])
    if not spec["nms"]:
        return best.take(np.arange(min(len(best.scores), spec["detections"])))
    return best.take(np.array(suppress(best, spec=spec), np.intp))


def suppress(best: Detections, *, spec: Spec) -> list[int]:
    """Return which detections stay, of detections sorted by score.

    The best stays and every weaker one goes whose overlap with it (intersection over union) exceeds
    `spec["iou"]`, among those of its class, or with `spec["per_class"]` false among all; then the next best.
    """
    x0, y0, x1, y1 = np.ascontiguousarray(best.boxes.T)
    areas = (x1 - x0) * (y1 - y0)
    alive = np.arange(len(areas))
    kept: list[int] = []
    while len(alive) and len(kept) < spec["detections"]:
        head, rest = alive[0], alive[1:]
        kept.append(int(head))
        width = np.minimum(x1[head], x1[rest]) - np.maximum(x0[head], x0[rest])
        height = np.minimum(y1[head], y1[rest]) - np.maximum(y0[head], y0[rest])
        inner = np.maximum(width, 0) * np.maximum(height, 0)
        union = areas[head] + areas[rest] - inner
        gone = inner > spec["iou"] * union
        if spec["per_class"]:
            gone &= best.classes[rest] == best.classes[head]
        alive = rest[~gone]
    return kept


# Masks. Bilinear resizing is linear, row by row and column by column: a matrix from the left and one from the
# right. So a small map becomes pixels of the image, and only those that are asked for, by two products.


def masks(found: Detections, *, prototypes: Floats, placed: Placed) -> Iterator[Mask]:
    """Yield each object's mask: sum_c coefficient_c * prototype_c, resized to the image, above 0, in its box.

    As Ultralytics' `process_mask_native`. `prototypes`: float32 (C, h, w) over the canvas.
    """
    count, height, width = prototypes.shape
    flat = prototypes.reshape(count, -1)
    enlarged = enlargement(placed, (height, width))
    rows, columns = (to_image(placed, axis, (height, width)[axis], enlarged=enlarged) for axis in (0, 1))
    for box, weights in zip(found.boxes, found.coefficients, strict=True):
        x0, y0, x1, y1 = (math.ceil(side) for side in box)
        logits = (weights @ flat).reshape(height, width)
        yield Mask(x=x0, y=y0, inside=sandwich(rows[y0:y1], logits, columns[x0:x1]) > 0)


def enlargement(placed: Placed, small: tuple[int, int]) -> int:
    """Return by how much prototypes are first enlarged (1, 2 or 4), so that padding ends on whole pixels."""
    stride = placed.canvas[0] // small[0]
    padding = [placed.canvas[i] - placed.inner[i] for i in (0, 1)]
    for factor in (1, 2):
        if all(pad * factor % (2 * stride) == 0 for pad in padding):
            return factor
    return 4


def to_image(placed: Placed, axis: int, small: int, *, enlarged: int) -> Floats:
    """Return the matrix (image pixels, small) that takes one axis of a map over the canvas to the image.

    Enlarge the map `enlarged` times, cut the padding off, resize to the image.
    """
    size = small * enlarged
    grown = resize_matrix(small, size)
    if placed.inner == placed.canvas:
        begin, end = 0, size
    else:
        canvas = tuple(side * size // placed.canvas[axis] for side in placed.canvas)
        there = fit(placed.original, (canvas[0], canvas[1]))
        begin = (there.top, there.left)[axis]
        end = begin + there.inner[axis]
    return resize_matrix(end - begin, placed.original[axis]) @ grown[begin:end]


def resize_matrix(source: int, wanted: int) -> Floats:
    """Return bilinear resizing of one axis as a matrix (wanted, source)."""
    matrix = np.zeros((wanted, source), np.float32)
    first, second, weight = taps(source, wanted)
    place_of = np.arange(wanted)
    matrix[place_of, first] += 1 - weight
    matrix[place_of, second] += weight
    return matrix


def sandwich(rows: Floats, small: Floats, columns: Floats) -> Floats:
    """Return rows @ small @ columns.T, leaving out the part of `small` that both give no weight."""
    used_rows, used_columns = np.flatnonzero(rows.any(axis=0)), np.flatnonzero(columns.any(axis=0))
    if not len(used_rows) or not len(used_columns):
        return np.zeros((len(rows), len(columns)), np.float32)
    y, x = slice(used_rows[0], used_rows[-1] + 1), slice(used_columns[0], used_columns[-1] + 1)
    return np.asarray(rows[:, y] @ small[y, x] @ columns[:, x].T, np.float32)


# Semantic segmentation: the class with the highest logit at each pixel of the image.


def classify(values: Mapping[str, Floats], *, spec: Spec, placed: Placed) -> Pixels:
    """Return the class of each pixel, uint8 (height, width).

    The logits (1, classes, H/stride, W/stride) are enlarged to the canvas, the padding is cut off, and
    the rest is resized to the image, bilinearly both times; of equal logits the lower class wins.
    """
    logits = values[spec["logits"]][0]
    rows, columns = (
        to_image(placed, axis, logits.shape[1 + axis], enlarged=spec["stride"]) for axis in (0, 1)
    )
    best = sandwich(rows, logits[0], columns)
    classes = np.zeros(placed.original, np.uint8)
    for kind in range(1, len(logits)):
        plane = sandwich(rows, logits[kind], columns)
        better = plane > best
        classes[better] = kind
        best[better] = plane[better]
    return classes
