"""Mixed plans: their files, their simulation, what the exported graph holds, and training under them."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from net import SmallTask, images, trained_net
from onnx import TensorProto

from hexpath_quant import quantize
from hexpath_quant.agreement import sqnr_db
from hexpath_quant.errors import OutputError, PlanError, UnknownNameError
from hexpath_quant.lean import LeanTwin
from hexpath_quant.methods import find_method
from hexpath_quant.mixed import apply_plan
from hexpath_quant.plans import MixedPlan, parse_plan, plan_of, read_plan, to_yaml
from hexpath_quant.prepare import prepare
from hexpath_quant.qat import qat
from hexpath_quant.qdq import Graph
from hexpath_quant.recipe import Recipe
from hexpath_quant.regions import regions_of
from hexpath_quant.sim import forward_of

OUTPUTS = ("boxes", "scores")
BITS = {TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16}


def mixed(default: str = "w8a8", **regions: str) -> MixedPlan:
    named = {r.replace("_", "."): p for r, p in regions.items()}
    return MixedPlan(name="m", default=default, regions=named)


def simulate(plan):
    example = images(1, seed=100)
    prepared = prepare(trained_net(), example=example)
    if isinstance(plan, MixedPlan):
        apply_plan(prepared, plan=plan, regions=regions_of(prepared, output_names=OUTPUTS))
    return find_method("minmax").quantize(
        prepared,
        example=example,
        plan=plan.base if isinstance(plan, MixedPlan) else plan,
        batches=lambda: iter([images(8, seed=200)]),
        input_range=(0.0, 1.0),
    )


@pytest.mark.parametrize("name", ["w8a8", "w8a16", "w4a8"])
def test_the_same_precision_everywhere_is_the_plain_plan(name):
    plan = mixed(**dict.fromkeys(("stem", "block", "mix", "down", "qkv", "proj", "head_boxes"), name))
    plan.regions["head.scores"] = name  # type: ignore[index]
    pictures = images(4, seed=7)
    found = forward_of(simulate(plan).model)(pictures)
    for a, b in zip(found, forward_of(simulate(parse_plan(name)).model)(pictures), strict=True):
        assert torch.equal(a, b)


def activation_bits(graph: Graph, node: onnx.NodeProto) -> set[int]:
    """Bits of a node's first input and of what reads its outputs; 0 is float."""
    makers = [graph.maker.get(node.input[0])]
    readers = [r for name in node.output for r in graph.readers.get(name, [])]
    found = set()
    for other in [*makers, *readers]:
        quantized = other is not None and other.op_type in ("QuantizeLinear", "DequantizeLinear")
        found.add(BITS[graph.constants[other.input[2]].data_type] if quantized else 0)
    return found


@pytest.mark.parametrize(
    ("plan", "widths"),
    [
        (mixed(qkv="w8a16"), {"qkv": 16, "stem": 8, "proj": 8, "head.scores": 8}),
        (mixed(stem="w8a16", head_boxes="w8a16"), {"stem": 16, "head.boxes": 16, "block": 8, "mix": 8}),
        (mixed("w8a16", block="w8a8", down="w4a8"), {"block": 8, "down": 8, "mix": 16, "qkv": 16}),
    ],
)
def test_each_operator_of_a_region_has_its_bits(tmp_path, plan, widths):
    figures = quantize(
        trained_net(), calibration=[images(8, seed=200)], plan=plan, out=tmp_path / "q", output_names=OUTPUTS
    )
    assert min(figures.values()) > 40
    model = onnx.load(tmp_path / "q" / "model.onnx")
    props = {p.key: p.value for p in model.metadata_props}
    regions, told = json.loads(props["hexpath.regions"]), json.loads(props["hexpath.plan_regions"])
    assert props["hexpath.plan"] == "m"
    assert told.keys() == regions.keys()
    graph, nodes = Graph(model), {n.name: n for n in model.graph.node}
    for region, width in widths.items():
        assert told[region].endswith(f"a{width}")
        for name in regions[region]:
            assert activation_bits(graph, nodes[name]) == {width}, name


