"""Names beside points: inside the axes, over no other name and no point, and the same file twice."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
from plot import name_points, save

POINTS = [(0.0, 0.0), (0.02, 0.1), (0.05, 0.0), (0.95, 0.5), (1.0, 1.0), (0.5, 0.5)]


def drawn() -> Figure:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*POINTS, strict=True), "o")
    axes.margins(0.15)
    name_points(axes, POINTS, [f"method {index}" for index in range(len(POINTS))])
    return figure


def test_names_lie_over_nothing() -> None:
    figure = drawn()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(POINTS)
    inside = axes.get_window_extent()
    for index, box in enumerate(boxes):
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert not any(box.contains(*axes.transData.transform(point)) for point in POINTS)


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        save(drawn(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
