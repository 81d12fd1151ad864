"""Attacks: faults that have cost somebody days, put into a model, a recording or an artifact.

Each must be caught. Caught means: a command ends with its own exit code and one line that names the cause.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import squares
from made import Made, needs_toolchain, read
from onnx import numpy_helper

from hexpath_deploy.agree import Judge
from hexpath_deploy.cli import main
from hexpath_deploy.diagnose import diagnose, explain_encodings
from hexpath_deploy.errors import CompileError, EncodingError, MetadataError
from hexpath_deploy.files import sha256_file
from hexpath_deploy.hexagon.precision import check_precision
from hexpath_deploy.model import load_onnx, read_model
from hexpath_deploy.ort import OrtNetwork
from hexpath_deploy.sanity import Graph

Change = Callable[[onnx.ModelProto], None]


def changed(source: Path, path: Path, change: Change) -> Path:
    """Write a model with a fault in it."""
    proto = onnx.load(source)
    change(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    return path


def scale(proto: onnx.ModelProto, name: str, factor: float) -> None:
    """Multiply a constant."""
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(
        numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), name)
    )


def encoding_of(proto: onnx.ModelProto, tensor: str) -> str:
    """Return the name of the scale with which a tensor is quantized."""
    return next(
        n.input[1] for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == tensor
    )


def metadata(**entries: str) -> Change:
    """Return a change of metadata."""

    def change(proto: onnx.ModelProto) -> None:
        kept = {entry.key: entry.value for entry in proto.metadata_props} | {
            key.replace("__", "."): value for key, value in entries.items()
        }
        del proto.metadata_props[:]
        for key, value in kept.items():
            proto.metadata_props.add(key=key, value=value)

    return change


def agree(model: Path, *, compiled: Path, recorded: Path, out: Path) -> list[str]:
    """Return the command."""
    options = {"--compiled": compiled, "--recorded": recorded, "--out": out}
    return ["agree", str(model), *(str(word) for pair in options.items() for word in pair)]


def evaluate(model: Path, made: Made, out: Path) -> list[str]:
    """Return the command."""
    return ["evaluate", str(model), "--coco", str(made.coco), "--out", str(out)]


def rerecorded(made: Made, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the recorded pair with a fault in it."""
    arrays = dict(np.load(made.recorded))
    change(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


# --- wrong scale in an encoding ---------------------------------------------------------------------------


def test_wrong_scale_of_a_weight(made: Made, tmp_path: Path) -> None:
    def attack(proto: onnx.ModelProto) -> None:
        scale(proto, next(t.name for t in proto.graph.initializer if "score8_w_scale" in t.name), 2.0)

    path = changed(made.model, tmp_path / "model.onnx", attack)
    with pytest.raises(
        EncodingError, match=r"Conv 'score8\w*'.* is 0\.5 times input scale x weight scale.*wrong scale"
    ):
        read_model(path)


def test_wrong_scale_of_an_activation(made: Made, tmp_path: Path) -> None:
    def attack(proto: onnx.ModelProto) -> None:
        scale(proto, encoding_of(proto, "features"), 0.1)

    path = changed(made.model, tmp_path / "model.onnx", attack)
    with pytest.raises(EncodingError, match="wrong scale in the encoding of 'features"):
        read_model(path)


def test_scale_that_is_no_number(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def attack(proto: onnx.ModelProto) -> None:
        scale(proto, encoding_of(proto, "images"), -1.0)

    path = changed(made.model, tmp_path / "model.onnx", attack)
    assert main(evaluate(path, made, tmp_path / "e.json")) == 94
    assert "the scale of 'images' is -0.00392" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "word"), [(1, "scale"), (2, "zero point")])
