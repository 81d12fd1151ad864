"""Plans: the integer programs against all plans tried, the losses' model, the command."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from hexpath_quant import cli
from hexpath_quant.errors import OutputError, PlanError, PlanningError
from hexpath_quant.planning.command import _measured_points
from hexpath_quant.planning.figures import Figures, Term, read_figures
from hexpath_quant.planning.flat import flat_plan
from hexpath_quant.planning.losses import fit_losses
from hexpath_quant.planning.solve import Solution, fastest, front, measured_front, most_accurate, thin
from hexpath_quant.plans import read_plan

REGIONS = ("stem", "neck", "boxes", "scores", "decode")
PRECISIONS = ("w8a8", "w8a16", "fp16")


def figures(seed: int = 0) -> Figures:
    """Random costs and losses with terms between neighbours and between sensitive regions."""
    draw = np.random.default_rng(seed)
    costs = {r: {"w8a8": 0.0, "w8a16": draw.uniform(0, 1), "fp16": draw.uniform(0, 1.5)} for r in REGIONS}
    drop = {r: {"w8a8": draw.uniform(0, 0.1), "w8a16": draw.uniform(0, 0.01), "fp16": 0.0} for r in REGIONS}
    near = [
        Term(when={a: (p,), b: (q,)}, value=draw.uniform(-0.3, 0.3))
        for a, b in pairwise(REGIONS)
        for p, q in product(PRECISIONS[1:], repeat=2)
    ]
    pairs = [Term(when={"boxes": ("w8a8",), "decode": ("w8a8",)}, value=-0.03)]
    return Figures(
        metric="map", base_ms=1.0, base_mb=2.0, ms=costs, mb=costs, drop=drop, ms_terms=near, drop_terms=pairs
    )


def every_plan(f: Figures):
    for choice in product(PRECISIONS, repeat=len(REGIONS)):
        plan = dict(zip(REGIONS, choice, strict=True))
        yield plan, f.latency_ms(plan), f.loss(plan)


@pytest.mark.parametrize("seed", range(4))
def test_no_plan_is_better_than_the_programs(seed):
    f = figures(seed)
    plans = list(every_plan(f))
    for limit in (0.02, 0.08, 0.2):
        found = fastest(f, max_drop=limit)
        assert found.drop <= limit + 1e-9
        assert found.ms == pytest.approx(min(ms for _, ms, drop in plans if drop <= limit), abs=1e-4)
    for budget in (1.2, 2.0, 4.0):
        found = most_accurate(f, budget_ms=budget)
        assert found.ms <= budget + 1e-9
        assert found.drop == pytest.approx(min(drop for _, ms, drop in plans if ms <= budget), abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_no_plan_dominates_the_front(seed):
    f = figures(seed)
    points = list(front(f))
    assert len(points) > 3
    assert [p.ms for p in points] == sorted(p.ms for p in points)
    assert [p.drop for p in points] == sorted((p.drop for p in points), reverse=True)
    for _, ms, drop in every_plan(f):
        for point in points:
            assert not (ms < point.ms - 1e-3 and drop < point.drop - 1e-3)


def test_a_thinned_front_keeps_its_ends():
    points = list(front(figures()))
    kept = thin(points, count=3)
    assert len(kept) == 3
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert thin(points, count=99) == points


def test_limits_that_no_plan_keeps():
    with pytest.raises(PlanningError, match=r"no plan loses at most -1.00 points; the most accurate loses"):
        fastest(figures(), max_drop=-0.01)
    with pytest.raises(PlanningError, match=r"no plan takes at most 0.1 ms; the fastest takes 1\.\d+ ms"):
        most_accurate(figures(), budget_ms=0.1)


def test_size_is_a_limit_too():
    f = figures()
    free = fastest(f, max_drop=0.02)
    small = fastest(f, max_drop=0.05, max_mb=free.mb - 0.1)
    assert small.mb <= free.mb - 0.1


# --- losses -----------------------------------------------------------------------------------------------

ALONE = {"stem": 0.001, "neck": 0.004, "boxes": 0.03, "scores": 0.002, "decode": 0.1}
TOGETHER = -0.02  # boxes and decode both at 8 bit


def true_loss(plan) -> float:
    both = plan["boxes"] == plan["decode"] == "w8a8"
    low = sum(ALONE[r] for r, p in plan.items() if p == "w8a8")
    return low + TOGETHER * both + 0.0005 * sum(p == "w8a16" for p in plan.values())


def analysis() -> dict:
    """A sensitivity analysis of a network that loses exactly ``true_loss``."""
    entries = []
    for plan, drop in (("w8a8", ALONE), ("w8a16", dict.fromkeys(REGIONS, 0.0005))):
        whole = true_loss(dict.fromkeys(REGIONS, plan))
        for region in REGIONS:
            rest = {r: "float" if r == region else plan for r in REGIONS}
            entries.append(
                {
                    "kind": "region", "name": region, "part": "both", "plan": plan, "sqnr_db": 30.0,
                    "drop_alone": drop[region], "gain_without": whole - true_loss(rest),
                }
            )  # fmt: skip
    entries += [
        {"kind": "layer", "name": f"{r}.conv{i}", "part": "both", "plan": "w8a8", "sqnr_db": 20.0 + i}
        for i, r in enumerate(REGIONS)
    ]
    quantized = {
        p: {"metrics": {"map": 0.6 - true_loss(dict.fromkeys(REGIONS, p))}} for p in ("w8a8", "w8a16")
    }
    return {
        "schema": 1, "metric": "map", "plan": "w8a8", "method": "minmax", "calibration": 8,
        "float": {"metrics": {"map": 0.6}}, "quantized": quantized, "entries": entries,
        "regions": {r: [r] for r in REGIONS},
    }  # fmt: skip


def test_losses_are_found_again():
    pairs = [
        {
            "regions": {a: "w8a16", b: "w8a16"},
            "drop": true_loss(dict.fromkeys(REGIONS, "w8a8") | {a: "w8a16", b: "w8a16"}),
        }
        for a, b in (("boxes", "decode"), ("boxes", "neck"), ("decode", "neck"))
    ]
    fitted = fit_losses(analysis(), precisions=["w8a8", "w8a16", "fp16"], measured=pairs)
    f = figures()
    f = Figures(
        metric="map", base_ms=1, base_mb=1, ms=f.ms, mb=f.mb, drop=fitted.drop,
        drop_terms=[Term(when={a: (p,), b: (q,)}, value=e) for (a, b, p, q), e in fitted.pairs.items()],
    )  # fmt: skip
    for choice in product(("w8a8", "w8a16"), repeat=len(REGIONS)):
        plan = dict(zip(REGIONS, choice, strict=True))
        assert f.loss(plan) == pytest.approx(true_loss(plan), abs=0.004), plan
    assert fitted.fit["rms"] < 0.002
    assert f.loss(dict.fromkeys(REGIONS, "fp16")) == 0


def noisy(deviation: float, *, seed: int = 0) -> dict:
    """The same analysis, each measured loss with random noise on it."""
    draw, found = np.random.default_rng(seed), analysis()
    for entry in found["entries"]:
        for key in ("drop_alone", "gain_without"):
            if key in entry:
                entry[key] += draw.normal(0, deviation)
    return found


def fitted_figures(source: dict) -> Figures:
    f, fitted = figures(), fit_losses(source, precisions=["w8a8", "w8a16"])
    costs = {r: {p: f.ms[r][p] for p in ("w8a8", "w8a16")} for r in REGIONS}
    return Figures(
        metric="map", base_ms=1, base_mb=1, ms=costs, mb=costs, drop=fitted.drop, fit=fitted.fit,
        drop_terms=[Term(when={a: (p,), b: (q,)}, value=e) for (a, b, p, q), e in fitted.pairs.items()],
        error_of=fitted.error,
    )  # fmt: skip


def test_the_noise_of_a_measured_loss_is_found():
    quiet = [fitted_figures(noisy(0.0005, seed=seed)).noise for seed in range(8)]
    loud = [fitted_figures(noisy(0.01, seed=seed)).noise for seed in range(8)]
    assert np.mean(loud) == pytest.approx(0.01, rel=0.4)
    assert np.mean(quiet) < 0.003


def test_a_plan_that_wins_by_noise_only_is_no_point_of_the_front():
    blind = steps = 0
    for seed in range(8):
        f = fitted_figures(noisy(0.01, seed=seed))
        points = list(front(f))
        assert all(a.drop - b.drop > 2 * f.noise - 1e-9 for a, b in pairwise(points))
        assert points[-1].plan["decode"] == "w8a16"  # 10 points are no noise
        for found, told in ((list(front(replace(f, fit={}))), False), (points, True)):
            by_stem = [a for a, b in pairwise(found) if changed(a.plan, b.plan) == {"stem"}]
            steps, blind = (steps + len(by_stem), blind) if told else (steps, blind + len(by_stem))
    assert steps == 0 < blind  # the stem loses 0.1 points, a tenth of the noise


def changed(a, b) -> set[str]:
    return {r for r in a if a[r] != b[r]}


def test_the_stated_error_covers_most_true_losses():
    sure = []
    for seed in range(8):
        f = fitted_figures(noisy(0.005, seed=seed))
        for choice in product(("w8a8", "w8a16"), repeat=len(REGIONS)):
            plan = dict(zip(REGIONS, choice, strict=True))
            assert f.error_of(plan) >= f.noise
            sure.append(abs(f.loss(plan) - true_loss(plan)) <= 2 * f.error_of(plan))
    assert np.mean(sure) > 0.9


def test_of_plans_that_noise_does_not_tell_apart_the_fastest_is_taken():
    f = fitted_figures(noisy(0.005))
    found = most_accurate(f, budget_ms=9.0)
    assert found.plan["decode"] == "w8a16"
    assert found.ms < f.latency_ms(dict.fromkeys(REGIONS, "w8a16"))


def cost_table(**changes) -> dict:
    f = figures()
    rows = {r: {p: {"ms": f.ms[r][p], "mb": 0.1} for p in PRECISIONS[1:]} for r in REGIONS}
    terms = [{"regions": ["stem", "neck"], "precisions": ["w8a16", "w8a16"], "ms": -0.1, "mb": 0.0}]
    table = {"schema": 1, "target": "qcs9075", "base_ms": 1.0, "base_mb": 2.0, "regions": rows}
    return table | {"borders": {"scale": {"regions": 1.0, "terms": 0.5}, "terms": terms}} | changes


@pytest.fixture
def files(tmp_path):
    (tmp_path / "s.json").write_text(json.dumps(analysis()))
    (tmp_path / "c.json").write_text(json.dumps(cost_table()))
    return ["--sensitivity", str(tmp_path / "s.json"), "--costs", str(tmp_path / "c.json")]


def test_figures_are_the_files(tmp_path, files):
    f = read_figures(sensitivity=tmp_path / "s.json", costs=tmp_path / "c.json")
    both = dict.fromkeys(REGIONS, "w8a8") | {"stem": "w8a16", "neck": "w8a16"}
    alone = figures()
    assert f.latency_ms(both) == pytest.approx(
        1 + alone.ms["stem"]["w8a16"] + alone.ms["neck"]["w8a16"] - 0.05
    )
    assert f.precisions("stem") == ["w8a8", "w8a16", "fp16"]


def test_the_front_by_command(tmp_path, files, capsys):
    out = tmp_path / "plans"
    assert cli.main(["plan", *files, "--points", "4", "--flat", "0.4", "--out", str(out)]) == 0
    record = json.loads((out / "front.json").read_text())
    assert [p["plan"] for p in record["points"]] == ["front-1", "front-2", "front-3", "front-4"]
    first, last = (read_plan(out / f"front-{i}.yaml") for i in (1, 4))
    assert not first.regions
    assert last.regions["decode"] != "w8a8"
    assert record["target"] == "qcs9075"
    assert record["float"] == 0.6
    flat = read_plan(out / "flat.yaml")
    assert flat.modules == {"flat": ("stem.conv0", "neck.conv1")}
    assert flat.regions == {"flat": "w8a16"}
    assert "front-4" in capsys.readouterr().out


def test_wishes_by_command(tmp_path, files, capsys):
    out = tmp_path / "plans"
    assert cli.main(["plan", *files, "--max-drop", "1", "--out", str(out)]) == 0
    (point,) = json.loads((out / "front.json").read_text())["points"]
    assert point["drop"] <= 0.01
    assert read_plan(out / "fastest.yaml").name == "fastest"
    assert cli.main(["plan", *files, "--budget-ms", str(point["ms"]), "--out", str(out)]) == 0
    assert read_plan(out / "most-accurate.yaml").regions == {
        r: p for r, p in point["regions"].items() if p != "w8a8"
    }
    assert cli.main(["plan", *files, "--budget-ms", "0.1", "--out", str(out)]) == 66
    assert cli.main(["plan", *files, "--pairs", "2", "--out", str(out)]) == 51
    assert "--pairs measures: it needs --task" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "code", "says"),
    [
        ("--points", "0", 51, "--points 0 is no number of plans; give at least 1"),
        ("--rounds", "-1", 51, "--rounds -1 is no number of rounds; give 0 or more"),
        ("--pairs", "1", 51, "--pairs 1 makes no pair; give 2 or more, or 0 for none"),
        ("--flat", "3", 51, "--flat 3 is no share of the layers; give e.g. 0.1"),
        ("--precisions", "w8a8,w9a9", 51, "unknown plan 'w9a9'"),
        ("--precisions", "", 51, "unknown plan ''"),
        ("--precisions", "w4a8", 64, "no precision of w4a8 has costs and losses; w8a8, w8a16, fp16 have"),
        ("--max-drop", "-1", 66, "no plan loses at most -1.00 points; the most accurate loses"),
        ("--budget-ms", "0.1", 66, "no plan takes at most 0.1 ms; the fastest takes 1.000 ms"),
    ],
)
def test_wishes_that_cannot_be(tmp_path, files, capsys, option, value, code, says):
    assert cli.main(["plan", *files, option, value, "--out", str(tmp_path / "plans")]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "plans").exists()


def test_pairs_are_measured(installed, inputs, tmp_path, capsys):
    regions = ["stem", "block", "mix", "down", "qkv", "proj", "head.boxes", "head.scores"]
    found = analysis()
    rows = [e for e in found["entries"] if e["kind"] == "region"]
    found["entries"] = [{**row, "name": r} for r in regions for row in rows if row["name"] == "stem"]
    found["regions"] = {r: [r.removeprefix("head.")] for r in regions}
    table = cost_table(
        regions={r: {"w8a16": {"ms": 0.1, "mb": 0.1}} for r in regions},
        borders={"terms": [], "scale": {"regions": 1, "terms": 1}},
    )
    (tmp_path / "s.json").write_text(json.dumps(found))
    (tmp_path / "c.json").write_text(json.dumps(table))
    arguments = [*inputs[: inputs.index("--calibration")], "--pairs", "2"]
    paths = ["--sensitivity", str(tmp_path / "s.json"), "--costs", str(tmp_path / "c.json")]
    assert cli.main(["plan", *paths, *arguments]) == 0
    (pair,) = json.loads((tmp_path / "out" / "front.json").read_text())["measured"]
    assert set(pair["regions"].values()) == {"w8a16"}
    assert pair["drop"] < 0.6
    again = [*inputs[: inputs.index("--calibration")], "--rounds", "3", "--points", "2"]
    again[again.index("--out") + 1] = str(tmp_path / "again")
    assert cli.main(["plan", *paths, *again]) == 0
    record = json.loads((tmp_path / "again" / "front.json").read_text())
    measured = [row["regions"] for row in record["measured"]]
    assert measured
    assert {} not in measured  # w8a8 everywhere is known already
    assert dict.fromkeys(regions, "w8a16") not in measured  # so is w8a16
    assert len(measured) == len({str(sorted(regions.items())) for regions in measured})
    assert record["scores"] > len(measured)
    drops = {str(sorted(row["regions"].items())): row["drop"] for row in record["measured"]}
    whole = record["float"] - found["quantized"]["w8a16"]["metrics"]["map"]
    for point in record["points"]:
        flipped = sorted((r, p) for r, p in point["regions"].items() if p != "w8a8")
        if 0 < len(flipped) < len(regions):
            assert point["drop"] == pytest.approx(drops[str(flipped)], abs=1e-5)
        elif flipped:
            assert point["drop"] == pytest.approx(whole)


def test_the_front_of_measured_plans_has_no_step_within_noise():
    def solution(ms, drop):
        return Solution(plan={}, ms=ms, mb=1.0, drop=drop, error=0.001)

    found = measured_front(
        [solution(*each) for each in ((2.0, 0.001), (1.0, 0.05), (1.5, 0.048), (1.6, 0.004), (1.7, 0.003))],
        step=0.0025,
    )
    assert [s.ms for s in found] == [1.0, 1.6, 2.0]


def test_a_wish_that_nothing_measured_keeps_is_told_to_be_a_prediction(capsys):
    f = figures()
    wish = Namespace(max_drop=100.0, budget_ms=None, max_mb=None)
    (predicted,) = _measured_points(wish, figures=f, rows=[])
    assert predicted["ms"] == pytest.approx(fastest(f, max_drop=1.0).ms, abs=1e-4)
    assert "the loss of this one is predicted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.json", "{", "is no JSON"),
        ("c.json", "{}", "is no cost table: it has no base_ms, regions, borders"),
        ("c.json", json.dumps(cost_table(regions={"stem": {}})), "know different regions"),
        ("s.json", "[]", "is no sensitivity analysis"),
    ],
)
def test_unreadable_files(tmp_path, files, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(PlanError, match=says):
        read_figures(sensitivity=tmp_path / "s.json", costs=tmp_path / "c.json")
    with pytest.raises(OutputError, match=r"cost table .*nowhere does not exist"):
        read_figures(sensitivity=tmp_path / "s.json", costs=tmp_path / "nowhere")


def test_flat_takes_the_worst_layers():
    plan = flat_plan(analysis(), share=0.2, name="flat")
    assert plan.modules == {"flat": ("stem.conv0",)}