class Centre(torch.nn.Module):
    """Two convolutions with a division by a constant between them, as in a decoded box."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        low = self.first(x)
        return self.last((low + low.relu()) / 2)


@pytest.mark.parametrize("at_16", ["add", "truediv", "last"])
def test_a_division_by_a_constant_next_to_a_border_is_no_float_island(tmp_path, at_16):
    torch.manual_seed(0)
    plan = MixedPlan(name="m", default="w8a8", regions={"up": "w8a16"}, modules={"up": (at_16,)})
    figures = quantize(Centre().eval(), calibration=[images(8, seed=200)], plan=plan, out=tmp_path / "q")
    assert min(figures.values()) > 40
    graph = Graph(onnx.load(tmp_path / "q" / "model.onnx"))
    (division,) = [n for n in graph.nodes if n.op_type == "Div"]
    width = 16 if at_16 == "truediv" else 8
    assert {BITS[graph.constants[graph.maker[i].input[2]].data_type] for i in division.input} == {width}


class KeyValues(torch.nn.Module):
    """v k^T with k scaled by a number, as in linear attention."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.v, self.relu = torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU()

    def forward(self, x):
        k = self.relu(self.k(x)).flatten(2) / 256
        return torch.matmul(self.v(x).flatten(2), k.transpose(-1, -2))


def test_a_scaled_tensor_that_is_moved_across_a_border_keeps_its_scale(tmp_path):
    torch.manual_seed(0)
    plan = MixedPlan(name="m", default="w8a8", regions={"up": "w8a16"}, modules={"up": ("matmul",)})
    figures = quantize(KeyValues().eval(), calibration=[images(8, seed=200)], plan=plan, out=tmp_path / "q")
    assert min(figures.values()) > 40


def second_operand(graph, product):
    """Type and zero point: the compiler takes only int16 as it is, and that around 0."""
    zero = graph.maker[product.input[1]].input[2]
    return graph.constants[zero].data_type, int(graph.value(zero))


def test_the_second_operand_of_a_16_bit_product_is_symmetric(tmp_path):
    quantize(
        trained_net(), calibration=[images(8, seed=200)], plan=mixed(qkv="w8a16"), out=tmp_path / "q",
        output_names=OUTPUTS,
    )  # fmt: skip
    graph = Graph(onnx.load(tmp_path / "q" / "model.onnx"))
    products = [n for n in graph.nodes if n.op_type == "MatMul"]
    assert [second_operand(graph, n) for n in products] == [(TensorProto.INT16, 0)] * len(products)
    assert products


def test_so_is_one_that_comes_out_of_a_relu_and_is_moved(tmp_path):
    torch.manual_seed(0)
    quantize(KeyValues().eval(), calibration=[images(8, seed=200)], plan="w8a16", out=tmp_path / "q")
    graph = Graph(onnx.load(tmp_path / "q" / "model.onnx"))
    (product,) = [n for n in graph.nodes if n.op_type == "MatMul"]
    assert second_operand(graph, product) == (TensorProto.INT16, 0)


def test_a_float_region_has_no_quantizers_and_others_all(tmp_path):
    quantize(
        trained_net(), calibration=[images(8, seed=200)], plan=mixed(block="fp16"), out=tmp_path / "q",
        output_names=OUTPUTS,
    )  # fmt: skip
    model = onnx.load(tmp_path / "q" / "model.onnx")
    regions = json.loads({p.key: p.value for p in model.metadata_props}["hexpath.regions"])
    graph, nodes = Graph(model), {n.name: n for n in model.graph.node}
    inner = [n for n in regions["block"] if nodes[n].op_type == "Sigmoid"]
    assert inner
    assert all(activation_bits(graph, nodes[n]) == {0} for n in inner)


