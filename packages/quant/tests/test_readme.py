"""The README's code runs, and its lists are those of the code; versions hold together."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import onnx

import hexpath_quant
from hexpath_quant import errors
from hexpath_quant.methods import METHODS
from hexpath_quant.plans import PLANS

PACKAGE = Path(__file__).parents[1]
README = (PACKAGE / "README.md").read_text()


def test_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert onnx.load(tmp_path / "quantized" / "model.onnx").graph.node


def test_lists_are_complete():
    assert all(f"`{name}`" in README for name in [*METHODS, *PLANS])
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.QuantError):
            assert f"| {kind.exit_code} | `{kind.__name__}` |" in README


def test_version_is_the_newest_of_the_changelog():
    version = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+) - \d{4}-\d\d-\d\d$", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == version == hexpath_quant.__version__
