from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import GOOD, MakeSet, save_noise
from PIL import Image

from hexpath_data import check
from hexpath_data.cli import main
from hexpath_data.duplicates import Print, near_pairs
from hexpath_data.errors import (
    BoxSizeError,
    ClassIdError,
    CoordinateError,
    DataError,
    DataYamlError,
    DataYamlMissingError,
    DuplicateLabelError,
    EmptySplitError,
    ImageError,
    LabelFormatError,
    LeakError,
    OrphanLabelError,
    SplitMissingError,
)

BAD_ROWS = [
    ("2 0.5 0.5 0.2 0.2", ClassIdError, "class id 2 is not in 0 to 1"),
    ("-1 0.5 0.5 0.2 0.2", ClassIdError, "class id -1 is not in 0 to 1"),
    ("0.5 0.5 0.5 0.2 0.2", ClassIdError, "class id 0.5 is no whole number"),
    ("x 0.5 0.5 0.2 0.2", LabelFormatError, "'x' is no number"),
    ("0 0.5 abc 0.2 0.2", LabelFormatError, "'abc' is no number"),
    ("0 0.5 nan 0.2 0.2", LabelFormatError, "'nan' is not finite"),
    ("0 0.5 inf 0.2 0.2", LabelFormatError, "'inf' is not finite"),
    ("nan 0.5 0.5 0.2 0.2", LabelFormatError, "'nan' is not finite"),
    ("0 0.5 0.5 0.2", LabelFormatError, "4 columns; expected 5"),
    ("0 0.5 0.5 0.2 0.2 0.9", LabelFormatError, "6 columns; expected 5"),
    ("0 1.5 0.5 0.2 0.2", CoordinateError, "coordinate 1.5 is outside"),
    ("0 0.5 -0.2 0.2 0.2", CoordinateError, "coordinate -0.2 is outside"),
    ("0 120 80 30 20", CoordinateError, "coordinate 120 is outside"),
    ("0 0.95 0.5 0.2 0.2", CoordinateError, "box reaches out of the image by 5.0%"),
    ("0 0.1 0.1 0.2 0.1 1.2 0.3", CoordinateError, "coordinate 1.2 is outside"),
    ("0 0.5 0.5 0 0.2", BoxSizeError, "width 0 is not above 0"),
    ("0 0.5 0.5 0.2 -0.1", BoxSizeError, "height -0.1 is not above 0"),
    ("0 0.1 0.1 0.2 0.1 0.3 0.1", BoxSizeError, "the polygon has no area"),
    ("0 0.5 0.5 0.25 0.25", DuplicateLabelError, "same row as line 1"),
]


@pytest.mark.parametrize(("row", "kind", "message"), BAD_ROWS)
def test_a_bad_row_is_found_with_file_and_line(
    make_set: MakeSet, row: str, kind: type[DataError], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_set(labels={"train/b": f"{GOOD}{row}\n"})
    report = check(data)
    assert len(report.errors) == 1
    found = report.errors[0]
    assert (found.path.name, found.line, found.error) == ("b.txt", 3, kind)
    assert message in found.message
    assert main(["check", str(data)]) == kind.exit_code
    errors = capsys.readouterr().err
    assert "b.txt:3: error:" in errors
    assert errors.splitlines()[-1].startswith("hexpath-data: error: ")


def test_all_problems_are_listed_and_the_first_decides(
    make_set: MakeSet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    labels = {"train/a": "7 0.5 0.5 0.1 0.1\n0 0.5\n", "val/c": "0 0.5 0.5 0 0\n", "val/gone": GOOD}
    data = make_set(labels=labels)
    listing = tmp_path / "problems.json"
    assert main(["check", str(data), "--report", str(listing)]) == ClassIdError.exit_code
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": error: ")[1].split(":")[0] for line in lines if ": error: " in line][:4] == [
        "class id",
        "label format",
        "box size",
        "label without image",
    ]
    assert "(the first of 4 errors)" in lines[-1]
    assert listing.read_text().count('"severity": "error"') == 4
    main(["check", str(data), "--limit", "1"])
    assert "more; `hexpath-data check" in capsys.readouterr().err


