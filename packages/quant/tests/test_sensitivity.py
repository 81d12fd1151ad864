"""The engine computes what the simulation does; the analysis names culprits, and goes on when cut off."""

from __future__ import annotations

import json
import pickle
from importlib.metadata import EntryPoint

import joblib
import pytest
import torch
from net import SmallTask, images

from hexpath_quant import cli, task
from hexpath_quant.agreement import sqnr_db
from hexpath_quant.errors import QuantError, TaskError
from hexpath_quant.lean import LeanTwin
from hexpath_quant.sensitivity.alarm import alarms
from hexpath_quant.sensitivity.analysis import Analysis, Settings, region_of
from hexpath_quant.sensitivity.build import build_engine
from hexpath_quant.sensitivity.engine import Base, Part
from hexpath_quant.sensitivity.estimate import estimates
from hexpath_quant.sensitivity.journal import Journal
from hexpath_quant.sensitivity.noise import LOST_DB, Noise
from hexpath_quant.sensitivity.scorer import Scorer
from hexpath_quant.sensitivity.trust import trust
from hexpath_quant.sim import forward_of, quantizers


def db(reference, found):
    return min(
        sqnr_db(reference=a.detach().numpy(), found=b.detach().numpy())
        for a, b in zip(reference, found, strict=True)
    )


@pytest.fixture
def engine(make_sim):
    return build_engine(make_sim())


def test_all_or_nothing_is_the_simulation_or_the_float_net(make_sim):
    sim = make_sim("w4a8")
    engine, pictures = build_engine(sim), images(3, seed=5)
    with torch.no_grad():
        quantized = LeanTwin(sim).eval()(pictures)
        values = {base: engine.run(pictures, base=base) for base in Base}
        every = dict.fromkeys(engine.layers, Part.BOTH)
        assert db(quantized, engine.outputs(values[Base.WITHOUT])) > 100
        assert db(quantized, engine.vary(values[Base.ALONE], base=Base.ALONE, switched=every)) > 100
        float_outputs = engine.outputs(values[Base.ALONE])
        assert db(float_outputs, engine.vary(values[Base.WITHOUT], base=Base.WITHOUT, switched=every)) > 100
        assert db(quantized, float_outputs) < 30


def test_one_layer_is_what_aimet_computes_with_its_quantizers_alone(make_sim):
    sim = make_sim("w4a8")
    engine, pictures = build_engine(sim), images(3, seed=5)
    layer = "block.conv2"
    with torch.no_grad():
        values = engine.run(pictures, base=Base.ALONE)
        ours = {part: engine.vary(values, base=Base.ALONE, switched={layer: part}) for part in Part}
        keep = sim.model.get_submodule(layer)
        for _, module in sim.model.named_modules():
            if hasattr(module, "param_quantizers") and module is not keep:
                module._remove_all_quantizers()
        assert db(forward_of(sim.model)(pictures), ours[Part.BOTH]) > 100
        keep._remove_activation_quantizers()
        assert db(forward_of(sim.model)(pictures), ours[Part.WEIGHTS]) > 100
    assert db(ours[Part.BOTH], ours[Part.ACTIVATIONS]) < 60


def test_an_engine_can_be_sent_away_and_leaves_cached_values_alone(engine):
    pictures = images(2, seed=6)
    with torch.inference_mode():
        values = engine.run(pictures, base=Base.ALONE)
        before = {k: v.clone() for k, v in values.items() if isinstance(v, torch.Tensor)}
        outputs = engine.vary(values, base=Base.ALONE, switched={"stem.0": Part.BOTH})
        assert all(torch.equal(before[k], values[k]) for k in before)
        sent = pickle.loads(pickle.dumps(engine))
        again = sent.vary(
            sent.run(pictures, base=Base.ALONE), base=Base.ALONE, switched={"stem.0": Part.BOTH}
        )
    assert all(torch.equal(a, b) for a, b in zip(outputs, again, strict=True))


def test_estimates_order_layers_as_the_loss_does(make_sim):
    engine, small = build_engine(make_sim("w4a8")), SmallTask()
    batch = next(iter(small.training(batch=8, epoch=1, seed=0)))
    pictures = small.images(batch)
    teacher = [o + 0.3 * torch.randn(o.shape, generator=torch.Generator().manual_seed(1)) for o in batch[1]]
    loss = lambda outputs: small.loss(outputs, (pictures, teacher))  # noqa: E731
    found = estimates(engine, images=pictures, loss=loss)
    with torch.no_grad():
        values = engine.run(pictures, base=Base.ALONE)
        reference = engine.outputs(values)
        noise = {
            layer: -db(reference, engine.vary(values, base=Base.ALONE, switched={layer: Part.BOTH}))
            for layer in engine.layers
        }
    from scipy.stats import spearmanr

    layers = [layer for layer in engine.layers if found[layer, Part.BOTH].diagonal > 0]
    rank = spearmanr([noise[n] for n in layers], [found[n, Part.BOTH].diagonal for n in layers]).statistic
    assert rank > 0.7
    without_loss = estimates(engine, images=pictures, loss=None)
    assert set(without_loss) == set(found)


