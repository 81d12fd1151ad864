"""Other people's masks in the terrain ontology: one folder of images, id masks and a data.yaml."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from hexpath_data.errors import MaskError
from hexpath_data.files import atomic_folder
from hexpath_data.terrain.layouts import SPLITS, Pair, find_pairs
from hexpath_data.terrain.ontology import Mapping7, mapping_file, ontology, read_mapping

MARKER = "terrain.json"
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset to take in: its name, its folder, and a mapping of one's own."""

    dataset: str
    root: Path
    mapping: Path | None = None


def convert(sources: Sequence[Source], *, out: Path, limit: int | None = None) -> dict[str, Any]:
    """Write images, masks and data.yaml of all sources to `out`; return the summary, also in terrain.json.

    limit: of images taken from each split of each source, spread evenly.

    Raises:
        OntologyError: an unknown dataset or a malformed mapping.
        MaskError: another layout, a mask that is missing, unreadable or of another size than its image, or
            ids or colours that the mapping does not know: all of them with their counts.
    """
    if not sources:
        raise MaskError("no dataset to convert; name one as NAME=FOLDER")
    read = [_open(source, limit=limit) for source in sources]
    summary: dict[str, Any] = {"schema": 1, "sources": {}, "names": list(ontology().names.values())}
    with atomic_folder(out, marker=MARKER) as folder:
        digest = hashlib.sha256(json.dumps(ontology().names).encode())
        for number, (source, mapping, pairs) in enumerate(read):
            prefix = source.dataset if len(read) > 1 else ""
            if [one.dataset for one in sources].count(source.dataset) > 1:
                prefix = f"{source.dataset}{number + 1}"
            label = prefix or source.dataset
            summary["sources"][label] = _write(mapping, pairs, folder=folder, prefix=prefix, digest=digest)
        summary["fingerprint"] = f"sha256:{digest.hexdigest()}"
        (folder / "data.yaml").write_text(_data_yaml(summary["fingerprint"]), encoding="utf-8")
        (folder / MARKER).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _open(source: Source, *, limit: int | None) -> tuple[Source, Mapping7, dict[str, list[Pair]]]:
    """Read a source's mapping, and every one of its masks before anything is written."""
    file = source.mapping or mapping_file(source.dataset)
    mapping_file(source.dataset)  # its name decides the layout, whatever the mapping
    mapping = read_mapping(file, root=source.root)
    pairs = {split: _spread(found, limit) for split, found in find_pairs(source.dataset, source.root).items()}
    unknown: Counter[int] = Counter()
    masks = 0
    for split in SPLITS:
        for pair in pairs[split]:
            _, found = mapping.apply(_read_mask(pair, coloured=mapping.coloured))
            unknown.update(found)
            masks += bool(found)
    if unknown:
        raise MaskError(_unknown_text(source, mapping, unknown=unknown, masks=masks))
    return source, mapping, pairs


def _spread(pairs: list[Pair], limit: int | None) -> list[Pair]:
    count = min(len(pairs), limit or len(pairs))
    return [pairs[index * len(pairs) // count] for index in range(count)]


def _unknown_text(source: Source, mapping: Mapping7, *, unknown: Counter[int], masks: int) -> str:
    listed = [f"{mapping.label(key)} ({count} pixels)" for key, count in unknown.most_common(SHOWN)]
    more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
    kind = "colours" if mapping.coloured else "ids"
    return (
        f"{masks} masks of {source.root} hold {kind} that {mapping.file.name} does not know: "
        f"{', '.join(listed)}{more}; add them to a copy of {mapping.file} and give it with --mapping"
    )


def _read_mask(pair: Pair, *, coloured: bool) -> np.ndarray[Any, Any]:
    try:
        with Image.open(pair.mask) as image, Image.open(pair.image) as picture:
            size = picture.size
            mask = np.asarray(image.convert("RGB") if coloured else image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise MaskError(f"{pair.image} or its mask {pair.mask} cannot be read: {error}") from error
    if mask.shape[1::-1] != size:
        found = f"{mask.shape[1]}x{mask.shape[0]}"
        raise MaskError(f"mask {pair.mask} has {found} pixels, its image {size[0]}x{size[1]}")
    if not coloured and mask.ndim != 2:
        raise MaskError(f"mask {pair.mask} has {mask.shape[2]} channels, expected one id a pixel")
    return mask


def _write(
    mapping: Mapping7, pairs: dict[str, list[Pair]], *, folder: Path, prefix: str, digest: Any
) -> dict[str, Any]:
    """Write one source and return its images and pixels by class."""
    pixels: Counter[int] = Counter()
    for split in SPLITS:
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for pair in pairs[split]:
            name = f"{prefix}_{pair.name}" if prefix else pair.name
            mask, _ = mapping.apply(_read_mask(pair, coloured=mapping.coloured))
            image = folder / "images" / split / f"{name}{pair.image.suffix.lower()}"
            _place(pair.image, image)
            Image.fromarray(mask).save(folder / "masks" / split / f"{name}.png")
            pixels.update(
                dict(zip(*(array.tolist() for array in np.unique(mask, return_counts=True)), strict=True))
            )
            digest.update(f"{split}\t{image.name}\n".encode() + pair.image.read_bytes() + mask.tobytes())
    names = {**ontology().names, ontology().ignore: "ignored"}
    total = sum(pixels.values())
    return {
        "mapping": mapping.file.name,
        "images": {split: len(pairs[split]) for split in SPLITS},
        "share": {names[key]: round(count / total, 5) for key, count in sorted(pixels.items())},
    }


def _place(source: Path, target: Path) -> None:
    """Link the image (same bytes, no space), or copy it where the file system has no links."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _data_yaml(fingerprint: str) -> str:
    content = {
        "path": ".",
        "train": "images/train",
        "val": "images/val",
        "masks": {"train": "masks/train", "val": "masks/val"},
        "ignore": ontology().ignore,
        "names": ontology().names,
        "costs": {entry.name: entry.cost for entry in ontology().classes},
        "fingerprint": fingerprint,
    }
    return yaml.safe_dump(content, sort_keys=False)
