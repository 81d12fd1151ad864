"""The command line, the package's own papers, and its README."""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Run

import hexpath_models
from hexpath_models import errors, files, registry
from hexpath_models.checkpoint import CheckpointCard

PACKAGE = Path(__file__).parents[1]
SOURCES = sorted((PACKAGE / "src" / "hexpath_models").glob("*.py"))
KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ModelError)
]


def test_list_prints_every_model(run: Run) -> None:
    result = run("list")
    assert result.code == 0
    for card in registry.MODELS.values():
        assert re.search(
            rf"{card.name} .*{card.published_map}.*{card.params_m}.*{card.gflops_640}", result.out
        )


def test_errors_are_one_line_with_a_code(run: Run, tmp_path: Path) -> None:
    result = run(
        "export", tmp_path / "no.safetensors", "--data", tmp_path / "no.yaml", "--out", tmp_path / "out"
    )
    assert result.code == errors.DataFileError.exit_code
    assert re.fullmatch(r"hexpath-models: error: no such data\.yaml: [^\n]+\n", result.err)


def test_export_and_import_commands(run: Run, checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = run("export", checkpoint, "--data", data, "--out", tmp_path / "raw")
    assert result.code == 0, result.err
    assert "boxes_8 [1, 64, 8, 8]" in result.out
    result = run("import", tmp_path / "raw" / "model.onnx", "--out", tmp_path / "m.safetensors")
    assert result.code == errors.CorruptCheckpointError.exit_code


def test_exit_codes_are_distinct_and_in_range() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes) == len(KINDS)
    assert all(30 <= code <= 49 for code in codes)


@pytest.mark.parametrize("kind", KINDS)
def test_readme_lists_every_exit_code(kind: type[errors.ModelError]) -> None:
    assert f"| {kind.exit_code} | `{kind.__name__}` |" in (PACKAGE / "README.md").read_text()


def test_help_needs_no_torch() -> None:
    code = "import sys; from hexpath_models.cli import main\n"
    code += "try: main(['--help'])\nfinally: print('torch' in sys.modules)"
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")
    assert time.monotonic() - started < 5


def test_interrupt_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> CheckpointCard:
        raise KeyboardInterrupt

    monkeypatch.setattr("hexpath_models.importing.import_checkpoint", interrupted)
    assert run("import", "a.pt", "--out", "b").code == 130


def test_full_disk_has_its_own_error(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(errors.DiskFullError, match="disk full while writing"):
        files.write_atomic(tmp_path / "a", "text")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("hexpath_models.importing.import_checkpoint", lambda *_, **__: full())
    result = run("import", "a.pt", "--out", "b")
    assert (result.code, "disk full" in result.err) == (errors.DiskFullError.exit_code, True)


def test_unwritable_output_has_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.WriteError, match=r"cannot write .*; choose another --out"):
        files.write_atomic(tmp_path / "file" / "a", "text")


def test_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(ZeroDivisionError), files.atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text(str(1 / 0))
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_version_is_the_newest_heading_of_the_changelog() -> None:
    newest = re.search(r"^## (\S+) - ", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    declared = re.search(r'^version = "(.+)"', (PACKAGE / "pyproject.toml").read_text(), re.MULTILINE)
    assert newest
    assert declared
    assert hexpath_models.__version__ == newest[1] == declared[1]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_sibling_package_is_imported(source: Path) -> None:
    names = {
        name
        for node in ast.walk(ast.parse(source.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not [
        name for name in names if name.startswith(("hexpath_data", "hexpath_quant", "hexpath_deploy"))
    ]


def test_readme_example_runs(
    data: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "model.safetensors").write_bytes(checkpoint.read_bytes())
    (tmp_path / "data.yaml").write_text(data.read_text().replace("path: .", f"path: {data.parent}"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(blocks[0], names)
    assert (tmp_path / "export" / "raw" / "model.onnx").is_file()
    assert names["score"] == pytest.approx(names["again"])
