from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import toy
from made import needs_toolchain, read

from hexpath_deploy.cli import main
from hexpath_deploy.errors import CompileError, MetadataError, OptionError
from hexpath_deploy.hexagon import cost as costs
from hexpath_deploy.hexagon.cost import Compiler, Cost, Refusal, accepted
from hexpath_deploy.regions.isolate import isolate
from hexpath_deploy.regions.measure import Bench
from hexpath_deploy.regions.names import names_of, read_regions
from hexpath_deploy.regions.network import Network, read_network
from hexpath_deploy.regions.precision import check_plan, parse_precisions
from hexpath_deploy.regions.predict import predict, predict_mb, spearman
from hexpath_deploy.regions.rewrite import rewrite
from hexpath_deploy.regions.table import neighbours, random_plans
from hexpath_deploy.targets import target

NAMES = ("net.stem", "net.body", "head.boxes", "head.scores")


@pytest.fixture(scope="module")
def w8a8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.save(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def network(w8a8: Path) -> Network:
    return read_network(onnx.load(w8a8))


@pytest.fixture(scope="module")
def regions(network: Network) -> dict[str, str]:
    return read_regions(network)


def run(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the outputs for one image, without ONNX Runtime's own changes to the graph."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": toy.images(1)}), strict=True))


def sqnr_db(found: Any, true: Any) -> float:
    return float(10 * np.log10((true**2).mean() / max(((found - true) ** 2).mean(), 1e-20)))


def stored_types(model: onnx.ModelProto) -> Counter[str]:
    """Return the types of all zero points that QuantizeLinear and DequantizeLinear read."""
    kinds = {
        tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer
    }
    nodes = [
        node for node in model.graph.node if node.op_type.endswith("quantizeLinear") or "Dequ" in node.op_type
    ]
    return Counter(kinds[node.input[2]] for node in nodes)


def test_regions_follow_from_the_names_of_weights(regions: dict[str, str]) -> None:
    assert names_of(regions) == NAMES
    assert regions["net.body.add"] == "net.body"
    assert regions["net.stem.mul"] == "net.stem"
    assert regions["net.head.scores"] == "head.scores"


def test_regions_from_the_metadata(tmp_path: Path) -> None:
    given = {"first": ["net.stem.conv"], "rest": ["net.body.first", "net.head.boxes", "net.head.scores"]}
    found = read_regions(read_network(onnx.load(toy.save(tmp_path, regions=given))))
    assert names_of(found) == ("first", "rest")
    assert found["net.stem.sigmoid"] == "first", "what has no region inherits it from what it reads"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": ["net.steam.conv"]}, "names operator 'net.steam.conv', which the graph does not have"),
        ({"a": ["net.stem.conv"], "b": ["net.stem.conv"]}, "is in regions 'a' and 'b'"),
        ({"a": "net.stem.conv"}, "holds 'net.stem.conv', expected a list of names"),
    ],
)
def test_wrong_metadata(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    network = read_network(onnx.load(toy.save(tmp_path, regions=given)))
    with pytest.raises(MetadataError, match=message):
        read_regions(network)


def test_an_unchanged_plan_computes_the_same(w8a8: Path, network: Network, regions: dict[str, str]) -> None:
    before, after = run(onnx.load(w8a8)), run(rewrite(network, regions=regions, plan={}))
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


@pytest.mark.parametrize(
    ("plan", "least_db"),
    [
        (dict.fromkeys(NAMES, "w8a16"), 30),
        (dict.fromkeys(NAMES, "fp16"), 30),
        ({"net.body": "w8a16"}, 25),
        ({"net.body": "fp16", "head.scores": "w8a16"}, 25),
        ({"net.stem": "fp16", "net.body": "w8a16", "head.boxes": "fp16"}, 25),
        ({"net.body": "w4a8"}, 12),
        ({"net.body": "w4a16", "head.boxes": "w8a16"}, 12),
    ],
)
def test_a_flip_keeps_the_numbers(
    w8a8: Path, network: Network, regions: dict[str, str], plan: dict[str, str], least_db: float
) -> None:
    """Held against the float network: the limits are what 8- and 4-bit weights and activations allow here."""
    model = rewrite(network, regions=regions, plan=plan)
    onnx.checker.check_model(model, full_check=True)
    reference, found = run(onnx.load(w8a8.with_name("float.onnx"))), run(model)
    for name, values in reference.items():
        assert sqnr_db(found[name], values) > least_db, name
    assert json.loads({e.key: e.value for e in model.metadata_props}["hexpath.plan_regions"]) == plan


def test_borders_have_one_convert_a_tensor(network: Network, regions: dict[str, str]) -> None:
    model = rewrite(network, regions=regions, plan={"net.body": "w8a16"})
    quantized = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    converts = [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in quantized]
    assert len(converts) == 2 + 1, (
        "s1 into the body, b3 out of it (once for both heads), and the small map's SiLU"
    )
    types = stored_types(model)
    assert types["INT32"] == 5
    assert types["UINT16"] == 7, "s1 converted, b0, b0 nudged, its gate, b1, b2, b3"
    assert types["UINT8"] == 7, "images, s0, its gate, s1, b3 converted, boxes, scores"


def test_a_16_bit_product_gets_its_second_operand_as_int16(tmp_path: Path) -> None:
    """As an export hands it over; from uint16 the compiler would take it at 8 bits, and cost it so."""
    file = toy.save_product(tmp_path)
    network = read_network(onnx.load(file))
    plan = {"stem": "w8a16", "product": "w8a16"}
    model = rewrite(network, regions=read_regions(network), plan=plan)
    onnx.checker.check_model(model, full_check=True)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    product = next(node for node in model.graph.node if node.op_type == "MatMul")
    kinds = [constants[makers[name].input[2]].dtype for name in product.input]
    assert kinds == [np.uint16, np.int16]
    assert sqnr_db(run(model)["product"], run(onnx.load(tmp_path / "float.onnx"))["product"]) > 35
    eight = rewrite(network, regions=read_regions(network), plan={"stem": "w8a16"})
    assert "INT16" not in stored_types(eight)


def test_bias_scale_is_input_times_weight(network: Network, regions: dict[str, str]) -> None:
    model = rewrite(network, regions=regions, plan={"net.body": "w4a16", "head.boxes": "w4a8"})
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in layers:
        scales = [constants[makers[name].input[1]].reshape(-1) for name in node.input]
        np.testing.assert_allclose(scales[2], scales[0] * scales[1], rtol=1e-6)
    assert stored_types(model)["INT4"] == 3


def test_refused_models(w8a8: Path, network: Network, regions: dict[str, str]) -> None:
    with pytest.raises(OptionError, match="holds no QuantizeLinear node: give its w8a8 export"):
        read_network(onnx.load(w8a8.with_name("float.onnx")))
    wide = rewrite(network, regions=regions, plan={"net.stem": "w8a16"})
    with pytest.raises(OptionError, match="activations are not at 8 bits"):
        read_network(wide)
    old = onnx.load(w8a8)
    old.opset_import[0].version = 17
    with pytest.raises(OptionError, match="opset 17, 16 bits need 21"):
        read_network(old)


def test_precisions_and_plans() -> None:
    assert parse_precisions("w8a16, fp16,w8a8,fp16") == ("w8a16", "fp16")
    for text, message in (
        ("w8a61", "unknown precision 'w8a61'; did you mean 'w8a16'"),
        ("w8a8", "names none beside"),
    ):
        with pytest.raises(OptionError, match=message):
            parse_precisions(text)
    assert check_plan({"b": "fp16", "a": "w8a8"}, regions=("a", "b")) == {"b": "fp16"}
    with pytest.raises(OptionError, match="unknown region 'steem'; did you mean 'stem'"):
        check_plan({"steem": "fp16"}, regions=("stem", "neck"))
    with pytest.raises(OptionError, match="region 'stem': unknown precision 'fp61'; did you mean 'fp16'"):
        check_plan({"stem": "fp61"}, regions=("stem", "neck"))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--target", "qcs9075", "--precisions", "w8a61"], 83, "unknown precision 'w8a61'"),
        (["--target", "qcs9057"], 79, "did you mean 'qcs9075'"),
        (["--target", "sm8650"], 84, "no latency estimate for sm8650"),
        (["--target", "qcs9075", "--workers", "0"], 83, "must be at least 1"),
    ],
)
def test_exit_codes(
    w8a8: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    assert main(["regions", str(w8a8), "--out", str(tmp_path / "cost.json"), *options]) == code
    assert message in capsys.readouterr().err


TABLE: dict[str, Any] = {
    "base_ms": 1.0,
    "base_mb": 2.0,
    "regions": {
        "a": {"w8a16": {"ms": 0.5, "mb": 0.1}, "fp16": {"ms": 1.0, "mb": 0.4}},
        "b": {"w8a16": {"ms": 0.25, "mb": 0.2}},
    },
    "refused": {"b": {"fp16": "the compiler said no"}},
    "borders": {
        "scale": {"regions": 1.0, "terms": 0.5},
        "terms": [{"regions": ["a", "b"], "precisions": ["w8a16", "w8a16"], "ms": -0.1, "mb": -0.01}],
    },
}


def test_predict() -> None:
    assert predict(TABLE, {}) == 1.0
    assert predict(TABLE, {"b": "w8a8", "a": "fp16"}) == 2.0
    assert predict(TABLE, {"b": "w8a16", "a": "w8a16"}) == pytest.approx(1 + 0.5 + 0.25 - 0.05)
    assert predict_mb(TABLE, {"b": "w8a16", "a": "w8a16"}) == pytest.approx(2 + 0.1 + 0.2 - 0.01)
    with pytest.raises(OptionError, match="region 'b' has no cost at fp16: the compiler said no"):
        predict(TABLE, {"b": "fp16"})
    with pytest.raises(OptionError, match="the table holds w8a16, fp16; measure it with --precisions w4a8"):
        predict(TABLE, {"a": "w4a8"})


def test_spearman() -> None:
    # By hand: ranks 0 1 2 3 against 0 2 1 3, 1 - 6 * 2 / (4 * 15).
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 40])) == pytest.approx(0.8)
    assert spearman(np.array([1.0, 1, 1]), np.array([1.0, 2, 3])) == 0


