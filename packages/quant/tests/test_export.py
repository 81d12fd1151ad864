"""The exported folder, and that a broken graph or file does not get through."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from net import images
from onnx import TensorProto, helper, numpy_helper

from hexpath_quant import agreement, qdq
from hexpath_quant.errors import AgreementError, CalibrationError, ExportError, WeightsError
from hexpath_quant.export import export
from hexpath_quant.plans import parse_plan
from hexpath_quant.sim import calibrate, input_quantizers, quantizers


def write(sim, out, plan="w8a8", outputs=("boxes", "scores")):
    return export(
        sim,
        out=out,
        example=images(1, seed=100),
        samples=images(4, seed=300),
        input_names=["images"],
        output_names=outputs,
        plan=parse_plan(plan),
        method="ptq:minmax",
        metadata={"task": "detect"},
        card={"head": "raw"},
    )


@pytest.mark.parametrize("plan", ["w8a8", "w8a16", "w4a8", "w4a16", "w8a8-per-tensor"])
def test_folder(make_sim, tmp_path, plan):
    figures = write(make_sim(plan), tmp_path / "q", plan)
    assert set(figures) == {"boxes", "scores"}
    assert min(figures.values()) > 70, "the simulation has the int32 biases of the file"
    files = {p.name for p in (tmp_path / "q").iterdir()}
    assert files == {"model.onnx", "model.encodings", "recorded.npz", "quant.json"}
    model = qdq.check_graph(tmp_path / "q" / "model.onnx")
    assert model.opset_import[0].version == 21
    props = {p.key: p.value for p in model.metadata_props}
    assert props["hexpath.plan"] == plan
    assert props["hexpath.method"] == "ptq:minmax"
    assert props["task"] == "detect"
    recorded = np.load(tmp_path / "q" / "recorded.npz")
    assert recorded["images"].shape == (4, 3, 32, 32)
    assert recorded["boxes"].shape == (4, 4, 16, 16)
    card = json.loads((tmp_path / "q" / "quant.json").read_text())
    assert card["plan"] == plan
    assert card["tools"]["aimet-torch"]
    assert json.loads((tmp_path / "q" / "model.encodings").read_text())
    graph = qdq.Graph(model)
    types = {
        graph.constants[n.input[2]].data_type
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and len(n.input) > 2
    }
    assert (TensorProto.INT4 in types) == ("w4" in plan)
    assert (TensorProto.UINT16 in types) == ("a16" in plan)


def test_image_input_is_pinned(make_sim, tmp_path):
    write(make_sim(), tmp_path / "q")
    graph = qdq.Graph(onnx.load(tmp_path / "q" / "model.onnx"))
    (node,) = graph.readers["images"]
    assert float(graph.value(node.input[1])) == pytest.approx(1 / 255, rel=1e-6)
    assert float(graph.value(node.input[2])) == 0


@pytest.mark.parametrize("plan", ["w8a8", "w8a16"])
def test_softmax_grid_ends_where_its_probabilities_do(make_sim, plan):
    """AIMET's [0, 1] leaves a softmax over 64 positions a few steps."""
    sim = make_sim(plan)
    node = next(n for n in sim.model.graph.nodes if "softmax" in str(n.target))
    module, seen = sim.model.get_submodule(node.target), []
    module.register_forward_hook(lambda *told: seen.append(float(told[-1].max())))
    with torch.no_grad():
        sim.model(images(8, seed=200))
    assert seen[0] < 0.5
    assert float(module.output_quantizers[0].get_max()) == pytest.approx(seen[0], rel=0.02)


def tampered(path, op_type, position, factor):
    """Scale one constant behind the first ``op_type`` whose input ``position`` is dequantized."""
    model = onnx.load(path)
    graph = qdq.Graph(model)
    node = next(n for n in graph.nodes if n.op_type == op_type)
    name = graph.maker[node.input[position]].input[1]
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, path)


def test_tampered_bias_scale_is_caught(make_sim, tmp_path):
    write(make_sim(), tmp_path / "q")
    tampered(tmp_path / "q" / "model.onnx", "Conv", 2, 1.5)
    with pytest.raises(
        ExportError, match=r"bias of '.*Conv.*', channel \d+: scale .* is not input scale x weight"
    ):
        qdq.check_graph(tmp_path / "q" / "model.onnx")


def test_tampered_activation_scale_is_caught(make_sim, tmp_path):
    write(make_sim(), tmp_path / "q")
    tampered(tmp_path / "q" / "model.onnx", "Sigmoid", 0, 0.05)
    recorded = dict(np.load(tmp_path / "q" / "recorded.npz"))
    with pytest.raises(AgreementError, match=r"output 'boxes' of model.onnx agrees .* to -?[\d.]+ dB only"):
        agreement.check_agreement(tmp_path / "q" / "model.onnx", recorded=recorded)


