"""The release gates, on a made-up run: 100 images with two boxes each, every tenth at night."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import read

from hexpath_deploy.cli import main
from hexpath_deploy.errors import GatesFileError, RecordError, StaleArtifactError
from hexpath_deploy.gates import judge
from hexpath_deploy.gates.evidence import Files
from hexpath_deploy.gates.limits import SIDES, gates_of, read_limits
from hexpath_deploy.gates.matching import match_all

MODEL, BINARY, COCO = "a" * 64, "b" * 64, "c" * 64
NAMES = ("red", "green")
Run = dict[str, Any]


def box(kind: int) -> list[int]:
    """Return the box of a class: each has its own place."""
    return [8 + 32 * kind, 8, 24, 24]


def make_run() -> Run:
    """Return the files of a run that passes every gate."""
    images = [
        {
            "id": i,
            "file_name": f"{i}.png",
            "width": 64,
            "height": 64,
            "time_of_day": "day" if i % 10 else "night",
        }
        for i in range(1, 101)
    ]
    truth = [
        {"image_id": i, "category_id": kind, "bbox": box(kind)} for i in range(1, 101) for kind in (0, 1)
    ]
    found = [{**entry, "score": 0.9 - 0.001 * entry["image_id"]} for entry in truth]
    scores = {
        "metrics": {"map50": 1.0, "map": 1.0},
        "per_class": {n: {"map50": 1.0, "map": 1.0} for n in NAMES},
    }
    evaluation = {
        "schema": 1,
        "evaluated_on": "emulator",
        "image_ids": list(range(1, 101)),
        "model_sha256": MODEL,
        "sha256": BINARY,
        "coco": "val.json",
        "coco_sha256": COCO,
        "settings": {"detections": 300},
        "host_ms": {"preprocess": 1.0, "network": 60.0, "postprocess": 2.0},
        "detections": "eval.detections.json",
        **scores,
    }
    return {
        "val.json": {
            "info": {},
            "images": images,
            "categories": [{"id": place, "name": name} for place, name in enumerate(NAMES)],
            "annotations": truth,
        },
        "eval.json": evaluation,
        "eval.detections.json": found,
        "fp32.json": {
            **evaluation,
            "evaluated_on": "ort",
            "model_sha256": "f" * 64,
            "detections": "fp32.detections.json",
        },
        "fp32.detections.json": [dict(entry) for entry in found],
        "profile.json": {
            "model_sha256": MODEL,
            "latency": {
                "value_ms": 2.0,
                "low_ms": 1.5,
                "high_ms": 2.5,
                "source": "estimate",
                "target": "qcs9075",
                "missing_ops": 0,
            },
            "ddr_mb": 3.0,
            "spill_mb": 0.0,
        },
        "compiled/compile.json": {
            "model_sha256": MODEL,
            "binary_sha256": BINARY,
            "target": "qcs9075",
            "size_mb": 3.0,
            "dlc_mb": 3.5,
            "npu_ops": 10,
            "cpu_ops": 0,
            "ops": [{"type": "Conv2d", "count": 10, "on": "npu"}],
        },
        "agree.json": {
            "model_sha256": MODEL,
            "artifact_sha256": BINARY,
            "images": 4,
            "comparisons": {
                "artifact": [{"name": "scores", "sqnr_db": 33.0, "min_sqnr_db": 20.0}],
                "recorded": [{"name": "scores", "sqnr_db": 31.0, "min_sqnr_db": 20.0}],
            },
        },
    }


def write(run: Run, folder: Path) -> list[str]:
    """Write a run; returns the options of `gate`."""
    for name, value in run.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    options = {"eval": "eval.json", "fp32": "fp32.json", "profile": "profile.json", "agree": "agree.json"}
    words = [
        word for name, file in options.items() if file in run for word in (f"--{name}", str(folder / file))
    ]
    compiled = ["--compiled", str(folder / "compiled")] if "compiled/compile.json" in run else []
    return ["gate", *words, *compiled, "--out", str(folder / "gates.json")]


def test_a_good_model_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(write(make_run(), tmp_path)) == 0
    verdict = read(tmp_path / "gates.json")
    assert verdict["verdict"] == "pass"
    assert {row["gate"] for row in verdict["gates"]} == set(gates_of("detect")), "every gate has its row"
    assert all(row["source"] and row["basis"] for row in verdict["gates"]), "a figure says where it stands"
    latency = next(row for row in verdict["gates"] if row["gate"] == "latency_ms")
    assert latency["figure"] == pytest.approx(1.0 + 2.5 + 2.0), "the estimate counts with its upper bound"
    assert "pass" in capsys.readouterr().out
    assert main(["gate", "--judged", str(tmp_path / "gates.json")]) == 0


def on_a_board(run: Run) -> None:
    """What --backend device writes: a distribution and memory, no traffic."""
    latency = {"value_ms": 2.0, "p99_ms": 3.5, "source": "measured", "target": "qcs9075"}
    run["profile.json"] = {"model_sha256": MODEL, "latency": latency, "peak_memory_mb": 90.0}


@pytest.mark.parametrize(("gate", "figure"), [("latency_ms", 1.0 + 3.5 + 2.0), ("memory_mb", 90.0)])
def test_a_measurement_counts_with_its_tail(tmp_path: Path, gate: str, figure: float) -> None:
    run = make_run()
    on_a_board(run)
    assert main(write(run, tmp_path)) == 0
    found = next(row for row in read(tmp_path / "gates.json")["gates"] if row["gate"] == gate)
    assert found["figure"] == pytest.approx(figure)
    assert "measured" in found["basis"]


def no_memory(run: Run) -> None:
    on_a_board(run)
    del run["profile.json"]["peak_memory_mb"]


def emulated(run: Run) -> None:
    on_a_board(run)
    run["profile.json"]["latency"]["source"] = "emulated"


def slow(run: Run) -> None:
    run["profile.json"]["latency"]["high_ms"] = 40.0


def left_out(run: Run) -> None:
    run["profile.json"]["latency"]["missing_ops"] = 3


def big(run: Run) -> None:
    run["compiled/compile.json"]["dlc_mb"] = 25.0


def hungry(run: Run) -> None:
    run["profile.json"]["ddr_mb"] = 600.0


def shy(run: Run) -> None:
    """Half of the green squares are found only at a score of 0.1."""
    for entry in run["eval.detections.json"]:
        if entry["category_id"] == 1 and entry["image_id"] % 2:
            entry["score"] = 0.1


def blind(run: Run) -> None:
    run["eval.detections.json"] = [e for e in run["eval.detections.json"] if e["category_id"] == 0]


def noisy(run: Run) -> None:
    """A false alarm of score 0.3 and one of 0.4 in each image."""
    extra = [
        {"image_id": i, "category_id": 0, "bbox": [40, y, 8, 8], "score": score}
        for i in range(1, 101)
        for y, score in ((40, 0.3), (50, 0.4))
    ]
    run["eval.detections.json"] += extra


def no_night(run: Run) -> None:
    for image in run["val.json"]["images"]:
        del image["time_of_day"]


def short_night(run: Run) -> None:
    for image in run["val.json"]["images"][:50]:
        image["time_of_day"] = "day"


def dark(run: Run) -> None:
    run["eval.detections.json"] = [e for e in run["eval.detections.json"] if e["image_id"] % 10]


def few(run: Run) -> None:
    run["eval.json"]["image_ids"] = list(range(1, 41))


def on_cpu(run: Run) -> None:
    run["compiled/compile.json"] |= {"cpu_ops": 2, "ops": [{"type": "TopK", "count": 2, "on": "cpu"}]}


def nothing_counted(run: Run) -> None:
    run["compiled/compile.json"]["npu_ops"] = 0


def apart(run: Run) -> None:
    run["agree.json"]["comparisons"]["artifact"][0]["sqnr_db"] = 12.0
    run["agree.json"]["cause"] = "input channels are swapped"


def lossy(run: Run) -> None:
    run["eval.json"]["metrics"]["map"] = 0.9
    run["eval.json"]["per_class"]["green"]["map"] = 0.8


def collapsed(run: Run) -> None:
    del run["eval.json"]["per_class"]["green"]


def unseen(run: Run) -> None:
    run["val.json"]["annotations"] = [e for e in run["val.json"]["annotations"] if e["category_id"] == 0]
    run["eval.detections.json"] = [e for e in run["eval.detections.json"] if e["category_id"] == 0]


def no_traffic(run: Run) -> None:
    del run["profile.json"]["ddr_mb"]


def on_ort(run: Run) -> None:
    run["eval.json"] |= {"evaluated_on": "ort", "sha256": MODEL}


def no_dataset(run: Run) -> None:
    del run["eval.json"]["coco"]


def without(name: str) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        del run[name]

    return change


@pytest.mark.parametrize(
    ("change", "gate", "subject", "verdict", "advice"),
    [
        (
            slow,
            "latency_ms",
            "",
            "fail",
            r"13\.00 ms over; inference takes 40\.00 of 43\.00 ms: passes when it runs 1\.5 times",
        ),
        (left_out, "latency_ms", "", "unknown", "profile on the device"),
        (emulated, "latency_ms", "", "unknown", ""),
        (emulated, "memory_mb", "", "unknown", ""),
        (no_memory, "memory_mb", "", "unknown", ""),
        (big, "size_mb", "", "fail", r"5\.00 MB over; the largest part is dlc_mb, 25\.00 MB"),
        (hungry, "memory_mb", "", "fail", "largest part is DDR traffic"),
        (
            shy,
            "recall",
            "green",
            "fail",
            r"at threshold 0\.100 recall is 1\.000, and precision 1\.000; 35 boxes more",
        ),
        (
            blind,
            "recall",
            "green",
            "fail",
            "no threshold reaches it: 0 of 100 boxes are found at any score, 85 needed",
        ),
        (blind, "precision", "green", "unknown", "give it a figure"),
        (
            noisy,
            "precision",
            "red",
            "fail",
            r"at threshold 0\.800 precision is 1\.000, and recall 1\.000; thresholds from",
        ),
        (
            noisy,
            "false_positives_per_image",
            "",
            "fail",
            r"most are 'red' \(200\); passes at threshold 0\.400",
        ),
        (no_night, "night_map50", "", "unknown", "--meta file|waive"),
        (
            short_night,
            "night_map50",
            "",
            "unknown",
            "evaluate more images of these times: the artifact saw 5 of 100",
        ),
        (dark, "night_map50", "", "fail", r"70\.0 points short; weakest class 'red' at 0\.0"),
        (few, "scenes", "", "fail", "evaluate 60 more: evaluate --images 100"),
        (on_cpu, "cpu_operators", "", "fail", "replace TopK, or cut the graph"),
        (nothing_counted, "cpu_operators", "", "unknown", "give it a figure"),
        (apart, "agreement_db", "", "fail", r"output 'scores' is 8\.0 dB short; input channels are swapped"),
        (lossy, "map_loss", "", "fail", r"8\.0 points too many; 'green' loses most \(20\.0\)"),
        (lossy, "class_map_loss", "green", "fail", r"16\.0 points too many"),
        (collapsed, "class_collapse", "green", "fail", r"keeps 0 of 50% needed"),
        (unseen, "recall", "green", "unknown", "evaluate images that hold this class"),
        (on_ort, "recall", "", "unknown", "evaluate with --backend emulator"),
        (on_ort, "map_loss", "", "unknown", "evaluate with --backend emulator"),
        (no_traffic, "memory_mb", "", "unknown", "give it a figure"),
        (no_dataset, "recall", "", "unknown", "waive the gate"),
        (without("fp32.json"), "map_loss", "", "unknown", "give its file with --fp32"),
        (without("agree.json"), "agreement_db", "", "unknown", "run hexpath-deploy agree"),
        (without("profile.json"), "latency_ms", "", "unknown", "run hexpath-deploy profile"),
        (without("compiled/compile.json"), "size_mb", "", "unknown", "run hexpath-deploy compile"),
        (without("eval.json"), "scenes", "", "unknown", "run hexpath-deploy evaluate"),
    ],
)
def test_each_gate_fails_and_says_what_would_help(
    tmp_path: Path, change: Callable[[Run], None], gate: str, subject: str, verdict: str, advice: str
) -> None:
    import re

    run = make_run()
    change(run)
    assert main([*write(run, tmp_path), "--explain"]) == 89
    rows = read(tmp_path / "gates.json")["gates"]
    row = next(row for row in rows if row["gate"] == gate and row.get("subject", "") == subject)
    assert row["verdict"] == verdict
    assert re.search(advice, row["explain"]), row["explain"]


def test_nothing_given_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--out", str(tmp_path / "gates.json")]) == 89
    assert read(tmp_path / "gates.json")["counts"] == {"unknown": len(gates_of("detect"))}
    error = capsys.readouterr().err
    assert "release gates: 13 have no figure (latency_ms, " in error
    assert len(error.splitlines()) == 1


def test_verdict_only_exits_with_success(tmp_path: Path) -> None:
    assert main(["gate", "--out", str(tmp_path / "gates.json"), "--verdict-only"]) == 0
    assert main(["gate", "--judged", str(tmp_path / "gates.json")]) == 89


def gates_file(path: Path, *changes: tuple[str, str]) -> Path:
    """Write the package's gates.toml with some text replaced."""
    import importlib.resources as resources

    text = resources.files("hexpath_deploy.gates").joinpath("gates.toml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def test_unknown_is_waived_only_with_a_reason_and_a_failure_never(tmp_path: Path) -> None:
    waived = ("images = 10\n", 'images = 10\nrequired = false\nreason = "indoors"\n')
    gates = gates_file(tmp_path / "mine.toml", waived)
    run = make_run()
    no_night(run)
    assert main([*write(run, tmp_path), "--gates", str(gates)]) == 0
    row = next(row for row in read(tmp_path / "gates.json")["gates"] if row["gate"] == "night_map50")
    assert (row["verdict"], row["counts_as"], row["waived"]) == ("unknown", "pass", "indoors")
    run = make_run()
    dark(run)
    assert main([*write(run, tmp_path), "--gates", str(gates)]) == 89, "a known figure is judged all the same"


def test_limits_of_single_classes_and_the_best_threshold(tmp_path: Path) -> None:
    gates = gates_file(
        tmp_path / "mine.toml",
        ("threshold = 0.25", 'threshold = "best-f1"'),
        ("[precision]", "[recall.classes]\ngreen = 0.2\n\n[precision]"),
    )
    run = make_run()
    noisy(run)
    assert main([*write(run, tmp_path), "--gates", str(gates)]) == 0
    verdict = read(tmp_path / "gates.json")
    assert verdict["threshold"] == pytest.approx(0.8), "below every hit, above every false alarm"
    limits = {row.get("subject"): row["limit"] for row in verdict["gates"] if row["gate"] == "recall"}
    assert limits == {"red": 0.85, "green": 0.2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[recall]", "[recal]"), "unknown 'recal'; did you mean 'recall'"),
        (("max = 30.0", "maxx = 30.0"), r"\[latency_ms\]: unknown 'maxx'; did you mean 'max'"),
        (("max = 30.0", 'max = "30"'), "expected a number, found '30'"),
        (("max = 30.0", "max = nan"), "expected a number, found nan"),
        (("max = 30.0", ""), r"\[latency_ms\]: 'max' is missing"),
        (("max = 30.0", "max = 30.0\nrequired = false"), "required = false needs a reason"),
        (("max = 30.0", "max = 30.0\nrequired = 1"), "required is true or false"),
        (("threshold = 0.25", "threshold = 1.5"), "1.5 does not lie between 0 and 1"),
        (("threshold = 0.25", 'threshold = "best"'), "'best' is no number; did you mean 'best-f1'"),
        (('times = ["night"]', 'times = "night"'), "expected list, found 'night'"),
        (("[general]", "[general"), "is no TOML"),
        (("[scenes]", "[night_map50.scenes]"), r"unknown 'scenes'|has no \[scenes\]"),
    ],
)
def test_limits_that_cannot_be_read(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(GatesFileError, match=message):
        read_limits(gates_file(tmp_path / "mine.toml", change))


def test_a_gate_cannot_be_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text("[latency_ms]\nmax = 30\n")
    assert main(["gate", "--gates", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "o.json")]) == 87
    assert "has no [size_mb]: give every gate of task 'detect' a limit" in capsys.readouterr().err
    (tmp_path / "flat.toml").write_text(
        "latency_ms = 30\n" + "".join(f"[{n}]\n" for n in SIDES if n != "latency_ms")
    )
    with pytest.raises(GatesFileError, match="expected a table with max = NUMBER, found 30"):
        read_limits(tmp_path / "flat.toml")
    with pytest.raises(GatesFileError, match="no such gates file"):
        read_limits(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("file", "key", "message"),
    [
        ("profile.json", "model_sha256", "of different models .*profile 0000"),
        ("agree.json", "artifact_sha256", "of different artifacts .*agree 0000"),
        ("fp32.json", "coco_sha256", "of different datasets"),
    ],
)
def test_files_of_different_models_are_refused(tmp_path: Path, file: str, key: str, message: str) -> None:
    run = make_run()
    run[file][key] = "0" * 64
    assert main(write(run, tmp_path)) == 81
    files = Files(
        evaluation=tmp_path / "eval.json",
        fp32=tmp_path / "fp32.json",
        profile=tmp_path / "profile.json",
        agree=tmp_path / "agree.json",
        compiled=tmp_path / "compiled/compile.json",
    )
    with pytest.raises(StaleArtifactError, match=message):
        judge(files, gates=None, out=tmp_path / "gates.json")


