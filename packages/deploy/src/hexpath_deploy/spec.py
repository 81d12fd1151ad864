"""preprocess.json and postprocess.json: all that an implementation in another language must know of a model.

`reference/hexpath_reference.py` reads them, and is the code that this package itself runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hexpath_deploy.heads import DecodedHead, Head, RawHead, SemanticHead
from hexpath_deploy.io import NONE, Boundary, Encoding
from hexpath_deploy.model import TaskModel
from hexpath_deploy.reference.hexpath_reference import SCHEMA


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`confidence`: lowest score; `iou`: overlap from which the weaker of one class goes.

    At most `detections` an image. The defaults are those of Ultralytics' validator, for scoring.
    """

    confidence: float = 0.001
    iou: float = 0.7
    detections: int = 300
    candidates: int = 30_000


# What a product would set: few false alarms, and little work after the network.
DEPLOYED = Settings(confidence=0.25)


def preprocess_spec(model: TaskModel, *, boundary: Boundary = NONE) -> dict[str, Any]:
    """Return preprocess.json of a model, or with its `boundary` of a compiled artifact of it."""
    height, width = model.imgsz
    entry = {
        "name": model.input,
        "shape": [1, 3, height, width],
        **stored(boundary.inputs.get(model.input)),
        "layout": "NCHW",
        "color": "RGB",
    }
    return {
        "schema": SCHEMA,
        "model": model.name,
        "model_sha256": model.sha256,
        "input": entry,
        "value": "pixel / 255",
        "normalization": "none outside: the graph holds the network's own mean and standard deviation",
        "resize": resize_spec(model),
        "formulas": {
            "orientation": "the image is upright first (EXIF orientation applied)",
            "resize": RESIZE[model.resize],
            **({"input": QUANTIZE} if "scale" in entry else {}),
        },
    }


def resize_spec(model: TaskModel) -> dict[str, Any]:
    """Return how an image comes to the network's size."""
    entry: dict[str, Any] = {
        "mode": model.resize,
        "height": model.imgsz[0],
        "width": model.imgsz[1],
        "interpolation": "bilinear",
        "half_pixel_centers": True,
        "antialias": False,
    }
    return entry | ({"pad_value": model.pad_value} if model.resize == "letterbox" else {})


def postprocess_spec(
    model: TaskModel, *, settings: Settings = DEPLOYED, boundary: Boundary = NONE
) -> dict[str, Any]:
    """Return postprocess.json of a model, or with its `boundary` of a compiled artifact of it."""
    head = model.head
    outputs = {
        name: {"shape": list(model.shapes[name]), **stored(boundary.outputs.get(name))}
        for name in head.outputs
    }
    return {
        "schema": SCHEMA,
        "model": model.name,
        "model_sha256": model.sha256,
        "task": model.task,
        "classes": list(model.names),
        "outputs": outputs,
        **meaning(head),
        **({} if isinstance(head, SemanticHead) else thresholds(head, settings=settings)),
        "formulas": formulas(head, quantized=bool(boundary.outputs)),
    }


def stored(encoding: Encoding | None) -> dict[str, Any]:
    """Return the type of a tensor at the graph's border, with its scale and zero point when quantized."""
    if encoding is None:
        return {"dtype": "float32"}
    return {"dtype": encoding.dtype, "scale": encoding.scale, "zero_point": encoding.zero_point}


def meaning(head: Head) -> dict[str, Any]:
    """Return which output holds what."""
    if isinstance(head, SemanticHead):
        return {
            "format": "semantic",
            "logits": head.logits,
            "stride": head.stride,
            "ignore": head.ignore,
            "interpolation": "bilinear",
            "align_corners": False,
        }
    masks = {"prototypes": head.prototypes} if head.prototypes else {}
    if isinstance(head, RawHead):
        levels = [
            {key: value for key, value in vars(level).items() if value is not None} for level in head.levels
        ]
        return {"format": "yolo-raw", "reg_max": head.reg_max, "levels": levels, **masks}
    if isinstance(head, DecodedHead):
        apart = {"masks": head.masks} if head.masks else {}
        return {"format": "yolo-decoded", "boxes": head.boxes, "scores": head.scores, **apart, **masks}
    return {"format": "yolo-plain", "output": head.output, **masks}


def thresholds(head: Head, *, settings: Settings) -> dict[str, Any]:
    """Return what decides which candidates become detections."""
    nms = head.nms if isinstance(head, RawHead) else True
    return {
        "confidence": settings.confidence,
        "nms": nms,
        **({"iou": settings.iou, "per_class": True} if nms else {}),
        "detections": settings.detections,
        "candidates": settings.candidates,
    }


RESIZE = {
    "letterbox": "gain = min(H / height, W / width); inner = max(round(side * gain), 1), round half to even; "
    "top = round((H - inner_height) / 2 - 0.1), left likewise; bilinear, pixel = floor(value + 0.5); the "
    "rest of the canvas has pad_value",
    "stretch": "bilinear to H x W, pixel = floor(value + 0.5)",
}
QUANTIZE = (
    "stored = saturate(round_half_even(value / scale) + zero_point): a table of 256 numbers; at scale 1/255 "
    "and zero point 0 it is the pixel itself"
)
DEQUANTIZE = "value = (stored - zero_point) * scale"
SIDES = {
    True: "distance_s = sum_i i * softmax_i(boxes[s * reg_max + i])",
    False: "distance_s = boxes[s]",
}
FORMULAS = {
    "yolo-raw": "cell (row, column) of a level: {sides} in cells, s = left, top, right, bottom; "
    "x0 = (column + 0.5 - left) * stride, y0 = (row + 0.5 - top) * stride, x1, y1 likewise with +; "
    "score = 1 / (1 + exp(-logit))",
    "yolo-decoded": "boxes are x, y (centre), width, height in canvas pixels; scores are probabilities",
    "yolo-plain": "rows 0..3: x, y (centre), width, height in canvas pixels; then a probability for each "
    "class; then mask coefficients",
}


def formulas(head: Head, *, quantized: bool) -> dict[str, str]:
    """Return in words and formulas what the reference file computes."""
    found = {"outputs": DEQUANTIZE} if quantized else {}
    if isinstance(head, SemanticHead):
        return found | {
            "classes": "enlarge the logits bilinearly by stride, cut the padding off, resize bilinearly to "
            "the image, take the class with the highest logit at each pixel"
        }
    found["candidates"] = "every (cell, class) whose score exceeds confidence"
    kind = str(meaning(head)["format"])
    dfl = isinstance(head, RawHead) and head.reg_max > 1
    found["decode"] = FORMULAS[kind].format(sides=SIDES[dfl])
    found["choice"] = (
        "the best detections by score, no suppression"
        if isinstance(head, RawHead) and not head.nms
        else "greedy by score: a candidate goes when intersection over union with a kept one of its class "
        "exceeds iou; at most `detections` stay"
    )
    found["image"] = "x = clip((x - left) / gain_x, 0, width), gain_x = inner_width / width; y likewise"
    if head.prototypes:
        found["masks"] = (
            "sum_c coefficient_c * prototype_c, enlarged bilinearly until the padding ends on whole "
            "pixels (1, 2 or 4 times), padding cut off, resized bilinearly to the image, above 0, inside "
            "the box (x0 <= column < x1)"
        )
    return found
