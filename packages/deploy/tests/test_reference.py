from __future__ import annotations

import ast
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hexpath_deploy.heads import DecodedHead, Head, Level, PlainHead, RawHead, SemanticHead
from hexpath_deploy.io import Boundary, Encoding
from hexpath_deploy.model import TaskModel, Tensor
from hexpath_deploy.reference import hexpath_reference as reference
from hexpath_deploy.reference.hexpath_reference import Detections, fit
from hexpath_deploy.spec import Settings, postprocess_spec, preprocess_spec

GOLDEN = np.load(Path(__file__).parent / "golden" / "ultralytics.npz")  # its README says how both were made
MASKS = np.load(Path(__file__).parent / "golden" / "masks.npz")
RAW = RawHead(
    reg_max=16, levels=tuple(Level(stride=s, boxes=f"boxes_{s}", scores=f"scores_{s}") for s in (8, 16, 32))
)
HEADS: list[Head] = [RAW, DecodedHead(boxes="b", scores="s"), PlainHead(output="o")]
CANVAS = fit((64, 96), (64, 96))
SCORING = Settings()


def model_of(head: Head, *, arrays: dict[str, np.ndarray], **rest: Any) -> TaskModel:
    """Return a model of 64x96 that returns `arrays`."""
    shapes = {name: arrays[name].shape for name in head.outputs}
    given = {
        "path": Path("m.onnx"),
        "sha256": "0" * 64,
        "inputs": {"images": Tensor(shape=(1, 3, 64, 96), dtype="float32")},
        "task": "detect",
        "names": ("a", "b", "c"),
        "imgsz": (64, 96),
        "input": "images",
        "pad_value": 114,
        "resize": "letterbox",
        "head": head,
        "shapes": shapes,
        "quantized": False,
        "metadata": {},
    }
    return TaskModel(**(given | rest))


def spec_of(head: Head, arrays: dict[str, np.ndarray], *, settings: Settings = SCORING, **rest: Any) -> Any:
    """Return postprocess.json as it is read back from a file."""
    return json.loads(json.dumps(postprocess_spec(model_of(head, arrays=arrays, **rest), settings=settings)))


def outputs() -> dict[str, np.ndarray]:
    decoded = GOLDEN["decoded"]
    return {
        **{name: GOLDEN[name] for name in RAW.outputs},
        "b": decoded[:, :4],
        "s": decoded[:, 4:],
        "o": decoded,
    }


def plain(boxes: Any, scores: Any, classes: Any) -> Detections:
    """Return detections without masks."""
    return Detections(
        boxes=np.asarray(boxes, np.float32),
        scores=np.asarray(scores, np.float32),
        classes=np.asarray(classes, np.int64),
        coefficients=np.zeros((len(scores), 0), np.float32),
    )


def test_imports_numpy_and_nothing_else() -> None:
    tree = ast.parse(Path(reference.__file__).read_text())
    found = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    assert found <= {"__future__", "json", "math", "collections", "dataclasses", "pathlib", "typing", "numpy"}


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_equals_ultralytics(head: Head) -> None:
    """Boxes of Ultralytics' are not clipped; here they are, to the image of 64x96."""
    wanted = GOLDEN["detections"]
    found = reference.detect(outputs(), spec=spec_of(head, outputs()), placed=CANVAS)
    assert len(found.scores) == len(wanted)
    np.testing.assert_allclose(found.scores, wanted[:, 4], atol=1e-6)
    np.testing.assert_array_equal(found.classes, wanted[:, 5])
    boxes = np.clip(wanted[:, :4], 0, [96, 64, 96, 64])
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)


