from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares
from made import Made, needs_toolchain, read
from PIL import Image

from hexpath_deploy.cli import main
from hexpath_deploy.errors import DatasetError, MetadataError, OptionError
from hexpath_deploy.evaluate import Evaluation, evaluate, score_on
from hexpath_deploy.heads import SemanticHead, check_head
from hexpath_deploy.hostcost import Case, cpu, host_cost
from hexpath_deploy.io import NONE
from hexpath_deploy.masks import read_masks
from hexpath_deploy.model import read_model
from hexpath_deploy.networks import Feeds, OnOrt, Outputs
from hexpath_deploy.reference import hexpath_reference as reference
from hexpath_deploy.spec import postprocess_spec, preprocess_spec

NAMES = ("ground", "red", "green")


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares.save_masks(tmp_path_factory.mktemp("masks"))


def test_instances(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = squares.save_instances(tmp_path / "m.onnx")
    out = tmp_path / "e.json"
    assert main(["evaluate", str(model), "--coco", str(made.coco), "--out", str(out)]) == 0
    record = read(out)
    assert record["task"] == "segment"
    assert record["metrics"]["map50"] == pytest.approx(1)
    assert record["metrics"]["mask_map50"] == pytest.approx(1)
    assert record["metrics"]["mask_map"] > 0.9
    assert set(record["per_class"]["red"]) == {"map50", "map", "mask_map50", "mask_map"}
    assert "mask mAP50-95" in capsys.readouterr().out
    results = json.loads((tmp_path / record["detections"]).read_text())
    assert results[0]["segmentation"]["size"] == [64, 64]
    assert score_on(record, results=results, image_ids=[1, 2])["mask_map50"] == pytest.approx(1)


def test_instances_on_the_emulator(made: Made, tmp_path: Path) -> None:
    needs_toolchain()
    model = squares.quantize(squares.save_instances(tmp_path / "f.onnx"), tmp_path / "m.onnx")
    compiled, out = tmp_path / "compiled", tmp_path / "e.json"
    assert main(["compile", str(model), "--target", "qcs9075", "--out", str(compiled)]) == 0
    command = ["evaluate", str(model), "--coco", str(made.coco), "--out", str(out), "--images", "3"]
    assert main([*command, "--backend", "emulator", "--compiled", str(compiled)]) == 0
    assert read(out)["metrics"]["mask_map50"] == pytest.approx(1)


def test_masks_need_masks(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(made.coco.read_text())
    for entry in data["annotations"]:
        entry.pop("segmentation")
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    model = squares.save_instances(tmp_path / "m.onnx")
    command = ["evaluate", str(model), "--coco", str(tmp_path / "boxes.json")]
    assert main([*command, "--out", str(tmp_path / "e.json")]) == 82
    assert "boxes have no segmentation, the first in image 1" in capsys.readouterr().err


def test_nms_free(made: Made, tmp_path: Path) -> None:
    model = squares.save_nms_free(tmp_path / "m.onnx")
    out = tmp_path / "e.json"
    assert main(["evaluate", str(model), "--coco", str(made.coco), "--out", str(out)]) == 0
    record = read(out)
    assert record["metrics"]["map50"] == pytest.approx(1)
    found = json.loads((tmp_path / record["detections"]).read_text())
    assert len(found) > 12 * 2, "nothing is suppressed"


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_semantic(masks: Path, tmp_path: Path, resize: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = squares.save_semantic(tmp_path / "m.onnx", resize=resize)
    out = tmp_path / "e.json"
    command = ["evaluate", str(model), "--data", str(masks), "--out", str(out)]
    assert main([*command, "--threads", "2", "--masks", str(tmp_path / "found")]) == 0
    record = read(out)
    written = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "found").iterdir()}
    assert sorted(written) == [str(number) for number in sorted(record["image_ids"])]
    truth = read_masks(masks, names=NAMES)
    expected = truth.read(truth.pictures[0])
    assert (written["1"] == expected)[expected != 255].mean() > 0.9
    assert record["metrics"]["miou"] > 0.9, "corners of upsampled squares are round"
    assert record["metrics"]["pixel_accuracy"] > 0.95
    assert set(record["per_class"]) == set(NAMES)
    assert "mIoU 0.9" in capsys.readouterr().out
    rows = json.loads((tmp_path / record["detections"]).read_text())
    seen = sum(pixels for row in rows for _, _, pixels in row["confusion"])
    assert seen == 6 * 62 * 62, "the outermost pixels are ignored"
    assert score_on(record, results=rows, image_ids=[1])["miou"] > 0.9


def test_semantic_on_the_emulator(masks: Path, tmp_path: Path) -> None:
    needs_toolchain()
    model = squares.quantize(squares.save_semantic(tmp_path / "f.onnx"), tmp_path / "m.onnx")
    compiled, out = tmp_path / "compiled", tmp_path / "e.json"
    assert main(["compile", str(model), "--target", "qcs9075", "--out", str(compiled)]) == 0
    command = ["evaluate", str(model), "--data", str(masks), "--out", str(out), "--images", "2"]
    assert main([*command, "--backend", "emulator", "--compiled", str(compiled)]) == 0
    assert read(out)["metrics"]["miou"] > 0.9


def test_iou_by_hand(masks: Path, tmp_path: Path) -> None:
    """Of 10 pixels ground 6 are found; 2 red are found, 4 ground are taken for red."""
    truth = read_masks(masks, names=NAMES)
    rows = [{"image_id": 1, "confusion": [[0, 0, 6], [0, 1, 4], [1, 1, 2]]}]
    found = truth.score(rows, image_ids=[1])
    assert found.per_class == {"ground": {"iou": 0.6}, "red": {"iou": pytest.approx(2 / 6)}}
    assert found.metrics["miou"] == pytest.approx((0.6 + 2 / 6) / 2)
    assert found.metrics["pixel_accuracy"] == pytest.approx(8 / 12)
    with pytest.raises(DatasetError, match="hold nothing but ignored pixels"):
        truth.score(rows, image_ids=[2])


def test_the_last_class_may_be_the_ignored_one(masks: Path) -> None:
    text = masks.read_text().replace("ignore: 255", "ignore: 2")
    path = masks.with_name("last.yaml")
    path.write_text(text)
    assert read_masks(path, names=NAMES[:2]).names == NAMES[:2]
    assert read_masks(path, names=NAMES).names == NAMES
    path.write_text(masks.read_text().replace("2: green", "2: green, 255: void"))
    assert read_masks(path, names=NAMES).names == NAMES
    path.write_text(masks.read_text())
    for kind in "012":
        path.write_text(path.read_text().replace(f"{kind}: ", f"'{kind}': "))
    assert read_masks(path, names=NAMES).names == NAMES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "no such dataset"),
        (("ignore", "{"), "is no YAML"),
        (("path: .", "- a"), "is no YAML"),
        (("val: images/val\n", ""), "has no entry 'val'"),
        (("masks: {val: masks/val}\n", ""), "has no entry 'masks'"),
        (("names: {0: ground, 1: red, 2: green}", "names: 3"), "is no dataset of masks"),
        (("0: ground", "5: ground"), r"names must map 0..N-1 to names, found ids \[1, 2, 5\]"),
        (
            ("0: ground, 1: red", "0: red, 1: ground"),
            "class 0 is 'ground' in the model.* wrong class",
        ),
        (("val: images/val", "val: nothing"), "no images in"),
        (("val: masks/val", "val: nothing"), "has no mask"),
    ],
)
def test_no_dataset_of_masks(masks: Path, change: tuple[str, str] | None, message: str) -> None:
    path = masks.with_name("bad.yaml")
    path.unlink(missing_ok=True)
    if change is not None:
        text = masks.read_text()
        assert change[0] in text
        path.write_text(text.replace(*change))
    with pytest.raises(DatasetError, match=message):
        read_masks(path, names=NAMES)