def test_random_plans_are_seeded_and_possible() -> None:
    drawn = random_plans(TABLE, count=20, seed=3)
    assert drawn == random_plans(TABLE, count=20, seed=3)
    assert drawn != random_plans(TABLE, count=20, seed=4)
    assert "fp16" not in {plan.get("b") for plan in drawn}


def a_bench(w8a8: Path, cache: Path) -> Bench:
    network = read_network(onnx.load(w8a8))
    compiler = Compiler(target=target("qcs9075"), cache=cache, subject=w8a8)
    return Bench(network=network, regions=read_regions(network), compiler=compiler)


def test_neighbours_in_the_order_of_the_graph(w8a8: Path, tmp_path: Path) -> None:
    found = neighbours(a_bench(w8a8, tmp_path))
    assert found == [("net.stem", "net.body"), ("net.body", "head.boxes"), ("net.body", "head.scores")]


def test_isolated_regions_add_up_to_the_network(
    w8a8: Path, network: Network, regions: dict[str, str]
) -> None:
    cut = {name: isolate(network, regions=regions, region=name) for name in NAMES}
    operators = [
        node.name
        for model in cut.values()
        for node in model.graph.node
        if "quantize" not in node.op_type.lower()
    ]
    assert sorted(operators) == sorted(regions)
    assert [value.name for value in cut["net.body"].graph.input] == ["s1"]
    for model in cut.values():
        onnx.checker.check_model(model, full_check=True)