def test_quantized_and_restored_differently(made: Made, tmp_path: Path, place: int, word: str) -> None:
    def attack(proto: onnx.ModelProto) -> None:
        restore = next(
            n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.output[0] == "scores_8"
        )
        old = next(t for t in proto.graph.initializer if t.name == restore.input[place])
        value = numpy_helper.to_array(old)
        other = (value * 2 if place == 1 else value - 9).astype(value.dtype)
        proto.graph.initializer.append(numpy_helper.from_array(other, "other"))
        restore.input[place] = "other"

    path = changed(made.model, tmp_path / "model.onnx", attack)
    with pytest.raises(EncodingError, match=f"is quantized with {word} .* and restored with .*: a wrong"):
        read_model(path)


def test_wrong_scale_of_an_output_is_found_by_running(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quantize and Dequantize agree on the wrong scale, and no bias contradicts it: only values can tell."""

    def attack(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            if node.op_type == "DequantizeLinear" and node.output[0] == "scores_8":
                scale(proto, node.input[1], 0.05)

    path = changed(made.model, tmp_path / "model.onnx", attack)
    shutil.copy(made.recorded, tmp_path / "recorded.npz")
    examples = [{"images": each[None]} for each in squares.batch(2)]
    assert "wrong scale in the encoding of 'scores_8" in explain_encodings(onnx.load(path), examples)
    assert explain_encodings(onnx.load(made.model), examples) == ""
    assert main(evaluate(path, made, tmp_path / "e.json")) == 80
    assert "output 'scores_8'" in (error := capsys.readouterr().err)
    assert "wrong scale in the encoding of 'scores_8" in error


def test_wrong_scale_in_the_artifacts_border(
    made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(compiled, tmp_path / "copy")
    wrapper = onnx.load(copy / "model_ctx.onnx")
    entry = next(entry for entry in wrapper.metadata_props if entry.key == "hexpath.boundary")
    boundary = json.loads(entry.value)
    boundary["outputs"]["scores_8"]["scale"] *= 2
    entry.value = json.dumps(boundary)
    onnx.save(wrapper, copy / "model_ctx.onnx")
    command = agree(made.model, compiled=copy, recorded=made.recorded, out=tmp_path / "agree.json")
    assert main(command) == 81
    assert "the encoding of 'scores_8' in hexpath.boundary is uint8 with scale" in capsys.readouterr().err


# --- colours and normalization ----------------------------------------------------------------------------


def swap_input(arrays: dict[str, Any]) -> None:
    arrays["images"] = arrays["images"][:, ::-1]


def normalize_twice(arrays: dict[str, Any]) -> None:
    arrays["images"] = arrays["images"] / 255


def mirror(arrays: dict[str, Any]) -> None:
    arrays["images"] = arrays["images"][..., ::-1]


def swap_classes(arrays: dict[str, Any]) -> None:
    arrays["scores_8"] = arrays["scores_8"][:, ::-1]


def scale_output(arrays: dict[str, Any]) -> None:
    arrays["scores_8"] = arrays["scores_8"] * 3


FAULTS = [
    (swap_input, "the input's colour channels are swapped (RGB against BGR)"),
    (normalize_twice, "the input is normalized once too often (divided by 255 twice)"),
    (mirror, "the image is mirrored"),
    (
        swap_classes,
        "the channels of output 'scores_8' (classes, or sides of a box) are in another order: 1, 0",
    ),
    (scale_output, "output 'scores_8' is off by a factor of 3: a wrong scale in its encoding"),
]


@pytest.mark.parametrize(("fault", "cause"), FAULTS)
def test_agree_names_the_cause(
    made: Made,
    compiled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[dict[str, Any]], None],
    cause: str,
) -> None:
    recorded = rerecorded(made, tmp_path / "wrong.npz", fault)
    out = tmp_path / "agree.json"
    assert main(agree(made.model, compiled=compiled, recorded=recorded, out=out)) == 80
    assert cause in (error := capsys.readouterr().err)
    assert len(error.splitlines()) == 1
    assert cause in read(out)["cause"]
    assert main([*agree(made.model, compiled=compiled, recorded=recorded, out=out), "--verdict-only"]) == 0
    assert read(out)["verdict"] == "fail"


@pytest.mark.parametrize(("fault", "cause"), FAULTS[:2] + FAULTS[3:4])
def test_compile_and_evaluate_hold_the_recording_beside_the_model_against_it(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[dict[str, Any]], None],
    cause: str,
) -> None:
    shutil.copy(made.model, tmp_path / "model.onnx")
    rerecorded(made, tmp_path / "recorded.npz", fault)
    assert main(evaluate(tmp_path / "model.onnx", made, tmp_path / "e.json")) == 80
    assert cause in capsys.readouterr().err
    needs_toolchain()
    command = ["compile", str(tmp_path / "model.onnx"), "--target", "qcs9075", "--out", str(tmp_path / "c")]
    assert main(command) == 80
    assert cause in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_recording_that_nothing_explains_is_a_warning_until_agree(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def noise(arrays: dict[str, Any]) -> None:
        arrays["scores_8"] = (
            np.random.default_rng(0).normal(0, 9, arrays["scores_8"].shape).astype(np.float32)
        )

    shutil.copy(made.model, tmp_path / "model.onnx")
    rerecorded(made, tmp_path / "recorded.npz", noise)
    assert main(evaluate(tmp_path / "model.onnx", made, tmp_path / "e.json")) == 0
    assert "warning: output 'scores_8'" in capsys.readouterr().err


def test_metadata_says_bgr(made: Made, tmp_path: Path) -> None:
    entry = json.loads(squares.METADATA["hexpath.input"]) | {"color": "BGR"}
    path = changed(made.model, tmp_path / "model.onnx", metadata(hexpath__input=json.dumps(entry)))
    with pytest.raises(MetadataError, match="color 'BGR' is not supported, expected 'RGB'"):
        read_model(path)


# --- stale and foreign artifacts --------------------------------------------------------------------------


def other_model(made: Made, folder: Path) -> Path:
    """Return the detector with its two classes exchanged in the weights: the names are wrong now."""

    def attack(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == "score8_w":
                value = numpy_helper.to_array(tensor)[::-1]
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))

    source = changed(made.float_model, folder / "float.onnx", attack)
    return squares.quantize(source, folder / "model.onnx")


def test_stale_context_binary_with_forged_hashes(
    made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A binary of another model, its hash written into compile.json: only running it can tell."""
    other = other_model(made, tmp_path / "other")
    assert main(["compile", str(other), "--target", "qcs9075", "--out", str(tmp_path / "stale")]) == 0
    copy = shutil.copytree(compiled, tmp_path / "copy")
    shutil.copy(tmp_path / "stale" / "model_ctx.bin", copy / "model_ctx.bin")
    command = agree(made.model, compiled=copy, recorded=made.recorded, out=tmp_path / "agree.json")
    capsys.readouterr()
    assert main(command) == 81
    assert "is not the file that compile.json describes" in capsys.readouterr().err
    card = read(copy / "compile.json") | {"binary_sha256": sha256_file(copy / "model_ctx.bin")}
    (copy / "compile.json").write_text(json.dumps(card))
    assert main(command) == 80
    assert "the channels of output 'scores_8'" in capsys.readouterr().err


# --- classes ----------------------------------------------------------------------------------------------


def test_class_names_in_another_order_than_the_datasets(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(made.model, tmp_path / "model.onnx", metadata(names="{0: 'green', 1: 'red'}"))
    assert main(evaluate(path, made, tmp_path / "e.json")) == 82
    assert "class 0 is 'green' in the model's metadata and 'red' in" in capsys.readouterr().err


def test_classes_in_another_order_than_the_names(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names as in the dataset, but the network means the other class: its detections tell."""
    path = other_model(made, tmp_path)
    assert main(evaluate(path, made, tmp_path / "e.json")) == 82
    error = capsys.readouterr().err
    assert "'red' lies on boxes of 'green', 'green' lies on boxes of 'red'" in error
    assert main(evaluate(made.model, made, tmp_path / "e.json")) == 0, "the right order raises no alarm"


# --- precision --------------------------------------------------------------------------------------------


def test_plan_says_16_bits_and_the_graph_has_8(made: Made, tmp_path: Path) -> None:
    path = changed(made.model, tmp_path / "model.onnx", metadata(hexpath__plan="w8a16"))
    with pytest.raises(
        MetadataError, match=r"'hexpath.plan' is 'w8a16', but \d+ of \d+ activations .* have 8 bits"
    ):
        read_model(path)
    assert read_model(changed(made.model16, tmp_path / "ok.onnx", metadata(hexpath__plan="w8a16"))).quantized
    path = changed(made.model, tmp_path / "model.onnx", metadata(hexpath__plan="w16a8"))
    with pytest.raises(MetadataError, match=r"is 'w16a8', but \d+ of \d+ weights .* have 8 bits"):
        read_model(path)
    path = changed(made.model, tmp_path / "model.onnx", metadata(hexpath__plan="fp16"))
    with pytest.raises(MetadataError, match=r"'hexpath.plan' is 'fp16', but '.*' is quantized to 8 bits"):
        read_model(path)


def test_one_tensor_silently_at_8_bits(made: Made, tmp_path: Path) -> None:
    """One activation of a 16-bit graph gets an 8-bit encoding."""

    def attack(proto: onnx.ModelProto) -> None:
        metadata(hexpath__plan="w8a16")(proto)
        proto.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "narrow"))
        for node in proto.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and "scores_16" in (
                node.input[0] + node.output[0]
            ):
                node.input[2] = "narrow"

    path = changed(made.model16, tmp_path / "model.onnx", attack)
    with pytest.raises(MetadataError, match=r"'scores_16\w*' has 8 bits, not 16"):
        read_model(path)


def with_regions(made: Made, path: Path, plan: str, *, source: str = "model") -> Path:
    """Write a model whose metadata puts every node into one region of that plan."""
    nodes = [n.name for n in onnx.load(getattr(made, source)).graph.node if n.op_type in ("Conv", "Relu")]
    entries = {"hexpath__plan": "mixed-1", "hexpath__plan_regions": json.dumps({"head": plan})}
    return changed(
        getattr(made, source), path, metadata(**entries, hexpath__regions=json.dumps({"head": nodes}))
    )


@pytest.mark.parametrize(("plan", "what"), [("fp16", "weight"), ("w8a16", "activation"), ("w16a8", "weight")])
def test_a_region_silently_at_8_bits(made: Made, tmp_path: Path, plan: str, what: str) -> None:
    with pytest.raises(
        MetadataError, match=rf"region 'head' is {plan} .* {what} '.*' of Conv '.*' has 8 bits"
    ):
        read_model(with_regions(made, tmp_path / "model.onnx", plan))
    assert read_model(with_regions(made, tmp_path / "good.onnx", "w8a8")).quantized


def test_regions_that_cannot_be_read(made: Made, tmp_path: Path) -> None:
    for text, message in (("{", "is no JSON"), ("[1]", "holds a list, expected a JSON object")):
        path = changed(made.model, tmp_path / "m.onnx", metadata(hexpath__plan_regions=text))
        with pytest.raises(MetadataError, match=f"'hexpath.plan_regions' {message}"):
            read_model(path)


def qnn_graph(path: Path, **tensors: tuple[int, int]) -> Path:
    """Write a QNN graph's JSON: data type and kind of each tensor."""
    entries = {name: {"data_type": code, "type": kind} for name, (code, kind) in tensors.items()}
    path.write_text(json.dumps({"graph": {"tensors": entries, "nodes": {}}}))
    return path


def test_the_compiler_takes_bits_away(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = onnx.load(made.model16)
    stored = next(
        n.output[0] for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "features"
    )
    good = qnn_graph(tmp_path / "good.json", **{f"{stored}_token_7": (0x416, 3), "weights": (0x308, 4)})
    assert check_precision(good, proto=proto) == []
    with pytest.raises(CompileError, match="'features' has 16 bits in the model and 8 in the compiled graph"):
        check_precision(qnn_graph(tmp_path / "bad.json", **{stored: (0x408, 3)}), proto=proto)
    converted = qnn_graph(tmp_path / "c.json", **{f"{stored}_convert": (0x408, 3)})
    assert check_precision(converted, proto=proto) == [stored]
    with pytest.raises(
        CompileError, match="'features' is float in the model and has 8 bits in the compiled graph"
    ):
        check_precision(
            qnn_graph(tmp_path / "f.json", features=(0x408, 3)), proto=onnx.load(made.float_model)
        )


def test_compile_checks_the_precision(made: Made, compiled: Path) -> None:
    assert read(compiled / "compile.json")["narrowed"] == []


# --- metadata that lies -----------------------------------------------------------------------------------

LEVELS = json.dumps({**squares.RAW, "levels": squares.RAW["levels"][:2]})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"imgsz": "[96, 96]"}, r"imgsz demands \[1, 3, 96, 96\]"),
        ({"names": "{0: 'red', 1: 'green', 2: 'blue'}"}, "3 classes.*the metadata is another model's"),
        ({"names": "{0: 'red', 1: 'red'}"}, "metadata 'names' has 'red' twice"),
        ({"task": "classify"}, "is for task 'classify'"),
        ({"stride": "64"}, "metadata 'stride' is 64, but the deepest level of hexpath.outputs has stride 32"),
        ({"hexpath__outputs": LEVELS}, "deepest level of hexpath.outputs has stride 16|outputs"),
        ({"hexpath__outputs": json.dumps({**squares.RAW, "reg_max": 16})}, "demands"),
        ({"hexpath__plan": "w4a8"}, "is 'w4a8', but .* weights .* have 8 bits"),
    ],
)
def test_metadata_that_lies(made: Made, tmp_path: Path, entries: dict[str, str], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read_model(changed(made.model, tmp_path / "model.onnx", metadata(**entries)))


# --- the diagnosis itself ---------------------------------------------------------------------------------


def close(name: str, first: Any, second: Any) -> bool:
    return bool(first.shape == second.shape and np.abs(first - second).max() < 1e-3)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda x: x - np.array([0.485, 0.456, 0.406], np.float32)[:, None, None], ""),
        (lambda x: 2 * x - 1, r"images in \[-1, 1\]"),
        (lambda x: x / 255, "not normalized where it should be"),
        (lambda x: x[..., ::-1, :], "the image is upside down"),
    ],
)
def test_hypotheses_on_the_input(change: Callable[[Any], Any], cause: str) -> None:
    rng = np.random.default_rng(0)
    images, weights = rng.random((2, 3, 8, 8)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)

    def run(some: Any) -> dict[str, Any]:
        ramp = np.arange(8, dtype=np.float32)
        mixed = np.einsum("oc,nchw->nohw", weights, some) * ramp[:, None] * (ramp + 1)
        return {"y": mixed + mixed**2}

    found = diagnose(run(images), run(change(images)), agrees=close, images=images, run=run)
    assert re.search(cause, found) if cause else found == ""


