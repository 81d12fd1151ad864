"""Other people's masks, in small folders with their true layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from hexpath_data.cli import main
from hexpath_data.errors import MaskError, OntologyError
from hexpath_data.terrain.convert import Source, convert
from hexpath_data.terrain.ontology import known_datasets, mapping_file, ontology, read_mapping

SIZE = (6, 8)  # height, width


def image(path: Path, shade: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), shade, np.uint8)).save(path)


def mask(path: Path, *values: int | tuple[int, int, int]) -> None:
    """Write a mask whose columns take the values in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.array([values[index % len(values)] for index in range(SIZE[1])], np.uint8)
    Image.fromarray(np.repeat(columns[None], SIZE[0], axis=0)).save(path)


def rellis3d(root: Path) -> None:
    for index, split in enumerate(("train", "val")):
        stem = f"frame00000{index}-1581624652_750"
        pair = f"00000/pylon_camera_node/{stem}.jpg", f"00000/pylon_camera_node_label_id/{stem}.png"
        image(root / "Rellis-3D" / pair[0])
        mask(root / "Rellis-3D" / pair[1], 3, 33, 0, 8)
        (root / f"{split}.lst").write_text(" ".join(pair) + "\n")


def rugd(root: Path) -> None:
    for video in ("trail", "park-8", "creek"):
        image(root / "RUGD_frames-with-annotations" / video / f"{video}_00001.png")
        mask(root / "RUGD_annotations" / video / f"{video}_00001.png", (0, 102, 0), (255, 128, 0), (0, 0, 0))


def goose(root: Path) -> None:
    names = [entry["name"] for entry in yaml.safe_load(mapping_file("goose").read_text())["classes"]]
    rows = ["class_name,label_key,has_instance,hex", *(f"{n},{i},0,#000000" for i, n in enumerate(names))]
    root.mkdir(parents=True, exist_ok=True)
    (root / "goose_label_mapping.csv").write_text("\n".join(rows) + "\n")
    for split in ("train", "val"):
        stem = f"2022-07-22_flight__0071_{split}"
        image(root / "images" / split / "2022-07-22_flight" / f"{stem}_windshield_vis.png")
        ids = [names.index(name) for name in ("asphalt", "soil", "car", "ego_vehicle")]
        mask(root / "labels" / split / "2022-07-22_flight" / f"{stem}_labelids.png", *ids)


