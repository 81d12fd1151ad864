from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made import Made, read

from hexpath_deploy.cli import main
from hexpath_deploy.errors import RecordError, StaleArtifactError
from hexpath_deploy.record import record
from hexpath_deploy.report.results import validate


@pytest.fixture(scope="module")
def stages(made: Made, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of all stages of a float and a w8a8 plan."""
    folder = tmp_path_factory.mktemp("stages")
    coco, model = ["--coco", str(made.coco)], str(made.model)
    for arguments in (
        ["evaluate", str(made.float_model), *coco, "--out", "fp32-ort.json"],
        ["evaluate", model, *coco, "--out", "w8a8-ort.json"],
        [
            "evaluate",
            model,
            *coco,
            "--out",
            "w8a8-emulator.json",
            "--backend",
            "emulator",
            "--compiled",
            str(compiled),
            "--images",
            "4",
        ],
        ["profile", model, "--target", "qcs8550", "--out", "w8a8-profile.json"],
        [
            "agree",
            model,
            "--compiled",
            str(compiled),
            "--recorded",
            str(made.recorded),
            "--out",
            "w8a8-agree.json",
        ],
    ):
        place = arguments.index("--out") + 1
        assert main([*arguments[:place], str(folder / arguments[place]), *arguments[place + 1 :]]) == 0
    (folder / "compile.json").write_text((compiled / "compile.json").read_text())
    return folder


def spec() -> dict[str, Any]:
    """The spec that the README shows."""
    return {
        "experiment": "exp_03_qat",
        "name": "default",
        "dataset": {"fingerprint": "sha256:" + "5" * 64},
        "tools": {"torch": "2.11.0"},
        "rows": [
            {"id": "fp32", "model": "squares", "method": "fp32", "plan": "fp32", "eval": ["fp32-ort.json"]},
            {
                "id": "w8a8",
                "model": "squares",
                "method": "ptq:minmax",
                "plan": "w8a8",
                "head": "raw",
                "eval": ["w8a8-ort.json", "w8a8-emulator.json"],
                "compile": "compile.json",
                "profile": "w8a8-profile.json",
                "agree": "w8a8-agree.json",
                "seconds": {"quantize": 3.5},
            },
        ],
    }


def write(stages: Path, entry: dict[str, Any]) -> Path:
    path = stages / "spec.json"
    path.write_text(json.dumps(entry))
    return path


def test_record_satisfies_the_schema(stages: Path, tmp_path: Path) -> None:
    assert main(["record", str(write(stages, spec())), "--out", str(tmp_path / "results.json")]) == 0
    found = read(tmp_path / "results.json")
    validate(found)
    rows = {(row["id"], row["evaluated_on"]): row for row in found["results"]}
    assert set(rows) == {("fp32", "ort"), ("w8a8", "ort"), ("w8a8", "emulator")}
    emulated = rows["w8a8", "emulator"]
    assert emulated["images"] == 4
    assert emulated["same_images"]["ort"]["map50"] == pytest.approx(1)
    assert emulated["same_images"]["fp32"]["map50"] == pytest.approx(1)
    assert emulated["latency"]["source"] == "estimate"
    assert emulated["latency"]["proxy"] == "qcs9075"
    assert emulated["agreement"]["verdict"] == "pass"
    assert emulated["seconds"]["quantize"] == 3.5
    assert "latency" not in rows["fp32", "ort"], "a stage that did not run is absent"
    assert (tmp_path / emulated["artifact"]).resolve().name == "model_ctx.bin"
    assert found["tools"]["torch"] == "2.11.0"
    assert "qairt" in found["tools"]


def test_latency_without_accuracy(stages: Path, tmp_path: Path) -> None:
    entry = spec()
    entry["rows"] = [{key: value for key, value in entry["rows"][1].items() if key != "eval"}]
    found = record(write(stages, entry), out=tmp_path / "results.json")
    validate(found)
    assert len(found["results"]) == 1
    assert "metrics" not in found["results"][0]


def test_stages_of_different_models(stages: Path, tmp_path: Path) -> None:
    entry = spec()
    entry["rows"][1]["eval"] = ["fp32-ort.json"]
    with pytest.raises(StaleArtifactError, match="row 'w8a8' mixes stages of different models"):
        record(write(stages, entry), out=tmp_path / "results.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experimint": "x"}, "unknown key 'experimint'; did you mean 'experiment'"),
        ({"dataset": {}}, "names no dataset fingerprint"),
        ({"fp32": "fp3"}, "fp32 names row 'fp3'; did you mean 'fp32'"),
        ({"card": "none.json"}, "no such file .*none.json"),
        ({"rows": [{"id": "a", "model": "m", "plan": "p"}]}, "row 'a': 'method' is missing"),
        ({"rows": [spec()["rows"][0]] * 2}, "two rows 'fp32' evaluated on ort"),
    ],
)
def test_bad_spec(stages: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        record(write(stages, spec() | change), out=tmp_path / "results.json")
    assert not (tmp_path / "results.json").exists()


def test_paths_are_relative_to_the_results(stages: Path, tmp_path: Path) -> None:
    (stages / "history.csv").write_text("epoch,map\n1,0.5\n")
    (stages / "card.json").write_text(json.dumps({"fingerprint": "sha256:" + "5" * 64}))
    entry = spec() | {
        "card": "card.json",
        "curves": [{"name": "training", "path": "history.csv", "x": "epoch", "y": ["map"]}],
        "samples": [
            {
                "image": "a.png",
                "image_id": 1,
                "boxes": [
                    {"id": "w8a8", "evaluated_on": "emulator", "path": "w8a8-emulator.detections.json"}
                ],
            }
        ],
    }
    found = record(write(stages, entry), out=tmp_path / "results.json")
    validate(found)
    assert (tmp_path / found["curves"][0]["path"]).resolve() == (stages / "history.csv").resolve()
    assert (tmp_path / found["dataset"]["card"]).resolve() == (stages / "card.json").resolve()
    assert (tmp_path / found["samples"][0]["boxes"][0]["path"]).exists()


@pytest.mark.parametrize(("text", "message"), [("{", "is no JSON"), ("[]", "holds a list")])
def test_broken_stage_file(stages: Path, tmp_path: Path, text: str, message: str) -> None:
    (stages / "broken.json").write_text(text)
    entry = spec()
    entry["rows"][0]["eval"] = "broken.json"
    with pytest.raises(RecordError, match=message):
        record(write(stages, entry), out=tmp_path / "results.json")


def test_missing_detections(stages: Path, tmp_path: Path) -> None:
    broken = read(stages / "fp32-ort.json") | {"detections": "gone.json"}
    (stages / "gone-ort.json").write_text(json.dumps(broken))
    entry = spec()
    entry["rows"][0]["eval"] = "gone-ort.json"
    with pytest.raises(RecordError, match=r"detections .*gone\.json cannot be read"):
        record(write(stages, entry), out=tmp_path / "results.json")


def test_the_gates_verdict_is_in_the_record(stages: Path) -> None:
    command = [
        "gate",
        "--eval",
        "w8a8-emulator.json",
        "--fp32",
        "fp32-ort.json",
        "--profile",
        "w8a8-profile.json",
    ]
    words = [word if word.startswith("--") or word == "gate" else str(stages / word) for word in command]
    assert main([*words, "--out", str(stages / "gates.json")]) == 89
    result = record_of({**spec(), "gates": "gates.json"}, stages)
    gates = result["gates"]
    assert gates["verdict"] == "fail"
    assert {row["gate"] for row in gates["rows"]} >= {"latency_ms", "recall", "scenes"}
    assert all("explain" in row for row in gates["rows"] if row["counts_as"] != "pass")
    with pytest.raises(RecordError, match="is no verdict of gates"):
        record_of({**spec(), "gates": "fp32-ort.json"}, stages)


def record_of(entry: dict[str, Any], stages: Path) -> dict[str, Any]:
    """Write a spec and return the record of it."""
    (stages / "gated.json").write_text(json.dumps(entry))
    return record(stages / "gated.json", out=stages / "gated-results.json")
