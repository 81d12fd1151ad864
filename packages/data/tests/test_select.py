"""Selections for calibration: what they cover, in which order, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hexpath_data import generate, read_dataset, select
from hexpath_data.cli import main
from hexpath_data.errors import ImageError, ParameterError
from hexpath_data.selection import cover, coverage


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("forty") / "set", train=40, val=2, size=96, seed=5)


def test_cover_reaches_every_cluster_where_random_misses_some() -> None:
    """Of 200 points 190 lie together and ten far away, each apart: eleven images cover them."""
    generator = np.random.default_rng(0)
    points = np.vstack([generator.normal(0, 0.1, (190, 5)), 10 * np.eye(10, 5) + 5 * np.arange(10)[:, None]])
    chosen = cover(points, 11)
    found = coverage(points, chosen=chosen)
    assert set(range(190, 200)) <= set(chosen)
    assert found.radius < 1 < 5 < found.random_radius
    assert found.mean < found.random_mean


def test_cover_covers_generated_images_better_than_random(forty: Path) -> None:
    dataset = read_dataset(forty)
    for count in (4, 8, 16):
        found = select(dataset, count=count).coverage
        assert found.radius < 0.9 * found.random_radius
    assert select(dataset, count=40).coverage.radius == 0.0


def test_a_night_image_among_days_is_taken_early(tmp_path: Path, forty: Path) -> None:
    dataset = read_dataset(forty)
    dark = tmp_path / "images" / "dark.png"
    dark.parent.mkdir()
    Image.fromarray(np.full((96, 96, 3), 2, dtype=np.uint8)).save(dark)
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*dataset.splits["train"].images, dark])))
    (tmp_path / "data.yaml").write_text("train: list.txt\nval: list.txt\nnames: [a, b, c]\n")
    assert dark in select(read_dataset(tmp_path / "data.yaml"), count=3).images


@pytest.mark.parametrize("method", ["cover", "random", "first"])
def test_a_short_list_is_the_beginning_of_a_long_one(forty: Path, method: str) -> None:
    dataset = read_dataset(forty)
    long, short = select(dataset, count=20, method=method), select(dataset, count=6, method=method)
    assert len(set(long.images)) == 20
    assert long.images[:6] == short.images
    assert long == select(dataset, count=20, method=method)


def test_methods_by_name_take_what_they_say(forty: Path) -> None:
    dataset = read_dataset(forty)
    images = dataset.splits["train"].images
    assert select(dataset, count=3, method="first").images == images[:3]
    assert select(dataset, count=4, method="spread").images == images[::10]
    assert select(dataset, count=3, method="random", seed=1) != select(dataset, count=3, method="random")


def test_the_command_writes_a_list_that_moves_with_its_dataset(
    forty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside, elsewhere = forty.parent.parent / "selection" / "cover.txt", tmp_path / "far" / "cover.txt"
    for out in (beside, elsewhere):
        assert main(["select", str(forty), "--count", "99", "--out", str(out)]) == 0
        lines = out.read_text().splitlines()
        assert len(lines) == 40
        assert all((out.parent / line).is_file() for line in lines)
    assert beside.read_text().startswith("../set/images/train/")
    assert "40 of 40 train images by cover; farthest image 0.00 (random 0.00)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "--count 0 is no number of images; give at least 1"),
        (["--method", "best"], "unknown method 'best' of selection; there are: cover, first, random, spread"),
        (["--split", "test"], "has no split 'test'; it has train, val"),
    ],
)
def test_wrong_requests_are_refused(
    forty: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["select", str(forty), "--out", str(tmp_path / "list.txt"), *options])
    assert code == ParameterError.exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "list.txt").exists()


def test_a_broken_image_is_named(forty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "data.yaml").write_text("train: bad.png\nval: bad.png\nnames: [a]\n")
    code = main(["select", str(tmp_path / "data.yaml"), "--out", str(tmp_path / "list.txt")])
    assert code == ImageError.exit_code
    assert "bad.png: cannot be decoded" in capsys.readouterr().err
