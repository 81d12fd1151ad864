from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import Made, needs_toolchain, read

from hexpath_deploy.cli import main
from hexpath_deploy.errors import CompileError, OptionError, ToolchainCrashError
from hexpath_deploy.fidelity.compare import Candidate, by_precision, check_precision, parse_candidates
from hexpath_deploy.fidelity.measured import complete, measured
from hexpath_deploy.fidelity.published import figures, published
from hexpath_deploy.report.known_error import known_error
from hexpath_deploy.targets import targets


def test_published_figures() -> None:
    # perf.yaml of yolov11_det, AI Hub Models 0.65.0: w8a16 on IQ-9075 as a DLC.
    found = figures(network="yolo11n-640", precision="w8a16", targets=("qcs9075",))
    assert {row.runtime: row.ms for row in found} == {"onnx": 5.753, "qnn_dlc": 4.436}
    assert {row.target for row in published()} <= set(targets())
    assert all(row.ms > 0 and row.release for row in published())


@pytest.mark.parametrize(
    ("network", "precision", "target", "message"),
    [
        ("yolo11m-640", "w8a8", "qcs9075", "no published latency for network 'yolo11m-640'; did you mean"),
        ("yolo11n-seg-640", "w8a8", "qcs9075", "yolo11n-seg-640 is not published at 'w8a8'"),
        ("yolo26n-640", "w8a16", "sm8650", "is published for .*, not for sm8650: change --targets"),
    ],
)
def test_unpublished(network: str, precision: str, target: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        figures(network=network, precision=precision, targets=(target,))


def test_candidates(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"holds no file such as yolo11n-640-w8a8\.onnx"):
        parse_candidates([], folder=tmp_path)
    (tmp_path / "segformer-b0-512-fp16.onnx").touch()
    found = parse_candidates(["yolo11n-640-w8a8=m.onnx"], folder=tmp_path)
    assert [(each.network, each.precision) for each in found] == [
        ("yolo11n-640", "w8a8"),
        ("segformer-b0-512", "fp16"),
    ]
    with pytest.raises(OptionError, match=r"--model 'm\.onnx': expected NETWORK-PRECISION=FILE"):
        parse_candidates(["m.onnx"], folder=None)


@pytest.mark.parametrize(
    ("kind", "precision"), [("float_model", "w8a8"), ("model", "w8a16"), ("model16", "fp16")]
)
def test_a_file_is_what_its_name_says(made: Made, kind: str, precision: str) -> None:
    with pytest.raises(OptionError, match=f"is given as {precision}: name it by what it is"):
        check_precision(Candidate(network="yolo11n-640", precision=precision, path=getattr(made, kind)))


def test_by_precision() -> None:
    whole = {"estimate": {"missing_ops": 0}}
    both = [{"target": "a", "error": -0.1}, {"target": "b", "error": 0.3}]
    rows = [
        {"precision": "w8a8", "published": both, **whole},
        {"precision": "w8a8", "published": [{"target": "a", "error": 0.1}], **whole},
        {"precision": "fp16", "published": [{"target": "a", "error": 0.5}], **whole},
    ]
    found = by_precision(rows)["w8a8"]
    by_target = found.pop("by_target")
    assert by_target["a"] == {"cases": 2, "low": -0.1, "median": 0, "high": 0.1, "mean_size": 0.1}
    assert by_target["b"]["cases"] == 1
    assert found == {
        "cases": 3,
        "low": -0.1,
        "median": 0.1,
        "high": 0.3,
        "mean_size": 0.1667,
    }
    assert by_precision(rows)["fp16"]["cases"] == 1


def test_what_ships_is_consistent(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured()
    assert found["rows"]
    assert found["by_precision"] == by_precision(found["rows"])
    assert set(found["tools"]) >= {"onnxruntime-qnn", "qairt"}
    for row in filter(complete, found["rows"]):
        known = figures(network=row["network"], precision=row["precision"], targets=tuple(targets()))
        assert {(f["device"], f["runtime"], f["release"], f["ms"]) for f in row["published"]} <= {
            (f.device, f.runtime, f.release, f.ms) for f in known
        }
        for figure in row["published"]:
            assert figure["error"] == pytest.approx(row["estimate"]["ms"] / figure["ms"] - 1, abs=1e-4)
    overall = found["by_precision"]["w8a8"]
    for target, cases in ((None, overall["cases"]), ("qcs9075", overall["by_target"]["qcs9075"]["cases"])):
        error = known_error("w8a8-qat", target=target)
        assert error is not None
        assert error.cases == cases
    assert known_error("w8a8", target="sm8650") == known_error("w8a8"), "no figures of its own"
    assert main(["fidelity"]) == 0
    assert "w8a8: estimate against" in capsys.readouterr().out


def test_fidelity(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The squares are no YOLO11n: only the path is tested, the figures mean nothing."""
    needs_toolchain()
    out = tmp_path / "found.json"
    command = ["fidelity", "--model", f"yolo11n-640-w8a8={made.model}", "--out", str(out), "--targets"]
    assert main([*command, "iq-9075,qcs8550"]) == 0
    assert "IQ-9075" in capsys.readouterr().out
    record = read(out)
    (row,) = record["rows"]
    assert row["estimate"]["target"] == "qcs9075"
    assert {figure["target"] for figure in row["published"]} == {"qcs9075", "qcs8550"}
    assert row["quantized_io"]["ms"] <= row["estimate"]["ms"]
    assert all(figure["error"] < 0 for figure in row["published"])
    assert main([*command, "iq9057"]) == 79


def test_a_refused_model_is_an_error(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hexpath_deploy.hexagon import cost

    def refuse(job: Any, *, limit_s: float) -> None:
        raise CompileError("refused")

    monkeypatch.setattr(cost, "run_job", refuse)
    command = ["fidelity", "--model", f"yolo11n-640-w8a8={made.model}", "--cache", str(tmp_path)]
    assert main(command) == 76


def test_what_leaves_operators_out_says_nothing_of_the_error() -> None:
    whole = {
        "precision": "w8a8",
        "estimate": {"missing_ops": 0},
        "published": [{"target": "a", "error": 0.1}],
    }
    lower_bound = {**whole, "estimate": {"missing_ops": 2}, "published": [{"target": "a", "error": -0.9}]}
    refused = {"precision": "w8a8", "refused": [], "published": [{"target": "a"}]}
    assert by_precision([whole, lower_bound, refused])["w8a8"]["low"] == 0.1


@pytest.mark.parametrize(("crashes_from", "tried"), [(3, [3]), (2, [3, 2]), (1, [3, 2, 1])])
def test_a_crash_is_tried_again_with_less_optimization(
    made: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    crashes_from: int,
    tried: list[int],
) -> None:
    from hexpath_deploy.hexagon import cost

    def crash(job: Any, *, limit_s: float) -> None:
        level = int(job.request["options"]["htp_graph_finalization_optimization_mode"])
        if level >= crashes_from:
            raise ToolchainCrashError(f"crashed at {level}")
        cost_of_nothing(job.scratch)

    monkeypatch.setattr(cost, "run_job", crash)
    monkeypatch.setattr(cost.toolchain, "require", lambda: None)
    command = ["fidelity", "--model", f"yolo11n-640-w8a8={made.model}", "--cache", str(tmp_path / "c")]
    code = main([*command, "--out", str(tmp_path / "found.json"), "--targets", "qcs9075"])
    if crashes_from == 1:
        assert code == 76
        assert "nothing compiles, so that nothing is compared" in capsys.readouterr().err
        return
    assert code == 0
    (row,) = read(tmp_path / "found.json")["rows"]
    assert [each["optimization"] for each in row["refused"]] == tried
    assert row["estimate"]["ms"] == 2.0
    assert all(
        figure["error"] == pytest.approx(2.0 / figure["ms"] - 1, abs=1e-4) for figure in row["published"]
    )


def cost_of_nothing(folder: Path) -> None:
    """Write what the compiler leaves of a compilation: an estimate of 2 ms."""
    rows = [
        ("ROOT", "Performance Estimates", 0),
        ("SUB-EVENT", "Simulated (Accelerator exec cycles)", 1000),
        ("SUB-EVENT", "Simulated (Accelerator exec time us)", 2000),
    ]
    lines = ["Event Level,Event Identifier,Time", *(f"{level},{name},{time}" for level, name, time in rows)]
    (folder / "profile.csv").write_text("\n".join(lines) + "\n")
    (folder / "context.bin").write_bytes(b"binary")


def test_one_of_two_that_does_not_compile_is_shown(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hexpath_deploy.hexagon import cost

    def only_fp16(job: Any, *, limit_s: float) -> None:
        if job.request["options"]["enable_htp_fp16_precision"] == "0":
            raise CompileError("the reason")
        cost_of_nothing(job.scratch)

    monkeypatch.setattr(cost, "run_job", only_fp16)
    monkeypatch.setattr(cost.toolchain, "require", lambda: None)
    models = [f"yolo11n-640-w8a8={made.model}", f"yolo11n-640-fp16={made.float_model}"]
    words = ["fidelity", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "found.json")]
    assert main([*words, *(word for model in models for word in ("--model", model))]) == 0
    refused, estimated = read(tmp_path / "found.json")["rows"]
    assert "estimate" not in refused
    assert refused["refused"] == [{"optimization": 3, "why": "the reason"}], (
        "less optimization would not help"
    )
    assert estimated["estimate"]["ms"] == 2.0
    out = capsys.readouterr().out
    assert "yolo11n-640 at w8a8 is not compared, it does not compile: the reason" in out
