"""Checksums and zip files of a bundle: written so that it is the same bytes each time, read with distrust."""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from hexpath_deploy.errors import BundleError
from hexpath_deploy.files import atomic_folder, atomic_path

SUMS = "SHA256SUMS"
LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>.+)")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows
MOST_BYTES = 8 << 30


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every file of a folder, as `sha256sum -c` reads it."""
    lines = [f"{digest((folder / name).read_bytes())}  {name}" for name in listing(folder)]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def listing(folder: Path) -> list[str]:
    """Return the names of a folder's files but SHA256SUMS, sorted, with forward slashes."""
    files = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in files)
    return sorted(name for name in names if name != SUMS)


def digest(data: bytes) -> str:
    """Return the SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def write_zip(folder: Path, path: Path) -> None:
    """Write a folder as a zip: sorted names, no dates, no owners; the same files give the same bytes."""
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*listing(folder), SUMS]:
            entry = zipfile.ZipInfo(f"{folder.name}/{name}", EPOCH)
            entry.create_system = 3  # Unix, on every system that writes it
            entry.external_attr = (stat.S_IFREG | (0o755 if name == "infer.py" else 0o644)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (folder / name).read_bytes(), compresslevel=6)


def verify(path: Path) -> list[str]:
    """Hold a bundle, folder or zip, against its SHA256SUMS; returns the names of its files.

    Raises:
        BundleError: names the first file that is changed, missing, not listed, or that lies outside.
    """
    contents = read_folder(path) if path.is_dir() else read_zip(path)
    if SUMS not in contents:
        raise BundleError(f"{path} has no {SUMS}: it is no bundle, or was cut off")
    return check(contents, where=path)


def check(contents: Mapping[str, bytes], *, where: Path) -> list[str]:
    """Hold files against the sums among them."""
    sums = read_sums(contents[SUMS].decode("utf-8", errors="replace"), where=where)
    if not sums:
        raise BundleError(f"{where}: {SUMS} lists no files")
    for name, wanted in sums.items():
        if name not in contents:
            raise BundleError(f"{where}: {name} is missing, though {SUMS} lists it: get the bundle again")
        if digest(contents[name]) != wanted:
            raise BundleError(f"{where}: {name} was changed: its SHA-256 is not that of {SUMS}; get it again")
    extra = sorted(set(contents) - set(sums) - {SUMS})
    if extra:
        raise BundleError(f"{where}: {extra[0]} is not listed in {SUMS}: it does not belong to the bundle")
    return sorted(sums)


def read_sums(text: str, *, where: Path) -> dict[str, str]:
    """Read SHA256SUMS."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = LINE.fullmatch(line)
        if match is None:
            raise BundleError(f"{where}: {SUMS}, line {number} is no checksum: {line!r:.80}")
        found[safe(match["name"], where=where)] = match["sha256"]
    return found


def safe(name: str, *, where: Path) -> str:
    """Return a name that stays inside a folder.

    Raises:
        BundleError: it is absolute, goes up, or is no plain path.
    """
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or ":" in name.split("/")[0]
    if path.is_absolute() or ".." in path.parts or not path.parts or odd or str(path) != name:
        raise BundleError(f"{where}: '{name}' would lie outside of the bundle: do not unpack it")
    return name


def read_folder(folder: Path) -> dict[str, bytes]:
    """Read a bundle's folder; links in it are refused, they can lead anywhere."""
    names = [*listing(folder), *([SUMS] if (folder / SUMS).is_file() else [])]
    for name in names:
        if (folder / name).is_symlink():
            raise BundleError(f"{folder}: {name} is a link: a bundle has files only")
    return {name: (folder / name).read_bytes() for name in names}


def read_zip(path: Path) -> dict[str, bytes]:
    """Read a bundle's zip into memory, without its top folder.

    Raises:
        BundleError: it is none, or an entry is a link, would lie outside, stands there twice, or is huge.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            check_entries(entries, where=path)
            return {inner(entry.filename, where=path): archive.read(entry) for entry in entries}
    except FileNotFoundError:
        raise BundleError(f"no such bundle {path}: give its folder or zip") from None
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise BundleError(f"{path} is no bundle ({error}): give its folder or zip") from error


def check_entries(entries: Iterable[zipfile.ZipInfo], *, where: Path) -> None:
    """Refuse entries that could do harm when unpacked."""
    seen: set[str] = set()
    total, top = 0, set()
    for entry in entries:
        # Python turns what it does not like into '_': judge the name as it stands in the file.
        name = safe(entry.orig_filename, where=where)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"{where}: '{name}' is a link: a bundle has files only")
        if name in seen:
            raise BundleError(f"{where}: '{name}' stands there twice")
        seen.add(name)
        top.add(name.split("/")[0])
        total += entry.file_size
    if len(top) > 1 or any("/" not in name for name in seen):
        raise BundleError(f"{where}: its files do not lie in one folder: it is no bundle")
    if total > MOST_BYTES:
        raise BundleError(f"{where} would unpack to {total / 1e9:.1f} GB: it is no bundle")


def inner(name: str, *, where: Path) -> str:
    """Return an entry's name below the top folder."""
    return safe(name.split("/", 1)[1], where=where)


def extract(path: Path, *, out: Path) -> list[str]:
    """Unpack a verified zip into the folder `out`, all of it or nothing; returns the names of its files."""
    contents = read_folder(path) if path.is_dir() else read_zip(path)
    names = verify(path)
    with atomic_folder(out) as folder:
        for name in [*names, SUMS]:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(contents[name])
    return names
