"""The terrain ontology and the mappings onto it: data files that a person can edit."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from hexpath_data.errors import OntologyError

HERE = Path(__file__).parent
MAPPINGS = HERE / "mappings"
GOOSE_TABLE = "goose_label_mapping.csv"
KINDS = {"ids": "id", "colours": "colour", "names": "key"}


@dataclass(frozen=True, kw_only=True)
class Terrain:
    """One class: `colour` is RGB for pictures, `cost` free, caution or blocked."""

    id: int
    key: str
    name: str
    colour: tuple[int, int, int]
    cost: str


@dataclass(frozen=True, kw_only=True)
class Ontology:
    """The classes by id, and the id of what does not count."""

    classes: tuple[Terrain, ...]
    ignore: int

    @property
    def names(self) -> dict[int, str]:
        """Class names by id."""
        return {terrain.id: terrain.name for terrain in self.classes}

    def id_of(self, key: str) -> int | None:
        """Return the id of a class's key or of `ignore`; None for another word."""
        known = {terrain.key: terrain.id for terrain in self.classes} | {"ignore": self.ignore}
        return known.get(key)


@dataclass(frozen=True, kw_only=True)
class Mapping7:
    """From a dataset's ids (or 24-bit colours) to the ontology; `names` says what they were."""

    file: Path
    coloured: bool
    table: Mapping[int, int]
    names: Mapping[int, str]

    def apply(self, mask: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint8], dict[int, int]]:
        """Return the mask in the ontology, uint8 (H, W), and the unknown keys with their pixel counts.

        mask: ids (H, W), or colours (H, W, 3). Unknown pixels are `ignore` in the result; whoever calls this
        must not pass over them in silence.
        """
        keys = pack(mask) if self.coloured else mask.astype(np.int64)
        found, where, counts = np.unique(keys, return_inverse=True, return_counts=True)
        unknown = {
            int(key): int(count)
            for key, count in zip(found, counts, strict=True)
            if int(key) not in self.table
        }
        values = np.array([self.table.get(int(key), ontology().ignore) for key in found], np.uint8)
        return values[where].reshape(keys.shape), unknown

    def label(self, key: int) -> str:
        """Write a key as a person would: `27`, or `(255, 0, 127)`."""
        return str(unpack(key)) if self.coloured else str(key)


def pack(colours: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return 24-bit numbers (H, W) of uint8 RGB (H, W, 3)."""
    wide = colours.astype(np.int64)
    packed: npt.NDArray[np.int64] = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return packed


def unpack(key: int) -> tuple[int, int, int]:
    """Return the RGB colour of a 24-bit number."""
    return key >> 16, (key >> 8) & 255, key & 255


@cache
def ontology() -> Ontology:
    """Read ontology.yaml."""
    content = _read(HERE / "ontology.yaml")
    classes = tuple(
        Terrain(
            id=number,
            key=str(entry["key"]),
            name=str(entry["name"]),
            colour=tuple(entry["colour"]),
            cost=str(entry["cost"]),
        )
        for number, entry in enumerate(content["classes"])
    )
    return Ontology(classes=classes, ignore=int(content["ignore"]))


def known_datasets() -> tuple[str, ...]:
    """Return the datasets that a mapping exists for."""
    return tuple(sorted(path.stem for path in MAPPINGS.glob("*.yaml")))


def mapping_file(dataset: str) -> Path:
    """Return the mapping of a dataset; raise OntologyError with the nearest name."""
    if dataset not in known_datasets():
        close = get_close_matches(dataset, known_datasets(), n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known_datasets())}"
        raise OntologyError(f"no terrain mapping for '{dataset}'; {hint}")
    return MAPPINGS / f"{dataset}.yaml"


def read_mapping(file: Path, *, root: Path | None = None) -> Mapping7:
    """Read a mapping; one by names needs the dataset's folder `root` for its table of ids.

    Raises:
        OntologyError: the file is missing or malformed, names a class that the ontology does not have, names
            a key twice, or lacks a class that the dataset's table has.
    """
    content = _read(file)
    kind = content.get("keys")
    if kind not in KINDS or not isinstance(content.get("classes"), list):
        raise OntologyError(
            f"{file}: needs keys: {', '.join(KINDS)} and a list of classes; found keys={kind!r}"
        )
    ids = _goose_ids(file, root) if kind == "names" else None
    table: dict[int, int] = {}
    names: dict[int, str] = {}
    for number, entry in enumerate(content["classes"]):
        key = _key(file, entry, number=number, kind=str(kind), ids=ids)
        if key is None:
            continue
        if key in table:
            raise OntologyError(f"{file}: class {number} ({entry['name']}) has the key of {names[key]}")
        terrain = ontology().id_of(str(entry.get("terrain")))
        if terrain is None:
            known = ", ".join([*(one.key for one in ontology().classes), "ignore"])
            raise OntologyError(
                f"{file}: {entry['name']} is terrain {entry.get('terrain')!r}; known: {known}"
            )
        table[key], names[key] = terrain, str(entry["name"])
    _complete(file, ids, table)
    return Mapping7(file=file, coloured=kind == "colours", table=table, names=names)


def _key(file: Path, entry: Any, *, number: int, kind: str, ids: Mapping[str, int] | None) -> int | None:
    """Return an entry's id; None for a name that this release of the dataset does not have."""
    wanted = KINDS[kind]
    if not isinstance(entry, dict) or wanted not in entry or "name" not in entry:
        raise OntologyError(f"{file}: class {number} is {entry!r}, expected {{{wanted}: ..., name, terrain}}")
    value = entry[wanted]
    if ids is not None:
        return ids.get(str(value))
    if kind == "ids" and isinstance(value, int):
        return value
    if kind == "colours" and isinstance(value, list) and len(value) == 3:
        return int(pack(np.array(value, np.uint8)))
    raise OntologyError(f"{file}: class {number} has {wanted} {value!r}, which is none")


def _goose_ids(file: Path, root: Path | None) -> dict[str, int]:
    table = (root or Path()) / GOOSE_TABLE
    try:
        with table.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return {row["class_name"]: int(row["label_key"]) for row in rows}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise OntologyError(
            f"{file} maps by name and needs {table} with class_name,label_key: {error!r}; copy it there"
        ) from error


def _complete(file: Path, ids: Mapping[str, int] | None, table: Mapping[int, int]) -> None:
    lacking = [name for name, number in (ids or {}).items() if number not in table]
    if lacking:
        raise OntologyError(f"{file} says nothing of {', '.join(lacking)}, which {GOOSE_TABLE} has; add it")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OntologyError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise OntologyError(f"{file} holds a {type(content).__name__}, expected keys and classes")
    return content
