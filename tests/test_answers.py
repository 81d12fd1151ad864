"""What the experiments of several configurations say of their figures."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
CONFIG = {"budget": {"ms": 30.0, "tight_ms": 5.0}, "at": {"imgsz": 640}}


def load(path: str) -> ModuleType:
    found = importlib.util.spec_from_file_location("loaded", EXPERIMENTS / path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def row(name: str, **metrics: float) -> dict[str, Any]:
    model, _, plan = name.rpartition("/")
    return {"id": name, "model": model or "net", "plan": plan, "evaluated_on": "ort", "metrics": metrics}


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two models at two plans: FP16 of the large one is over the tight budget."""
    monkeypatch.chdir(tmp_path)
    for name, ms in (("small/w8a8", 1.5), ("small/fp16", 4.0), ("large/w8a8", 2.0), ("large/fp16", 9.0)):
        model, plan = name.split("/")
        latency = {"value_ms": ms, "low_ms": ms * 0.9, "high_ms": ms * 1.1, "missing_ops": 0}
        held_up = {"preprocess": 4.5, "preprocess_quiet": 0.5, "postprocess": 0.5, "postprocess_quiet": 0.25}
        host = {**held_up, "cpu": "a CPU"}
        for kind, content in (("profile", {"latency": latency}), ("host", {"host_ms": host})):
            path = tmp_path / "models" / model / f"{kind}-sized" / f"{plan}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
    scores = {
        "small/fp32": 0.41,
        "small/w8a8": 0.4,
        "small/fp16": 0.41,
        "large/w8a8": 0.49,
        "large/fp16": 0.5,
    }
    results = {"results": [row(name, map=score, map50=score + 0.2) for name, score in scores.items()]}
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_each_configuration_is_kept_or_dropped_by_each_budget(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load("exp_01_baselines/verdict.py").main() == 0
    rows = {entry["id"]: entry for entry in json.loads((run_folder / "verdict.json").read_text())}
    assert list(rows) == ["large/fp16", "large/w8a8", "small/fp16", "small/w8a8"]
    assert {entry["verdict"] for entry in rows.values()} == {"keep"}
    # 0.5 + 4.4 + 0.25 with the upper bound of the estimate
    assert rows["small/fp16"]["end_to_end_high_ms"] == pytest.approx(5.15)
    tight = {name: entry["tight_verdict"] for name, entry in rows.items()}
    assert tight == {
        "large/fp16": "drop",
        "large/w8a8": "keep",
        "small/fp16": "drop",
        "small/w8a8": "keep",
    }
    assert "| large/w8a8 | 49.0 | 0.50 | 2.00 | 0.25 | 2.75 | keep | keep |" in capsys.readouterr().out
    plot = (run_folder / "verdict.svg").read_text()
    assert plot.count('<g id="point-') == 4
    assert "budget 5 ms</text>" in plot


def test_the_baselines_answer_names_the_best_within_each_budget(run_folder: Path) -> None:
    told = load("exp_01_baselines/answer.py").answer(json.loads((run_folder / "results.json").read_text()))
    first, second, parts, int8 = told["answer"]
    assert first.startswith("Within 30 ms end to end at 640 pixels: 4 of 4 configurations; the most accurate")
    assert "large/fp16 with mAP50-95 50.0 in 9.8 ms; none is dropped." in first
    assert "large/w8a8 with mAP50-95 49.0 in 2.8 ms; dropped: large/fp16, small/fp16." in second
    assert "8 to 33% of the end-to-end time" in parts
    assert "large -1.0 points and 4.5 times faster" in int8


def test_the_masks_answer_tells_what_each_branch_wins_and_costs() -> None:
    figures = {
        "fp32": (0.60, 0.50, 0.0),
        "w8a8": (0.59, 0.45, 1.0),
        "w8a16": (0.60, 0.50, 2.5),
        "masks-16": (0.59, 0.49, 1.3),
    }
    rows = [
        row(name, map=box, mask_map=mask) | {"latency": {"value_ms": ms}}
        for name, (box, mask, ms) in figures.items()
    ]
    told = load("exp_08_yolo_seg/answer.py").answer({"results": rows})
    assert told["against"] == "w8a16"
    loss, branches, bound = told["answer"]
    assert loss == "net at w8a8, mAP50-95: boxes 60.0 to 59.0, masks 50.0 to 45.0."
    assert "prototypes and coefficients +4.0 (boxes +0.0, +0.30 ms)" in branches
    assert bound.endswith("masks +5.0, boxes +1.0, at 2.5 times the estimated latency.")


def front_rows(metric: str, **figures: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of (score, ms); front points with what was foretold: 0.5 points less loss, 2% less time."""
    rows = []
    for name, (score, ms) in figures.items():
        found = row(name.replace("_", "-"), **{metric: score}) | {"latency": {"value_ms": ms}}
        if name.startswith("front"):
            found["params"] = {
                "predicted_ms": ms * 0.98,
                "predicted_drop": 0.685 - score - 0.005,
                "predicted_error": 0.002,
                f"simulation_{metric}": score + (0.005 if score < 0.6 else 0.001),
                "least_step": 0.006,
                "regions": {} if score < 0.6 else {"head.decode.boxes": "w8a16"},
            }
        rows.append(found)
    return rows


def told_of(metric: str = "map", **others: tuple[float, float]) -> list[str]:
    front = {"front_1": (0.55, 0.48), "front_2": (0.684, 0.58), "front_3": (0.684, 0.58)}
    rows = front_rows(metric, fp32=(0.685, 9.0), **front, **others)
    return list(load("exp_05_mixed_precision/answer.py").answer({"results": rows})["answer"])


def test_a_front_that_nothing_dominates_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planning" / "plans").mkdir(parents=True)
    points = [{"plan": "front-2", "regions": {"stem": "w8a8", "head.decode.boxes": "w8a16"}}]
    (tmp_path / "planning/plans/front.json").write_text(json.dumps({"float": 0.687, "points": points}))
    best, dominance, latency, loss = told_of(w8a8=(0.55, 0.48), w8a16=(0.684, 1.3), flat=(0.65, 1.1))
    assert best.startswith("front-2 (head.decode.boxes w8a16) scores 68.4 mAP50-95 of FP32's 68.5")
    assert dominance == "At no latency is the front dominated by w8a8, w8a16, flat."
    assert "2.0% in the mean, 2.0% at most, over 2 plans" in latency  # front-3 is front-2 again
    assert "front-1 13.00 ± 0.20, lost 13.20; front-2 -0.40 ± 0.20, lost 0.20" in loss
    assert "1 of 2 within two standard errors" in loss
    assert loss.endswith("The file's loss differs from its simulation's by 0.30 at most.")
    planned = {"float": 0.687, "points": points, "metric": "miou"}
    (tmp_path / "planning/plans/front.json").write_text(json.dumps(planned))
    best, *_, loss = told_of(metric="miou")
    assert best.startswith("front-2 (head.decode.boxes w8a16) scores 68.4 mIoU of FP32's 68.5")
    assert "1 of 2 within two standard errors" in loss
    points[0]["regions"]["stem"] = "w8a16"
    (tmp_path / "planning/plans/front.json").write_text(json.dumps({"float": 0.687, "points": points}))
    best, *_ = told_of()
    assert best.startswith("front-2 (w8a16 everywhere) scores")


def test_a_plan_between_two_points_of_the_front_dominates_it_too() -> None:
    _, dominance, *_ = told_of(amp=(0.60, 0.5))
    assert dominance == "Dominated: amp is 5.00 points better than any point of the front that is as fast."
    _, close, *_ = told_of(amp=(0.688, 0.6))
    assert close.startswith("At no latency is the front dominated by amp.")
    assert "Within noise (0.60 points): amp is 0.40 points better" in close


def test_the_search_of_both_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planning" / "plans").mkdir(parents=True)
    (tmp_path / "planning" / "amp").mkdir()
    (tmp_path / "planning/plans/front.json").write_text(json.dumps({"scores": 70, "seconds": 100.4}))
    (tmp_path / "planning/amp/amp.json").write_text(
        json.dumps({"outputs": 150, "scores": 12, "seconds": 200.0})
    )
    *_, effort = told_of()
    assert effort == (
        "Search: ours asked for the metric 70 times in 100 s; AIMET looked at the outputs 150 times and "
        "asked for the metric 12 times in 200 s."
    )


def test_segformer_tells_precisions_fusion_and_the_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row("fp32", miou=0.5)]
    for name, score, ms in (("w8a8", 0.49, 4.0), ("w8a8-late", 0.48, 5.0), ("w8a16", 0.5, 16.0)):
        rows.append(row(name, miou=score) | {"latency": {"value_ms": ms, "target": "qcs9075"}})
    answer = load("exp_06_segformer/answer.py").answer
    told = " ".join(answer({"results": rows})["answer"])
    assert "50.0 mIoU in FP32, 49.0 in INT8 at an estimated 4.00 ms, 50.0 in 16-bit activations" in told
    assert "takes 4.00 instead of 5.00 ms, at 49.0 and 48.0 mIoU" in told
    assert "browser" not in told
    files = {name: {"bytes": 4_000_000, "cpu_ms": 90.0} for name in ("model.onnx", "model_quantized.onnx")}
    (tmp_path / "browser").mkdir()
    (tmp_path / "browser" / "browser.json").write_text(
        json.dumps({"threads": 2, "equal_pixels": 0.991, "files": files})
    )
    assert "4.0 MB and 90 ms in ONNX Runtime on 2 cores" in " ".join(answer({"results": rows})["answer"])
    assert answer({"results": rows[:1]})["answer"][-1].startswith("In the browser's folder")


def test_terrain_tells_every_place_of_the_score_and_the_lost_classes() -> None:
    def scored(name: str, water: float) -> dict[str, Any]:
        return row(name, miou=0.5) | {"per_class": {"water": {"iou": water}}}

    ours = scored("efficientvit-w8a8", 0.01) | {"params": {"simulation_miou": 0.48}}
    npu = ours | {"evaluated_on": "emulator", "images": 4, "same_images": {"fp32": {"miou": 0.41}}}
    rows = [scored("efficientvit-fp32", 0.4), ours, npu]
    audit = {"model": "efficientvit_seg_b1", "verdict": "unsafe"}
    told = load("exp_07_terrain/answer.py").answer({"results": rows, "audits": [audit]})["answer"]
    assert told[0] == (
        "EfficientViT-B1 keeps 50.0 of its 50.0 mIoU in INT8, 48.0 in the simulation, 50.0 on the emulator "
        "where FP32 has 41.0 on the same 4 images."
    )
    assert "efficientvit-w8a8: mIoU 50.0, lost: water." in told
    assert told[-1] == "Before any training, the audit calls efficientvit_seg_b1 unsafe."


def tried(plan: str, method: str, score: float, **params: Any) -> dict[str, Any]:
    given = {"calibration_images": 64, "method_cpu_seconds": 5.0, **params}
    name = ".".join(map(str, (plan, method, *params.values())))
    return row(f"net/{name}", map=score) | {"plan": plan, "method": f"ptq:{method}", "params": given}


def test_the_methods_answer_names_the_best_and_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row("net/fp32", map=0.60),
        tried("w8a8", "minmax", 0.590),
        tried("w8a8", "sqnr", 0.585),
        tried("w4a8", "minmax", 0.40),
        tried("w4a8", "adaround", 0.55, method_cpu_seconds=61.0),
        tried("w4a8-per-tensor", "minmax", 0.20),
        *(
            tried("w8a8", "minmax", 0.58 + n / 10000, selection=how, calibration_images=n)
            for how in ("first", "cover")
            for n in (8, 32)
        ),
    ]
    told = load("exp_02_ptq/answer.py").answer({"results": rows})["answer"]
    assert "w8a8: minmax (59.0, 5 s); w4a8: adaround (55.0, min-max 40.0, 61 s)." in told[0]
    assert told[0].startswith("net, the method that keeps most mAP50-95 of FP32's 60.0")
    assert told[1] == "net, per-tensor weights against per-channel, points: w4a8 minmax -20.0."
    assert "first 58.1, cover 58.1 with 8 images; all sets lie within 0.2 points" in told[2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"results": rows}))
    methods = load("exp_02_ptq/methods.py")
    assert methods.main() == 0
    printed = capsys.readouterr().out
    assert "| adaround |  | -5.0 |  | 61 to 61 |" in printed
    assert "| w8a8, minmax | cover | -1.9 | -1.7 |" in printed
    found = {one["id"]: one for one in json.loads((tmp_path / "methods.json").read_text())}
    assert found["net/w4a8.adaround.61.0"]["gain"] == 15.0
    assert "gain" not in found["net/w8a8.minmax"]
    plot = (tmp_path / "methods.svg").read_text()
    points = re.findall(r'<g id="points">(.*?)\n   </g>', plot, re.DOTALL)
    assert [group.count("<use ") for group in points] == [1, 1]  # w8a8 sqnr, w4a8 adaround
    assert all(plot.count(f">{name}</text>") == 1 for name in ("sqnr", "adaround"))