def test_without_suppression_equals_ultralytics() -> None:
    """Of an NMS-free network: reg_max 1, and the best 40, whatever overlaps."""
    levels = tuple(Level(stride=s, boxes=f"one_boxes_{s}", scores=f"one_scores_{s}") for s in (8, 16, 32))
    head = RawHead(reg_max=1, levels=levels, nms=False)
    arrays = {name: MASKS[name] for name in head.outputs}
    spec = spec_of(head, arrays, settings=Settings(detections=40))
    assert spec["nms"] is False
    assert "iou" not in spec
    found = reference.detect(arrays, spec=spec, placed=CANVAS)
    wanted = MASKS["one_detections"]
    np.testing.assert_allclose(found.scores, wanted[:, 4], atol=1e-6)
    np.testing.assert_array_equal(found.classes, wanted[:, 5])
    np.testing.assert_allclose(found.boxes, np.clip(wanted[:, :4], 0, [96, 64, 96, 64]), atol=1e-3)


@pytest.mark.parametrize("case", range(5))
def test_masks_equal_ultralytics(case: int) -> None:
    """The cases' paddings end on whole, half and quarter pixels of the prototypes."""
    entry = {name: MASKS[f"{name}{case}"] for name in ("net", "image", "prototypes", "coefficients", "boxes")}
    shape = tuple(int(side) for side in entry["image"])
    found = Detections(
        boxes=entry["boxes"],
        scores=np.ones(5, np.float32),
        classes=np.zeros(5, np.int64),
        coefficients=entry["coefficients"],
    )
    placed = fit((shape[0], shape[1]), (int(entry["net"][0]), int(entry["net"][1])))
    made = list(reference.masks(found, prototypes=entry["prototypes"], placed=placed))
    ours = np.stack([mask.full((shape[0], shape[1])) for mask in made])
    wanted = np.unpackbits(MASKS[f"masks{case}"])[: ours.size].reshape(ours.shape).astype(bool)
    assert 0.05 < wanted.mean() < 0.95
    assert (ours != wanted).mean() < 1e-4, "rounding may flip a pixel whose logit is 0"


@pytest.mark.parametrize(
    ("name", "image", "mode"),
    [
        ("semantic_s", (64, 96), "letterbox"),
        ("semantic_l", (50, 60), "letterbox"),
        ("semantic_stretch", (50, 60), "stretch"),
    ],
)
def test_semantic_equals_torch(name: str, image: tuple[int, int], mode: str) -> None:
    arrays = {"logits": MASKS["semantic_logits"]}
    rest = {"task": "semantic", "names": tuple("abcde"), "resize": mode}
    head = SemanticHead(logits="logits", stride=8)
    spec = spec_of(head, arrays, **rest)
    pre = preprocess_spec(model_of(head, arrays=arrays, **rest))
    _, placed = reference.preprocess(np.zeros((*image, 3), np.uint8), spec=pre)
    found = reference.postprocess(arrays, spec=spec, placed=placed)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.uint8
    assert (found != MASKS[name]).mean() < 1e-3