def test_rounding_is_tolerated_and_small_overhang_is_a_warning(make_set: MakeSet) -> None:
    rounding = "0 0.05 0.5 0.10008 0.2\n"
    overhang = "0 0.05 0.5 0.105 0.2\n"
    report = check(make_set(labels={"train/a": rounding, "train/b": overhang}))
    assert not report.errors
    clipped = [problem for problem in report.warnings if problem.kind == "clipped"]
    assert [(problem.path.name, problem.line) for problem in clipped] == [("b.txt", 1)]
    assert "reaches out of the image by 0.25%" in clipped[0].message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no picture at all", "cannot be decoded"),
        (None, "cannot be decoded"),
    ],
)
def test_broken_images(make_set: MakeSet, content: bytes | None, message: str) -> None:
    data = make_set()
    image = data.parent / "images" / "train" / "a.png"
    image.write_bytes(image.read_bytes()[:900] if content is None else content)
    report = check(data)
    assert [problem.error for problem in report.errors] == [ImageError]
    assert report.errors[0].path == image
    assert message in report.errors[0].message
    assert "0x" not in report.errors[0].message
    assert main(["check", str(data)]) == ImageError.exit_code


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_cut_off_near_its_end(make_set: MakeSet, suffix: str) -> None:
    data = make_set()
    image = data.parent / "images" / "train" / f"big{suffix}"
    save_noise(image, seed=9, width=200, height=200)
    image.write_bytes(image.read_bytes()[:-300])
    assert [problem.path for problem in check(data).errors] == [image]


def test_a_listed_image_that_is_not_there(make_set: MakeSet) -> None:
    data = make_set()
    (data.parent / "train.txt").write_text("images/train/a.png\nimages/train/lost.png\n")
    data.write_text(data.read_text().replace("train: images/train", "train: train.txt"))
    report = check(data)
    assert [problem.error for problem in report.errors] == [ImageError]
    assert "is it listed but not there?" in report.errors[0].message


def test_label_without_image_and_image_without_label(make_set: MakeSet) -> None:
    data = make_set(labels={"train/gone": GOOD})
    (data.parent / "labels" / "val" / "c.txt").unlink()
    report = check(data)
    assert [(p.error, p.path.name) for p in report.errors] == [(OrphanLabelError, "gone.txt")]
    assert "belongs to no image" in report.errors[0].message
    assert [p.path.name for p in report.warnings if p.kind == "background"] == ["c.png"]


def test_a_list_of_some_images_makes_no_orphans_of_the_others(make_set: MakeSet) -> None:
    data = make_set()
    (data.parent / "train.txt").write_text("./images/train/a.png\n")
    data.write_text(data.read_text().replace("train: images/train", "train: train.txt"))
    assert not check(data).errors


def test_labels_beside_the_images(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("val", 1)):
        save_noise(tmp_path / split / "a.png", seed=seed)
        (tmp_path / split / "a.txt").write_text(GOOD)
        (tmp_path / split / "notes.txt").write_text("a reader's notes, no labels\n")
    (tmp_path / "val" / "gone.txt").write_text(GOOD)
    data = tmp_path / "data.yaml"
    data.write_text("train: train\nval: val\nnames: [round, long]\n")
    assert [problem.path.name for problem in check(data).errors] == ["gone.txt"]


def test_binary_label_file(make_set: MakeSet) -> None:
    data = make_set()
    (data.parent / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\x00\x81")
    report = check(data)
    assert report.errors[0].error is LabelFormatError
    assert "cannot be read as UTF-8" in report.errors[0].message


def test_exact_leak_is_an_error(make_set: MakeSet) -> None:
    data = make_set()
    images = data.parent / "images"
    shutil.copy(images / "train" / "a.png", images / "val" / "again.png")
    report = check(data)
    assert [problem.error for problem in report.errors] == [LeakError]
    assert "val image is byte for byte" in report.errors[0].message
    assert "a.png of train" in report.errors[0].message
    assert main(["check", str(data)]) == LeakError.exit_code


def test_one_folder_for_both_splits_is_a_leak(make_set: MakeSet) -> None:
    data = make_set()
    data.write_text(data.read_text().replace("images/val", "images/train"))
    assert {problem.error for problem in check(data).errors} == {LeakError}


def test_near_leak_is_a_warning_with_its_distance(make_set: MakeSet) -> None:
    data = make_set()
    folder = data.parent / "images"
    rows, columns = np.mgrid[0:60, 0:80]
    pixels = ((np.sin(rows / 9) + np.cos(columns / 7) + 2) * 60).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "train" / "waves.png")
    Image.fromarray(pixels).save(folder / "val" / "waves.jpg", quality=80)
    report = check(data)
    assert not report.errors
    near = [problem for problem in report.warnings if problem.kind == "near duplicate"]
    assert len(near) == 1
    assert "difference hash distance" in near[0].message


def test_nearest_pairs_by_definition() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**8, 60, dtype=np.uint64) * np.uint64(0x0101)  # few values: many are near
    prints = [
        Print(path=Path(f"{i}"), split="train" if i < 40 else "val", digest=bytes([i]), difference=int(h))
        for i, h in enumerate(hashes)
    ]
    found = {int(pair.second.path.name): pair.distance for pair in near_pairs(prints)}
    expected = {}
    for i in range(40, 60):
        nearest = min((int(hashes[i]) ^ int(hashes[j])).bit_count() for j in range(40))
        if nearest <= 3:
            expected[i] = nearest
    assert found == expected
    assert len(expected) > 5


