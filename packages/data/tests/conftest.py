from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hexpath_data import generate

NAMES = ("round", "long")
GOOD = "0 0.5 0.5 0.25 0.25\n1 0.3 0.6 0.1 0.2\n"

MakeSet = Callable[..., Path]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated dataset, not to be changed; the path of its data.yaml."""
    return generate(tmp_path_factory.mktemp("scenes") / "set", train=6, val=3, size=96, seed=3)


def save_noise(path: Path, *, seed: int, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Build a small dataset by hand: two train images, one val image, labels as told."""

    def make(*, labels: Mapping[str, str] | None = None, root: Path = tmp_path / "set") -> Path:
        texts = {"train/a": GOOD, "train/b": GOOD, "val/c": GOOD, **(labels or {})}
        for seed, stem in enumerate(("train/a", "train/b", "val/c")):
            save_noise(root / "images" / f"{stem}.png", seed=seed)
        for stem, text in texts.items():
            path = root / "labels" / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        data = root / "data.yaml"
        data.write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: round, 1: long}\n")
        return data

    return make
