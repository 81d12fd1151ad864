from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares
from made import Made
from onnx import TensorProto, helper

from hexpath_deploy.errors import DeployError, DynamicShapeError, MetadataError, UnreadableModelError
from hexpath_deploy.io import Boundary, Encoding, quantize_io, read_boundary
from hexpath_deploy.model import read_model, read_task_model
from hexpath_deploy.ort import OrtNetwork

RESHAPED = {"output0": [1, 6, 84]}


def plain(path: Path, **metadata: str | None) -> Path:
    """Write an Ultralytics-like export: one output (1, 4+2, 84), and only Ultralytics' metadata."""
    node = helper.make_node(
        "Constant",
        [],
        ["output0"],
        name="constant",
        value=onnx.numpy_helper.from_array(np.zeros((1, 6, 84), np.float32)),
    )
    keep = helper.make_node("Relu", ["images"], ["unused"], name="relu")
    squares.save([keep, node], [], RESHAPED, path)
    model = onnx.load(path)
    entries = {key: value for key, value in squares.METADATA.items() if not key.startswith("hexpath")}
    entries |= {"end2end": "False", **metadata}
    del model.metadata_props[:]
    for key, value in entries.items():
        if value is not None:
            model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def test_our_metadata(made: Made) -> None:
    model = read_model(made.model)
    assert (model.name, model.task, model.names, model.imgsz) == (
        "squares",
        "detect",
        ("red", "green"),
        (64, 64),
    )
    assert model.quantized
    assert model.head.name == "raw"
    assert not read_model(made.float_model).quantized


def test_ultralytics_metadata_is_enough(tmp_path: Path) -> None:
    model = read_model(plain(tmp_path / "yolo.onnx"))
    assert model.head.name == "plain"
    assert model.name == "yolo"
    assert model.pad_value == 114


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"task": None, "names": None}, "has no metadata task, names"),
        ({"task": "pose"}, "is for task 'pose'"),
        ({"task": "segment"}, "not Ultralytics' detection output"),
        ({"task": "detekt"}, "did you mean 'detect'"),
        ({"names": "{0: 'a', 2: 'b'}"}, "must map 0..N-1 to names"),
        ({"names": "__import__('os')"}, "metadata 'names' is unreadable"),
        (
            {"imgsz": "[32, 32]"},
            r"input 'images' has shape \[1, 3, 64, 64\], but the metadata's imgsz demands",
        ),
        ({"imgsz": "64"}, "must be .height, width."),
        ({"names": "{0: 'a'}"}, "the metadata is another model's"),
        ({"end2end": "True"}, "not Ultralytics' detection output"),
        ({"hexpath.input": "{"}, "metadata 'hexpath.input' is no JSON"),
        ({"hexpath.input": "[]"}, "holds a list, expected a JSON object"),
        ({"hexpath.input": '{"color": "BGR"}'}, "color 'BGR' is not supported"),
        ({"hexpath.input": '{"name": "x"}'}, "hexpath.input names 'x', the graph takes images"),
        ({"hexpath.outputs": '{"format": "yolo-rav"}'}, "did you mean 'yolo-raw'"),
        ({"hexpath.outputs": '{"format": "yolo-plain"}'}, "hexpath.outputs cannot be read"),
        (
            {"hexpath.outputs": '{"format": "yolo-plain", "output": "x"}'},
            "names output 'x', the graph has output0",
        ),
        ({"hexpath.outputs": '{"format": "yolo-raw", "scores": "probabilities"}'}, "expected 'logits'"),
    ],
)
def test_metadata_that_lies(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_task_model(plain(tmp_path / "model.onnx", **metadata))


def test_permuted_outputs(made: Made, tmp_path: Path) -> None:
    """Boxes and scores swapped in the metadata: their shapes give it away."""
    model = onnx.load(made.float_model)
    swapped = json.loads(json.dumps(squares.RAW))
    for level in swapped["levels"]:
        level["boxes"], level["scores"] = level["scores"], level["boxes"]
    next(entry for entry in model.metadata_props if entry.key == "hexpath.outputs").value = json.dumps(
        swapped
    )
    onnx.save(model, tmp_path / "swapped.onnx")
    with pytest.raises(MetadataError, match=r"output 'scores_8' has shape .* demands"):
        read_model(tmp_path / "swapped.onnx")


def test_dynamic_shape(tmp_path: Path) -> None:
    path = plain(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, path)
    with pytest.raises(DynamicShapeError, match=r"'images' has dynamic dimensions \(batch\).*dynamic=False"):
        read_model(path)


def test_wrong_input_type_and_count(tmp_path: Path) -> None:
    path = plain(tmp_path / "model.onnx")
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    onnx.save(model, path)
    with pytest.raises(MetadataError, match="input 'images' is UINT8"):
        read_model(path)
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    onnx.save(model, path)
    with pytest.raises(MetadataError, match="the graph has inputs images, more"):
        read_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such model"),
        (b"", r"is empty \(0 bytes\)"),
        (b"no model at all" * 9, "is no ONNX model"),
    ],
)
def test_no_model(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableModelError, match=message):
        read_model(path)


