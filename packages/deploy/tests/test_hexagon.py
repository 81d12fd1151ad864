from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from made import Made, needs_toolchain, read

from hexpath_deploy.cli import main
from hexpath_deploy.errors import OptionError
from hexpath_deploy.files import sha256_file
from hexpath_deploy.hexagon.artifact import open_artifact
from hexpath_deploy.hexagon.emulate import emulate, load_outputs
from hexpath_deploy.hexagon.local import compile_model
from hexpath_deploy.hexagon.options import choose
from hexpath_deploy.model import read_model
from hexpath_deploy.targets import target


def test_compile_writes_context_dlc_census(made: Made, compiled: Path) -> None:
    card = read(compiled / "compile.json")
    assert sorted(path.name for path in compiled.iterdir()) == [
        "compile.json",
        "graph.json",
        "model.dlc",
        "model_ctx.bin",
        "model_ctx.onnx",
    ]
    assert card["soc_model"] == 77
    assert card["cpu_ops"] == 0
    assert card["float_ops"] == 0
    assert {"type": "Conv2d", "dtype": "ufixed8", "count": 7, "on": "npu"} in card["ops"]
    assert not {row["type"] for row in card["ops"]} & {"Quantize", "Dequantize"}, "the border is quantized"
    assert card["npu_ops"] == sum(row["count"] for row in card["ops"])
    metadata = {entry.key: entry.value for entry in onnx.load(compiled / "model_ctx.onnx").metadata_props}
    assert json.loads(metadata["hexpath.boundary"])["inputs"]["images"]["dtype"] == "uint8"
    assert metadata["names"] == "{0: 'red', 1: 'green'}"


def test_what_quantized_io_saves(compiled: Path) -> None:
    found = read(compiled / "compile.json")["estimates"]
    assert {each["source"] for each in found.values()} == {"estimate"}
    assert 0 < found["quantized"]["value_ms"] <= found["float"]["value_ms"]