def test_instance_heads_agree() -> None:
    """Raw, decoded and plain outputs of one network give the same boxes and masks."""
    rng = np.random.default_rng(3)
    coefficients = {s: rng.normal(size=(1, 4, 64 // s, 96 // s)).astype(np.float32) for s in (8, 16, 32)}
    flat = np.concatenate([array.reshape(1, 4, -1) for array in coefficients.values()], axis=2)
    decoded = GOLDEN["decoded"]
    arrays = {
        **{name: GOLDEN[name] for name in RAW.outputs},
        **{f"masks_{s}": array for s, array in coefficients.items()},
        "prototypes": rng.normal(size=(1, 4, 16, 24)).astype(np.float32),
        "b": decoded[:, :4],
        "s": decoded[:, 4:],
        "m": flat,
        "o": np.concatenate([decoded, flat], axis=1),
    }
    levels = tuple(
        Level(stride=s, boxes=f"boxes_{s}", scores=f"scores_{s}", masks=f"masks_{s}") for s in (8, 16, 32)
    )
    heads: list[Head] = [
        RawHead(reg_max=16, levels=levels, prototypes="prototypes"),
        DecodedHead(boxes="b", scores="s", masks="m", prototypes="prototypes"),
        PlainHead(output="o", prototypes="prototypes"),
    ]
    placed = fit((100, 130), (64, 96))
    made = []
    for head in heads:
        spec = spec_of(head, arrays, settings=Settings(confidence=0.5), task="segment")
        found = reference.postprocess(arrays, spec=spec, placed=placed)
        assert isinstance(found, Detections)
        assert len(found.masks) == len(found.scores) > 3
        made.append(np.stack([mask.full((100, 130)) for mask in found.masks]))
    assert (made[0] != made[1]).mean() < 1e-3
    assert (made[0] != made[2]).mean() < 1e-3


def test_no_objects_no_masks() -> None:
    found = plain(np.zeros((0, 4)), [], [])
    assert list(reference.masks(found, prototypes=np.zeros((4, 16, 24), np.float32), placed=CANVAS)) == []
    thin = Detections(
        boxes=np.array([[5.2, 5.2, 5.4, 9]], np.float32),
        scores=np.ones(1, np.float32),
        classes=np.zeros(1, np.int64),
        coefficients=np.ones((1, 4), np.float32),
    )
    (mask,) = reference.masks(thin, prototypes=np.ones((4, 16, 24), np.float32), placed=CANVAS)
    assert not mask.full((64, 96)).any(), "a box between two columns holds no pixel"


def test_overlap_of_one_class_goes_the_weaker() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 20, 30, 30]]
    found = plain(boxes, [0.5, 0.9, 0.8, 0.1], [0, 0, 1, 0])
    spec = spec_of(RAW, outputs())
    kept = reference.thin_out(found, spec=spec)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8, 0.1])
    assert kept.classes.tolist() == [0, 1, 0]
    agnostic = reference.thin_out(found, spec={**spec, "per_class": False})
    assert agnostic.scores.tolist() == pytest.approx([0.9, 0.1])


def test_nothing_found() -> None:
    silent = {name: np.full_like(values, -50) for name, values in outputs().items()}
    found = reference.detect(silent, spec=spec_of(RAW, outputs()), placed=CANVAS)
    assert found.boxes.shape == (0, 4)


def test_at_most_300() -> None:
    corners = np.arange(1000, dtype=np.float32)[:, None] * 20
    boxes = np.concatenate([corners, corners, corners + 10, corners + 10], axis=1)
    found = plain(boxes, np.linspace(0, 1, 1000), np.zeros(1000))
    assert len(reference.thin_out(found, spec=spec_of(RAW, outputs())).scores) == 300


def test_quick_on_a_noisy_head() -> None:
    rng = np.random.default_rng(0)
    noisy = {}
    for stride in (8, 16, 32):
        side = 320 // stride
        noisy[f"boxes_{stride}"] = rng.normal(size=(1, 64, side, side)).astype(np.float32)
        noisy[f"scores_{stride}"] = rng.normal(-5, 1.5, size=(1, 3, side, side)).astype(np.float32)
    spec = spec_of(RAW, noisy, imgsz=(320, 320))
    began = time.perf_counter()
    for _ in range(5):
        reference.detect(noisy, spec=spec, placed=fit((320, 320), (320, 320)))
    assert (time.perf_counter() - began) / 5 < 0.3


ENCODING = Encoding(scale=0.05, zero_point=100, dtype="uint8")


