"""Exported files: their form, their metadata, and that a wrong one is not accepted."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import NAMES, make_card, randomize_statistics

from hexpath_models import errors
from hexpath_models import export as export_module
from hexpath_models.checkpoint import save_checkpoint
from hexpath_models.export import check, export
from hexpath_models.prepare import Head
from hexpath_models.registry import MODELS, build, find_model

SHAPES = {
    Head.RAW: {
        "boxes_8": (1, 64, 8, 8),
        "scores_8": (1, 2, 8, 8),
        "boxes_16": (1, 64, 4, 4),
        "scores_16": (1, 2, 4, 4),
        "boxes_32": (1, 64, 2, 2),
        "scores_32": (1, 2, 2, 2),
    },
    Head.DECODED: {"boxes": (1, 4, 84), "scores": (1, 2, 84)},
    Head.PLAIN: {"output0": (1, 6, 84)},
}


@pytest.fixture(scope="module", params=list(Head))
def exported(
    request: pytest.FixtureRequest, checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("export") / str(request.param)
    result = export(checkpoint=checkpoint, data=data, head=request.param, out=folder)
    assert result.outputs == SHAPES[request.param]
    assert result.deviation < 1e-4
    return folder


def test_folder_holds_the_file_and_the_record(exported: Path) -> None:
    assert {file.name for file in exported.iterdir()} == {"model.onnx", "recorded.npz"}


def test_graph_is_static(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    for value in [*model.graph.input, *model.graph.output]:
        assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim)
    found = {o.name: tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in model.graph.output}
    assert found == SHAPES[Head(exported.name)]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    if exported.name != Head.PLAIN:
        assert model.opset_import[0].version == 21


def test_metadata(exported: Path) -> None:
    found = {entry.key: entry.value for entry in onnx.load(exported / "model.onnx").metadata_props}
    assert ast.literal_eval(found["names"]) == {0: "red", 1: "blue"}
    assert json.loads(found["imgsz"]) == [64, 64]
    assert (found["task"], found["stride"], found["batch"]) == ("detect", "32", "1")
    assert json.loads(found["hexpath.outputs"])["format"] == f"yolo-{exported.name}"
    assert (found["hexpath.model"], found["hexpath.plan"], found["hexpath.method"]) == (
        "yolo11n",
        "fp32",
        "fp32",
    )
    assert found["hexpath.fingerprint"] == "sha256:test"


def test_recorded_pair_is_what_the_file_computes(exported: Path) -> None:
    recorded = np.load(exported / "recorded.npz")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert recorded["images"].shape == (4, 3, 64, 64)
    for index, image in enumerate(recorded["images"]):
        for output, value in zip(
            session.get_outputs(), session.run(None, {"images": image[None]}), strict=True
        ):
            np.testing.assert_allclose(value[0], recorded[output.name][index], atol=1e-3, rtol=1e-3)


def test_deviating_file_is_refused(exported: Path) -> None:
    recorded = dict(np.load(exported / "recorded.npz"))
    images = recorded.pop("images")
    wrong = {name: value + 0.11 * max(np.abs(value).max(), 1.0) for name, value in recorded.items()}
    with pytest.raises(errors.ExportMismatchError, match=r"differs from torch by 0\.\d+ of its range"):
        check(exported / "model.onnx", images=images, expected=wrong)
    with pytest.raises(errors.ExportMismatchError, match=r"has the output .*, expected other"):
        check(exported / "model.onnx", images=images, expected={"other": images})


def test_refused_export_leaves_nothing(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "TOLERANCE", -1.0)
    with pytest.raises(errors.ExportMismatchError):
        export(checkpoint=checkpoint, data=data, head=Head.RAW, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_other_image_size(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = export(checkpoint=checkpoint, data=data, head=Head.RAW, out=tmp_path / "out", size="64x96")
    assert result.outputs["boxes_8"] == (1, 64, 8, 12)


@pytest.mark.parametrize("name", list(MODELS))
def test_the_file_of_every_scale_computes_what_torch_does(
    name: str, data: Path, outlines: Path, tmp_path: Path
) -> None:
    card = find_model(name)
    model = build(card, names=NAMES)
    randomize_statistics(model)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, card=make_card(arch=name, task=card.task, reg_max=card.reg_max))
    labels = outlines if card.task == "segment" else data
    result = export(checkpoint=path, data=labels, head=Head.RAW, out=tmp_path / "out")
    assert result.deviation < 1e-4


def test_metadata_of_masks(mask_checkpoint: Path, outlines: Path, tmp_path: Path) -> None:
    result = export(checkpoint=mask_checkpoint, data=outlines, head=Head.RAW, out=tmp_path / "out")
    assert result.outputs["masks_8"] == (1, 32, 8, 8)
    assert result.outputs["prototypes"] == (1, 32, 16, 16)
    found = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    outputs = json.loads(found["hexpath.outputs"])
    assert (found["task"], found["hexpath.model"]) == ("segment", "yolo11n-seg")
    assert outputs["levels"][0] == {
        "stride": 8,
        "boxes": "boxes_8",
        "scores": "scores_8",
        "masks": "masks_8",
    }
    assert (outputs["prototypes"], outputs["nms"]) == ("prototypes", True)


@pytest.mark.parametrize(("branch", "nms"), [("", False), ("one-to-many", True)])
def test_metadata_of_branches(
    free_checkpoint: Path, data: Path, tmp_path: Path, branch: str, nms: bool
) -> None:
    result = export(checkpoint=free_checkpoint, data=data, head=Head.RAW, out=tmp_path / "out", branch=branch)
    assert result.outputs["boxes_8"] == (1, 4, 8, 8)
    found = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    outputs = json.loads(found["hexpath.outputs"])
    assert (outputs["reg_max"], outputs["nms"]) == (1, nms)
    assert outputs["head"] == ("one-to-many" if nms else "one-to-one")
