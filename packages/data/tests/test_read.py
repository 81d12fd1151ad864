from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import GOOD, MakeSet, save_noise
from PIL import Image

from hexpath_data import (
    Box,
    CocoImage,
    CocoInstance,
    CocoSet,
    check,
    label_path,
    read_coco,
    read_dataset,
    read_labels,
    rle_decode,
    rle_encode,
    write_coco,
    write_data_yaml,
    write_labels,
)
from hexpath_data.errors import CocoError, LabelFormatError, SplitMissingError
from hexpath_data.yolo import format_labels


def shared_folder() -> Path:
    """Return where larger test data may lie."""
    beside = Path(__file__).resolve().parents[4] / "shared"
    return Path(os.environ.get("HEXPATH_SHARED", beside))


def test_label_path_replaces_the_last_images_folder() -> None:
    assert label_path(Path("/images/set/images/train/a.b.jpg")) == Path("/images/set/labels/train/a.b.txt")
    assert label_path(Path("/set/train/a.jpg")) == Path("/set/train/a.txt")
    assert label_path(Path("/set/images.jpg")) == Path("/set/images.txt")


@pytest.mark.parametrize(
    "train",
    [
        "images/train",
        "[images/train]",
        "train.txt",
        "../images/train",
        "[images/train/a.png, images/train/b.png]",
    ],
)
def test_ways_to_name_a_split(make_set: MakeSet, train: str) -> None:
    data = make_set()
    (data.parent / "train.txt").write_text("./images/train/a.png\n\nimages/train/b.png\n")
    data.write_text(f"train: {train}\nval: images/val\nnames: [round, long]\n")
    images = read_dataset(data).splits["train"].images
    assert [image.name for image in images] == ["a.png", "b.png"]
    assert all(image.is_file() for image in images)


def test_absolute_path_and_another_working_directory(
    make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_set()
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text(data.read_text().replace("path: .", f"path: {data.parent}"))
    monkeypatch.chdir(tmp_path)
    assert read_dataset(Path("elsewhere.yaml")).splits == read_dataset(Path("set/data.yaml")).splits


def test_names_and_nc(make_set: MakeSet) -> None:
    data = make_set()
    text = data.read_text().replace("names: {0: round, 1: long}", "nc: 2")
    data.write_text(text)
    assert read_dataset(data).names == ("class_0", "class_1")
    data.write_text(text.replace("nc: 2", "names: {1: yes, 0: 7}"))
    assert read_dataset(data).names == ("7", "True")


def test_read_dataset_raises_what_check_lists(make_set: MakeSet) -> None:
    data = make_set()
    data.write_text(data.read_text().replace("images/val", "images/none"))
    with pytest.raises(SplitMissingError, match=r"split val names .*images/none, which does not exist"):
        read_dataset(data)


def test_yolo_round_trip(tmp_path: Path) -> None:
    boxes = (
        Box(class_id=1, cx=0.25, cy=0.5, width=0.125, height=0.0625),
        Box(class_id=0, cx=0.3, cy=0.3, width=0.4, height=0.4, polygon=((0.1, 0.1), (0.5, 0.1), (0.3, 0.5))),
    )
    write_labels(tmp_path / "a.txt", boxes=boxes)
    again = read_labels(tmp_path / "a.txt", classes=2)
    assert format_labels(again) == format_labels(boxes)
    assert again[0] == boxes[0]
    assert again[1].polygon == boxes[1].polygon
    assert again[1].corners == pytest.approx((0.1, 0.1, 0.5, 0.5))
    assert read_labels(tmp_path / "none.txt", classes=2) == ()


def test_read_labels_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{GOOD}\n0 0.5\n")
    with pytest.raises(LabelFormatError, match=r"a\.txt:4: 2 columns"):
        read_labels(tmp_path / "a.txt", classes=2)


def test_data_yaml_round_trip(tmp_path: Path) -> None:
    save_noise(tmp_path / "images" / "a.png", seed=0)
    write_data_yaml(
        tmp_path / "d.yaml", root=".", splits={"train": "images", "val": "images"}, names=("ü", "no")
    )
    dataset = read_dataset(tmp_path / "d.yaml")
    assert dataset.names == ("ü", "no")
    assert dataset.relative(dataset.splits["train"].images[0]) == "images/a.png"


@pytest.mark.parametrize("fill", ["random", "ones", "zeros"])
def test_run_lengths_round_trip_and_agree_with_pycocotools(fill: str) -> None:
    coco_mask = importlib.import_module("pycocotools.mask")
    mask = np.random.default_rng(0).random((7, 11)) < {"random": 0.4, "ones": 2, "zeros": -1}[fill]
    code = rle_encode(mask)
    assert np.array_equal(rle_decode(code), mask)
    theirs = coco_mask.decode(coco_mask.frPyObjects(code, 7, 11))
    assert np.array_equal(theirs.astype(bool), mask)


def test_run_lengths_that_do_not_fill_the_image() -> None:
    with pytest.raises(CocoError, match="run lengths sum to 5, expected 2 x 3"):
        rle_decode({"size": [2, 3], "counts": [2, 3]})


def coco_set() -> CocoSet:
    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 5:15] = True
    whole = CocoInstance(class_id=1, box=(5, 4, 10, 5), area=50, segmentation=rle_encode(mask))
    plain = CocoInstance(class_id=0, box=(1.5, 2.5, 3.0, 4.0), area=12.0)
    first = CocoImage(
        file_name="a.png", width=30, height=20, instances=(whole, plain), facts={"altitude_m": 41.5}
    )
    second = CocoImage(file_name="b/c.png", width=30, height=20, instances=())
    return CocoSet(names=("round", "long"), images=(first, second), info={"root": "/x"})