def test_a_list_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("[1]")
    with pytest.raises(DatasetError, match="holds a list, expected keys such as val"):
        read_masks(tmp_path / "data.yaml", names=NAMES)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((64, 64), 7, np.uint8), r"holds id 7; .* has classes 0 to 2 and ignores 255"),
        (np.zeros((64, 64, 3), np.uint8), "has 3 channels, expected one"),
        (np.zeros((32, 64), np.uint8), "has 64x32 pixels, its image 64x64"),
        (None, "cannot be read"),
    ],
)
def test_bad_mask(
    tmp_path: Path, mask: np.ndarray | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    data = squares.save_masks(tmp_path / "data", count=1)
    path = tmp_path / "data" / "masks" / "val" / "0000.png"
    if mask is None:
        path.write_bytes(b"no image")
    else:
        Image.fromarray(mask).save(path)
    model = squares.save_semantic(tmp_path / "m.onnx")
    assert main(["evaluate", str(model), "--data", str(data), "--out", str(tmp_path / "e.json")]) == 82
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "e.json").exists()


def test_the_task_decides_the_dataset(made: Made, masks: Path, tmp_path: Path) -> None:
    semantic = squares.save_semantic(tmp_path / "m.onnx")
    with pytest.raises(OptionError, match="for task 'semantic': give its dataset with --data"):
        evaluate(Evaluation(model=semantic, coco=made.coco), out=tmp_path / "e.json")
    with pytest.raises(OptionError, match="for task 'detect': give its dataset with --coco"):
        evaluate(Evaluation(model=made.model, data=masks), out=tmp_path / "e.json")
    with pytest.raises(OptionError, match="finds no class masks"):
        evaluate(Evaluation(model=made.model, coco=made.coco, masks=tmp_path / "m"), out=tmp_path / "e.json")
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", str(made.model), "--out", str(tmp_path / "e.json")])