@pytest.mark.parametrize(
    ("bits", "limit"), [((16, 16), 30.0), ((8, 8), 20.0), ((8, 16), 20.0), ((16, 8), 20.0)]
)
def test_an_output_is_held_to_the_narrowest_layer_before_it(bits: tuple[int, int], limit: float) -> None:
    """The image is 8 bit in each case, and the same on both sides."""
    text = """<ir_version: 8, opset_import: ["" : 21]> g (float[1,4] x) => (float[1,4] y)
        <float s = {0.1}, uint8 z8 = {0}, uint16 z16 = {0}> {
            q0 = QuantizeLinear(x, s, z8)       d0 = DequantizeLinear(q0, s, z8)
            r0 = Relu(d0)                       q1 = QuantizeLinear(r0, s, z{})
            d1 = DequantizeLinear(q1, s, z{})   r1 = Relu(d1)
            q2 = QuantizeLinear(r1, s, z{})     y = DequantizeLinear(q2, s, z{})
        }"""
    first, second = bits
    for place in (first, first, second, second):
        text = text.replace("z{}", f"z{place}", 1)
    assert Judge.of(onnx.parser.parse_model(text)).limits == {"y": limit}


def test_permuted_outputs_and_offsets() -> None:
    rng = np.random.default_rng(0)
    one, two = (rng.normal(size=(1, 4, 4, 4)).astype(np.float32) for _ in range(2))
    images = np.zeros((1, 3, 4, 4), np.float32)
    ours = {"a": one, "b": two}
    found = diagnose(ours, {"a": two, "b": one}, agrees=close, images=images, run=lambda _: ours)
    assert "the outputs are permuted: 'a' holds what 'b' should" in found
    found = diagnose(ours, {"a": 2 * one + 5, "b": two}, agrees=close, images=images, run=lambda _: ours)
    assert found.startswith("output 'a' is off by a factor of 2 and +5: a wrong scale or zero point")
    sides = one[:, [1, 0, 2, 3]]
    found = diagnose(ours, {"a": sides, "b": two}, agrees=close, images=images, run=lambda _: ours)
    assert "sides of a box) are in another order: 1, 0, 2, 3 instead of 0 to 3" in found
    assert diagnose(ours, ours, agrees=close, images=images, run=lambda _: ours) == ""