def cityscapes(root: Path) -> None:
    for split, city in (("train", "aachen"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        image(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        mask(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", 7, 21, 26, 1)


def camvid(root: Path) -> None:
    for split in ("train", "val"):
        image(root / "images" / split / "0001TP_006690.png")
        mask(root / "masks" / split / "0001TP_006690.png", 3, 5, 8, 11)


def kust4k(root: Path) -> None:
    for index in range(5):
        image(root / "rgb" / f"{index:05}.png")
        image(root / "tir" / f"{index:05}.png")
        mask(root / "label" / f"{index:05}.png", 1, 6, 4, 0)


def generated(root: Path) -> None:
    for split in ("train", "val"):
        image(root / "images" / split / "000000.jpg")
        mask(root / "masks" / split / "000000.png", 0, 2, 6, 255)


EXPECTED = {  # the terrain of the four columns, by hand
    "rellis3d": [2, 1, 255, 6],
    "rugd": [2, 1, 255],
    "goose": [0, 1, 6, 255],
    "cityscapes": [0, 2, 6, 255],
    "camvid": [0, 2, 6, 255],
    "kust4k": [0, 2, 6, 255],
    "generated": [0, 2, 6, 255],
}
MAKERS = {
    "rellis3d": rellis3d,
    "rugd": rugd,
    "goose": goose,
    "cityscapes": cityscapes,
    "camvid": camvid,
    "kust4k": kust4k,
    "generated": generated,
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_each_layout(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MAKERS[name](tmp_path / "in")
    assert main(["terrain", f"{name}={tmp_path / 'in'}", "--out", str(tmp_path / "out")]) == 0
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert data["names"] == ontology().names
    assert data["ignore"] == 255
    summary = json.loads((tmp_path / "out" / "terrain.json").read_text())
    assert data["fingerprint"] == summary["fingerprint"]
    for split in ("train", "val"):
        images = sorted((tmp_path / "out" / data[split]).iterdir())
        masks = sorted((tmp_path / "out" / data["masks"][split]).iterdir())
        assert [path.stem for path in images] == [path.stem for path in masks] != []
        expected = EXPECTED[name]
        columns = [expected[index % len(expected)] for index in range(SIZE[1])]
        assert np.asarray(Image.open(masks[0])).tolist() == [columns] * SIZE[0]
    assert "fingerprint sha256:" in capsys.readouterr().out


def test_merge_keeps_sources_apart(tmp_path: Path) -> None:
    camvid(tmp_path / "a")
    cityscapes(tmp_path / "b")
    camvid(tmp_path / "c")
    sources = [
        Source(dataset=name, root=tmp_path / place)
        for name, place in (("camvid", "a"), ("cityscapes", "b"), ("camvid", "c"))
    ]
    summary = convert(sources, out=tmp_path / "out")
    assert list(summary["sources"]) == ["camvid1", "cityscapes", "camvid3"]
    names = {path.name for path in (tmp_path / "out" / "images" / "train").iterdir()}
    assert names == {
        "camvid1_0001TP_006690.png",
        "cityscapes_aachen_000000_000019.png",
        "camvid3_0001TP_006690.png",
    }
    again = convert(sources, out=tmp_path / "out")
    assert again["fingerprint"] == summary["fingerprint"]


def test_unknown_ids_are_counted_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rellis3d(tmp_path / "in")
    file = next((tmp_path / "in").rglob("pylon_camera_node_label_id/*.png"))
    mask(file, 3, 2, 99, 2)
    assert (
        main(["terrain", f"rellis3d={tmp_path / 'in'}", "--out", str(tmp_path / "out")])
        == MaskError.exit_code
    )
    error = capsys.readouterr().err
    assert "1 masks of" in error
    assert "2 (24 pixels), 99 (12 pixels); add them to a copy of" in error
    assert not (tmp_path / "out").exists()


def test_unknown_colours_are_named_as_colours(tmp_path: Path) -> None:
    rugd(tmp_path)
    mask(tmp_path / "RUGD_annotations" / "trail" / "trail_00001.png", (0, 102, 0), (1, 2, 3))
    with pytest.raises(
        MaskError, match=r"hold colours that rugd\.yaml does not know: \(1, 2, 3\) \(24 pixels\)"
    ):
        convert([Source(dataset="rugd", root=tmp_path)], out=tmp_path / "out")


def test_a_mapping_of_ones_own(tmp_path: Path) -> None:
    camvid(tmp_path / "in")
    text = mapping_file("camvid").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("name: Tree, terrain: vegetation", "name: Tree, terrain: obstacle"))
    convert([Source(dataset="camvid", root=tmp_path / "in", mapping=own)], out=tmp_path / "out")
    found = np.asarray(Image.open(tmp_path / "out" / "masks" / "val" / "0001TP_006690.png"))
    assert found[0, :4].tolist() == [0, 3, 6, 255]


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (
            lambda root: mask(root / "masks/val/0001TP_006690.png", (0, 0, 0)),
            "has 3 channels, expected one id",
        ),
        (
            lambda root: Image.new("L", (3, 3)).save(root / "masks/val/0001TP_006690.png"),
            "has 3x3 pixels, its image 8x6",
        ),
        (lambda root: (root / "masks/val/0001TP_006690.png").unlink(), "1 val images of .* have no mask"),
        (lambda root: (root / "masks/val/0001TP_006690.png").write_bytes(b"x"), "cannot be read"),
        (
            lambda root: (root / "images/val/0001TP_006690.png").unlink(),
            "holds no val images in the layout of camvid",
        ),
    ],
)
def test_what_does_not_fit(tmp_path: Path, breaks: object, message: str) -> None:
    camvid(tmp_path / "in")
    breaks(tmp_path / "in")  # type: ignore[operator]
    with pytest.raises(MaskError, match=message):
        convert([Source(dataset="camvid", root=tmp_path / "in")], out=tmp_path / "out")
    with pytest.raises(MaskError, match="no such folder"):
        convert([Source(dataset="camvid", root=tmp_path / "other")], out=tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "keys: words\nclasses: []",
            "needs keys: ids, colours, names and a list of classes; found keys='words'",
        ),
        ("keys: ids\nclasses: [{id: 1, name: a}]", "a is terrain None; known: smooth, rough"),
        (
            "keys: ids\nclasses: [{id: 1, name: a, terrain: sky}, {id: 1, name: b, terrain: sky}]",
            r"class 1 \(b\) has the key of a",
        ),
        ("keys: ids\nclasses: [{id: x, name: a, terrain: sky}]", "class 0 has id 'x', which is none"),
        ("keys: colours\nclasses: [{name: a}]", "expected {colour: ..., name, terrain}"),
        ("- 1", "holds a list, expected keys and classes"),
        ("a: [", "cannot be read"),
    ],
)
def test_malformed_mapping(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(OntologyError, match=message):
        read_mapping(file)


def test_names_and_tables(tmp_path: Path) -> None:
    assert set(known_datasets()) == set(EXPECTED)
    with pytest.raises(OntologyError, match=r"no terrain mapping for 'relis3d'; did you mean 'rellis3d'\?"):
        mapping_file("relis3d")
    with pytest.raises(OntologyError, match=r"needs .*goose_label_mapping\.csv with class_name,label_key"):
        read_mapping(mapping_file("goose"), root=tmp_path)
    goose(tmp_path)
    with (tmp_path / "goose_label_mapping.csv").open("a") as stream:
        stream.write("lava,64,0,#ff0000\n")
    with pytest.raises(OntologyError, match=r"says nothing of lava, which goose_label_mapping\.csv has"):
        read_mapping(mapping_file("goose"), root=tmp_path)


def test_ids_agree_with_the_generator() -> None:
    from hexpath_data.scenes.materials import Terrain

    assert {terrain.key.upper(): terrain.id for terrain in ontology().classes} == {
        kind.name: int(kind) for kind in Terrain if kind != Terrain.IGNORE
    }
    assert ontology().ignore == Terrain.IGNORE


def test_wrong_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert main(["terrain", "rellis3d", *out]) == 24
    assert main(["terrain", "a=b", "c=d", "--mapping", "m.yaml", *out]) == 24
    assert main(["terrain", "camvid=b", "--limit", "0", *out]) == 24
    error = capsys.readouterr().err
    for text in ("'rellis3d' is not NAME=FOLDER", "--mapping belongs to one dataset", "--limit is 0"):
        assert text in error