class ClassTask(SmallTask):
    """Two classes: one scored by the boxes' output, one by the scores'."""

    def evaluate(self, forward, images=None):
        per_class = self.evaluate_classes(forward, images=images)
        return {"map": sum(c["map"] for c in per_class.values()) / len(per_class)}

    def evaluate_classes(self, forward, images=None):
        pictures = globals()["images"](images or 8, seed=400)
        with torch.no_grad():
            wanted = self.teacher(pictures)
        errors = [
            float((a - b).square().mean() / b.square().mean())
            for a, b in zip(forward(pictures), wanted, strict=True)
        ]
        return {name: {"map": 1 / (1 + 20 * e)} for name, e in zip(("plane", "ship"), errors, strict=True)}


def run(tmp_path, **changes):
    settings = Settings(**{"plans": ("w8a8",), "calibration": 8, "sample": 4, "confirm": 4, **changes})
    return Analysis(ClassTask(), settings=settings, work=tmp_path)


def test_record(tmp_path):
    record = run(tmp_path, plans=("w4a8", "w8a8")).run()
    kinds = {(e["kind"], e["part"], e["plan"]) for e in record["entries"]}
    assert ("region", "both", "w8a8") in kinds
    assert ("layer", "weights", "w4a8") in kinds
    assert ("layer", "both", "w8a8") not in kinds
    regions = [e for e in record["entries"] if e["kind"] == "region" and e["part"] == "both"]
    assert all({"drop_alone", "gain_without", "sqnr_db", "cosine", "per_class"} <= set(e) for e in regions)
    assert record["float"]["metrics"]["map"] == pytest.approx(1.0)
    assert record["quantized"]["w8a8"]["metrics"]["map"] > record["quantized"]["w4a8"]["metrics"]["map"]
    assert len(record["worst"]) >= 4
    assert sum(len(members) for members in record["regions"].values()) == len(
        {e["name"] for e in record["entries"] if e["kind"] == "layer"}
    )
    assert {t["estimate"] for t in record["trust"]} >= {"fisher", "sqnr"}
    json.dumps(record, allow_nan=False)
    again = run(tmp_path, plans=("w4a8", "w8a8"))
    again._answer = None  # nothing is asked a second time
    assert again.run()["entries"] == record["entries"]


def test_confirm_0_asks_what_planning_by_region_needs(tmp_path):
    record = run(tmp_path, confirm=0, plans=("w8a8", "w8a16")).run()
    regions = [e for e in record["entries"] if e["kind"] == "region"]
    layers = [e for e in record["entries"] if e["kind"] == "layer"]
    assert {(e["plan"], e["part"]) for e in regions} == {("w8a8", "both"), ("w8a16", "both")}
    assert all({"drop_alone", "gain_without"} <= set(e) for e in regions)
    assert {e["part"] for e in layers} == {"both"}
    assert not any("drop_alone" in e or "sqnr_without_db" in e for e in layers)


def test_workers_of_a_registered_backend_give_the_same(tmp_path):
    first = run(tmp_path / "1").run()["entries"]
    with joblib.parallel_config(backend="threading"):  # as Ray's or Dask's would be; loky runs in exp_04
        second = run(tmp_path / "2", workers=2).run()["entries"]
    for a, b in zip(first, second, strict=True):
        assert a["sqnr_db"] == pytest.approx(b["sqnr_db"], abs=0.01)
        assert a.get("drop_alone", 0) == pytest.approx(b.get("drop_alone", 0), abs=1e-4)


def test_an_interrupted_analysis_goes_on(tmp_path, monkeypatch):
    first = run(tmp_path)
    answers = iter(range(30))
    real = first._answer

    def cut_off(outcome):
        if next(answers, None) is None:
            raise KeyboardInterrupt
        return real(outcome)

    first._answer = cut_off
    with pytest.raises(KeyboardInterrupt):
        first.run()
    lines = (tmp_path / "entries.jsonl").read_text().splitlines()
    assert len(lines) == 31
    with (tmp_path / "entries.jsonl").open("a") as stream:
        stream.write('{"key": "half')
    second = run(tmp_path)
    assert len(second.journal.results) == 30
    second.run()
    assert run(tmp_path, calibration=4).journal.results == {}