def test_time_of_day_from_a_file(tmp_path: Path) -> None:
    run = make_run()
    no_night(run)
    lines = [json.dumps({"file_name": f"val/{i}.png", "time_of_day": "night"}) for i in range(1, 21)]
    (tmp_path / "meta.jsonl").write_text(
        "\n".join([*lines, "", json.dumps({"file_name": "x", "time_of_day": "day"})])
    )
    assert main([*write(run, tmp_path), "--meta", str(tmp_path / "meta.jsonl")]) == 0
    row = next(row for row in read(tmp_path / "gates.json")["gates"] if row["gate"] == "night_map50")
    assert row["note"] == "20 images of night"


def test_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = write(make_run(), tmp_path)
    (tmp_path / "meta.jsonl").write_text('{"file_name": "1.png"}\n')
    assert main([*command, "--meta", str(tmp_path / "meta.jsonl")]) == 86
    assert "line 1: expected an object with file_name and time_of_day" in capsys.readouterr().err
    assert main([*command, "--meta", str(tmp_path / "none.jsonl")]) == 86
    assert "--meta takes JSON lines" in capsys.readouterr().err
    (tmp_path / "eval.detections.json").write_text("{}")
    assert main(command) == 86
    assert "expected a list of COCO results" in capsys.readouterr().err
    (tmp_path / "eval.detections.json").unlink()
    assert main(command) == 86
    assert "cannot be read" in capsys.readouterr().err
    assert main(["gate", "--judged", str(tmp_path / "profile.json")]) == 86
    assert "is no verdict of gates" in capsys.readouterr().err
    assert main(["gate"]) == 83
    assert "gate needs --out" in capsys.readouterr().err
    with pytest.raises(RecordError, match="no such file"):
        judge(Files(profile=tmp_path / "none.json"), gates=None, out=tmp_path / "gates.json")