def test_several_targets(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_toolchain()
    out = tmp_path / "all"
    command = ["compile", str(made.model), "--out", str(out), "--target"]
    assert main([*command, "qcs9075, sm8750,IQ-9075"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["model.dlc", "qcs9075", "sm8750"]
    told = capsys.readouterr().out
    assert "quantized I/O saves" in told
    model = read_model(made.model)
    for name, soc_model in (("qcs9075", 77), ("sm8750", 69)):
        artifact = open_artifact(out / name, model=model)
        assert artifact.soc_model == soc_model
        assert (out / name / artifact.card["dlc"]).resolve() == (out / "model.dlc").resolve()
        assert sha256_file(out / "model.dlc") == artifact.card["dlc_sha256"]
    assert "estimates" not in read(out / "sm8750" / "compile.json"), "no estimate for this SoC model"
    assert main([*command, "qcs9075,sm8751"]) == 79
    assert main([*command, ","]) == 79
    assert main([*command, "qcs9075,qcs6490", "--fp16"]) == 83
    assert (out / "sm8750").exists(), "what was there stays"


def test_both_kinds_of_io_compute_the_same(made: Made, compiled: Path, tmp_path: Path) -> None:
    model, chip = read_model(made.model), target("qcs9075")
    compile_model(model, target=chip, options=choose(model, chip, io="float"), out=tmp_path / "float")
    image = np.load(made.recorded)["images"][:1]
    outputs = []
    for folder in (compiled, tmp_path / "float"):
        artifact = open_artifact(folder, model=model)
        emulate(artifact, feeds={"1": lambda: {"images": image}}, work=tmp_path / "work", workers=1)
        outputs.append(load_outputs(tmp_path / "work", "1", boundary=artifact.boundary))
    for name in model.outputs:
        np.testing.assert_array_equal(outputs[0][name], outputs[1][name])


def comparing(model: Path, compiled: Path, recorded: Path) -> list[str]:
    """The command line of `agree`, without where to write."""
    return ["agree", str(model), "--compiled", str(compiled), "--recorded", str(recorded)]


def test_agree(made: Made, compiled: Path, tmp_path: Path) -> None:
    out = tmp_path / "agree.json"
    command = comparing(made.model, compiled, made.recorded)
    assert main([*command, "--out", str(out)]) == 0
    record = read(out)
    assert record["verdict"] == "pass"
    assert {row["name"] for row in record["comparisons"]["artifact"]} == set(read_model(made.model).outputs)
    assert all(row["max_steps"] <= 1.01 for row in record["comparisons"]["artifact"])


def test_agree_on_the_first_examples(made: Made, compiled: Path, tmp_path: Path) -> None:
    """What comes behind them is not looked at, in either comparison."""
    arrays = dict(np.load(made.recorded))
    assert len(arrays["images"]) > 1
    arrays["scores_8"][1:] = 7
    np.savez(tmp_path / "recorded.npz", **arrays)
    command = comparing(made.model, compiled, tmp_path / "recorded.npz")
    command += ["--out", str(tmp_path / "agree.json"), "--examples"]
    assert main([*command, "1"]) == 0
    assert read(tmp_path / "agree.json")["images"] == 1
    assert main([*command, "2"]) == 80
    assert main([*command, "0"]) == OptionError.exit_code


def test_agree_names_a_swapped_output(
    made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = dict(np.load(made.recorded))
    arrays["scores_8"] = arrays["scores_8"][:, ::-1]
    np.savez(tmp_path / "swapped.npz", **arrays)
    out = tmp_path / "agree.json"
    command = comparing(made.model, compiled, tmp_path / "swapped.npz")
    assert main([*command, "--out", str(out)]) == 80
    assert "output 'scores_8'" in capsys.readouterr().err
    assert read(out)["verdict"] == "fail"


@pytest.mark.parametrize("change", ["channels", "twice"])
def test_agree_catches_wrong_input(made: Made, compiled: Path, tmp_path: Path, change: str) -> None:
    arrays = dict(np.load(made.recorded))
    arrays["images"] = arrays["images"][:, ::-1].copy() if change == "channels" else arrays["images"] / 255
    np.savez(tmp_path / "wrong.npz", **arrays)
    command = comparing(made.model, compiled, tmp_path / "wrong.npz")
    assert main([*command, "--out", str(tmp_path / "agree.json")]) == 80


def test_agree_refuses_another_models_recording(
    made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "other.npz", images=np.zeros((1, 3, 64, 64), np.float32))
    command = comparing(made.model, compiled, tmp_path / "other.npz")
    assert main([*command, "--out", str(tmp_path / "agree.json")]) == 81
    assert "no array 'boxes_8'" in capsys.readouterr().err


def test_stale_artifact(
    made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(made.model16), "--coco", str(made.coco), "--out", str(tmp_path / "e.json")]
    assert main([*command, "--backend", "emulator", "--compiled", str(compiled)]) == 81
    assert "was compiled from" in capsys.readouterr().err


def test_touched_binary(
    made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in compiled.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with (copy / "model_ctx.bin").open("ab") as file:
        file.write(b"x")
    command = ["evaluate", str(made.model), "--coco", str(made.coco), "--out", str(tmp_path / "e.json")]
    assert main([*command, "--backend", "emulator", "--compiled", str(copy)]) == 81
    assert "is not the file that compile.json describes" in capsys.readouterr().err


def test_emulator_scores_like_ort(made: Made, compiled: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(made.model), "--coco", str(made.coco)]
    assert main([*command, "--out", str(tmp_path / "ort.json")]) == 0
    emulator = [*command, "--out", str(tmp_path / "emulator.json"), "--backend", "emulator"]
    assert main([*emulator, "--compiled", str(compiled), "--images", "4"]) == 0
    ort, npu = read(tmp_path / "ort.json"), read(tmp_path / "emulator.json")
    assert ort["metrics"]["map50"] == pytest.approx(1)
    assert npu["metrics"]["map50"] == pytest.approx(1)
    assert npu["image_ids"] == [1, 5, 8, 12]
    assert npu["sample"] == "spread evenly over the split"
    assert not (tmp_path / "emulator.json.work").exists()


def test_interrupted_emulation_goes_on(made: Made, compiled: Path, tmp_path: Path) -> None:
    model = read_model(made.model)
    artifact = open_artifact(compiled, model=model)
    image = np.load(made.recorded)["images"][:1]
    asked = []

    def feed(key: str) -> dict[str, np.ndarray]:
        asked.append(key)
        return {"images": image}

    emulate(artifact, feeds={"1": lambda: feed("1")}, work=tmp_path, workers=1)
    emulate(artifact, feeds={"1": lambda: feed("1"), "2": lambda: feed("2")}, work=tmp_path, workers=2)
    assert asked == ["1", "2"]
    (tmp_path / "artifact.json").write_text("another")
    emulate(artifact, feeds={"1": lambda: feed("1")}, work=tmp_path, workers=1)
    assert asked == ["1", "2", "1"]


def test_profile(made: Made, tmp_path: Path) -> None:
    needs_toolchain()
    out = tmp_path / "profile.json"
    assert main(["profile", str(made.model), "--target", "qcs8550", "--out", str(out)]) == 0
    record = read(out)
    found = record["latency"]
    assert found["source"] == "estimate"
    assert found["target"] == "qcs8550"
    assert found["proxy"] == "qcs9075"
    assert 0 < found["low_ms"] <= found["value_ms"] <= found["high_ms"]
    assert found["tools"]["qairt"].startswith("2.")
    assert (
        record["by_io"]["quantized"]["latency"]["value_ms"] <= record["by_io"]["float"]["latency"]["value_ms"]
    )
    assert record["ddr"]["input_mb"] > 0
    assert record["ddr_mb"] == pytest.approx(sum(record["ddr"].values()))


def test_profile_without_estimate(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(made.model), "--target", "sm8650", "--out", str(tmp_path / "p.json")]) == 84
    assert "no latency estimate for sm8650" in capsys.readouterr().err


def test_fp16(made: Made, tmp_path: Path) -> None:
    needs_toolchain()
    folder = tmp_path / "fp16"
    assert (
        main(["compile", str(made.float_model), "--target", "iq-9075", "--fp16", "--out", str(folder)]) == 0
    )
    card = read(folder / "compile.json")
    assert card["options"] == {"io": "float", "optimization": 3, "fp16": True}
    command = ["evaluate", str(made.float_model), "--coco", str(made.coco), "--out", str(tmp_path / "e.json")]
    assert main([*command, "--backend", "emulator", "--compiled", str(folder), "--images", "2"]) == 0
    assert read(tmp_path / "e.json")["metrics"]["map50"] == pytest.approx(1)


def test_sixteen_bits_agree(made: Made, tmp_path: Path) -> None:
    needs_toolchain()
    from made import record

    recorded = record(made.model16, tmp_path / "recorded.npz")
    folder = tmp_path / "compiled"
    assert main(["compile", str(made.model16), "--target", "qcs9075", "--out", str(folder)]) == 0
    command = comparing(made.model16, folder, recorded)
    assert main([*command, "--out", str(tmp_path / "agree.json")]) == 0
    rows = read(tmp_path / "agree.json")["comparisons"]["artifact"]
    assert all(row["min_sqnr_db"] == 30 for row in rows)
