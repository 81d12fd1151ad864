"""A dataset in Ultralytics' format, read without touching the folder that it lies in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ClassMismatchError, DataFileError, OptionError


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """data.yaml with its paths resolved; `fingerprint` is empty where the file carries none."""

    file: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    names: dict[int, str]
    fingerprint: str

    def split(self, name: str) -> tuple[Path, ...]:
        """Return the image folders or list files of `train` or `val`."""
        return {"train": self.train, "val": self.val}[name]

    def for_ultralytics(self) -> dict[str, Any]:
        """Return the dictionary that Ultralytics' check_det_dataset makes of the file."""
        return {
            "path": self.root,
            "train": [str(path) for path in self.train],
            "val": [str(path) for path in self.val],
            "names": dict(self.names),
            "nc": len(self.names),
            "channels": 3,
            "yaml_file": str(self.file),
        }


def read_dataset(file: Path) -> Dataset:
    """Read data.yaml; `path` and the splits may be relative to it.

    Raises DataFileError when the file is missing, no YAML, lacks train, val or names, or a split is absent.
    """
    content = _read_yaml(file)
    root = (file.resolve().parent / str(content.get("path") or ".")).resolve()
    return Dataset(
        file=file.resolve(),
        root=root,
        train=_split(file, content, root=root, name="train"),
        val=_split(file, content, root=root, name="val"),
        names=_names(file, content),
        fingerprint=str(content.get("fingerprint") or ""),
    )


def _read_yaml(file: Path) -> dict[str, Any]:
    import yaml

    if not file.is_file():
        raise DataFileError(f"no such data.yaml: {file}; give the path of a dataset in Ultralytics format")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataFileError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataFileError(f"{file} holds a {type(content).__name__}, expected keys path, train, val, names")
    return content


def _split(file: Path, content: dict[str, Any], *, root: Path, name: str) -> tuple[Path, ...]:
    value = content.get(name)
    if not value:
        raise DataFileError(f"{file} has no {name!r}; add the folder of its images")
    paths = tuple((root / str(part)).resolve() for part in (value if isinstance(value, list) else [value]))
    for path in paths:
        if not path.exists():
            raise DataFileError(f"{file}: {name} points to {path}, which does not exist")
    return paths


def _names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
    try:
        result = {int(key): str(value) for key, value in pairs}
    except (TypeError, ValueError) as error:
        raise DataFileError(f"{file}: names has a key that is no class number: {error}") from error
    if not result or sorted(result) != list(range(len(result))):
        raise DataFileError(f"{file}: names must number the classes 0 to N-1, found {names!r}")
    return dict(sorted(result.items()))


def check_classes(dataset: Dataset, names: dict[int, str], *, checkpoint: Path) -> None:
    """Raise ClassMismatchError when the checkpoint was trained on other classes than the dataset's."""
    if len(names) != len(dataset.names):
        raise ClassMismatchError(
            f"{dataset.file} has {len(dataset.names)} classes, {checkpoint} was trained on {len(names)}; "
            "use the dataset of the checkpoint, or train on this one"
        )
    for index, name in names.items():
        if dataset.names[index] != name:
            raise ClassMismatchError(
                f"class {index} is {dataset.names[index]!r} in {dataset.file} but {name!r} in {checkpoint}; "
                "use the dataset of the checkpoint, or train on this one"
            )


def image_size(text: str) -> tuple[int, int]:
    """Parse `320` or `544x640` (height x width, pixels); both must be multiples of 32."""
    try:
        parts = [int(part) for part in text.lower().split("x")]
    except ValueError:
        parts = []
    if len(parts) not in (1, 2) or any(part < 32 or part % 32 for part in parts):
        raise OptionError(f"image size {text!r} is not a multiple of 32, or a pair like 544x640")
    return parts[0], parts[-1]
