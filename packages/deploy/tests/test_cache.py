from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import Made, needs_toolchain, read

from hexpath_deploy.cli import main
from hexpath_deploy.errors import CompileError
from hexpath_deploy.hexagon import cache as module
from hexpath_deploy.hexagon import local, toolchain
from hexpath_deploy.hexagon.cache import ENTRY, JobCache, cache_folder, key_of

MAKER = """
import sys, time
from pathlib import Path
from hexpath_deploy.hexagon.cache import JobCache

home, out, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make():
    with (home / "made.log").open("a") as log:
        log.write("made\\n")
    (out / "a.bin").write_bytes(b"a")
    time.sleep(seconds)

out.mkdir()
kept = JobCache(folder=home / "cache").get_or_make("key", out, make=make, inputs=())
print(kept.cached, (out / "a.bin").read_bytes())
"""


def writes(folder: Path, content: bytes = b"binary") -> Callable[[], None]:
    """Return what stands for a job of the worker: it leaves files in two places, and its inputs and log."""

    def make() -> None:
        (folder / "graph").mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(b"input")
        (folder / "worker.log").write_text("said")
        (folder / "context.bin").write_bytes(content)
        (folder / "graph" / "net.json").write_text("{}")

    return make


def never() -> None:
    raise AssertionError("it was in the cache")


def get(cache: JobCache, folder: Path, *, make: Callable[[], None], key: str = "key") -> module.Kept:
    folder.mkdir(exist_ok=True)
    return cache.get_or_make(key, folder, make=make, inputs=("model.onnx",))