def test_cut_off(made: Made, tmp_path: Path) -> None:
    whole = made.model.read_bytes()
    for part in (0.3, 0.9):
        (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(DeployError):
            read_model(tmp_path / "cut.onnx")


def external(path: Path, location: str) -> Path:
    """Write a model whose first weight claims to lie at `location`."""
    model = onnx.load(squares.save_raw(path))
    tensor: Any = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.ClearField("raw_data")
    onnx.save(model, path)
    return path


def test_weights_stay_in_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModelError, match=r"takes its data from '\.\./\.\./etc/passwd', outside"):
        read_model(external(tmp_path / "model.onnx", "../../etc/passwd"))


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(UnreadableModelError, match="cannot be read"):
        read_model(external(tmp_path / "model.onnx", "weights.bin"))


def test_encoding_rounds_as_onnx_does() -> None:
    encoding = Encoding(scale=0.5, zero_point=10, dtype="uint8")
    stored = encoding.quantize(np.array([0, 0.25, 0.75, -100, 1000], np.float32))
    assert stored.tolist() == [10, 10, 12, 0, 255]
    assert encoding.dequantize(stored)[:3].tolist() == [0, 0, 1]


def test_quantized_io_leaves_float_models_alone(made: Made) -> None:
    assert not quantize_io(onnx.load(made.float_model))


def test_quantized_io(made: Made) -> None:
    model = onnx.load(made.model)
    boundary = quantize_io(model)
    onnx.checker.check_model(model, full_check=True)
    assert set(boundary.outputs) == set(squares.raw_outputs())
    assert [value.name for value in model.graph.input] == ["images"]
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.UINT8}
    found = read_boundary({entry.key: entry.value for entry in model.metadata_props})
    assert found == boundary


def test_output_that_is_read_inside_too() -> None:
    """The DequantizeLinear of an output stays where the graph reads it too."""
    scale = [squares.constant("s", 0.5), squares.constant("z", 3, np.uint8)]
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        helper.make_node("Relu", ["y"], ["r"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y", "r")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], scale),
        ir_version=10,
        opset_imports=[helper.make_opsetid("", 21)],
    )
    boundary = quantize_io(model)
    onnx.checker.check_model(model, full_check=True)
    assert boundary.inputs == {}
    assert boundary.outputs == {"y": Encoding(scale=0.5, zero_point=3, dtype="uint8")}
    assert [list(node.output) for node in model.graph.node] == [["a"], ["y"], ["y_dequantized"], ["r"]]
    assert model.graph.node[2].input[0] == "y"


def test_unreadable_boundary() -> None:
    with pytest.raises(MetadataError, match=r"'hexpath.boundary' cannot be read"):
        read_boundary({"hexpath.boundary": "{}"})
    assert not Boundary(inputs={}, outputs={})


def test_onnx_runtime_refuses(made: Made, tmp_path: Path) -> None:
    model = onnx.load(made.float_model)
    model.ir_version = 99
    onnx.save(model, tmp_path / "new.onnx")
    with pytest.raises(UnreadableModelError, match=r"ONNX Runtime .* refuses .*IR version"):
        OrtNetwork(read_model(tmp_path / "new.onnx"))
