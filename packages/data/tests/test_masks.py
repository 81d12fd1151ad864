"""The card of images with id masks, and each way in which such a dataset can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hexpath_data.cli import main
from hexpath_data.masks import has_masks, read_masks

SIZE = (6, 8)  # height, width
CONTENT = {
    "path": ".",
    "train": "images/train",
    "val": "images/val",
    "masks": {"train": "masks/train", "val": "masks/val"},
    "ignore": 255,
    "names": {0: "ground", 1: "water", 255: "ignored"},
}


def picture(root: Path, split: str, name: str, *, shade: int, ids: tuple[int, ...] = (0, 1, 0, 255)) -> None:
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), shade, np.uint8)).save(root / "images" / split / f"{name}.png")
    columns = np.array([ids[index % len(ids)] for index in range(SIZE[1])], np.uint8)
    Image.fromarray(np.repeat(columns[None], SIZE[0], axis=0)).save(root / "masks" / split / f"{name}.png")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    picture(root, "train", "a", shade=10)
    picture(root, "train", "b", shade=20)
    picture(root, "val", "c", shade=30)
    (root / "data.yaml").write_text(yaml.safe_dump(CONTENT))
    return root / "data.yaml"


def test_a_card_with_class_shares_and_a_data_yaml_that_finds_the_folder(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "card"
    assert main(["card", str(dataset), "--out", str(out)]) == 0
    assert "2 train, 1 val images" in capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    assert card["images"] == {"train": 2, "val": 1}
    assert card["names"] == ["ground", "water"]
    assert card["splits"]["train"]["share"] == {"ground": 0.5, "water": 0.25, "ignored": 0.25}
    written = read_masks(out / "data.yaml")
    assert [image.name for image, _ in written.pairs["train"]] == ["a.png", "b.png"]
    assert written.content["fingerprint"] == card["fingerprint"]


def test_the_fingerprint_follows_a_mask_and_not_the_folder(dataset: Path, tmp_path: Path) -> None:
    def fingerprint(name: str) -> str:
        assert main(["card", str(dataset), "--out", str(tmp_path / name)]) == 0
        return str(json.loads((tmp_path / name / "card.json").read_text())["fingerprint"])

    first = fingerprint("one")
    assert fingerprint("two") == first
    picture(dataset.parent, "val", "c", shade=30, ids=(0, 0, 1))
    assert fingerprint("three") != first


def test_a_detection_dataset_is_none(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    assert not has_masks(tmp_path / "data.yaml")
    assert not has_masks(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("breaks", "code", "says"),
    [
        (lambda r: (r / "masks/val/c.png").unlink(), 28, "1 images of val have no mask"),
        (lambda r: picture(r, "val", "c", shade=30, ids=(0, 9)), 28, "ids [9]; known are [0, 1], 255"),
        (lambda r: (r / "masks/val/c.png").write_bytes(b"x"), 28, "cannot be read"),
        (lambda r: Image.new("L", (3, 3)).save(r / "masks/val/c.png"), 28, "has the shape (3, 3)"),
        (lambda r: picture(r, "val", "c", shade=10), 22, "is the same image as"),
        (lambda r: (r / "images/val/c.png").unlink(), 14, "val holds no images"),
        (lambda r: (r / "masks/val").rename(r / "masks/other"), 13, "which is no folder"),
        (lambda r: (r / "data.yaml").write_text("masks: []\nnames: [a]\n"), 12, "needs names and masks"),
        (lambda r: (r / "data.yaml").write_text("masks: {}\nnames: [a]\n"), 12, "needs train: FOLDER"),
    ],
)
def test_what_is_wrong_is_said(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], breaks, code: int, says: str
) -> None:
    breaks(dataset.parent)
    assert main(["card", str(dataset), "--out", str(tmp_path / "card")]) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "card").exists()
