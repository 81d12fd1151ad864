"""The dataset card: what later stages need to know, and the formats that they read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hexpath_data.checks import Checked, Report, check
from hexpath_data.coco import CocoImage, CocoInstance, CocoSet, read_coco, to_coco
from hexpath_data.dataset import Dataset, Split
from hexpath_data.errors import DataYamlError
from hexpath_data.files import atomic_folder, refuse_foreign
from hexpath_data.statistics import split_statistics
from hexpath_data.yolo import Box, format_data_yaml

SCHEMA = 1
MARKER = "card.json"
_SAME_BOX_IOU = 0.98  # six decimals in a label move an edge by less than a thousandth of a pixel

Facts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card before it is written: the JSON object and the COCO set of each split."""

    report: Report
    content: Mapping[str, Any]
    coco: Mapping[str, CocoSet]


def make_card(data_yaml: Path) -> Card:
    """Check a dataset and describe it.

    Raises:
        DataError: the kind of the first error that the check found.
    """
    report = check(data_yaml)
    report.require_ok()
    return card_of(report)


def card_of(report: Report) -> Card:
    """Return the card of a dataset that passed its check."""
    facts = {split: read_meta(report.dataset, split=split) for split in report.images}
    coco = {
        split: _coco_of(report, split=report.dataset.splits[split], facts=facts[split])
        for split in report.images
    }
    return Card(report=report, content=_content(report, facts=facts), coco=coco)


def write_card(data_yaml: Path, *, out: Path) -> Path:
    """Check a dataset and write `out`/{data.yaml, card.json, coco/<split>.json}; return `out`/data.yaml.

    An earlier card in `out` is replaced.

    Raises:
        DataError: the kind of the first error that the check found.
        OutputExistsError, DiskFullError, OutputError: `out` cannot be written.
    """
    refuse_foreign(Path(out), marker=MARKER)
    return save_card(make_card(data_yaml), out=out)


def save_card(card: Card, *, out: Path) -> Path:
    """Write a card into the folder `out` and return its data.yaml.

    Folders beside `out` are named relative to the file that names them, so that a run folder with dataset and
    card in it can be linked, moved or mounted elsewhere as a whole; all others by their absolute paths.
    """
    out = Path(os.path.abspath(out))
    with atomic_folder(out, marker=MARKER) as partial:
        (partial / "coco").mkdir()
        for split, content in card.coco.items():
            root = _named(Path(content.info["root"]), out=out, start=out / "coco")
            placed = replace(content, info={**content.info, "root": root})
            text = json.dumps(to_coco(placed), separators=(",", ":")) + "\n"
            (partial / "coco" / f"{split}.json").write_text(text, encoding="utf-8")
        (partial / MARKER).write_text(json.dumps(card.content, indent=1) + "\n", encoding="utf-8")
        (partial / "data.yaml").write_text(_data_yaml(card.report, lists=partial, out=out), encoding="utf-8")
    return out / "data.yaml"


