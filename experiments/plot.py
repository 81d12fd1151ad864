"""What the plots of several experiments share: points with names that do not run over one another, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox

matplotlib.rcParams |= {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "hexpath",  # and the same figures the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8e8e8",
    "font.size": 9,
}
DOT = 3  # half of a marker, pixels
# Where a name may stand, in units of the font's size from its point: the first that covers least is taken.
PLACES = (
    ("left", 0.6, 0.4),
    ("right", -0.6, 0.4),
    ("center", 0.0, 0.8),
    ("center", 0.0, -1.5),
    ("right", 0.6, -1.5),
    ("left", -0.6, -1.5),
)


def log_x(axes: Axes) -> None:
    """Make x logarithmic, with plain figures at 1, 2, 3, 5 and 7 of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def name_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write each name beside its point (x, y), where no point and no other name lies.

    Call it when the figure has its final size and limits.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()
    size = matplotlib.rcParams["font.size"]
    inside = axes.get_window_extent()
    places = axes.transData.transform(points) if points else []
    taken = [Bbox.from_extents(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in places]
    for point, name in sorted(zip(points, names, strict=True), key=lambda named: -named[0][1]):
        written = axes.annotate(name, point, (0, 0), textcoords="offset points", fontsize=size - 1)
        options = []
        for align, right, up in PLACES:
            written.set(ha=align)
            written.xyann = (right * size, up * size)
            box = written.get_window_extent()
            outside = box.x0 < inside.x0 or box.x1 > inside.x1
            covers = sum(box.overlaps(other) for other in taken)
            options.append(((outside, covers), align, written.xyann, box))
        _, align, offset, box = min(options, key=lambda option: option[0])
        written.set(ha=align)
        written.xyann = offset
        taken.append(box)


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG, without the date."""
    figure.savefig(path, format="svg", metadata={"Date": None})
