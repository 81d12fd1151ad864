"""Scales, labels and the front of the plots."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hexpath_deploy.errors import ReportError
from hexpath_deploy.report.curves import panels, read
from hexpath_deploy.report.labels import level, milliseconds, points
from hexpath_deploy.report.place import Box, place
from hexpath_deploy.report.scatter import Point, front, scatter, shorten
from hexpath_deploy.report.svg import Scale, tag, ticks


def test_tag_escapes() -> None:
    assert str(tag("text", "<b>&", title='"')) == '<text title="&#34;">&lt;b&gt;&amp;</text>'
    assert (
        str(tag("line", x1=1.0, x2=2.126, stroke_width=1))
        == '<line x1="1" x2="2.13" stroke-width="1"></line>'
    )


def test_ticks_and_scale() -> None:
    assert ticks(0, 6.7, count=8) == [0, 1, 2, 3, 4, 5, 6]
    assert ticks(0.03, 0.97, count=4) == [0.25, 0.5, 0.75]
    assert ticks(3, 3) == [3]
    assert Scale(low=0, high=10, start=100, end=200)(5) == 150


def test_labels_never_overlap() -> None:
    draw = random.Random(1)
    anchors = [(draw.uniform(60, 900), draw.uniform(40, 360)) for _ in range(30)]
    obstacles = [Box(left=x - 7, top=y - 7, right=x + 7, bottom=y + 7) for x, y in anchors]
    area = Box(left=46, top=0, right=1000, bottom=400)
    texts = [f"w8a8-candidate-{n}" for n in range(30)]
    found = [box for box in place(texts, anchors=anchors, obstacles=obstacles, area=area) if box]
    assert len(found) >= 25
    for index, box in enumerate(found):
        assert box.inside(area)
        assert not any(box.overlaps(other) for other in found[:index] + obstacles)


def point(name: str, ms: float, accuracy: float) -> Point:
    return Point(name=name, ms=ms, low_ms=ms * 0.9, high_ms=ms * 1.1, accuracy=accuracy)


def test_front() -> None:
    every = [point("a", 1, 0.5), point("b", 2, 0.4), point("c", 3, 0.6), point("d", 3, 0.55)]
    assert [item.name for item in front(every)] == ["a", "c"]


def test_scatter_sets_collapsed_plans_apart() -> None:
    drawn = scatter(
        [point("a", 1, 0.60), point("b", 2, 0.64), point("<c>", 2, 0.01)], reference=0.65, metric="mAP"
    )
    assert "&lt;c&gt; (1.0)" in drawn
    assert "below" in drawn
    assert "FP32 65.0" in drawn
    ET.fromstring(str(drawn))


def test_scatter_of_one_and_of_zero_latency() -> None:
    for points_ in ([point("a", 1, 0.5)], [point("a", 0, 0.0), point("b", 0, 0.0)]):
        ET.fromstring(str(scatter(points_, reference=None, metric="mAP", width=400)))


def test_shorten() -> None:
    assert shorten("short") == "short"
    assert len(shorten("x" * 90)) <= 28


def test_words_for_figures() -> None:
    assert [points(value) for value in (0.009, -0.012, 0.0002)] == ["\u22120.9", "+1.2", "\u00b10.0"]
    assert [level(value) for value in (0.0104, 0.0106, 0.0504, -0.3)] == ["ok", "warn", "warn", "ok"]
    assert [milliseconds(value) for value in (0.667, 12.34, 860.4)] == ["0.67", "12.3", "860"]


CURVE = {"name": "A <b>", "path": "a.csv", "x": "epoch", "y": ["map", "map50", "loss"]}


def write(folder: Path, text: str) -> Path:
    (folder / "a.csv").write_text(text)
    return folder


def test_curves(tmp_path: Path) -> None:
    root = write(tmp_path, "epoch,map,map50,loss\n1,0.1,0.2,\n2,0.2,0.4,3.0\n3,nan,0.5,2.5\n")
    found = panels(CURVE, root=root, number=0)
    assert len(found) == 2
    assert "mAP50-95" in found[0].title
    assert "A &lt;b&gt;" in found[0].title
    for panel in found:
        ET.fromstring(str(panel.svg))
    assert read(root / "a.csv", x="epoch", y=["map"], where="c")[0].values == ((1, 0.1), (2, 0.2))


def test_long_curve_keeps_its_end(tmp_path: Path) -> None:
    root = write(tmp_path, "epoch,map\n" + "\n".join(f"{n},0.5" for n in range(5000)))
    values = read(root / "a.csv", x="epoch", y=["map"], where="c")[0].values
    assert len(values) <= 401
    assert values[-1][0] == 4999


def test_curve_without_figures(tmp_path: Path) -> None:
    found = panels({**CURVE, "y": ["map"]}, root=write(tmp_path, "epoch,map\n"), number=0)
    assert "no figures in this file" in found[0].svg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,map,map_50,loss\n1,1,1,1\n", "has no column 'map50'; did you mean map_50"),
        ("", "has no column 'epoch'; did you mean another file"),
        ("epoch,map,map50,loss\n1,x,1,1\n", "a.csv, line 2: '1', 'x': no numbers"),
    ],
)
def test_broken_curve(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        panels(CURVE, root=write(tmp_path, text), number=0)


def test_missing_curve(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"curves\[3\]\.path: .*a.csv cannot be read"):
        panels(CURVE, root=tmp_path, number=3)
