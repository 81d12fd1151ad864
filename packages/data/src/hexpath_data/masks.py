"""The card of a dataset of images with one id mask each: counts, class shares, a fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, UnidentifiedImageError

from hexpath_data.dataset import REQUIRED_SPLITS, list_images
from hexpath_data.errors import (
    DataYamlError,
    DataYamlMissingError,
    EmptySplitError,
    LeakError,
    MaskError,
    SplitMissingError,
)
from hexpath_data.files import atomic_folder, refuse_foreign

SCHEMA, MARKER, IGNORE = 1, "card.json", 255
Pairs = Mapping[str, list[tuple[Path, Path]]]


@dataclass(frozen=True, kw_only=True)
class MaskDataset:
    """A data.yaml with `masks`: its content, the folder that it starts from, image and mask by split."""

    file: Path
    content: Mapping[str, Any]
    root: Path
    pairs: Pairs

    @property
    def names(self) -> dict[int, str]:
        """Class names by id, without the id to ignore."""
        raw = self.content["names"]
        pairs = raw.items() if isinstance(raw, dict) else enumerate(raw)
        return {int(key): str(name) for key, name in pairs if int(key) != self.ignore}

    @property
    def ignore(self) -> int:
        """The id in the masks that does not count."""
        return int(self.content.get("ignore", IGNORE))


def has_masks(data_yaml: Path) -> bool:
    """Return whether a data.yaml describes id masks, not boxes; False for what is no YAML mapping."""
    try:
        content = yaml.safe_load(Path(data_yaml).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "masks" in content


def read_masks(data_yaml: Path) -> MaskDataset:
    """Read a data.yaml of images and masks and find its pairs; nothing is decoded yet.

    Raises:
        DataYamlMissingError, DataYamlError: no such file, or a key is missing.
        SplitMissingError, EmptySplitError: a folder is not there, or holds no image.
        MaskError: an image has no mask.
    """
    file = Path(os.path.abspath(data_yaml))
    if not file.is_file():
        raise DataYamlMissingError(f"{file} does not exist")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    masks = content.get("masks")
    if not isinstance(masks, dict) or not isinstance(content.get("names"), dict | list):
        raise DataYamlError(f"{file} needs names and masks: {{train: FOLDER, val: FOLDER}}")
    root = Path(os.path.abspath(file.parent / str(content.get("path") or ".")))
    pairs = {split: _pairs(file, content, root=root, split=split) for split in REQUIRED_SPLITS}
    return MaskDataset(file=file, content=content, root=root, pairs=pairs)


def write_mask_card(data_yaml: Path, *, out: Path) -> dict[str, Any]:
    """Check a dataset of masks and write `out`/{data.yaml, card.json}; return the card.

    The new data.yaml names the folder absolutely, or relative where it lies beside `out`.

    Raises:
        LeakError: the same image stands in both splits.
        MaskError: a mask is missing, unreadable, of another size than its image, or holds unknown ids.
        DataError: what else `read_masks` finds, or `out` cannot be written.
    """
    refuse_foreign(Path(out), marker=MARKER)
    out, dataset = Path(os.path.abspath(out)), read_masks(data_yaml)
    card = _card(dataset)
    beside = dataset.root.is_relative_to(out.parent)
    root = Path(os.path.relpath(dataset.root, out)).as_posix() if beside else str(dataset.root)
    content = {**dataset.content, "path": root, "fingerprint": card["fingerprint"]}
    with atomic_folder(out, marker=MARKER) as folder:
        (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        (folder / MARKER).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def _pairs(file: Path, content: Mapping[str, Any], *, root: Path, split: str) -> list[tuple[Path, Path]]:
    if split not in content or split not in content["masks"]:
        raise DataYamlError(f"{file} needs {split}: FOLDER and masks: {{{split}: FOLDER}}")
    images, masks = root / str(content[split]), root / str(content["masks"][split])
    for folder in (images, masks):
        if not folder.is_dir():
            raise SplitMissingError(f"{file}: {split} points to {folder}, which is no folder")
    found = [(p, masks / p.relative_to(images).with_suffix(".png")) for p in list_images(images)]
    if not found:
        raise EmptySplitError(f"{file}: {split} holds no images in {images}")
    lacking = [mask for _, mask in found if not mask.is_file()]
    if lacking:
        raise MaskError(f"{file}: {len(lacking)} images of {split} have no mask, e.g. {lacking[0]}")
    return found


def _card(dataset: MaskDataset) -> dict[str, Any]:
    names, digest = dataset.names, hashlib.sha256(json.dumps(dataset.names).encode())
    seen: dict[bytes, tuple[str, Path]] = {}
    splits: dict[str, Any] = {}
    for split, pairs in dataset.pairs.items():
        pixels: Counter[int] = Counter()
        for image, mask in pairs:
            raw = image.read_bytes()
            own = hashlib.sha256(raw).digest()
            if own in seen and seen[own][0] != split:
                raise LeakError(f"{image} of {split} is the same image as {seen[own][1]} of {seen[own][0]}")
            seen[own] = (split, image)
            ids = _read_ids(image, mask, names=names, ignore=dataset.ignore)
            pixels.update(dict(zip(*(a.tolist() for a in np.unique(ids, return_counts=True)), strict=True)))
            digest.update(f"{split}\t{image.name}\n".encode() + own + ids.tobytes())
        total = sum(pixels.values())
        shares = {names.get(key, "ignored"): round(n / total, 5) for key, n in sorted(pixels.items())}
        splits[split] = {"images": len(pairs), "share": shares}
    return {
        "schema": SCHEMA,
        "fingerprint": f"sha256:{digest.hexdigest()}",
        "names": list(names.values()),
        "images": {split: len(pairs) for split, pairs in dataset.pairs.items()},
        "splits": splits,
        "source": str(dataset.file),
    }


def _read_ids(image: Path, mask: Path, *, names: Mapping[int, str], ignore: int) -> Any:
    """Return a mask's ids (H, W), checked against its image's size and the known ids."""
    try:
        with Image.open(mask) as opened, Image.open(image) as picture:
            size, ids = picture.size, np.asarray(opened)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise MaskError(f"{image} or its mask {mask} cannot be read: {error}") from error
    if ids.shape != size[::-1]:
        raise MaskError(f"mask {mask} has the shape {ids.shape}, its image {size[::-1]}; one id a pixel")
    unknown = sorted(set(np.unique(ids).tolist()) - names.keys() - {ignore})
    if unknown:
        known = f"known are {sorted(names)}, {ignore}"
        raise MaskError(f"mask {mask} holds the unknown ids {unknown[:8]}; {known}")
    return ids
