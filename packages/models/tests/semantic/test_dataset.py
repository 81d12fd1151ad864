"""Images and masks: what is read, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from made_masks import NAMES, write_masks
from PIL import Image

from hexpath_models.environment import offline
from hexpath_models.errors import ClassMismatchError, DataFileError
from hexpath_models.semantic.augment import augment, stretch
from hexpath_models.semantic.dataset import IGNORE, check_names, pixel_counts, read_semantic


def test_pairs_names_and_pixels(masks: Path) -> None:
    dataset = read_semantic(masks)
    assert (len(dataset.train), len(dataset.val)) == (8, 4)
    assert dataset.names == NAMES
    image, mask = dataset.read(dataset.val[0])
    assert image.shape == (3, 64, 64)
    assert image.dtype == mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) == {0, 1, 2, IGNORE}
    assert int(pixel_counts(dataset, dataset.val).sum()) == 4 * (64 * 64 - 16)


def test_an_ignored_id_may_be_named(tmp_path: Path) -> None:
    data = write_masks(tmp_path, ignore=3)
    data.write_text(data.read_text().replace("2: blue", "2: blue, 3: unlabelled"))
    dataset = read_semantic(data)
    assert dataset.names == NAMES
    assert IGNORE in dataset.read(dataset.train[0])[1].unique()


def _save(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


def _edit(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / "data.yaml").read_text()
        assert old in text
        (root / "data.yaml").write_text(text.replace(old, new))

    return change


def _empty(root: Path) -> None:
    for file in (root / "images" / "val").iterdir():
        file.unlink()


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (lambda root: (root / "masks/val/001.png").unlink(), r"1 images of val have no mask, e\.g\. .*001\.png"),
    (_empty, "val holds no images in"),
    (
        _edit("masks: {train: masks/train, val: masks/val}", ""),
        r"needs train: FOLDER and masks: \{train: FOLDER\}",
    ),
    (_edit("val: images/val", "val: images/other"), "val points to .*other, which is no folder"),
    (_edit("1: red", "5: red"), r"names must number at least two classes 0 to N-1 beside ignore=255"),
    (_edit("1: red", "x: red"), "names has a key that is no class id"),
    (_edit("ignore: 255", "ignore: none"), "ignore is 'none', expected an id such as 255"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_broken_description(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    data = write_masks(tmp_path)
    change(tmp_path)
    with pytest.raises(DataFileError, match=message):
        read_semantic(data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((32, 64), np.uint8), "has 64x32 pixels, its image .* 64x64; make the masks again"),
        (np.zeros((64, 64, 3), np.uint8), "has 3 channels, expected one class id a pixel"),
        (
            np.pad(np.full((2, 5), 9, np.uint8), ((0, 62), (0, 59)), constant_values=12),
            r"holds the unknown ids 9 \(10 pixels\), 12 \(4086 pixels\); .* names 0 to 2 and ignores 255",
        ),
    ],
)
def test_broken_mask(tmp_path: Path, array: np.ndarray, message: str) -> None:
    dataset = read_semantic(write_masks(tmp_path))
    _save(dataset.val[0].mask, array)
    with pytest.raises(DataFileError, match=message):
        dataset.read(dataset.val[0])


@pytest.mark.parametrize("beside_ultralytics", [False, True])
def test_unreadable_mask(tmp_path: Path, beside_ultralytics: bool) -> None:
    if beside_ultralytics:
        offline()
        import ultralytics  # noqa: F401  (it puts its own function in the place of Image.open)
    dataset = read_semantic(write_masks(tmp_path))
    dataset.val[0].mask.write_bytes(b"nothing")
    with pytest.raises(DataFileError, match=r"mask .*000\.png cannot be read"):
        dataset.read(dataset.val[0])


def test_other_classes_than_the_checkpoint(masks: Path) -> None:
    with pytest.raises(ClassMismatchError, match="has the classes 0 ground, 1 red, 2 blue, x was trained on"):
        check_names(read_semantic(masks), {0: "a", 1: "b"}, checkpoint=Path("x"))


def test_augmentation_moves_image_and_mask_together(masks: Path) -> None:
    dataset = read_semantic(masks)
    image, mask = dataset.read(dataset.train[0])
    marked = torch.stack([(mask == kind) * 255 for kind in range(3)]).to(torch.uint8)
    for seed in range(6):
        results = [
            augment(x, mask, size=(48, 64), generator=torch.Generator().manual_seed(seed))
            for x in (image, marked)
        ]
        assert torch.equal(results[0][1], results[1][1])
        pixels, kinds = results[0]
        assert pixels.shape == (3, 48, 64)
        assert kinds.shape == (48, 64)
        assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1
        assert set(kinds.unique().tolist()) <= {0, 1, 2, IGNORE}
        inside = kinds != IGNORE
        agree = (results[1][0].argmax(0) == kinds)[inside].float().mean()
        assert float(agree) > 0.8  # shadows, noise and borders take the rest


def test_stretch_is_that_of_deployment() -> None:
    image = torch.arange(3 * 4 * 6, dtype=torch.uint8).reshape(3, 4, 6)
    assert torch.equal(stretch(image, size=(4, 6)), image)
    assert stretch(image, size=(8, 12)).shape == (3, 8, 12)


def test_windows_are_cut_from_the_deployed_size() -> None:
    """Columns numbered: a window of a larger whole spans fewer of them."""
    mask = torch.arange(64, dtype=torch.uint8).repeat(64, 1)
    image = mask.expand(3, -1, -1)
    for seed in range(6):
        seen = []
        for deployed in ((32, 32), (256, 256)):
            generator = torch.Generator().manual_seed(seed)
            _, kinds = augment(image, mask, size=(32, 32), deployed=deployed, generator=generator)
            inside = kinds[kinds != IGNORE]
            seen.append(int(inside.max()) - int(inside.min()) + 1)
        assert seen[0] >= 30
        assert seen[1] <= 17
