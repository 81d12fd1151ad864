"""Writing so that nothing is ever half written: beside, fsync, rename."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hexpath_data.errors import DiskFullError, OutputError, OutputExistsError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's write errors into this package's.

    Raises:
        DiskFullError: no space or quota left.
        OutputError: any other reason why `target` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"the disk filled up while writing {target}; nothing was kept, free some space and run again"
            ) from error
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {target}: {reason}; check permissions and parent folder") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it becomes `path` when the block ends well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield beside
            _sync(beside)
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, wholly or not at all."""
    raw = data.encode() if isinstance(data, str) else data
    with atomic_path(path) as beside:
        beside.write_bytes(raw)


@contextmanager
def atomic_folder(folder: Path, *, marker: str) -> Iterator[Path]:
    """Yield `<folder>.partial` to fill; it becomes `folder` when the block ends well.

    An existing `folder` is replaced only when it is empty or holds `marker`, the file that says
    that this package wrote it.

    Raises:
        OutputExistsError: `folder` is something else.
        DiskFullError, OutputError: writing failed; neither folder nor partial remains.
    """
    refuse_foreign(folder, marker=marker)
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        with disk_errors(folder):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            yield partial
            _sync_tree(partial)
            _swap(partial, folder=folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_foreign(folder: Path, *, marker: str) -> None:
    """Raise OutputExistsError when `folder` is a file, or is not empty and lacks `marker`."""
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; name a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).is_file():
        raise OutputExistsError(
            f"{folder} is not empty and holds no {marker}; name another folder or empty this one"
        )


def _swap(partial: Path, *, folder: Path) -> None:
    old = folder.with_name(f"{folder.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    # some file systems (network, FUSE) refuse fsync; the data is then as safe as they make it
    with path.open("rb") as stream, suppress(PermissionError):
        os.fsync(stream.fileno())