def read_meta(dataset: Dataset, *, split: str) -> dict[str, dict[str, Any]]:
    """Return the rows of `meta.jsonl` of one split by file name; empty when there is no such file.

    Raises:
        DataYamlError: a row is no JSON object.
    """
    path = dataset.root / str(dataset.extra.get("meta", "meta.jsonl"))
    if not path.is_file():
        return {}
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row["split"] == split:
                rows[str(row["file_name"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise DataYamlError(f"{path}:{number}: is no row with split and file_name: {error}") from error
    return rows


def _content(report: Report, *, facts: Mapping[str, Facts]) -> dict[str, Any]:
    dataset = report.dataset
    splits = {
        split: split_statistics(images, names=dataset.names, facts=facts[split])
        for split, images in report.images.items()
    }
    kinds = [problem.kind for problem in report.warnings]
    return {
        "schema": SCHEMA,
        "fingerprint": report.fingerprint,
        "names": list(dataset.names),
        "images": {split: len(images) for split, images in report.images.items()},
        "splits": splits,
        "duplicates": {
            "across_splits_exact": 0,  # an error: there is no card then
            "across_splits_near": kinds.count("near duplicate"),
            "within_split_exact": kinds.count("repeated image"),
        },
        "warnings": [str(problem) for problem in report.warnings],
        "generator": dataset.extra.get("generator"),
        "source": str(dataset.yaml_path),
        "tools": _tools(),
    }


def _tools() -> dict[str, str]:
    found = {}
    for name in ("hexpath-data", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # run from a source tree that is not installed
    return found


def _coco_of(report: Report, *, split: Split, facts: Facts) -> CocoSet:
    images = report.images[split.name]
    root = _images_root(split)
    known = _known_instances(report.dataset, split=split.name)
    records = []
    for one in images:
        name = Path(os.path.relpath(one.path, root)).as_posix()
        row = facts.get(one.path.name, {})
        records.append(_coco_image(one, name=name, known=known.get(name, ()), row=row))
    records.sort(key=lambda record: record.file_name)
    info = {"root": str(root), "fingerprint": report.fingerprint, "split": split.name}
    return CocoSet(names=report.dataset.names, images=tuple(records), info=info)


def _images_root(split: Split) -> Path:
    if len(split.sources) == 1 and split.sources[0].is_dir():
        return split.sources[0]
    return Path(os.path.commonpath([image.parent for image in split.images]))


def _known_instances(dataset: Dataset, *, split: str) -> dict[str, tuple[CocoInstance, ...]]:
    folder = dataset.extra.get("annotations")
    path = dataset.root / str(folder) / f"{split}.json"
    if folder is None or not path.is_file():
        return {}
    return {image.file_name: image.instances for image in read_coco(path).images}


def _coco_image(
    one: Checked, *, name: str, known: Sequence[CocoInstance], row: Mapping[str, Any]
) -> CocoImage:
    instances = tuple(_instance(box, image=one, known=known) for box in one.boxes)
    facts = {key: row[key] for key in ("altitude_m", "time_of_day") if key in row}
    return CocoImage(file_name=name, width=one.width, height=one.height, instances=instances, facts=facts)


def _instance(box: Box, *, image: Checked, known: Sequence[CocoInstance]) -> CocoInstance:
    x0, y0, x1, y1 = (min(1.0, max(0.0, value)) for value in box.corners)
    left, top = x0 * image.width, y0 * image.height
    width, height = (x1 - x0) * image.width, (y1 - y0) * image.height
    pixels = (round(left, 3), round(top, 3), round(width, 3), round(height, 3))
    for instance in known:
        if instance.class_id == box.class_id and _iou(instance.box, pixels) >= _SAME_BOX_IOU:
            return CocoInstance(
                class_id=box.class_id,
                box=instance.box,
                area=instance.area,
                segmentation=instance.segmentation,
            )
    area = _polygon_area(box, image=image) if box.polygon else width * height
    segmentation = [[round(v, 3) for x, y in box.polygon for v in (x * image.width, y * image.height)]]
    return CocoInstance(
        class_id=box.class_id,
        box=pixels,
        area=round(area, 3),
        segmentation=segmentation if box.polygon else (),
    )


def _polygon_area(box: Box, *, image: Checked) -> float:
    points = [(x * image.width, y * image.height) for x, y in box.polygon]
    following = [*points[1:], points[0]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, following, strict=True))) / 2


def _iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    union = a[2] * a[3] + b[2] * b[3] - shared
    return shared / union if union > 0 else 0.0


def _data_yaml(report: Report, *, lists: Path, out: Path) -> str:
    dataset = report.dataset
    splits: dict[str, str | list[str]] = {}
    for name, split in dataset.splits.items():
        if all(source.is_dir() for source in split.sources):
            folders = [_within(source, root=dataset.root) for source in split.sources]
            splits[name] = folders[0] if len(folders) == 1 else folders
        else:  # a list may hold relative lines, which tools read from different folders
            text = "".join(f"{image}\n" for image in split.images)
            (lists / f"{name}.txt").write_text(text, encoding="utf-8")
            splits[name] = str(out / f"{name}.txt")
    extra: dict[str, Any] = {"fingerprint": report.fingerprint}
    if dataset.extra:
        extra["hexpath"] = dict(dataset.extra)
    root = _named(dataset.root, out=out, start=out)
    return format_data_yaml(root=root, splits=splits, names=dataset.names, extra=extra)


def _named(path: Path, *, out: Path, start: Path) -> str:
    """Return a folder relative to `start` where it lies beside `out`, else absolute."""
    path = Path(os.path.abspath(path))
    return Path(os.path.relpath(path, start)).as_posix() if path.is_relative_to(out.parent) else str(path)


def _within(path: Path, *, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
