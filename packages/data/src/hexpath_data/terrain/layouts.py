"""Where each dataset keeps its images and masks, as its authors pack it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hexpath_data.errors import MaskError

SPLITS = ("train", "val")
# Wigness et al., "A RUGD Dataset for Autonomous Navigation": these videos are validation, four are test.
RUGD_VAL = frozenset({"park-8", "trail-5"})
RUGD_TEST = frozenset({"creek", "park-1", "trail-7", "trail-13"})
EVERY = 5  # where a dataset has no list of splits, each fifth image by name is validation


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image, its mask, and the name that it gets: unique in its dataset, without folders."""

    image: Path
    mask: Path
    name: str


Pairs = dict[str, list[Pair]]


def find_pairs(dataset: str, root: Path) -> Pairs:
    """Return the pairs of both splits, sorted by name.

    Raises:
        MaskError: the folder has another layout, an image has no mask, or a split is empty.
    """
    if not root.is_dir():
        raise MaskError(f"no such folder {root}; give the one that {dataset} was unpacked into")
    pairs = LAYOUTS[dataset](root)
    for split in SPLITS:
        if not pairs.get(split):
            raise MaskError(f"{root} holds no {split} images in the layout of {dataset}: {HINTS[dataset]}")
        lacking = [pair.mask for pair in pairs[split] if not pair.mask.is_file()]
        if lacking:
            raise MaskError(f"{len(lacking)} {split} images of {root} have no mask, e.g. {lacking[0]}")
    return {split: sorted(pairs[split], key=lambda pair: pair.name) for split in SPLITS}


def _rellis3d(root: Path) -> Pairs:
    """Lists train.lst and val.lst: image and mask a line, relative to the folder of sequences."""
    pairs: Pairs = {}
    for split in SPLITS:
        lists = sorted(root.rglob(f"{split}.lst"))
        lines = [line.split() for line in lists[0].read_text().splitlines()] if lists else []
        pairs[split] = [
            Pair(
                image=_below(root, words[0]),
                mask=_below(root, words[1]),
                name="_".join([Path(words[0]).parts[0], Path(words[0]).stem]),
            )
            for words in lines
            if len(words) == 2
        ]
    return pairs


def _below(root: Path, relative: str) -> Path:
    """Return the file where it lies: directly, or under Rellis-3D/, of images or of masks."""
    nested = ("Rellis_3D_pylon_camera_node", "Rellis_3D_pylon_camera_node_label_id")
    places = [root, root / "Rellis-3D", *(root / name / "Rellis-3D" for name in nested)]
    return next((place / relative for place in places if (place / relative).is_file()), root / relative)


def _rugd(root: Path) -> Pairs:
    pairs: Pairs = {split: [] for split in SPLITS}
    images = root / "RUGD_frames-with-annotations"
    for image in sorted(images.glob("*/*.png")):
        video = image.parent.name
        if video not in RUGD_TEST:
            mask = root / "RUGD_annotations" / video / image.name
            pairs["val" if video in RUGD_VAL else "train"].append(
                Pair(image=image, mask=mask, name=image.stem)
            )
    return pairs


def _goose(root: Path) -> Pairs:
    pairs: Pairs = {}
    for split in SPLITS:
        images = root / "images" / split
        pairs[split] = []
        for image in sorted(images.rglob("*_vis.png")) + sorted(images.rglob("*_camera_left.png")):
            stem = image.stem.removesuffix("_windshield_vis").removesuffix("_camera_left")
            folder = root / "labels" / split / image.parent.relative_to(images)
            pairs[split].append(Pair(image=image, mask=folder / f"{stem}_labelids.png", name=stem))
    return pairs


def _cityscapes(root: Path) -> Pairs:
    pairs: Pairs = {}
    for split in SPLITS:
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        pairs[split] = [
            Pair(
                image=image,
                mask=root / "gtFine" / split / image.parent.name / f"{_city(image)}_gtFine_labelIds.png",
                name=_city(image),
            )
            for image in images
        ]
    return pairs


def _city(image: Path) -> str:
    return image.stem.removesuffix("_leftImg8bit")


def _by_split(root: Path) -> Pairs:
    """images/{train,val} and masks/{train,val}: CamVid as usually packed, and what `generate` writes."""
    return {
        split: [
            Pair(image=image, mask=root / "masks" / split / f"{image.stem}.png", name=image.stem)
            for image in _images(root / "images" / split)
        ]
        for split in SPLITS
    }


def _kust4k(root: Path) -> Pairs:
    """Three flat folders of the same names; no list of splits comes with them."""
    images, masks = _first(root, "rgb", "RGB"), _first(root, "label", "Seg_annos")
    found = [
        Pair(image=image, mask=masks / f"{image.stem}.png", name=image.stem) for image in _images(images)
    ]
    return {"train": [p for i, p in enumerate(found) if i % EVERY], "val": found[::EVERY]}


def _first(root: Path, *names: str) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _images(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


LAYOUTS: dict[str, Callable[[Path], Pairs]] = {
    "rellis3d": _rellis3d,
    "rugd": _rugd,
    "goose": _goose,
    "cityscapes": _cityscapes,
    "camvid": _by_split,
    "kust4k": _kust4k,
    "generated": _by_split,
}

HINTS = {
    "rellis3d": "train.lst, val.lst, and 00000/pylon_camera_node/, 00000/pylon_camera_node_label_id/ ...",
    "rugd": "RUGD_frames-with-annotations/<video>/ and RUGD_annotations/<video>/",
    "goose": "images/{train,val}/<scene>/*_windshield_vis.png and labels/{train,val}/<scene>/*_labelids.png",
    "cityscapes": "leftImg8bit/{train,val}/<city>/ and gtFine/{train,val}/<city>/",
    "camvid": "images/{train,val}/ and masks/{train,val}/",
    "kust4k": "rgb/ (or RGB/) and label/ (or Seg_annos/)",
    "generated": "images/{train,val}/ and masks/{train,val}/",
}