def test_what_was_made_is_fetched(tmp_path: Path) -> None:
    cache = JobCache(folder=tmp_path / "cache")
    first = get(cache, tmp_path / "a", make=writes(tmp_path / "a"))
    second = get(cache, tmp_path / "b", make=never)
    assert (first.cached, second.cached) == (False, True)
    assert second.seconds == pytest.approx(first.seconds, abs=1e-3)
    found = {str(path.relative_to(tmp_path / "b")) for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert found == {"context.bin", "graph/net.json"}, "neither inputs nor logs are kept"


@pytest.mark.parametrize("damage", ["changed", "missing", "entry"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    cache = JobCache(folder=tmp_path / "cache")
    get(cache, tmp_path / "a", make=writes(tmp_path / "a"))
    kept = cache.entries / "key"
    if damage == "changed":
        (kept / "context.bin").write_bytes(b"binarx")
    elif damage == "missing":
        (kept / "graph" / "net.json").unlink()
    else:
        (kept / ENTRY).write_text('{"files": ')
    assert not get(cache, tmp_path / "b", make=writes(tmp_path / "b")).cached
    assert get(cache, tmp_path / "c", make=never).cached


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    cache = JobCache(folder=tmp_path / "cache")

    def fail() -> None:
        raise CompileError("refused")

    with pytest.raises(CompileError, match="refused"):
        get(cache, tmp_path / "a", make=fail)
    assert not get(cache, tmp_path / "b", make=writes(tmp_path / "b")).cached


def start(home: Path, out: str, *, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MAKER, str(home), str(home / out), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.01)


def test_side_by_side_it_is_made_once(tmp_path: Path) -> None:
    running = [start(tmp_path, out, seconds=0.5) for out in ("a", "b", "c")]
    said = sorted(process.communicate(timeout=60)[0] for process in running)
    assert said == ["False b'a'\n", "True b'a'\n", "True b'a'\n"]
    assert (tmp_path / "made.log").read_text() == "made\n"


def test_killed_it_leaves_neither_an_entry_nor_a_lock(tmp_path: Path) -> None:
    first = start(tmp_path, "a", seconds=600)
    wait_for(tmp_path / "made.log")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert start(tmp_path, "b", seconds=0).communicate(timeout=60)[0] == "False b'a'\n"
    assert start(tmp_path, "c", seconds=0).communicate(timeout=60)[0] == "True b'a'\n"


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = JobCache(folder=tmp_path / "cache", limit_bytes=4_500)
    for age, key in enumerate(("old", "used", "newer")):
        get(cache, tmp_path / key, make=writes(tmp_path / key, bytes(1000)), key=key)
        os.utime(cache.entries / key / ENTRY, (1000 + age, 1000 + age))
    get(cache, tmp_path / "again", make=never, key="old")  # is now the most recently used
    left = cache.entries / ".partial-killed"
    left.mkdir()
    os.utime(left, (1000, 1000))
    get(cache, tmp_path / "last", make=writes(tmp_path / "last", bytes(1000)), key="last")
    assert {path.parent.name for path in cache.entries.glob(f"*/{ENTRY}")} == {"newer", "old", "last"}
    assert not left.exists()


def test_an_entry_in_use_stays(tmp_path: Path) -> None:
    cache = JobCache(folder=tmp_path / "cache", limit_bytes=1)
    get(cache, tmp_path / "a", make=writes(tmp_path / "a"))
    with cache.locked("key"):
        assert not cache.remove(cache.entries / "key")
    assert cache.remove(cache.entries / "key")


def test_a_cache_that_cannot_be_used_costs_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    cache = JobCache(folder=tmp_path / "file")
    assert not get(cache, tmp_path / "a", make=writes(tmp_path / "a")).cached
    assert (tmp_path / "a" / "context.bin").exists()
    assert "file cannot be used" in capsys.readouterr().err


def test_what_an_entry_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(model: bytes = b"m", **options: str) -> str:
        (tmp_path / "model.onnx").write_bytes(model)
        return key_of(tmp_path, request={"job": "context", "options": options})

    keys = {key(), key(b"n"), key(soc_model="77"), key(soc_model="43")}
    monkeypatch.setattr(toolchain, "versions", lambda: {"qairt": "3.0", "hexpath-deploy": "0.1"})
    keys.add(key())
    assert len(keys) == 5
    before = key()
    monkeypatch.setattr(toolchain, "versions", lambda: {"qairt": "3.0", "hexpath-deploy": "0.2"})
    assert key() == before, "our own version alone changes nothing that the compiler does"


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEXPATH_CACHE", "/hexpath's")
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder() == Path("/hexpath's")
    monkeypatch.delenv("HEXPATH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/hexpath")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/hexpath")


def test_compile_and_profile_compile_nothing_twice(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_toolchain()
    began: list[str] = []

    def counted(job: Any, *, limit_s: float) -> None:
        began.append(job.request["job"])
        run(job, limit_s=limit_s)

    run = local.run_job
    monkeypatch.setattr(local, "run_job", counted)
    cache = ("--cache", str(tmp_path / "cache"))

    def compile_to(out: str, *options: str) -> dict[str, Any]:
        command = ["compile", str(made.model), "--target", "qcs9075", "--out", str(tmp_path / out)]
        assert main([*command, *options]) == 0
        return read(tmp_path / out / "compile.json")

    first = compile_to("a", *cache)
    assert began == ["context", "dlc", "estimate"]
    assert first["from_cache"] == []
    second = compile_to("b", *cache)
    assert began == ["context", "dlc", "estimate"], "nothing was compiled"
    assert second["from_cache"] == ["context", "dlc"]
    assert "from the cache" in capsys.readouterr().out
    changing = ("seconds", "from_cache", "compiler_seconds")
    assert {k: v for k, v in second.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }
    for name in ("model_ctx.onnx", "model_ctx.bin", "model.dlc", "graph.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    command = ["profile", str(made.model), "--target", "qcs9075", "--out", str(tmp_path / "p.json"), *cache]
    assert main(command) == 0
    assert began == ["context", "dlc", "estimate", "estimate"], "that of float I/O was there"
    compile_to("c", "--no-cache")
    assert began[4:] == ["context", "dlc", "estimate"]