@pytest.mark.parametrize(("metric", "own"), [("map", "map"), ("miou", "iou")])
def test_alarm_names_class_region_and_layer_though_the_mean_looks_fine(metric, own):
    float_classes = {"car": {own: 0.8}, "bike": {own: 0.4}, "never found": {own: 0.007}}
    classes = lambda alone, without: {"bike": {"alone": alone, "without": without}, "car": {"alone": 0.8}}  # noqa: E731
    entries = [
        {"kind": "region", "name": "head", "part": "both", "plan": "w8a8", "per_class": classes(0.02, 0.39)},
        {"kind": "region", "name": "stem", "part": "both", "plan": "w8a8", "per_class": classes(0.4, 0.01)},
        {"kind": "layer", "name": "head.3", "part": "both", "plan": "w8a8", "per_class": classes(0.1, 0.3)},
    ]
    quantized = {"w8a8": {"car": {own: 0.81}, "bike": {own: 0.01}}}
    found = alarms(metric=metric, float_classes=float_classes, quantized=quantized, entries=entries)
    assert [(a["class"], a["vanished"], a["metric"]) for a in found] == [("bike", True, own)]
    assert [r["name"] for r in found[0]["regions"]] == ["head"]
    assert [r["name"] for r in found[0]["layers"]] == ["head.3"]
    gone = alarms(metric=metric, float_classes=float_classes, quantized={"w8a8": {}}, entries=[])
    assert {a["class"] for a in gone} == {"car", "bike"}


def test_trust_is_one_for_a_perfect_estimate():
    entries = [
        {"kind": "layer", "plan": "w8a8", "part": "both", "fisher": x, "sqnr_db": 1.0, "drop_alone": x**3}
        for x in (0.1, 0.3, 0.2, 0.7, 0.5)
    ]
    assert trust(entries, plan="w8a8") == [
        {"kind": "layer", "estimate": "fisher", "truth": "drop_alone", "spearman": pytest.approx(1.0), "n": 5}
    ]


def test_a_task_without_classes_or_limit(tmp_path):
    small = SmallTask()
    scorer = Scorer(small, model=small.float_model(), images=None)
    assert scorer.float.per_class == {}
    assert scorer.count == 16
    with pytest.raises(TaskError, match="cannot evaluate fewer images than its split"):
        Scorer(small, model=small.float_model(), images=4)

    class Lazy(SmallTask):
        def evaluate(self, forward):
            return {"map": 1.0}

    with pytest.raises(TaskError, match="evaluates without calling the model"):
        Scorer(Lazy(), model=small.float_model(), images=None)


def test_a_layer_without_a_region():
    assert region_of("head.0.conv", regions={"neck": ("body",), "head": ("head",)}) == "head"
    with pytest.raises(QuantError, match=r"layer tail.0 belongs to no region"):
        region_of("tail.0", regions={"head": ("head",)})


def test_journal_of_another_question_is_begun_anew(tmp_path):
    journal = Journal(tmp_path / "j.jsonl", question="a")
    journal.add("x", 1)
    assert Journal(tmp_path / "j.jsonl", question="a")["x"] == 1
    assert "x" not in Journal(tmp_path / "j.jsonl", question="b")


def test_command(monkeypatch, tmp_path, capsys):
    point = EntryPoint("small", "net:small_task", task.GROUP)
    monkeypatch.setattr(task, "entry_points", lambda group: [point])
    (tmp_path / "m").touch()
    source = ["--task", "small", "--checkpoint", str(tmp_path / "m"), "--data", str(tmp_path / "m")]
    out = tmp_path / "sensitivity.json"
    line = [
        "sensitivity",
        *source,
        "--calibration",
        "8",
        "--sample",
        "2",
        "--workers",
        "1",
        "--out",
        str(out),
    ]
    assert cli.main([*line, "--confirm", "2"]) == 0
    assert json.loads(out.read_text())["schema"] == 1
    text = capsys.readouterr().out
    assert "worst layers" in text
    assert max(map(len, text.splitlines())) <= 100
    assert cli.main([*line, "--confirm", "some"]) == 51
    assert "--confirm 'some' is neither a number nor 'all'" in capsys.readouterr().err
    assert cli.main([*line, "--plan", "w8a9"]) == 51


def test_quantizers_are_all_in_the_engine(make_sim):
    sim = make_sim()
    engine = build_engine(sim)
    grids = sum(g is not None for step in engine.steps for g in [*step.inputs, *step.outputs])
    weights = sum(step.quantized is not None for step in engine.steps)
    found = {id(q) for _, q in quantizers(sim.model)}
    assert weights + grids >= len(found)


def test_an_output_that_is_not_finite_has_figures_all_the_same():
    noise = Noise()
    one = torch.ones(4)
    noise.add(reference=[one, one], found=[torch.tensor([1.0, float("nan"), 1.0, 1.0]), one])
    assert noise.sqnr_db == LOST_DB
    assert noise.cosine == pytest.approx(0.5)
    noise = Noise()
    noise.add(reference=[one], found=[one / 0])
    assert (noise.sqnr_db, noise.cosine) == (LOST_DB, 0.0)
