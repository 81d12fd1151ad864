from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from made import Made

import hexpath_deploy
from hexpath_deploy import errors
from hexpath_deploy.cli import COMMANDS, main
from hexpath_deploy.errors import DeployError, EstimateError, OptionError, UnknownTargetError
from hexpath_deploy.hexagon.options import choose, provider_options
from hexpath_deploy.model import read_model
from hexpath_deploy.targets import FIGURES, estimated_by, several, target, targets

PACKAGE = Path(__file__).parents[1]


def test_targets_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.search(r"IQ-9075 +77 +v73 +8 +2 +100", rows["qcs9075"])
    assert "by qcs9075" in rows["qcs8550"]
    assert main(["targets", "--json"]) == 0
    assert {entry["name"] for entry in json.loads(capsys.readouterr().out)} == set(targets())


@pytest.mark.parametrize(
    ("name", "soc_model"),
    [
        ("qcs9075", 77),
        ("IQ-9075", 77),
        ("sa8775p", 52),
        ("sa8255p", 52),
        ("sm8550", 43),
        ("qcs8550", 43),
        ("sm8650", 57),
        ("sm8750", 69),
        ("sm8850", 87),
        ("qcs8275", 82),
        ("iq-8275", 82),
        ("qcs6490", 93),
    ],
)
def test_soc_models(name: str, soc_model: int) -> None:
    assert target(name).soc_model == soc_model


@pytest.mark.parametrize("name", list(targets()))
def test_every_figure_has_a_source(name: str) -> None:
    entry = target(name)
    given = {figure for figure in FIGURES if getattr(entry, figure) is not None}
    assert given == set(entry.sources)
    assert entry.estimate or entry.proxy is None or estimated_by(entry).estimate
    assert (entry.proxy is None) == (entry.proxy_why is None)


def test_one_target_shows_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "QCS8550"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"soc_model +43 +\[Qualcomm AI Hub device list", told)
    assert re.search(r"npus +unknown$", told, re.MULTILINE)
    assert re.search(r"estimate +no +\[compiled a W8A8", told)
    assert "estimated by qcs9075: same Hexagon generation" in told
    assert main(["targets", "qcs8551"]) == 79
    assert "did you mean 'qcs8550'" in capsys.readouterr().err


def test_several_targets() -> None:
    assert [each.name for each in several("IQ-9075, sm8750,qcs9075,")] == ["qcs9075", "sm8750"]
    with pytest.raises(UnknownTargetError, match="unknown target 'sm8751'; did you mean 'sm8750'"):
        several("qcs9075,sm8751")
    with pytest.raises(UnknownTargetError, match="unknown target ','"):
        several(",")


def test_unknown_target(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(made.model), "--target", "qcs9057", "--out", str(tmp_path / "o")]) == 79
    assert "unknown target 'qcs9057'; did you mean 'qcs9075'?" in capsys.readouterr().err
    with pytest.raises(UnknownTargetError, match="Known: qcs9075"):
        target("board")


def test_proxy() -> None:
    assert estimated_by(target("sm8550")).name == "qcs9075"
    with pytest.raises(EstimateError, match="measure on the device, or estimate for one of qcs9075"):
        estimated_by(target("sm8750"))


def test_options(made: Made) -> None:
    chip, quantized, floating = target("qcs9075"), read_model(made.model), read_model(made.float_model)
    assert choose(quantized, chip).io == "quantized"
    assert choose(floating, chip, fp16=True).io == "float"
    assert provider_options(choose(quantized, chip), soc_model=77)["enable_htp_fp16_precision"] == "0"
    mixed = replace(quantized, metadata={"hexpath.plan_regions": '{"stem": "w8a8", "head": "fp16"}'})
    assert provider_options(choose(mixed, chip), soc_model=77)["enable_htp_fp16_precision"] == "1"
    assert choose(mixed, chip).io == "quantized"
    for arguments, message in (
        ({"model": floating}, "it is a float model: compile it with --fp16"),
        ({"model": quantized, "fp16": True}, "leave --fp16 away"),
        ({"model": quantized, "io": "quantised"}, "did you mean 'quantized'"),
        ({"model": quantized, "optimization": 4}, "optimization 4 is not one of"),
        ({"model": floating, "fp16": True, "io": "quantized"}, "needs a quantized model"),
        ({"model": floating, "fp16": True, "target": target("qcs6490")}, "the NPU of qcs6490 has no FP16"),
    ):
        with pytest.raises(OptionError, match=message):
            choose(**{"target": chip, **arguments})  # type: ignore[arg-type]


def test_exit_codes_are_distinct_and_in_range() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DeployError)
    ]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert all(70 <= code <= 99 or 120 <= code <= 125 for code in codes)
    readme = (PACKAGE / "README.md").read_text()
    for kind in kinds:
        assert f"| {kind.exit_code} | `{kind.__name__}` |" in readme


def test_version_is_the_changelogs() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    newest = re.search(
        r"^## (\S+) - \d{4}-\d{2}-\d{2}$", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert newest is not None
    assert project["version"] == hexpath_deploy.__version__ == newest[1]


@pytest.mark.parametrize("command", ["--help", "--version", *COMMANDS])
def test_help_is_fast_and_imports_nothing_heavy(command: str) -> None:
    heavy = "{'onnx', 'onnxruntime', 'numpy', 'PIL', 'pycocotools', 'torch'} & set(sys.modules)"
    arguments = [command] if command.startswith("-") else [command, "--help"]
    code = (
        "import sys\nfrom hexpath_deploy.cli import main\ntry: main(sys.argv[1:])\n"
        f"except SystemExit as end: assert not end.code\nassert not {heavy}, {heavy}"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    assert time.monotonic() - began < 5


def test_unknown_command_is_argparses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["compil"])
    assert "compile" in capsys.readouterr().err


def test_readme_example(made: Made, tmp_path: Path) -> None:
    """Runs the commands of the README as they stand there."""
    from made import needs_toolchain

    needs_toolchain()
    text = (PACKAGE / "README.md").read_text()
    block = re.search(r"<!-- tested -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    (tmp_path / "model.onnx").write_bytes(made.model.read_bytes())
    (tmp_path / "recorded.npz").write_bytes(made.recorded.read_bytes())
    (tmp_path / "val.json").write_bytes(made.coco.read_bytes())
    lines = [line.split(" #")[0].split() for line in block[1].splitlines() if line.strip()]
    assert len(lines) >= 5
    env = {**os.environ, "PYTHONPATH": str(Path(hexpath_deploy.__file__).parents[1])}
    for words in lines:
        assert words[0] == "hexpath-deploy"
        subprocess.run(
            [sys.executable, "-m", "hexpath_deploy", *words[1:]], check=True, cwd=tmp_path, env=env
        )
    assert {"compiled", "profile.json", "agree.json", "ort.json", "emulator.json"} <= {
        path.name for path in tmp_path.iterdir()
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes of this kind")
def test_a_reader_that_has_seen_enough_is_no_bug() -> None:
    command = [sys.executable, "-m", "hexpath_deploy", "targets", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 141
        assert process.stderr.read() == ""