class Board:
    """A device: anything that turns images into outputs."""

    evaluated_on = "device"
    boundary = NONE

    def __init__(self, model: Path) -> None:
        self.inner = OnOrt(read_model(model), workers=1)
        self.path, self.sha256 = Path("board/model.bin"), "f" * 64

    def outputs(self, feeds: Feeds) -> Iterator[tuple[str, Outputs]]:
        yield from reversed(list(self.inner.outputs(feeds)))


def test_any_network_can_be_evaluated(made: Made, tmp_path: Path) -> None:
    record = evaluate(
        Evaluation(model=made.model, coco=made.coco, images=3),
        out=tmp_path / "e.json",
        network=Board(made.model),
    )
    assert (record["evaluated_on"], record["sha256"]) == ("device", "f" * 64)
    assert record["metrics"]["map50"] == pytest.approx(1)
    ids = [row["image_id"] for row in json.loads((tmp_path / record["detections"]).read_text())]
    assert ids == sorted(ids), "whatever the order in which the network answers"


def test_host_cost(made: Made, compiled: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(made.model), "--coco", str(made.coco), "--out", str(tmp_path / "e.json")]
    assert main([*command, "--backend", "emulator", "--compiled", str(compiled), "--images", "2"]) == 0
    host = read(tmp_path / "e.json")["host_ms"]
    assert 0 < host["preprocess"] <= host["preprocess_p99"]
    assert 0 < host["postprocess"] <= host["postprocess_p99"]
    assert (host["confidence"], host["images"], host["preprocess_runs"]) == (0.25, 2, 10)
    assert host["cpu"] == cpu() != ""
    assert 0 < host["preprocess_quiet"] <= host["preprocess_p99"]
    assert 0 < host["postprocess_quiet"] <= host["postprocess_p99"]