def test_costs_are_compiled_once(w8a8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def compile(self: Compiler, data: bytes, *, options: Any) -> dict[str, Any]:
        asked.append(options["enable_htp_fp16_precision"])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return Cost(ms=1, low_ms=1, high_ms=1, mb=1, ddr_mb=0, spill_mb=0, missing_ops=0).as_dict()

    monkeypatch.setattr(Compiler, "compile", compile)
    bench = a_bench(w8a8, tmp_path)
    plans: list[dict[str, str]] = [{}, {"net.stem": "w8a16"}, {"net.stem": "fp16"}, {"net.body": "fp16"}]
    with pytest.raises(KeyboardInterrupt):
        bench.costs(plans, workers=1)
    kept = len(list(tmp_path.glob("*.json")))
    assert 2 <= kept < len(plans)
    before = len(asked)
    bench.costs(plans, workers=1)
    assert len(asked) - before == len(plans) - kept, "what was done before the interruption is not done again"
    other = replace(bench, compiler=replace(bench.compiler, optimization=2))
    other.costs(plans[:1], workers=1)
    assert len(asked) - before == len(plans) - kept + 1, "other options are another cost"


def test_a_refusal_is_kept_and_named(w8a8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(job: Any, *, limit_s: float) -> None:
        raise CompileError(f"Qualcomm's compiler refused {job.subject.name}")

    monkeypatch.setattr(costs, "run_job", refuse)
    found = a_bench(w8a8, tmp_path).cost({"net.body": "fp16"})
    assert isinstance(found, Refusal)
    monkeypatch.setattr(costs, "run_job", None)
    assert a_bench(w8a8, tmp_path).cost({"net.body": "fp16"}) == found
    with pytest.raises(CompileError, match=r"w8a8 does not compile: Qualcomm's compiler refused w8a8\.onnx"):
        accepted(found, what="w8a8")


def test_table(w8a8: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command on the toolchain, killed once on the way."""
    needs_toolchain()
    out = tmp_path / "cost.json"
    command = ["regions", str(w8a8), "--target", "qcs8550", "--out", str(out), "--plans", "3", "--isolated"]
    command += ["--precisions", "w8a16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hexpath_deploy", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    cache, limit = tmp_path / "cost.json.cache", time.monotonic() + 60
    while len(list(cache.glob("*.json"))) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("*.json")}
    assert len(kept) >= 2
    assert not out.exists()
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    check_table(read(out))
    assert "random plans compiled whole" in capsys.readouterr().out


def check_table(table: dict[str, Any]) -> None:
    assert (table["target"], table["proxy"], table["soc_model"]) == ("qcs8550", "qcs9075", 77)
    assert list(table["regions"]) == list(NAMES)
    assert table["whole"]["w8a16"]["ms"] > table["base_ms"]
    terms = {tuple(term["regions"]) for term in table["borders"]["terms"]}
    assert terms == {("net.stem", "net.body"), ("net.body", "head.boxes"), ("net.body", "head.scores")}
    assert table["fit"]["checked_plans"] == 3
    assert table["fit"]["worst_error"] < 0.1
    whole = predict(table, dict.fromkeys(NAMES, "w8a16"))
    assert whole == pytest.approx(table["whole"]["w8a16"]["ms"], rel=0.1)
    assert table["isolated"]["over_whole"] > 1
    assert set(table["tools"]) >= {"onnxruntime-qnn", "qairt"}