def test_the_best_threshold_that_passes(tmp_path: Path) -> None:
    """Where F1 is highest, half of the green boxes are lost; below, all are found for a few false alarms."""
    run = make_run()
    shy(run)
    extra = [{"image_id": i, "category_id": 0, "bbox": [40, 40, 8, 8], "score": 0.2} for i in range(1, 91)]
    extra += [{**entry, "category_id": 1} for entry in extra]
    run["eval.detections.json"] += extra[:95]
    gates = gates_file(tmp_path / "mine.toml", ("[precision]\nmin = 0.80", "[precision]\nmin = 0.5"))
    command = [*write(run, tmp_path), "--gates", str(gates)]
    assert main([*command, "--threshold", "0.5"]) == 89
    assert main([*command, "--threshold", "passing"]) == 0
    assert read(tmp_path / "gates.json")["threshold"] == pytest.approx(0.1)
    blind(run)
    assert main([*write(run, tmp_path), "--threshold", "passing"]) == 89, "none passes: as best-f1"


def test_threshold_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = write(make_run(), tmp_path)
    assert main([*command, "--threshold", "0.85"]) == 89, "half of the boxes are found at lower scores"
    assert read(tmp_path / "gates.json")["threshold"] == 0.85
    assert main([*command, "--threshold", "best-f1"]) == 0
    assert main([*command, "--threshold", "best"]) == 87
    assert "'best' is no number; did you mean 'best-f1'" in capsys.readouterr().err