def test_quantized_border() -> None:
    """The table of 256 numbers is what QuantizeLinear makes of pixel / 255; outputs return likewise."""
    images = {
        "identity": Encoding(scale=1 / 255, zero_point=0, dtype="uint8"),
        "other": Encoding(scale=0.0043, zero_point=3, dtype="uint8"),
        "wide": Encoding(scale=1 / 65535, zero_point=0, dtype="uint16"),
    }
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    model = model_of(RAW, arrays=outputs())
    floats, _ = reference.preprocess(pixels, spec=preprocess_spec(model))
    for encoding in images.values():
        spec = preprocess_spec(model, boundary=Boundary(inputs={"images": encoding}, outputs={}))
        tensor, _ = reference.preprocess(pixels, spec=spec)
        assert str(tensor.dtype) == encoding.dtype
        np.testing.assert_array_equal(tensor, encoding.quantize(floats.astype(np.float32)))
    boundary = Boundary(inputs={}, outputs={"boxes_8": ENCODING})
    spec = postprocess_spec(model, boundary=boundary)
    stored = {name: GOLDEN[name] for name in RAW.outputs} | {"boxes_8": ENCODING.quantize(GOLDEN["boxes_8"])}
    values = reference.dequantize(stored, spec=spec)
    np.testing.assert_array_equal(values["boxes_8"], ENCODING.dequantize(stored["boxes_8"]))
    np.testing.assert_array_equal(values["scores_8"], GOLDEN["scores_8"])


def test_outputs_that_are_not_those_of_the_file() -> None:
    spec = postprocess_spec(model_of(RAW, arrays=outputs()))
    arrays = {name: GOLDEN[name] for name in RAW.outputs}
    with pytest.raises(ValueError, match="no output 'scores_32': the network returned boxes_8"):
        reference.dequantize({k: v for k, v in arrays.items() if k != "scores_32"}, spec=spec)
    with pytest.raises(ValueError, match=r"'scores_8' is uint8 .*postprocess.json says float32"):
        reference.dequantize(arrays | {"scores_8": arrays["scores_8"].astype(np.uint8)}, spec=spec)
    with pytest.raises(ValueError, match=r"'scores_8' is float32 \[1, 1\]"):
        reference.dequantize(arrays | {"scores_8": np.zeros((1, 1), np.float32)}, spec=spec)


def test_another_schema(tmp_path: Path) -> None:
    (tmp_path / "postprocess.json").write_text('{"schema": 2}')
    with pytest.raises(ValueError, match="has schema 2, this file reads schema 1"):
        reference.read_spec(tmp_path / "postprocess.json")
    (tmp_path / "postprocess.json").write_text('{"schema": 1}')
    assert reference.read_spec(tmp_path / "postprocess.json") == {"schema": 1}


def test_files_say_what_an_engineer_needs() -> None:
    """Golden: a change of these keys is a change of the schema."""
    boundary = Boundary(
        inputs={"images": Encoding(scale=1 / 255, zero_point=0, dtype="uint8")},
        outputs=dict.fromkeys(RAW.outputs, ENCODING),
    )
    model = model_of(RAW, arrays=outputs())
    pre, post = (make(model, boundary=boundary) for make in (preprocess_spec, postprocess_spec))
    assert pre["input"] == {
        "name": "images",
        "shape": [1, 3, 64, 96],
        "dtype": "uint8",
        "scale": 1 / 255,
        "zero_point": 0,
        "layout": "NCHW",
        "color": "RGB",
    }
    assert pre["resize"] == {
        "mode": "letterbox",
        "height": 64,
        "width": 96,
        "interpolation": "bilinear",
        "half_pixel_centers": True,
        "antialias": False,
        "pad_value": 114,
    }
    assert post["outputs"]["scores_8"] == {
        "shape": [1, 3, 8, 12],
        "dtype": "uint8",
        "scale": 0.05,
        "zero_point": 100,
    }
    assert post["levels"][0] == {"stride": 8, "boxes": "boxes_8", "scores": "scores_8"}
    assert {key: post[key] for key in ("confidence", "nms", "iou", "per_class", "detections", "reg_max")} == {
        "confidence": 0.25,
        "nms": True,
        "iou": 0.7,
        "per_class": True,
        "detections": 300,
        "reg_max": 16,
    }
    assert post["classes"] == ["a", "b", "c"]
    assert "softmax" in post["formulas"]["decode"]
