"""Masks side by side and what they cost, from the record to the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hexpath_deploy.errors import ReportError, ResultsError
from hexpath_deploy.report import validate
from hexpath_deploy.report.document import render
from hexpath_deploy.report.masks import BLANK, COSTS, PALETTE, masks


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:], 16)


@pytest.fixture
def told(record: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The fixture's record with one image: person above, vehicle below, a column that does not count."""
    ids = np.zeros((40, 60), np.uint8)
    ids[20:] = 1
    Image.fromarray(np.full((40, 60, 3), 100, np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(ids).save(tmp_path / "found.png")
    ids[:, 0] = 11
    Image.fromarray(ids).save(tmp_path / "truth.png")
    one = {"id": record["results"][0]["id"], "evaluated_on": "ort", "path": "found.png"}
    entry = {"image": "image.png", "truth": "truth.png", "found": [one]}
    record["dataset"]["names"] = ["person", "vehicle", "motorcycle"]
    record["masks"] = {"costs": {"person": "blocked", "vehicle": "caution"}, "images": [entry]}
    del record["dataset"]["card"]
    for key in ("samples", "curves"):
        record.pop(key, None)
    return record


def pixels(uri: str) -> np.ndarray[Any, Any]:
    data = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_pictures_say_what_the_masks_hold(told: dict[str, Any], tmp_path: Path) -> None:
    validate(told)
    drawn = masks(told, root=tmp_path)
    assert drawn is not None
    image, truth, found = drawn.strips[0].masks
    assert (image.title, truth.title) == ("image", "ground truth")
    assert tuple(pixels(truth.image)[5, 0]) == rgb(BLANK)
    assert tuple(pixels(found.image)[5, 30]) == rgb(PALETTE[0])
    assert tuple(pixels(found.image)[35, 30]) == rgb(PALETTE[1])
    assert found.tip == "vehicle 50%, person 50%"
    cost = drawn.strips[0].costs[1]
    expected = 0.4 * 100 + 0.6 * np.array(rgb(COSTS["blocked"]))
    assert np.abs(pixels(cost.image)[5, 30] - expected).max() < 8
    assert cost.tip == "free 0%, caution 50%, blocked 50%"
    assert [(row[0], row[2]) for row in drawn.costs] == [("caution", "vehicle"), ("blocked", "person")]


def test_the_page_has_both(told: dict[str, Any], tmp_path: Path) -> None:
    html = render(told, root=tmp_path)
    assert 'id="masks"' in html
    assert "What a planner would make of them" in html
    del told["masks"]["costs"]
    assert "What a planner would make of them" not in render(told, root=tmp_path)
    del told["masks"]
    assert 'id="masks"' not in render(told, root=tmp_path)


def test_what_is_wrong_is_named(told: dict[str, Any], tmp_path: Path) -> None:
    found = told["masks"]["images"][0]["found"][0]
    found["path"] = "image.png"
    with pytest.raises(ReportError, match=r"masks.images\[0\].found\[0\]: .* no mask of class ids"):
        masks(told, root=tmp_path)
    found["path"] = "none.png"
    with pytest.raises(ReportError, match="cannot be read"):
        masks(told, root=tmp_path)
    found["id"] = "w8a9"
    with pytest.raises(ResultsError, match=r"masks.images\[0\].found\[0\].id names no row: 'w8a9'"):
        validate(told)
    told["masks"]["costs"]["person"] = "expensive"
    with pytest.raises(ResultsError, match=r"masks.costs.person is 'expensive'"):
        validate(told)