def test_more_bits_are_nearer_to_float():
    pictures = images(4, seed=7)
    wanted = trained_net()(pictures)[1].detach().numpy()
    found = [forward_of(simulate(p).model)(pictures)[1].numpy() for p in (mixed(), mixed("w8a16"))]
    eight, sixteen = (sqnr_db(reference=wanted, found=f) for f in found)
    assert sixteen > eight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_twin_has_the_simulations_values(dtype):
    sim = simulate(mixed(qkv="w8a16", mix="w4a8", head_boxes="w8a16", block="fp16"))
    pictures = images(4, seed=7)
    least = 50 if dtype == torch.float32 else 20
    for ours, theirs in zip(
        LeanTwin(sim, dtype=dtype)(pictures), forward_of(sim.model)(pictures), strict=True
    ):
        assert sqnr_db(reference=theirs.numpy(), found=ours.detach().float().numpy()) > least


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_under_a_mixed_plan(tmp_path, precision):
    plan = mixed("w4a8", qkv="w8a16")
    recipe = Recipe(epochs=2, lr=1e-3, batch=4, precision=precision)
    metrics = qat(
        SmallTask(), plan=plan, method="minmax", calibration=8, recipe=recipe, out=tmp_path / "o",
        work=tmp_path / "w",
    )  # fmt: skip
    card = json.loads((tmp_path / "o" / "quant.json").read_text())
    assert card["plan"] == "m"
    assert card["best_epoch"] > 0
    assert metrics["map"] == card["metrics"]["map"]
    assert np.load(tmp_path / "o" / "recorded.npz")["boxes"].shape == (4, 4, 16, 16)


def test_files_are_read_back(tmp_path):
    plan = MixedPlan(name="front-1", default="w8a8", regions={"head.scores.8": "w8a16", "stem": "fp16"})
    (tmp_path / "p.yaml").write_text(to_yaml(plan))
    assert read_plan(tmp_path / "p.yaml") == plan
    assert parse_plan(str(tmp_path / "p.yaml")) == plan
    empty = MixedPlan(name="a", default="w8a16")
    assert plan_of({"plan": "a", "default": "w8a16"}, where="here") == empty
    (tmp_path / "e.yaml").write_text(to_yaml(empty))
    assert read_plan(tmp_path / "e.yaml") == empty


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "is no plan: it needs 'plan: NAME'"),
        ("default: w8a8", "is no plan"),
        ("plan: a b", "plan name 'a b' may hold letters"),
        ("plan: a\nregion: {}", "unknown key 'region'; did you mean 'regions'"),
        ("plan: a\nregions: [x]", "regions must map a region to a precision"),
        ("plan: a\nregions: {x: w8a17}", "unknown plan 'w8a17'; did you mean 'w8a16'"),
        (
            "plan: a\nregions: {x: w8a8-per-tensor}",
            "'w8a8-per-tensor' and 'w8a8' differ in weight granularity",
        ),
        ("plan: [", "is no YAML"),
    ],
)
def test_unreadable_plans(tmp_path, text, says):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(PlanError, match=says):
        read_plan(tmp_path / "p.yaml")
    with pytest.raises(OutputError, match=r"--plan nowhere.yaml does not exist"):
        parse_plan("nowhere.yaml")


def test_a_region_that_the_net_lacks():
    with pytest.raises(UnknownNameError, match="unknown region of plan 'm' 'qkw'; did you mean 'qkv'"):
        simulate(mixed(qkw="w8a16"))


def test_pooling_between_two_widths_keeps_the_encoding_of_its_input(tmp_path):
    torch.manual_seed(0)
    pool = torch.nn.MaxPool2d(3, 1, 1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), pool, torch.nn.MaxPool2d(3, 1, 1), torch.nn.Conv2d(8, 4, 1)
    )
    plan = MixedPlan(name="m", default="w8a8", regions={"last": "w8a16"}, modules={"last": ("4",)})
    agreement_db = quantize(net.eval(), calibration=[images(4, seed=1)], plan=plan, out=tmp_path / "q")
    assert min(agreement_db.values()) > 40
    graph = Graph(onnx.load(tmp_path / "q" / "model.onnx"))
    pools = [node for node in graph.model.graph.node if node.op_type == "MaxPool"]
    assert len(pools) == 2
