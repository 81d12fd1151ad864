"""A detector that is made, not trained: it finds red (class 0) and green (class 1) squares of 24 pixels.

Its weights are chosen so that the score of a cell is highest where the square is centred, and its
boxes are always 24 by 24 pixels; so its mean average precision on `scenes` is known: 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

SIZE = 64
SIDE = 24
REG_MAX = 4
NAMES = ("red", "green")
STRIDES = (8, 16, 32)
CENTRES = ((20, 20), (44, 44), (20, 44), (44, 20))  # centres of cells of stride 8, x and y
METADATA = {
    "task": "detect",
    "names": "{0: 'red', 1: 'green'}",
    "imgsz": f"[{SIZE}, {SIZE}]",
    "stride": "32",
    "batch": "1",
    "hexpath.schema": "1",
    "hexpath.model": "squares",
    "hexpath.fingerprint": "sha256:" + "5" * 64,
    "hexpath.input": json.dumps(
        {
            "name": "images",
            "layout": "NCHW",
            "color": "RGB",
            "range": [0, 1],
            "resize": "letterbox",
            "pad_value": 114,
        }
    ),
}
RAW = {
    "format": "yolo-raw",
    "reg_max": REG_MAX,
    "scores": "logits",
    "levels": [{"stride": s, "boxes": f"boxes_{s}", "scores": f"scores_{s}"} for s in STRIDES],
}


def constant(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    """Return an initializer."""
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def conv(
    name: str, source: str, target: str, *, weight: Any, bias: Any, stride: int, pad: int
) -> tuple[Any, list[Any]]:
    """Return a convolution with its weights."""
    node = helper.make_node(
        "Conv",
        [source, f"{name}_w", f"{name}_b"],
        [target],
        name=name,
        kernel_shape=list(np.shape(weight)[2:]),
        strides=[stride] * 2,
        pads=[pad] * 4,
    )
    return node, [constant(f"{name}_w", weight), constant(f"{name}_b", bias)]


def parts() -> Iterator[tuple[Any, list[Any]]]:
    """Yield the network's nodes with their weights."""
    rng = np.random.default_rng(0)
    yield conv(
        "stem", "images", "stem", weight=np.eye(3)[:, :, None, None], bias=np.zeros(3), stride=1, pad=0
    )
    yield helper.make_node("Relu", ["stem"], ["features"], name="relu"), []
    for stride in STRIDES:
        score = rng.normal(0, 1e-3, (2, 3, stride, stride))
        size, pad, bias = (stride, 0, -8.0)
        if stride == 8:
            score, size, pad, bias = np.zeros((2, 3, SIDE, SIDE)), SIDE, 8, -32.0
            score[0, 0], score[1, 1] = 40 / SIDE**2, 40 / SIDE**2
            score[0, 1:], score[1, 0], score[1, 2] = -20 / SIDE**2, -20 / SIDE**2, -20 / SIDE**2
        assert score.shape[2] == size
        yield conv(
            f"score{stride}",
            "features",
            f"scores_{stride}",
            weight=score,
            bias=[bias] * 2,
            stride=stride,
            pad=pad,
        )
        sides = np.tile(
            [-8.0, 4.0, 4.0, -8.0], 4
        )  # softmax: half on 1 and half on 2 cells, so 1.5 cells a side
        noise = rng.normal(0, 1e-4, (4 * REG_MAX, 3, stride, stride))
        yield conv(
            f"box{stride}", "features", f"boxes_{stride}", weight=noise, bias=sides, stride=stride, pad=0
        )


