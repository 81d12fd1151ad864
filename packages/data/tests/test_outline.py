"""Outlines of masks, and label files that hold them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hexpath_data import generate, write_card
from hexpath_data.outline import outline
from hexpath_data.yolo import read_labels

RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
APART = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]], dtype=bool)
DIAGONAL = np.eye(3, dtype=bool)


def area(points: list[tuple[int, int]]) -> float:
    x, y = np.array(points).T
    return float(abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2


def random_mask(seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((9, 7)) < 0.5


def test_a_rectangle_has_four_corners() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 1:7] = True
    assert sorted(outline(mask)) == [(1, 2), (1, 5), (7, 2), (7, 5)]


def test_an_empty_mask_has_none() -> None:
    assert outline(np.zeros((3, 3), dtype=bool)) == []


@pytest.mark.parametrize("mask", [RING, APART, DIAGONAL, *map(random_mask, range(20))])
def test_area_is_the_count_of_pixels_and_extremes_are_the_box(mask: NDArray[np.bool_]) -> None:
    points = outline(mask)
    assert area(points) == mask.sum()
    rows, columns = np.nonzero(mask)
    x, y = np.array(points).T
    assert (x.min(), x.max(), y.min(), y.max()) == (
        columns.min(),
        columns.max() + 1,
        rows.min(),
        rows.max() + 1,
    )


def test_drawing_it_gives_the_mask_back() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:30, 8:20] = mask[20:35, 15:33] = True
    image = Image.new("1", (400, 400))
    ImageDraw.Draw(image).polygon([(10 * x, 10 * y) for x, y in outline(mask)], fill=1)
    assert (np.asarray(image)[5::10, 5::10] == mask).all()


def test_segments_differ_from_boxes_in_the_label_files_alone(tmp_path: Path) -> None:
    sizes = {"train": 3, "val": 2, "size": 96}
    boxes = generate(tmp_path / "boxes", **sizes).parent
    segments = generate(tmp_path / "segments", **sizes, labels="segments").parent
    names = [p.relative_to(boxes) for p in sorted(boxes.rglob("*")) if p.is_file()]
    differ = {n.parts[0] for n in names if (boxes / n).read_bytes() != (segments / n).read_bytes()}
    assert differ == {"labels", "data.yaml"}
    for name in (n for n in names if n.parts[0] == "labels"):
        plain, outlined = (read_labels(root / name, classes=3) for root in (boxes, segments))
        assert len(plain) == len(outlined)
        for a, b in zip(plain, outlined, strict=True):
            assert b.polygon
            assert a.class_id == b.class_id
            assert a.corners == pytest.approx(b.corners, abs=2e-6)


def test_the_card_keeps_the_exact_masks(tmp_path: Path) -> None:
    data = generate(tmp_path / "set", train=2, val=1, size=96, labels="segments")
    card = write_card(data, out=tmp_path / "card").parent
    own = json.loads((data.parent / "annotations" / "val.json").read_text())["annotations"]
    found = json.loads((card / "coco" / "val.json").read_text())["annotations"]
    assert [a["segmentation"] for a in found] == [a["segmentation"] for a in own]
