from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import GOOD, MakeSet

from hexpath_data import check, fingerprint, read_coco, read_dataset, rle_decode, write_card
from hexpath_data.cli import main
from hexpath_data.errors import (
    ClassIdError,
    DataYamlError,
    DiskFullError,
    OutputError,
    OutputExistsError,
)
from hexpath_data.files import atomic_folder, write_atomic


def test_a_card_of_the_generated_set(scenes: Path, tmp_path: Path) -> None:
    data = write_card(scenes, out=tmp_path / "card")
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert card["images"] == {"train": 6, "val": 3}
    assert card["fingerprint"] == yaml.safe_load(data.read_text())["fingerprint"]
    assert card["generator"]["size"] == 96
    train = card["splits"]["train"]
    assert sum(train["time_of_day"].values()) == 6
    assert 30 <= train["altitude_m"]["p0"] <= train["altitude_m"]["p100"] <= 50
    assert sum(entry["instances"] for entry in train["classes"].values()) == train["instances"]
    assert train["image_sizes"] == [{"width_px": 96, "height_px": 96, "images": 6}]
    assert card["duplicates"]["across_splits_exact"] == 0


def test_a_dataset_elsewhere_is_named_absolutely_and_reads_the_same(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_card(scenes, out=tmp_path / "card")
    monkeypatch.chdir("/")
    content = yaml.safe_load(data.read_text())
    assert Path(content["path"]).is_absolute()
    first, second = read_dataset(scenes), read_dataset(data)
    assert {n: s.images for n, s in first.splits.items()} == {n: s.images for n, s in second.splits.items()}
    assert fingerprint(first) == fingerprint(second) == content["fingerprint"]
    again = write_card(data, out=tmp_path / "again")
    assert yaml.safe_load(again.read_text())["fingerprint"] == content["fingerprint"]


def test_dataset_and_card_side_by_side_can_be_moved_together(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes.parent, tmp_path / "run" / "data")
    write_card(tmp_path / "run" / "data" / "data.yaml", out=tmp_path / "run" / "card")
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    dataset = read_dataset(moved / "card" / "data.yaml")
    assert dataset.splits["val"].images[0].is_relative_to(moved.resolve())
    coco = moved / "card" / "coco" / "val.json"
    root = coco.parent / read_coco(coco).info["root"]
    assert all((root / image.file_name).is_file() for image in read_coco(coco).images)
    assert str(tmp_path / "run") not in coco.read_text()


def test_coco_of_the_generated_set_carries_masks(scenes: Path, tmp_path: Path) -> None:
    write_card(scenes, out=tmp_path / "card")
    coco = read_coco(tmp_path / "card" / "coco" / "val.json")
    root = Path(coco.info["root"])
    assert [image.file_name for image in coco.images] == sorted(p.name for p in root.iterdir())
    for image in coco.images:
        assert (root / image.file_name).is_file()
        assert image.facts["time_of_day"] in ("day", "dusk", "night")
        for instance in image.instances:
            mask = rle_decode(instance.segmentation)
            rows, columns = np.nonzero(mask)
            x, y, width, height = instance.box
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
            assert mask.sum() == instance.area


def test_pycocotools_scores_the_labels_as_perfect(scenes: Path, tmp_path: Path) -> None:
    api = importlib.import_module("pycocotools.coco")
    cocoeval = importlib.import_module("pycocotools.cocoeval")
    write_card(scenes, out=tmp_path / "card")
    truth = api.COCO(str(tmp_path / "card" / "coco" / "train.json"))
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in truth.anns.values()
    ]
    scored = cocoeval.COCOeval(truth, truth.loadRes(found), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == pytest.approx(1.0)


def test_polygons_become_coco_polygons_and_overhang_is_clipped(make_set: MakeSet, tmp_path: Path) -> None:
    labels = {"train/a": "0 0.1 0.1 0.5 0.1 0.5 0.6\n", "train/b": "1 0.05 0.5 0.105 0.2\n"}
    write_card(make_set(labels=labels), out=tmp_path / "card")
    first, second = read_coco(tmp_path / "card" / "coco" / "train.json").images
    assert first.instances[0].segmentation == [[4.0, 3.0, 20.0, 3.0, 20.0, 18.0]]
    assert first.instances[0].box == (4.0, 3.0, 16.0, 15.0)
    assert first.instances[0].area == 120
    assert second.instances[0].box == (0.0, 12.0, 4.1, 6.0)


def test_a_split_given_as_a_list_gets_absolute_lines(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set()
    (data.parent / "train.txt").write_text("./images/train/b.png\n")
    data.write_text(data.read_text().replace("train: images/train", "train: train.txt"))
    again = read_dataset(write_card(data, out=tmp_path / "card"))
    assert again.splits["train"].images == read_dataset(data).splits["train"].images
    listed = (tmp_path / "card" / "train.txt").read_text().splitlines()
    assert listed == [str(data.parent / "images" / "train" / "b.png")]


def test_several_folders_in_a_split(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set()
    shutil.copytree(data.parent / "images" / "train", data.parent / "images" / "more" / "deep")
    for image in (data.parent / "images" / "more" / "deep").iterdir():
        with image.open("ab") as stream:
            stream.write(b"other bytes")
    data.write_text(data.read_text().replace("train: images/train", "train: [images/train, images/more]"))
    write_card(data, out=tmp_path / "card")
    names = [image.file_name for image in read_coco(tmp_path / "card" / "coco" / "train.json").images]
    assert names == ["more/deep/a.png", "more/deep/b.png", "train/a.png", "train/b.png"]


def test_fingerprint_ignores_the_place_and_sees_every_change(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set()
    moved = tmp_path / "far" / "away"
    shutil.copytree(data.parent, moved)
    before = fingerprint(read_dataset(data))
    assert before.startswith("sha256:")
    assert len(before) == 71
    assert fingerprint(read_dataset(moved / "data.yaml")) == before == check(data).fingerprint
    seen = {before}
    label = moved / "labels" / "train" / "a.txt"
    label.write_text(GOOD.replace("0.25", "0.26"))
    seen.add(fingerprint(read_dataset(moved / "data.yaml")))
    label.unlink()
    seen.add(fingerprint(read_dataset(moved / "data.yaml")))
    image = moved / "images" / "val" / "c.png"
    image.write_bytes(image.read_bytes() + b"x")
    seen.add(fingerprint(read_dataset(moved / "data.yaml")))
    image.rename(image.with_name("d.png"))
    seen.add(fingerprint(read_dataset(moved / "data.yaml")))
    text = (moved / "data.yaml").read_text()
    (moved / "data.yaml").write_text(text.replace("round", "square"))
    seen.add(fingerprint(read_dataset(moved / "data.yaml")))
    assert len(seen) == 6


def test_a_card_whose_dataset_changed_says_so(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set()
    card = write_card(data, out=tmp_path / "card")
    (data.parent / "labels" / "train" / "a.txt").write_text("")
    assert "make a new card" in {p.kind: p.message for p in check(card).warnings}["changed"]


def test_no_card_of_a_broken_set(
    make_set: MakeSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_set(labels={"train/a": "5 0.5 0.5 0.1 0.1\n"})
    assert main(["card", str(data), "--out", str(tmp_path / "card")]) == ClassIdError.exit_code
    assert "hexpath-data: error: " in capsys.readouterr().err
    assert not (tmp_path / "card").exists()


def test_a_card_is_replaced_but_nothing_else_is(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set()
    out = tmp_path / "card"
    assert main(["card", str(data), "--out", str(out)]) == 0
    assert main(["card", str(data), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "coco", "data.yaml"]
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"is not empty and holds no card\.json"):
        write_card(data, out=foreign)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_a_full_disk_keeps_the_old_card(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_set()
    write_card(data, out=tmp_path / "card")
    before = (tmp_path / "card" / "card.json").read_bytes()

    def fill_up(path: Path, *args: object, **kwargs: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(DiskFullError, match="the disk filled up while writing"):
        write_card(data, out=tmp_path / "card")
    assert (tmp_path / "card" / "card.json").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_atomic_writes_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    def refuse(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt: Input/output error"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_interrupt_in_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out", marker="mark") as folder:
        (folder / "mark").write_text("1")

    def interrupted() -> None:
        with atomic_folder(tmp_path / "out", marker="mark") as folder:
            (folder / "mark").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "out" / "mark").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("row", ["no json", "[1]", '{"split": "train"}'])
def test_a_broken_meta_row_is_named(make_set: MakeSet, tmp_path: Path, row: str) -> None:
    data = make_set()
    (data.parent / "meta.jsonl").write_text(f"{row}\n")
    with pytest.raises(DataYamlError, match=r"meta\.jsonl:1: is no row"):
        write_card(data, out=tmp_path / "card")


def test_statistics_of_known_boxes(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set(labels={"train/b": ""})
    write_card(data, out=tmp_path / "card")
    train = json.loads((tmp_path / "card" / "card.json").read_text())["splits"]["train"]
    assert (train["images"], train["backgrounds"], train["instances"]) == (2, 1, 2)
    assert train["boxes"]["width_px"]["p100"] == 10.0  # 0.25 of 40 pixels
    assert train["boxes"]["longest_side_px"]["long"]["p50"] == 6.0  # 0.2 of 30 pixels
    assert train["boxes"]["area_shares"] == {"small": 1.0, "medium": 0.0, "large": 0.0}
    assert train["imbalance"] == 1.0
    assert "time_of_day" not in train


def test_a_set_without_any_object_has_a_card(make_set: MakeSet, tmp_path: Path) -> None:
    data = make_set(labels={"train/a": "", "train/b": "", "val/c": ""})
    write_card(data, out=tmp_path / "card")
    train = json.loads((tmp_path / "card" / "card.json").read_text())["splits"]["train"]
    assert train["instances"] == 0
    assert train["boxes"]["area_shares"] == {}