def save(
    nodes: list[Any], weights: list[Any], outputs: dict[str, list[int]], path: Path, **metadata: str
) -> Path:
    """Write a graph from `images` to `outputs`."""
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()
    ]
    graph = helper.make_graph(nodes, "squares", [image], results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for key, value in {**METADATA, **metadata}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def raw_outputs() -> dict[str, list[int]]:
    """Return the shapes of the raw head."""
    shapes = {}
    for s in STRIDES:
        grid = [SIZE // s, SIZE // s]
        shapes |= {f"boxes_{s}": [1, 4 * REG_MAX, *grid], f"scores_{s}": [1, 2, *grid]}
    return shapes


def save_raw(path: Path) -> Path:
    """Write the detector with a raw head, float."""
    made = list(parts())
    nodes, weights = [node for node, _ in made], [weight for _, some in made for weight in some]
    return save(nodes, weights, raw_outputs(), path, **{"hexpath.outputs": json.dumps(RAW)})


# The variants below find the same squares with other heads.


def save_nms_free(path: Path) -> Path:
    """Write the detector with distances in place of distributions, for use without suppression."""
    made = []
    for node, weights in parts():
        if node.name.startswith("box"):
            stride = int(node.name.removeprefix("box"))
            zero = np.zeros((4, 3, stride, stride))
            node, weights = conv(
                node.name, "features", node.output[0], weight=zero, bias=[1.5] * 4, stride=stride, pad=0
            )
        made.append((node, weights))
    nodes, weights = [node for node, _ in made], [weight for _, some in made for weight in some]
    shapes = {
        name: [1, 4, *shape[2:]] if name.startswith("boxes") else shape
        for name, shape in raw_outputs().items()
    }
    outputs = json.dumps({**RAW, "reg_max": 1, "nms": False, "head": "one-to-one"})
    return save(nodes, weights, shapes, path, **{"hexpath.outputs": outputs})


def save_instances(path: Path) -> Path:
    """Write the detector with masks: prototype 0 is positive inside squares, prototype 1 is noise."""
    made = list(parts())
    proto = np.zeros((2, 3, 4, 4))
    proto[0, :2] = 4 / 16
    proto[1] = np.random.default_rng(1).normal(0, 0.01, (3, 4, 4))
    made.append(conv("proto", "features", "prototypes", weight=proto, bias=[-2.0, 0.1], stride=4, pad=0))
    for s in STRIDES:
        noise = np.random.default_rng(s).normal(0, 1e-4, (2, 3, s, s))
        made.append(
            conv(f"mask{s}", "features", f"masks_{s}", weight=noise, bias=[1.0, 0.02], stride=s, pad=0)
        )
    nodes, weights = [node for node, _ in made], [weight for _, some in made for weight in some]
    shapes = raw_outputs() | {f"masks_{s}": [1, 2, SIZE // s, SIZE // s] for s in STRIDES}
    shapes["prototypes"] = [1, 2, SIZE // 4, SIZE // 4]
    levels = [{**level, "masks": f"masks_{level['stride']}"} for level in RAW["levels"]]
    outputs = json.dumps({**RAW, "levels": levels, "prototypes": "prototypes"})
    return save(nodes, weights, shapes, path, **{"hexpath.outputs": outputs, "task": "segment"})


def save_semantic(path: Path, *, resize: str = "letterbox") -> Path:
    """Write a network that tells ground, red and green apart, at stride 8."""
    weight = np.zeros((3, 3, 8, 8))
    weight[1, 0] = weight[2, 1] = 1 / 64
    node, weights = conv("logits", "images", "logits", weight=weight, bias=[0.5, 0, 0], stride=8, pad=0)
    outputs = {"format": "semantic", "logits": "logits", "stride": 8, "ignore": 255}
    entry = {**json.loads(METADATA["hexpath.input"]), "resize": resize}
    told = {
        "task": "semantic",
        "names": "{0: 'ground', 1: 'red', 2: 'green'}",
        "hexpath.outputs": json.dumps(outputs),
        "hexpath.input": json.dumps(entry),
    }
    return save([node], weights, {"logits": [1, 3, SIZE // 8, SIZE // 8]}, path, **told)


def save_masks(folder: Path, *, count: int = 6) -> Path:
    """Write scenes with masks of ground, red and green, the outermost pixels ignored; returns data.yaml."""
    for kind in ("images", "masks"):
        (folder / kind / "val").mkdir(parents=True)
    for index in range(count):
        pixels, boxes = scene(index)
        mask = np.zeros((SIZE, SIZE), np.uint8)
        for kind, (x, y, width, height) in boxes:
            mask[y : y + height, x : x + width] = 1 + kind
        mask[[0, -1]] = mask[:, [0, -1]] = 255
        Image.fromarray(pixels).save(folder / "images" / "val" / f"{index:04}.jpg", quality=95)
        Image.fromarray(mask).save(folder / "masks" / "val" / f"{index:04}.png")
    path = folder / "data.yaml"
    path.write_text(
        "path: .\nval: images/val\nmasks: {val: masks/val}\nignore: 255\n"
        "names: {0: ground, 1: red, 2: green}\n"
    )
    return path


def scene(index: int) -> tuple[np.ndarray[Any, Any], list[tuple[int, list[int]]]]:
    """Return an image, uint8 RGB (64, 64, 3), and its boxes (class, [x, y, width, height])."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    boxes = []
    for place in {index % 4, (index * 3 + 1) % 4}:
        kind = (index + place) % 2
        x, y = (centre - SIDE // 2 for centre in CENTRES[place])
        pixels[y : y + SIDE, x : x + SIDE, kind] = 255
        boxes.append((kind, [x, y, SIDE, SIDE]))
    return pixels, boxes


def save_scenes(folder: Path, *, count: int = 12) -> Path:
    """Write scenes and their COCO file; returns that file."""
    (folder / "images").mkdir(parents=True)
    images, boxes = [], []
    for index in range(count):
        pixels, found = scene(index)
        Image.fromarray(pixels).save(folder / "images" / f"{index:04}.png")
        images.append({"id": index + 1, "file_name": f"{index:04}.png", "width": SIZE, "height": SIZE})
        boxes += [{"image_id": index + 1, "category_id": kind, "bbox": box} for kind, box in found]
    data = {
        "info": {"root": str(folder / "images"), "fingerprint": METADATA["hexpath.fingerprint"]},
        "images": images,
        "categories": [{"id": place, "name": name} for place, name in enumerate(NAMES)],
        "annotations": [
            {"id": place, "iscrowd": 0, "area": SIDE**2, "segmentation": outline(box["bbox"]), **box}
            for place, box in enumerate(boxes)
        ],
    }
    path = folder / "val.json"
    path.write_text(json.dumps(data))
    return path


def outline(box: list[int]) -> list[list[int]]:
    """Return a box as COCO's polygon."""
    x, y, width, height = box
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def batch(count: int) -> np.ndarray[Any, Any]:
    """Return scenes as float32 (count, 3, 64, 64) in [0, 1]."""
    return np.stack([scene(index)[0].transpose(2, 0, 1) for index in range(count)]).astype(np.float32) / 255


class Reader(CalibrationDataReader):
    """Feeds scenes to the calibration."""

    def __init__(self) -> None:
        self.images = iter(batch(4))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self.images, None)
        return None if image is None else {"images": image[None]}


def quantize(source: Path, target: Path, *, activations: QuantType = QuantType.QUInt8) -> Path:
    """Write the QDQ form of a model, with its metadata."""
    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True},
    )
    model, original = onnx.load(target), onnx.load(source)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    onnx.save(model, target)
    return target