def test_blank_images_are_no_near_duplicates(make_set: MakeSet) -> None:
    data = make_set()
    for split, grey in (("train", 100), ("val", 101)):
        Image.new("L", (40, 30), grey).save(data.parent / "images" / split / "blank.png")
    assert "near duplicate" not in {problem.kind for problem in check(data).warnings}


def test_repeated_image_within_a_split_and_unused_class_are_warnings(make_set: MakeSet) -> None:
    data = make_set(labels={"val/c": "0 0.5 0.5 0.2 0.2\n"})
    images = data.parent / "images" / "train"
    shutil.copy(images / "a.png", images / "a2.png")
    kinds = {problem.kind: problem.message for problem in check(data).warnings}
    assert "byte for byte" in kinds["repeated image"]
    assert kinds["unused class"] == "class 1 (long) has no instances in val"


BAD_YAML = [
    ("train: [", DataYamlError, "is no YAML"),
    ("just text", DataYamlError, "holds no keys"),
    ("train: images/train\nval: images/val\n", DataYamlError, "key 'names' is missing or empty; add a line"),
    ("trian: images/train\nval: images/val\nnames: [a]", DataYamlError, "did you mean its key 'trian'"),
    ("train: images/train\nval: images/val\nnames: 3", DataYamlError, "names must be a list or map"),
    ("train: images/train\nval: images/val\nnames: []", DataYamlError, "names must be a list or map"),
    ("train: images/train\nval: images/val\nnames: {0: a, 2: b}", DataYamlError, "0 to 1 without gaps"),
    ("train: images/train\nval: images/val\nnames: [a, a]", DataYamlError, "holds 'a' twice"),
    (
        "train: images/train\nval: images/val\nnames: [a, b]\nnc: 3",
        DataYamlError,
        "nc is 3 but names holds 2",
    ),
    ("path: 5\ntrain: t\nval: v\nnames: [a, b]", DataYamlError, "path must be text, found 5"),
    ("train: 5\nval: images/val\nnames: [a, b]", DataYamlError, "train must be a path or a list"),
    (
        "train: images/train\nval: images/val\nnames: [a, b]\nhexpath: 1",
        DataYamlError,
        "hexpath must be a map",
    ),
    ("train: images/train\nval: images/nowhere\nnames: [a, b]", SplitMissingError, "split val names"),
    ("train: images/train\nval: empty\nnames: [a, b]", EmptySplitError, "split val holds no images"),
    (
        "train: images/train\nval: []\nnames: [a, b]",
        EmptySplitError,
        "split val holds no images in no folder",
    ),
]


@pytest.mark.parametrize(("text", "kind", "message"), BAD_YAML)
def test_bad_data_yaml(
    make_set: MakeSet, text: str, kind: type[DataError], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_set()
    (data.parent / "empty").mkdir()
    data.write_text(text)
    assert main(["check", str(data)]) == kind.exit_code
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert "data.yaml" in last


def test_no_such_data_yaml(make_set: MakeSet, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_set()
    assert main(["check", str(data.parent / "dota.yaml")]) == DataYamlMissingError.exit_code
    assert "did you mean data.yaml" in capsys.readouterr().err
    with pytest.raises(DataYamlMissingError, match=r"is a folder; name the data\.yaml"):
        check(data.parent)
    with pytest.raises(DataYamlMissingError, match="give the path of an Ultralytics"):
        check(data.parent / "nowhere" / "data.yaml")


def test_a_data_yaml_or_list_that_is_no_text(make_set: MakeSet) -> None:
    data = make_set()
    (data.parent / "train.txt").write_bytes(b"\xff\xfe\x81")
    data.write_text(data.read_text().replace("train: images/train", "train: train.txt"))
    with pytest.raises(DataYamlError, match=r"train\.txt: cannot be read as a list"):
        check(data)
    data.write_bytes(b"\xff\xfe\x81")
    with pytest.raises(DataYamlError, match="cannot be read as UTF-8 text"):
        check(data)


def test_labels_of_good_splits_are_checked_though_another_is_missing(make_set: MakeSet) -> None:
    data = make_set(labels={"train/a": "9 0.5 0.5 0.1 0.1\n"})
    shutil.rmtree(data.parent / "images" / "val")
    assert [problem.error for problem in check(data).errors] == [SplitMissingError, ClassIdError]


def test_the_generated_set_passes(scenes: Path) -> None:
    report = check(scenes)
    assert not report.errors
    assert {split: len(images) for split, images in report.images.items()} == {"train": 6, "val": 3}
