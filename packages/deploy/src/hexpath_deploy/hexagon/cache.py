"""What the compiler made of a graph, kept by content, so that no run compiles the same thing twice.

An entry is the folder of files that one job of the worker wrote. Its name is a SHA-256 over the graph that
the compiler gets, the provider's options (the target is one), the job, the versions of Qualcomm's and ONNX
Runtime's libraries and the worker's own source. Nobody sees half an entry: it is written beside and renamed.
Whoever needs an entry that another process is just making waits for it. A file that is no longer what was
stored is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from hexpath_deploy.files import sha256_file
from hexpath_deploy.hexagon import toolchain

ENTRY, LOCKS = "entry.json", "locks"
# What the worker is given, and what it says for the moment.
PASSING = ("request.json", "result.json", "worker.log")
LIMIT_BYTES = 8_000_000_000
STALE_S = 86_400.0


def cache_folder(given: Path | None = None) -> Path:
    """Return where the cache lies: as given, else $HEXPATH_CACHE, else hexpath in the user's cache folder."""
    if given is not None:
        return given
    if own := os.environ.get("HEXPATH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hexpath"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What is known of a job: the seconds that the compiler took for it, and whether it took them now."""

    seconds: float
    cached: bool


@dataclass(frozen=True, kw_only=True)
class JobCache:
    """Entries below `folder`/compiled; the least recently used go when they exceed `limit_bytes`."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    @property
    def entries(self) -> Path:
        """Where the entries lie."""
        return self.folder / "compiled"

    def get_or_make(
        self, key: str, folder: Path, *, make: Callable[[], None], inputs: Collection[str]
    ) -> Kept:
        """Fill `folder` with what a job writes: out of the cache, else by `make`, which is then kept.

        `inputs` are the files there that are not the job's own. A cache that cannot be written costs a
        warning, not the work.
        """
        try:
            with self.locked(key):
                if (found := self.fetch(key, folder)) is not None:
                    return found
                kept = timed(make)
                self.store(key, folder, seconds=kept.seconds, inputs=inputs)
                return kept
        except UnusableCacheError as error:
            print(
                f"hexpath-deploy: warning: the cache {self.folder} cannot be used ({error}): "
                "compiling without it",
                file=sys.stderr,
            )
            return error.kept or timed(make)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Hold the entry's lock, which the system takes back from a process that dies."""
        with usable():
            (self.entries / LOCKS).mkdir(parents=True, exist_ok=True)
            lock = (self.entries / LOCKS / key).open("a")
        with lock:
            with usable():
                take(lock, wait=True)
            yield

    def fetch(self, key: str, folder: Path) -> Kept | None:
        """Copy an entry into `folder`; None where there is none, or one that was damaged."""
        place = self.entries / key
        with usable():
            try:
                entry = json.loads((place / ENTRY).read_text(encoding="utf-8"))
                told: dict[str, str] = entry["files"]
                if any(sha256_file(place / name) != digest for name, digest in told.items()):
                    return None
                for name in told:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(place / name, folder / name)
                os.utime(place / ENTRY)
                return Kept(seconds=float(entry["seconds"]), cached=True)
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                return None

    def store(self, key: str, folder: Path, *, seconds: float, inputs: Collection[str]) -> None:
        """Keep what a job left in `folder`, beside its inputs."""
        names = [
            str(path.relative_to(folder))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in {*inputs, *PASSING}
        ]
        with usable(Kept(seconds=seconds, cached=False)):
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.entries))
            try:
                for name in names:
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, partial / name)
                told = {name: sha256_file(partial / name) for name in names}
                entry = {"seconds": round(seconds, 3), "files": told}
                (partial / ENTRY).write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
                shutil.rmtree(self.entries / key, ignore_errors=True)  # a damaged one; we hold its lock
                partial.rename(self.entries / key)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self.make_room()

    def make_room(self) -> None:
        """Remove what killed processes left, then the least recently used entries beyond the limit."""
        for partial in self.entries.glob(".partial-*"):
            if time.time() - partial.stat().st_mtime > STALE_S:
                shutil.rmtree(partial, ignore_errors=True)
        used = sorted(self.entries.glob(f"*/{ENTRY}"), key=lambda path: path.stat().st_mtime)
        sizes = {path.parent: size_of(path.parent) for path in used}
        total = sum(sizes.values())
        for place, size in sizes.items():
            if total <= self.limit_bytes:
                return
            if self.remove(place):
                total -= size

    def remove(self, place: Path) -> bool:
        """Remove an entry unless a process is using it."""
        with (self.entries / LOCKS / place.name).open("a") as lock:
            if not take(lock, wait=False):
                return False
            shutil.rmtree(place, ignore_errors=True)
            return True


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def take(lock: IO[str], *, wait: bool) -> bool:
    """Take a lock, which ends with the file or the process; say whether we have it."""
    import fcntl  # where the compiler runs, this exists

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


class UnusableCacheError(Exception):
    """The cache's folder cannot be read or written; `kept` is what was made all the same."""

    def __init__(self, error: OSError, kept: Kept | None) -> None:
        super().__init__(error.strerror or str(error))
        self.kept = kept


@contextmanager
def usable(kept: Kept | None = None) -> Iterator[None]:
    """Turn an error of the file system into UnusableCacheError."""
    try:
        yield
    except OSError as error:
        raise UnusableCacheError(error, kept) from error


def timed(make: Callable[[], None]) -> Kept:
    """Do the work and take its time."""
    began = time.monotonic()
    make()
    return Kept(seconds=time.monotonic() - began, cached=False)


def key_of(scratch: Path, *, request: Mapping[str, Any]) -> str:
    """Return the name of the entry for a job on the files in `scratch`."""
    tools = {name: version for name, version in toolchain.versions().items() if name != "hexpath-deploy"}
    worker = files("hexpath_deploy.hexagon").joinpath("worker.py").read_bytes()
    digest = hashlib.sha256(json.dumps([request, tools], sort_keys=True).encode())
    digest.update(hashlib.sha256(worker).digest())
    for path in sorted(path for path in scratch.iterdir() if path.is_file()):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
