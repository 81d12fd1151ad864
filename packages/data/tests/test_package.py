from __future__ import annotations

import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hexpath_data
from hexpath_data.cli import build_parser, main
from hexpath_data.errors import DataError, all_errors
from hexpath_data.progress import progress

PACKAGE = Path(__file__).resolve().parents[1]
README = (PACKAGE / "README.md").read_text(encoding="utf-8")


def test_exit_codes_are_distinct_and_in_range() -> None:
    codes = [kind.exit_code for kind in all_errors()]
    assert codes == sorted(set(codes))
    assert all(10 <= code <= 29 for code in codes)
    assert all(issubclass(kind, DataError) for kind in all_errors())


def test_readme_lists_every_exit_code() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \|$", README, flags=re.MULTILINE)
    expected = [(str(k.exit_code), k.__name__, (k.__doc__ or "").splitlines()[0]) for k in all_errors()]
    assert rows == expected


def test_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(code.group(1), "README.md", "exec"), {})
    assert (tmp_path / "card" / "coco" / "val.json").is_file()


def test_versions_agree() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## (\S+) - \d{4}-\d\d-\d\d$", (PACKAGE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert project["version"] == newest.group(1) == hexpath_data.__version__


def test_everything_public_exists_and_is_documented() -> None:
    for name in hexpath_data.__all__:
        thing = getattr(hexpath_data, name)
        assert isinstance(thing, int | str) or thing.__doc__, name


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from hexpath_data.cli import build_parser; build_parser().format_help(); "
        "sys.exit(bool({'torch', 'cv2', 'polars', 'matplotlib'} & set(sys.modules)))"
    )
    path = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=path, check=False).returncode == 0


@pytest.mark.parametrize("command", ["generate", "check", "card"])
def test_subcommands_have_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out
    assert command in build_parser().format_help()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_rewrites_its_line_on_a_terminal_and_stays_quiet_elsewhere() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    assert list(progress(range(3), total=3, what="count", stream=terminal)) == [0, 1, 2]
    assert terminal.getvalue() == "\rcount: 3/3\n"
    assert list(progress(range(3), total=3, what="count", stream=pipe)) == [0, 1, 2]
    assert pipe.getvalue() == ""