@pytest.mark.parametrize(
    ("file_db", "float_db", "wanted"), [(15, None, 20), (15, 30, 20), (15, 12, None), (8, 5, 10)]
)
def test_a_file_may_differ_as_much_as_quantization_does(make_sim, tmp_path, file_db, float_db, wanted):
    """Where 8 bits leave 12 dB, roundings that fall the other way leave no 20."""
    write(make_sim(), tmp_path / "q")
    path, recorded = tmp_path / "q" / "model.onnx", dict(np.load(tmp_path / "q" / "recorded.npz"))

    def at(decibels):
        generator = np.random.default_rng(0)
        noise = {k: generator.standard_normal(v.shape).astype(np.float32) for k, v in recorded.items()}
        scale = {k: np.sqrt((v**2).sum() / (noise[k] ** 2).sum()) for k, v in recorded.items()}
        return {
            k: v if k == "images" else v + noise[k] * scale[k] * np.float32(10 ** (-decibels / 20))
            for k, v in recorded.items()
        }

    unrounded = None if float_db is None else at(float_db) | {"images": recorded["images"]}
    simulated = at(file_db)
    if unrounded is not None:  # at float_db from what is held against the file, not from the file
        unrounded = {k: v + simulated[k] - recorded[k] for k, v in unrounded.items()}
    if wanted is None:
        assert min(agreement.check_agreement(path, recorded=simulated, unrounded=unrounded).values()) > 14
        return
    with pytest.raises(AgreementError, match=f"dB only, at least {wanted} dB is wanted"):
        agreement.check_agreement(path, recorded=simulated, unrounded=unrounded)


def test_the_simulation_keeps_its_quantizers_through_an_export(make_sim, tmp_path):
    sim = make_sim()
    before = {name: float(quantizer.get_max().max()) for name, quantizer in quantizers(sim.model)}
    write(sim, tmp_path / "q")
    assert {name: float(quantizer.get_max().max()) for name, quantizer in quantizers(sim.model)} == before


def test_agreement_needs_something_to_compare(make_sim, tmp_path):
    write(make_sim(), tmp_path / "q")
    recorded = dict(np.load(tmp_path / "q" / "recorded.npz"))
    with pytest.raises(AgreementError, match="nothing is recorded"):
        agreement.check_agreement(tmp_path / "q" / "model.onnx", recorded={"images": recorded["images"]})
    with pytest.raises(AgreementError, match="has no output 'masks'"):
        agreement.check_agreement(
            tmp_path / "q" / "model.onnx", recorded={**recorded, "masks": recorded["boxes"]}
        )


def one_node(op="Relu", dims=(1, 3)):
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in ("x", "y")]
    return helper.make_model(
        helper.make_graph([helper.make_node(op, ["x"], ["y"], name="it")], "g", tensors[:1], tensors[1:])
    )


def test_float_island_is_named():
    with pytest.raises(ExportError, match="float island: Relu 'it' reads 'x'"):
        qdq.check_no_islands(qdq.Graph(one_node()))


def test_float_output_is_named():
    model = one_node()
    scale = numpy_helper.from_array(np.float32(1), "s")
    zero = numpy_helper.from_array(np.uint8(0), "z")
    model.graph.initializer.extend([scale, zero])
    relu = model.graph.node.pop()
    relu.input[0] = "xd"
    model.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            relu,
        ]
    )
    with pytest.raises(ExportError, match="float island: Relu 'it' writes 'y'"):
        qdq.check_no_islands(qdq.Graph(model))


def test_empty_graph_and_dynamic_shape():
    model = one_node(dims=("batch", 3))
    with pytest.raises(ExportError, match="tensor 'x' has a dynamic shape"):
        qdq.check_static(model)
    del model.graph.node[:]
    with pytest.raises(ExportError, match="no operator"):
        qdq.check_no_islands(qdq.Graph(model))


def test_count_of_names_is_checked_and_nothing_stays_behind(make_sim, tmp_path):
    with pytest.raises(ExportError, match="2 outputs, 1 names"):
        write(make_sim(), tmp_path / "q", outputs=("boxes",))
    assert not list(tmp_path.iterdir())


def test_calibration_is_checked(make_sim):
    sim = make_sim()
    with pytest.raises(CalibrationError, match="calibration set is empty"):
        calibrate(sim, batches=[])
    with pytest.raises(WeightsError, match="calibration images 0 to 2 hold NaN"):
        calibrate(sim, batches=[torch.full((2, 3, 32, 32), float("nan"))])


def test_input_quantizer_is_found(make_sim):
    assert len(input_quantizers(make_sim())) == 1


@pytest.mark.parametrize(("plan", "places"), [("w8a8", 0), ("w8a16", 1)])
def test_convolution_and_silu_are_kept_apart_at_16_bit_on_small_maps(make_sim, tmp_path, plan, places):
    write(make_sim(plan), tmp_path / "q", plan)  # one SiLU of the net is at 8 x 8, the others at 16 x 16
    nodes = onnx.load(tmp_path / "q" / "model.onnx").graph.node
    assert len([n for n in nodes if n.name.endswith("_nudged_q")]) == places


def test_sqnr_known_values():
    one = np.ones(100, np.float32)
    assert agreement.sqnr_db(reference=one, found=one) == 300
    assert agreement.sqnr_db(reference=one, found=one * np.float32(1.1)) == pytest.approx(20, abs=0.01)