def test_the_graph_without_its_quantizers_computes_the_float_model(made: Made) -> None:
    from hexpath_deploy.diagnose import float_ranges

    image = squares.batch(1)
    ranges = float_ranges(load_onnx(made.model), [{"images": image}])
    floats = OrtNetwork(read_model(made.float_model), threads=1).run(image)
    quantized = {each.tensor for each in Graph(load_onnx(made.model)).encoded.values()}
    stored = next(name for name in ranges if name.startswith("scores_8"))
    assert stored in quantized
    (reached,) = ranges[stored]
    assert reached == pytest.approx((floats["scores_8"].min(), floats["scores_8"].max()), abs=0.5)


def test_a_relu_that_only_the_quantizer_is_left_of_is_no_wrong_scale() -> None:
    """A range that begins at 0 cuts off -300: it fits, and what comes behind it is not -300 either."""
    pairs = [
        text
        for at in ("x", "cut", "y")
        for text in (
            f"{at}_q = QuantizeLinear({at}, {at}_scale, {at}_zero)",
            f"{at}_dq = DequantizeLinear({at}_q, {at}_scale, {at}_zero)",
        )
    ]
    pairs.insert(2, "cut = Identity(x_dq)")
    pairs.insert(5, "y = Identity(cut_dq)")
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 21]> g (float[1, 2] x) => (float[1, 2] y_dq) '
        "<float x_scale = {4}, float cut_scale = {0.1}, float y_scale = {0.1}, "
        "uint8 x_zero = {100}, uint8 cut_zero = {0}, uint8 y_zero = {0}> { " + " ".join(pairs) + " }"
    )
    loud, quiet = ({"x": np.array([values], np.float32)} for values in ([-300, 20], [-3, 1]))
    assert explain_encodings(proto, [loud]) == ""
    assert explain_encodings(proto, [quiet, quiet, loud]) == ""
    assert "far too coarse" in explain_encodings(proto, [quiet, quiet])
    wrong = explain_encodings(proto, [{"x": np.array([[-300, 200]], np.float32)}])
    assert "it holds 0 to 25.5, its values reach from 0 to 200" in wrong


def test_one_example_that_calibration_did_not_know_is_no_wrong_scale() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 21]> g (float[1, 2] x) => (float[1, 2] y) '
        "<float scale = {0.1}, uint8 zero = {128}> "
        "{ n = Identity(x) n_q = QuantizeLinear(n, scale, zero) y = DequantizeLinear(n_q, scale, zero) }"
    )
    loud, usual = ({"x": np.array([values], np.float32)} for values in ([-300, 20], [-9, 10]))
    assert explain_encodings(proto, [usual, usual, loud]) == ""
    assert "reach from -300 to 20" in explain_encodings(proto, [loud, usual, loud])