def test_print_gates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--print-gates"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    assert read_limits(tmp_path / "mine.toml").gates["latency_ms"].value == 30


def test_matching_is_one_to_one_and_agrees_with_pycocotools(tmp_path: Path) -> None:
    """Random boxes, moved and doubled, some of them crowds: the same counts as COCOeval at IoU 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from hexpath_deploy.coco import boxes_of, read_split

    rng = np.random.default_rng(0)
    truth, found = [], []
    for image in range(1, 21):
        for _ in range(6):
            place = [*rng.uniform(0, 40, 2).round(1).tolist(), *rng.uniform(8, 24, 2).round(1).tolist()]
            truth.append(
                {
                    "image_id": image,
                    "category_id": int(rng.integers(2)),
                    "bbox": place,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(int(rng.integers(0, 3))):
                moved = [*(np.array(place) + rng.normal(0, 2, 4)).round(1).tolist()]
                found.append(
                    {
                        "image_id": image,
                        "category_id": truth[-1]["category_id"],
                        "bbox": moved,
                        "score": float(rng.random()),
                    }
                )
    run = make_run()
    data = {**run["val.json"], "images": run["val.json"]["images"][:20], "annotations": truth}
    (tmp_path / "val.json").write_text(json.dumps(data))
    split = read_split(tmp_path / "val.json")
    ours = match_all(split, found, image_ids=range(1, 21), iou=0.5)
    coco = COCO()
    coco.dataset = {**data, "annotations": boxes_of(split)}
    coco.createIndex()
    judge_ = COCOeval(coco, coco.loadRes([dict(entry) for entry in found]), "bbox")
    judge_.evaluate()
    for category, name in enumerate(NAMES):
        theirs = [e for e in judge_.evalImgs if e and e["category_id"] == category and e["aRng"] == [0, 1e10]]
        kept = [(np.array(e["dtMatches"])[0], np.array(e["dtIgnore"])[0].astype(bool)) for e in theirs]
        hits = sum(int(((match > 0) & ~ignored).sum()) for match, ignored in kept)
        assert ours[name].counts(0)[0] == hits
        assert len(ours[name].scores) == sum(int((~ignored).sum()) for _, ignored in kept)
        assert ours[name].boxes == sum(int((np.array(e["gtIgnore"]) == 0).sum()) for e in theirs)


def make_instances() -> Run:
    """The same run of a network for instance masks: each fills its box."""
    run = make_run()
    for entry in run["val.json"]["annotations"]:
        x, y, width, height = entry["bbox"]
        outline = [x, y, x + width, y, x + width, y + height, x, y + height]
        entry |= {"segmentation": [outline], "area": width * height}
    for name in ("eval.detections.json", "fp32.detections.json"):
        run[name] = [{**e, "segmentation": coded(e["bbox"])} for e in run[name]]
    for name in ("eval.json", "fp32.json"):
        both = {"map50": 1.0, "map": 1.0, "mask_map50": 1.0, "mask_map": 1.0}
        run[name] |= {"task": "segment", "metrics": dict(both), "per_class": {n: dict(both) for n in NAMES}}
    return run


def coded(bbox: list[int]) -> dict[str, Any]:
    from hexpath_deploy.coco import encode
    from hexpath_deploy.reference.hexpath_reference import Mask

    x, y, width, height = bbox
    (found,) = encode([Mask(inside=np.ones((height, width), bool), x=x, y=y)], shape=(64, 64))
    return found


def masks_lost(run: Run) -> None:
    """Boxes stay as they are; green's masks are poor."""
    run["eval.json"]["metrics"]["mask_map"] = 0.8
    run["eval.json"]["per_class"]["green"] |= {"mask_map": 0.6, "mask_map50": 0.3}


