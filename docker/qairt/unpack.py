"""Put Qualcomm's QAIRT SDK where the image expects it: `unpack.py ARCHIVE SHA256 FOLDER`.

ARCHIVE is a file name beside this script, a URL, or empty for an image without the SDK. Runs inside the
build.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import sys
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

HOST = "x86_64-linux-clang"
WRAPPER = """#!/bin/sh
export LD_LIBRARY_PATH="{root}/lib/{host}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
export PYTHONPATH="{root}/lib/python${{PYTHONPATH:+:$PYTHONPATH}}"
exec "{root}/bin/{host}/{name}" "$@"
"""


class ArchiveError(Exception):
    """The archive is not what was announced, or no QAIRT SDK."""


def main() -> int:
    archive, sha256, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    folder.mkdir(parents=True)
    if not archive:
        return 0
    try:
        with tempfile.TemporaryDirectory() as scratch:
            path = fetched(archive, Path(scratch) / "qairt.zip")
            check(path, sha256, name=archive)
            unpack(path, Path(scratch) / "sdk", name=archive)
            shutil.move(str(top(Path(scratch) / "sdk", name=archive)), folder / "sdk")
        wrap(folder / "sdk", folder / "tools")
    except ArchiveError as error:
        print(f"qairt: error: {error}")
        return 107  # as QairtArchiveError of images.py
    return 0


def fetched(archive: str, path: Path) -> Path:
    """The archive as a file: the one beside this script, or downloaded to `path`."""
    if not archive.startswith(("https://", "http://", "file://")):
        return Path(__file__).with_name(archive)
    try:
        with urllib.request.urlopen(archive, timeout=60) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file)
    except OSError as error:
        raise ArchiveError(f"{archive} cannot be downloaded: {error}") from None
    return path


def check(path: Path, sha256: str, *, name: str) -> None:
    """Compare the archive's SHA-256.

    Raises:
        ArchiveError: it differs, or none was given.
    """
    if not path.is_file():
        raise ArchiveError(f"{name} is not in the build context")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise ArchiveError(f"{name} has SHA-256 {found}, expected {sha256 or 'one, and none was given'}")


def unpack(path: Path, folder: Path, *, name: str) -> None:
    """Extract a zip, with its executable bits, and nothing outside of `folder`.

    Raises:
        ArchiveError: no zip, damaged, or an entry that is a link or leads out of the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                place, mode = PurePosixPath(entry.filename), entry.external_attr >> 16
                if place.is_absolute() or ".." in place.parts or "\\" in entry.filename or stat.S_ISLNK(mode):
                    raise ArchiveError(
                        f"{name}: the entry {entry.filename!r} is a link or leads out of the archive"
                    )
                target = Path(archive.extract(entry, folder))
                if mode & 0o111 and target.is_file():
                    target.chmod(0o755)
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{name} is no zip archive, or damaged: {error}") from None


def top(folder: Path, *, name: str) -> Path:
    """The folder that holds bin/x86_64-linux-clang: QAIRT's archive has two levels above it.

    Raises:
        ArchiveError: not exactly one.
    """
    found = sorted(path.parent.parent for path in folder.rglob(f"bin/{HOST}") if path.is_dir())
    if len(found) != 1:
        raise ArchiveError(f"{name} is no QAIRT SDK for Linux: {len(found)} folders bin/{HOST}, expected one")
    return found[0]


def wrap(root: Path, tools: Path) -> None:
    """One small script a tool: the SDK's libraries serve the tool only, never the pip toolchain beside it."""
    tools.mkdir()
    for path in sorted((root / "bin" / HOST).iterdir()):
        if path.is_file():
            path.chmod(0o755)
            script = tools / path.name
            script.write_text(WRAPPER.format(root=root, host=HOST, name=path.name))
            script.chmod(0o755)


if __name__ == "__main__":
    sys.exit(main())