def test_coco_round_trip(tmp_path: Path) -> None:
    write_coco(tmp_path / "a.json", coco_set())
    again = read_coco(tmp_path / "a.json")
    assert (again.names, again.images) == (coco_set().names, coco_set().images)
    assert again.info["root"] == "/x"


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    coco_api = importlib.import_module("pycocotools.coco")
    write_coco(tmp_path / "a.json", coco_set())
    coco = coco_api.COCO(str(tmp_path / "a.json"))
    assert coco.getImgIds() == [1, 2]
    assert [c["name"] for c in coco.loadCats([0, 1])] == ["round", "long"]
    annotation = coco.loadAnns(coco.getAnnIds(imgIds=[1], catIds=[1]))[0]
    assert coco.annToMask(annotation).sum() == 50


def test_coco_categories_may_start_anywhere(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 9, "file_name": "z.png", "width": 4, "height": 4}],
        "annotations": [{"id": 1, "image_id": 9, "category_id": 18, "bbox": [0, 0, 2, 2]}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    again = read_coco(tmp_path / "a.json")
    assert again.names == ("car", "dog")
    assert again.images[0].instances[0].class_id == 1
    assert again.images[0].instances[0].area == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "list 'images' is missing"),
        ('{"images": [], "annotations": []}', "list 'categories' is missing"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "key 'file_name' is missing"),
        ('{"images": [{"id": "x"}], "annotations": [], "categories": []}', "wrong type"),
        (
            '{"images": [], "annotations": [{"id": 4, "image_id": 2}], "categories": []}',
            "annotation 4 is of image 2",
        ),
        (
            (
                '{"images": [{"id": 2, "file_name": "a", "width": 1, "height": 1}], "categories": [],'
                ' "annotations": [{"id": 4, "image_id": 2, "category_id": 7}]}'
            ),
            "annotation 4 is of category 7",
        ),
    ],
)
def test_broken_coco(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CocoError, match=message):
        read_coco(tmp_path / "a.json")


def test_missing_coco(tmp_path: Path) -> None:
    with pytest.raises(CocoError, match="no such file"):
        read_coco(tmp_path / "a.json")


def test_images_stored_lying_down_have_their_upright_size(make_set: MakeSet) -> None:
    data = make_set()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.effect_noise((40, 30), 60).convert("RGB")
    image.save(data.parent / "images" / "train" / "turned.jpg", exif=exif)
    sizes = {one.path.name: (one.width, one.height) for one in check(data).images["train"]}
    assert sizes["turned.jpg"] == (30, 40)


def test_bccd_passes() -> None:
    data = shared_folder() / "data" / "bccd" / "data.yaml"
    if not data.is_file():
        pytest.skip(f"{data} is not there; set HEXPATH_SHARED to the folder that holds data/bccd")
    report = check(data)
    assert not report.errors
    assert {split: len(images) for split, images in report.images.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