@pytest.mark.parametrize(
    ("gate", "subject", "advice"),
    [
        ("mask_map_loss", "", r"18\.0 points too many; 'green' loses most \(40\.0\)"),
        ("class_mask_map_loss", "green", r"36\.0 points too many"),
        ("class_collapse", "green", r"keeps 30 of 50% needed"),
    ],
)
def test_instance_masks_have_gates_of_their_own(tmp_path: Path, gate: str, subject: str, advice: str) -> None:
    import re

    run = make_instances()
    assert main(write(run, tmp_path)) == 0
    rows = read(tmp_path / "gates.json")["gates"]
    assert {row["gate"] for row in rows} == set(gates_of("segment"))
    assert {"map_loss", "mask_map_loss", "recall"} <= set(gates_of("segment"))
    masks_lost(run)
    assert main([*write(run, tmp_path), "--explain"]) == 89
    rows = read(tmp_path / "gates.json")["gates"]
    row = next(row for row in rows if row["gate"] == gate and row.get("subject", "") == subject)
    assert row["verdict"] == "fail"
    assert re.search(advice, row["explain"]), row["explain"]
    assert next(row for row in rows if row["gate"] == "map_loss")["verdict"] == "pass", "the boxes are fine"


def make_semantic(folder: Path) -> Run:
    """The same run of a semantic network: each mask has 90 pixels of red and 10 of green."""
    for kind in ("images", "masks"):
        (folder / kind / "val").mkdir(parents=True, exist_ok=True)
        for i in range(1, 101):
            (folder / kind / "val" / f"{i:03}.png").touch()
    (folder / "data.yaml").write_text(
        "path: .\nval: images/val\nmasks: {val: masks/val}\nnames: {0: red, 1: green}\n"
    )
    lines = [
        json.dumps({"file_name": f"{i:03}.png", "time_of_day": "day" if i % 10 else "night"})
        for i in range(1, 101)
    ]
    (folder / "meta.jsonl").write_text("\n".join(lines))
    run = make_run()
    del run["val.json"]
    for name in ("eval", "fp32"):
        record = run[f"{name}.json"]
        for key in ("coco", "coco_sha256"):
            del record[key]
        record |= {"task": "semantic", "data": "data.yaml", "split": "val", "names": list(NAMES)}
        record |= {"data_sha256": "d" * 64, "settings": {}}
        record["metrics"] = {"miou": 1.0, "pixel_accuracy": 1.0}
        record["per_class"] = {kind: {"iou": 1.0} for kind in NAMES}
        run[f"{name}.detections.json"] = [
            {"image_id": i, "confusion": [[0, 0, 90], [1, 1, 10]]} for i in range(1, 101)
        ]
    return run


