"""Networks that say nothing of themselves: several inputs, any rank, no metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from made import needs_toolchain, read
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hexpath_deploy.agree import agree, read_recorded
from hexpath_deploy.cli import main
from hexpath_deploy.errors import MetadataError, StaleArtifactError
from hexpath_deploy.model import TaskModel, load_onnx, read_model, read_task_model
from hexpath_deploy.ort import OrtNetwork

INPUTS = {"camera": (1, 4, 8, 8), "motion": (1, 6)}


def feeds(count: int, *, seed: int = 0) -> list[dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(seed)
    return [{name: rng.random(shape, np.float32) for name, shape in INPUTS.items()} for _ in range(count)]


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(feeds(16))

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def save_float(path: Path, *, batch: int | str = 1) -> Path:
    """A convolution of one input and a product of the other, joined to a (1, 5) output."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 4, 3, 3), "v": (14, 5)}
    weights = [
        numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n) for n, s in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["camera", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Concat", ["f", "motion"], ["j"], name="join", axis=1),
        helper.make_node("Gemm", ["j", "v"], ["steering"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "stranger",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, *s[1:]]) for n, s in INPUTS.items()],
        [helper.make_tensor_value_info("steering", TensorProto.FLOAT, [batch, 5])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx and w8a8.onnx, each with a recording beside it."""
    place = tmp_path_factory.mktemp("stranger")
    save_float(place / "float.onnx")
    quantize_static(
        str(place / "float.onnx"),
        str(place / "w8a8.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={"WeightSymmetric": True},
    )
    examples = feeds(3, seed=1)
    rows = {name: np.concatenate([each[name] for each in examples]) for name in INPUTS}
    for name in ("float", "w8a8"):
        network = OrtNetwork(read_model(place / f"{name}.onnx"), threads=1)
        outputs = np.concatenate([network.compute(each)["steering"] for each in examples])
        np.savez(place / f"{name}.npz", **rows, steering=outputs)
    return place


def test_a_network_without_metadata_is_read(folder: Path) -> None:
    model = read_model(folder / "w8a8.onnx")
    assert not isinstance(model, TaskModel)
    assert {name: entry.shape for name, entry in model.inputs.items()} == INPUTS
    assert model.shapes == {"steering": (1, 5)}
    assert model.quantized
    assert model.name == "w8a8"
    with pytest.raises(MetadataError, match="has no metadata task, names, imgsz"):
        read_task_model(folder / "w8a8.onnx")


@pytest.mark.parametrize(("name", "flags"), [("w8a8", []), ("float", ["--fp16"])])
def test_it_compiles_is_estimated_and_agrees(
    folder: Path, tmp_path: Path, name: str, flags: list[str]
) -> None:
    needs_toolchain()
    model, out = folder / f"{name}.onnx", tmp_path / "compiled"
    assert main(["compile", str(model), "--target", "qcs9075", "--out", str(out), *flags]) == 0
    profile = ["profile", str(model), "--target", "qcs9075", "--out", str(tmp_path / "p.json"), *flags]
    assert main(profile) == 0
    assert read(tmp_path / "p.json")["latency"]["value_ms"] > 0
    if name == "w8a8":
        assert read(out / "compile.json")["boundary"]["inputs"] == ["camera", "motion"]
    record = agree(
        model,
        compiled=out,
        recorded=folder / f"{name}.npz",
        out=tmp_path / "agree.json",
        min_sqnr_db=25.0,
        workers=1,
    )
    assert record["verdict"] == "pass"
    assert record["images"] == 3
    compared = record["comparisons"]
    assert [row["name"] for row in compared["artifact"]] == ["steering"]


def test_a_wrong_recording_is_noticed(folder: Path, tmp_path: Path) -> None:
    """The diagnosis of images does not apply to a network of two inputs; that of outputs does."""
    from hexpath_deploy.agree import Judge, cause_of, run_ort

    model = read_model(folder / "w8a8.onnx")
    judge = Judge.of(load_onnx(folder / "w8a8.onnx"))
    examples, simulated = read_recorded(folder / "w8a8.npz", model=model)
    ours = run_ort(model, examples)
    doubled = {"recorded": ({name: 2 * array for name, array in simulated.items()}, ours)}
    assert "off by a factor of 2" in cause_of(model, examples=examples, pairs=doubled, judge=judge)
    other = {"recorded": ({name: array[::-1] ** 2 for name, array in simulated.items()}, ours)}
    assert cause_of(model, examples=examples, pairs=other, judge=judge) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": None}, "has no array 'motion'"),
        ({"motion": np.zeros((3, 7))}, r"holds motion \[3, 7\].*takes \[1, 6\]"),
        ({"motion": np.zeros((2, 6))}, "examples of different number: 3 of 'camera', 2 of 'motion'"),
    ],
)
def test_recordings_of_something_else(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with np.load(folder / "w8a8.npz") as stored:
        arrays = {name: stored[name] for name in stored.files} | change
    np.savez(tmp_path / "r.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(StaleArtifactError, match=message):
        read_recorded(tmp_path / "r.npz", model=read_model(folder / "w8a8.onnx"))


def test_what_it_cannot_be_used_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def code(*arguments: str | Path) -> int:
        return main([str(each) for each in arguments])

    needs_toolchain()
    out, model = tmp_path / "out", folder / "w8a8.onnx"
    assert (
        code("evaluate", model, "--coco", model, "--out", out, "--backend", "ort") == MetadataError.exit_code
    )
    assert "has no metadata task, names, imgsz" in capsys.readouterr().err
    assert code("compile", folder / "float.onnx", "--target", "qcs9075", "--out", out) == 83
    assert "compile it with --fp16" in capsys.readouterr().err
    loose = save_float(tmp_path / "loose.onnx", batch="N")
    assert code("compile", loose, "--target", "qcs9075", "--out", out) == 73
    assert "'camera' has dynamic dimensions (N): export with fixed sizes" in capsys.readouterr().err
