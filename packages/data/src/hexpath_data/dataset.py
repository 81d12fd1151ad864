"""Reading an Ultralytics data.yaml: where images and labels are, and what the classes are called."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hexpath_data.errors import (
    DataError,
    DataYamlError,
    DataYamlMissingError,
    EmptySplitError,
    SplitMissingError,
)

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
REQUIRED_SPLITS = ("train", "val")
SPLITS = (*REQUIRED_SPLITS, "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: the folders or lists it names, and its images in the order of their names."""

    name: str
    sources: tuple[Path, ...]
    images: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset as its data.yaml describes it; paths are absolute, nothing is decoded yet.

    names: class names by class id. extra: the mapping under the key `hexpath`, or empty.
    recorded_fingerprint: what a card wrote into the file, or None.
    """

    yaml_path: Path
    root: Path
    names: tuple[str, ...]
    splits: Mapping[str, Split]
    extra: Mapping[str, Any]
    recorded_fingerprint: str | None

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, with forward slashes, wherever the root lies."""
        return Path(os.path.relpath(path, self.root)).as_posix()


def read_dataset(path: Path) -> Dataset:
    """Read a data.yaml and list the images of its splits.

    `path:` inside is absolute or relative to the file; a split is a folder, a list of folders, or a
    `.txt` list of images (relative lines count from the list's folder).

    Raises:
        DataYamlMissingError, DataYamlError: the file is not there, or not what it should be.
        SplitMissingError, EmptySplitError: a split's folder is not there, or holds no image.
    """
    dataset, broken = read_tolerantly(path)
    for error in broken:
        raise error
    return dataset


def read_tolerantly(path: Path) -> tuple[Dataset, list[DataError]]:
    """Read a data.yaml like `read_dataset`, but return the splits' errors beside what could be read.

    Raises:
        DataYamlMissingError, DataYamlError: the file is not there, or not what it should be.
    """
    path = Path(os.path.abspath(path))
    content = _load(path)
    root = _root(content, yaml_path=path)
    splits: dict[str, Split] = {}
    broken: list[DataError] = []
    for name in _present(content, path):
        try:
            splits[name] = _split(content, name, root=root, yaml_path=path)
        except (SplitMissingError, EmptySplitError) as error:
            broken.append(error)
    dataset = Dataset(
        yaml_path=path,
        root=root,
        names=_names(content, yaml_path=path),
        splits=splits,
        extra=_extra(content, yaml_path=path),
        recorded_fingerprint=content.get("fingerprint"),
    )
    return dataset, broken


def label_path(image: Path) -> Path:
    """Return an image's label file: the last `images` folder in its path becomes `labels`."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def list_images(folder: Path) -> list[Path]:
    """Return every image below a folder, sorted."""
    found = (Path(base) / name for base, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def _load(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        raise DataYamlMissingError(f"{path} is a folder; name the data.yaml inside it")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataYamlMissingError(f"no such file: {path}{_nearby(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataYamlError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataYamlError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataYamlError(f"{path}: holds no keys; expected path, train, val, names")
    return content


def _nearby(path: Path) -> str:
    beside = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
    if beside:
        return f"; did you mean {beside[0]}, which lies there?"
    return "; give the path of an Ultralytics data.yaml"


def _require(content: Mapping[str, Any], key: str, *, yaml_path: Path) -> Any:
    if content.get(key) is not None:
        return content[key]
    near = difflib.get_close_matches(key, [str(k) for k in content], n=1)
    hint = f"; did you mean its key {near[0]!r}?" if near and near[0] != key else f"; add a line '{key}: ...'"
    raise DataYamlError(f"{yaml_path}: key {key!r} is missing or empty{hint}")


def _root(content: Mapping[str, Any], *, yaml_path: Path) -> Path:
    value = content.get("path") or "."
    if not isinstance(value, str):
        raise DataYamlError(f"{yaml_path}: path must be text, found {value!r}")
    return Path(os.path.abspath(yaml_path.parent / value))


def _extra(content: Mapping[str, Any], *, yaml_path: Path) -> Mapping[str, Any]:
    value = content.get("hexpath") or {}
    if not isinstance(value, dict):
        raise DataYamlError(f"{yaml_path}: hexpath must be a mapping, found {value!r}")
    return value


def _names(content: Mapping[str, Any], *, yaml_path: Path) -> tuple[str, ...]:
    if content.get("names") is None and isinstance(content.get("nc"), int):
        return tuple(f"class_{i}" for i in range(content["nc"]))  # as Ultralytics does
    value = _require(content, "names", yaml_path=yaml_path)
    if isinstance(value, dict):
        value = _ordered(value, yaml_path=yaml_path)
    if not isinstance(value, list) or not value:
        raise DataYamlError(f"{yaml_path}: names must be a list or map ids to names, found {value!r}")
    names = tuple(str(name) for name in value)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataYamlError(f"{yaml_path}: names holds {twice[0]!r} twice; class names must differ")
    if "nc" in content and content["nc"] != len(names):
        raise DataYamlError(f"{yaml_path}: nc is {content['nc']!r} but names holds {len(names)} classes")
    return names


def _ordered(names: Mapping[Any, Any], *, yaml_path: Path) -> list[Any]:
    if sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise DataYamlError(
            f"{yaml_path}: the ids in names must be 0 to {len(names) - 1} without gaps, found {list(names)}"
        )
    return [names[i] for i in range(len(names))]


def _present(content: Mapping[str, Any], yaml_path: Path) -> list[str]:
    for name in REQUIRED_SPLITS:
        _require(content, name, yaml_path=yaml_path)
    return [name for name in SPLITS if name in REQUIRED_SPLITS or content.get(name)]


def _split(content: Mapping[str, Any], name: str, *, root: Path, yaml_path: Path) -> Split:
    value = content[name]
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise DataYamlError(f"{yaml_path}: {name} must be a path or a list of paths, found {value!r}")
    sources = tuple(_source(entry, split=name, root=root, yaml_path=yaml_path) for entry in entries)
    images = sorted({image for source in sources for image in _images(source)})
    if not images:
        listed = ", ".join(str(source) for source in sources) or "no folder"
        raise EmptySplitError(f"{yaml_path}: split {name} holds no images in {listed}; check the path")
    return Split(name=name, sources=sources, images=tuple(images))


def _source(entry: str, *, split: str, root: Path, yaml_path: Path) -> Path:
    source = Path(os.path.abspath(root / entry))
    if not source.exists() and entry.startswith("../"):
        source = Path(os.path.abspath(root / entry[3:]))  # exports that count from a folder deeper
    if not source.exists():
        raise SplitMissingError(
            f"{yaml_path}: split {split} names {source}, which does not exist; "
            f"'path' is taken relative to the data.yaml, and {split} relative to 'path'"
        )
    return source


def _images(source: Path) -> list[Path]:
    if source.is_dir():
        return list_images(source)
    if source.suffix.lower() in IMAGE_SUFFIXES:
        return [source]
    return _listed(source)


def _listed(source: Path) -> list[Path]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataYamlError(f"{source}: cannot be read as a list of images: {error}") from error
    return [Path(os.path.abspath(source.parent / line.strip())) for line in lines if line.strip()]
