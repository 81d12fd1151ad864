from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hexpath_deploy.errors import DatasetError
from hexpath_deploy.preprocess import read_image
from hexpath_deploy.reference.hexpath_reference import fit, letterbox, resize, to_input

GOLDEN = np.load(Path(__file__).parent / "golden" / "ultralytics.npz")  # its README says how it was made


@pytest.mark.parametrize("name", ["down", "up", "half", "mixed"])
def test_resize_equals_opencv_within_one_level(name: str) -> None:
    wanted = GOLDEN[name]
    found = resize(GOLDEN["image"], size=wanted.shape[:2])
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(("name", "canvas"), [("letterbox_64", (64, 64)), ("letterbox_96x64", (96, 64))])
def test_letterbox_equals_ultralytics(name: str, canvas: tuple[int, int]) -> None:
    found, _ = letterbox(GOLDEN["image"], canvas=canvas)
    assert np.abs(found.astype(int) - GOLDEN[name]).max() <= 1


def test_boxes_return_to_the_original() -> None:
    placed = fit((480, 640), (320, 320))
    assert (placed.inner, placed.top, placed.left) == ((240, 320), 40, 0)
    boxes = placed.to_original(np.array([[0, 40, 320, 280], [10, 50, 20, 60], [-5, 0, 400, 400]], np.float32))
    np.testing.assert_allclose(boxes, [[0, 0, 640, 480], [20, 20, 40, 40], [0, 0, 640, 480]])


def test_thin_image_keeps_a_pixel() -> None:
    assert fit((1, 1000), (320, 320)).inner == (1, 320)


def test_quick_enough_for_a_frame() -> None:
    frame = np.zeros((480, 640, 3), np.uint8)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        to_input(letterbox(frame, canvas=(320, 320))[0])
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.03  # 5 ms on the machine that this was written on


def test_input_is_rgb_planes_in_unit_range() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[..., 0] = 255
    found = to_input(pixels)
    assert found.shape == (1, 3, 2, 2)
    assert found.dtype == np.float32
    assert found[0, :, 0, 0].tolist() == [1, 0, 0]


def test_exif_orientation(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[274] = 6  # rotate by 90 degrees to see it upright
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (20, 10, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, 4, 3)


def test_sixteen_bits_keep_the_high_byte(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 0x7F20, np.uint16)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 0x7F).all()


def test_broken_images(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"empty\.png cannot be read"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DatasetError, match="no such image"):
        read_image(tmp_path / "none.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    with pytest.raises(DatasetError, match=r"cut\.jpg cannot be read"):
        read_image(tmp_path / "cut.jpg")
