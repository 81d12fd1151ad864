from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from hexpath_deploy.decode import detect
from hexpath_deploy.heads import DecodedHead, Head, Level, PlainHead, RawHead
from hexpath_deploy.nms import Detections, Settings, suppress
from hexpath_deploy.preprocess import fit

GOLDEN = np.load(Path(__file__).parent / "golden" / "ultralytics.npz")  # its README says how it was made
RAW = RawHead(
    reg_max=16, levels=tuple(Level(stride=s, boxes=f"boxes_{s}", scores=f"scores_{s}") for s in (8, 16, 32))
)
HEADS: list[Head] = [RAW, DecodedHead(boxes="b", scores="s"), PlainHead(output="o")]


def outputs() -> dict[str, np.ndarray]:
    decoded = GOLDEN["decoded"]
    return {
        **{name: GOLDEN[name] for name in RAW.outputs},
        "b": decoded[:, :4],
        "s": decoded[:, 4:],
        "o": decoded,
    }


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
def test_equals_ultralytics(head: Head) -> None:
    """Boxes of the reference are not clipped; here they are, to the image of 64x96."""
    wanted = GOLDEN["detections"]
    found = detect(outputs(), head=head, placed=fit((64, 96), (64, 96)), settings=Settings())
    assert len(found.scores) == len(wanted)
    np.testing.assert_allclose(found.scores, wanted[:, 4], atol=1e-6)
    np.testing.assert_array_equal(found.classes, wanted[:, 5])
    boxes = np.clip(wanted[:, :4], 0, [96, 64, 96, 64])
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3)


def test_overlap_of_one_class_goes_the_weaker() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [20, 20, 30, 30]], np.float32)
    found = Detections(
        boxes=boxes, scores=np.array([0.5, 0.9, 0.8, 0.1], np.float32), classes=np.array([0, 0, 1, 0])
    )
    kept = suppress(found, settings=Settings())
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8, 0.1])
    assert kept.classes.tolist() == [0, 1, 0]


def test_nothing_found() -> None:
    silent = {name: np.full_like(values, -50) for name, values in outputs().items()}
    found = detect(silent, head=RAW, placed=fit((64, 96), (64, 96)), settings=Settings())
    assert found.boxes.shape == (0, 4)


def test_at_most_300() -> None:
    corners = np.arange(1000, dtype=np.float32)[:, None] * 20
    boxes = np.concatenate([corners, corners, corners + 10, corners + 10], axis=1)
    found = Detections(
        boxes=boxes, scores=np.linspace(0, 1, 1000, dtype=np.float32), classes=np.zeros(1000, int)
    )
    assert len(suppress(found, settings=Settings()).scores) == 300


def test_quick_on_a_noisy_head() -> None:
    rng = np.random.default_rng(0)
    noisy = {}
    for stride in (8, 16, 32):
        side = 320 // stride
        noisy[f"boxes_{stride}"] = rng.normal(size=(1, 64, side, side)).astype(np.float32)
        noisy[f"scores_{stride}"] = rng.normal(-5, 1.5, size=(1, 3, side, side)).astype(np.float32)
    began = time.perf_counter()
    for _ in range(5):
        detect(noisy, head=RAW, placed=fit((320, 320), (320, 320)), settings=Settings())
    assert (time.perf_counter() - began) / 5 < 0.3