@pytest.fixture
def blank(made: Made) -> dict[str, Any]:
    """What `host_cost` takes besides cases, and under `case` a black image in which nothing was found."""
    model = read_model(made.model)
    values: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in model.shapes.items()}
    case = Case(pixels=np.zeros((64, 64, 3), np.uint8), values=values)
    return {"case": case, "pre": preprocess_spec(model), "post": postprocess_spec(model)}


def test_other_load_does_not_raise_the_quiet_figure(
    blank: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, calls = reference.preprocess, iter(range(99))

    def held_up(*args: Any, **options: Any) -> Any:
        time.sleep(0 if next(calls) == 6 else 0.05)  # 4 calls come before the clock
        return undisturbed(*args, **options)

    monkeypatch.setattr(reference, "preprocess", held_up)
    host = host_cost([blank.pop("case")], **blank)
    assert host["preprocess"] >= 50
    assert host["preprocess_quiet"] < 25


def test_host_cost_stops_in_time(blank: dict[str, Any]) -> None:
    case = blank.pop("case")
    assert host_cost([case] * 2, **blank, limit_s=0)["postprocess_runs"] == 2
    with pytest.raises(OptionError, match="no images to time"):
        host_cost([], **blank)


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (
            "instances",
            {"task": "detect"},
            r"task 'detect', but its hexpath.outputs \(raw\) describe another",
        ),
        ("semantic", {"task": "detect"}, r"says task 'detect', but its hexpath.outputs \(semantic\)"),
        ("raw", {"task": "segment"}, r"\(raw, without masks\) describe another"),
        ("raw", {"task": "semantic"}, "says task 'semantic'"),
        ("instances", {"prototypes": None}, "mask coefficients without prototypes"),
        ("instances", {"prototypes": "masks_8"}, "output 'masks_8' for two purposes"),
        ("instances", {"prototypes": "gone"}, "names output 'gone', the graph has"),
        ("raw", {"nms": "no"}, "nms 'no', expected true or false"),
        ("semantic", {"stride": 4}, r"output 'logits' has shape \[1, 3, 8, 8\]"),
        ("semantic", {"stride": "x"}, "hexpath.outputs cannot be read"),
        ("semantic", {"resize": "strech"}, "unknown resize 'strech'; did you mean 'stretch'"),
    ],
)
def test_metadata_that_lies(tmp_path: Path, make: str, change: dict[str, Any], message: str) -> None:
    path = getattr(squares, f"save_{make}")(tmp_path / "m.onnx")
    proto = onnx.load(path)
    told = {entry.key: entry for entry in proto.metadata_props}
    for key, value in change.items():
        if key == "task":
            told["task"].value = value
            continue
        where = told["hexpath.input" if key == "resize" else "hexpath.outputs"]
        where.value = json.dumps({**json.loads(where.value), key: value})
    onnx.save(proto, path)
    with pytest.raises(MetadataError, match=message):
        read_model(path)


def test_ultralytics_segment_export_is_enough(tmp_path: Path) -> None:
    """Two outputs and Ultralytics' metadata alone: (1, 4 + classes + 2, anchors) and the prototypes."""
    path = squares.save_instances(tmp_path / "m.onnx")
    outputs = {"output0": [1, 4 + 2 + 2, 84], "output1": [1, 2, 16, 16]}
    nodes = [
        onnx.helper.make_node(
            "Constant", [], [name], value=onnx.numpy_helper.from_array(np.zeros(shape, np.float32))
        )
        for name, shape in outputs.items()
    ]
    relu = onnx.helper.make_node("Relu", ["images"], ["unused"])
    squares.save([relu, *nodes], [], outputs, path, task="segment")
    model = read_model(path)
    assert model.head.outputs == ("output0", "output1")


def test_more_classes_than_a_mask_holds() -> None:
    head = SemanticHead(logits="logits", stride=8)
    with pytest.raises(MetadataError, match="256 classes of a semantic model, at most 255"):
        check_head(head, shapes={"logits": (1, 256, 8, 8)}, classes=256, imgsz=(64, 64))