def confused(run: Run) -> None:
    """INT8 calls all of green red: a class is gone, most pixels are still right."""
    run["eval.json"]["metrics"] = {"miou": 0.45, "pixel_accuracy": 0.9}
    run["eval.json"]["per_class"] = {"red": {"iou": 0.9}, "green": {"iou": 0.0}}
    for row in run["eval.detections.json"]:
        row["confusion"] = [[0, 0, 90], [1, 0, 10]]


def never_learned(run: Run) -> None:
    confused(run)
    for row in run["fp32.detections.json"]:
        row["confusion"] = [[0, 0, 90], [1, 0, 10]]


def dark_masks(run: Run) -> None:
    for row in run["eval.detections.json"]:
        if row["image_id"] % 10 == 0:
            row["confusion"] = [[0, 1, 90], [1, 1, 10]]


def other_task(run: Run) -> None:
    run["fp32.json"]["task"] = "detect"


@pytest.mark.parametrize(
    ("change", "gate", "subject", "verdict", "advice"),
    [
        (confused, "miou_loss", "", "fail", r"53\.0 points too many; 'green' loses most \(100\.0\)"),
        (confused, "class_iou_loss", "green", "fail", r"96\.0 points too many"),
        (confused, "class_iou", "green", "fail", r"50\.0 points short, FP32 has 100\.0: 16 bits for"),
        (confused, "class_collapse", "green", "fail", r"keeps 0 of 50% needed"),
        (never_learned, "class_iou", "green", "fail", r"and so is FP32 \(0\.0\): train on more"),
        (never_learned, "class_collapse", "green", "unknown", "give it a figure"),
        (dark_masks, "night_miou", "", "fail", r"45\.0 points short; weakest class 'red' at 0\.0"),
        (few, "scenes", "", "fail", "evaluate 60 more: evaluate --images 100"),
        (on_ort, "miou_loss", "", "unknown", "evaluate with --backend emulator"),
        (without("fp32.json"), "miou_loss", "", "unknown", "give its file with --fp32"),
    ],
)
def test_semantic_masks_have_gates_of_their_own(
    tmp_path: Path, change: Callable[[Run], None], gate: str, subject: str, verdict: str, advice: str
) -> None:
    import re

    run, meta = make_semantic(tmp_path), ["--meta", str(tmp_path / "meta.jsonl")]
    assert main([*write(run, tmp_path), *meta]) == 0
    passed = read(tmp_path / "gates.json")
    assert {row["gate"] for row in passed["gates"]} == set(gates_of("semantic"))
    assert not {"recall", "map_loss", "night_map50"} & set(gates_of("semantic"))
    assert "threshold" not in passed, "a class map has none"
    change(run)
    for stale in ("fp32.json", "eval.json"):
        (tmp_path / stale).unlink(missing_ok=True)
    assert main([*write(run, tmp_path), *meta, "--explain"]) == 89
    rows = read(tmp_path / "gates.json")["gates"]
    row = next(row for row in rows if row["gate"] == gate and row.get("subject", "") == subject)
    assert row["verdict"] == verdict
    assert re.search(advice, row["explain"]), row["explain"]


def test_files_of_two_tasks_are_refused(tmp_path: Path) -> None:
    run = make_semantic(tmp_path)
    other_task(run)
    words = write(run, tmp_path)
    with pytest.raises(StaleArtifactError, match="are of different tasks"):
        judge(Files(evaluation=tmp_path / "eval.json", fp32=tmp_path / "fp32.json"), gates=None, out=tmp_path)
    assert main(words) == 81


def test_every_gate_of_the_task_must_stand_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates = gates_file(tmp_path / "mine.toml", ("[miou_loss]", "[ignored]"))
    text = gates.read_text()
    start = text.index("[ignored]")
    gates.write_text(text[:start] + text[text.index("[class_iou_loss]") :])
    run = make_semantic(tmp_path)
    meta = ["--meta", str(tmp_path / "meta.jsonl"), "--gates", str(gates)]
    assert main([*write(run, tmp_path), *meta]) == 87
    assert "has no [miou_loss]: give every gate of task 'semantic' a limit" in capsys.readouterr().err
    assert set(SIDES) == set().union(*map(gates_of, ("detect", "segment", "semantic")))
