"""Plots as inline SVG that takes its colours from the page, so that one drawing reads on light, on dark and on paper."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that stand for variables of the page's style sheet.
INK, MUTED, GRID, PAPER, BAD = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05"
SERIES: Final = tuple(f"#0a0c{i:02x}" for i in range(8))
MARKERS: Final = "osD^vPX*"
_VARIABLES: Final = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    BAD: "bad",
    **{colour: f"series-{i}" for i, colour in enumerate(SERIES)},
}
# A phone of 360 pixels shows this nearly one to one, so that type keeps its size.
WIDTH: Final = 340
# On a linear axis a value is hard to read beside one that is this many times as large.
WIDELY: Final = 4
_SETTINGS: Final[Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgeresnet",
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlepad": 4,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "path.simplify": False,
}


@contextmanager
def page_style() -> Iterator[None]:
    """Draw in the page's style within this block, whatever the user has set for his own plots."""
    from matplotlib import style

    with style.context(_SETTINGS, after_reset=True):
        yield


class Drawing:
    """A figure that becomes an SVG element; it is made, drawn on and written within ``page_style``.

    Args:
        name: Unique on the page.
        height: In the units of ``WIDTH``.
        rows: Axes, one above the other.
    """

    def __init__(self, name: str, height: int, rows: int = 1, *, share_x: bool = False) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._name = name
        self.figure: Figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(self.figure)
        self.axes: list[Axes] = list(self.figure.subplots(rows, 1, squeeze=False, sharex=share_x)[:, 0])
        self.figure.patch.set_visible(False)
        for axes in self.axes:
            axes.patch.set_visible(False)

    def to_svg(self, description: str) -> str:
        """The element, described in words for those who do not see it; the same drawing is the same bytes."""
        target = StringIO()
        self.figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
        text = target.getvalue()
        text = text[text.index("<svg") :]
        # The style is for every element of the page, so the page has it once.
        text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
        text = re.sub(r'\s(xmlns|xmlns:xlink|version)="[^"]*"', "", text)
        text = text.replace("xlink:href=", "href=")
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self._name}-", text)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, f"var(--{variable})")
        text = re.sub(r'^<svg width="[^"]*" height="[^"]*"|^<svg height="[^"]*"', "<svg", text)
        return re.sub(r"^<svg[^>]*>", lambda opening: _describe(opening[0], description), text)


def _describe(opening: str, description: str) -> str:
    viewbox = re.search(r'viewBox="[^"]*"', opening)
    return f'<svg {viewbox[0] if viewbox else ""} role="img" aria-label="{escape(description, quote=True)}">'


def draw_dots(axes: "Axes", x: Sequence[float], y: Sequence[float], colour: str, size: float = 2.2) -> None:
    """Many small dots as one path: a tenth of the bytes that as many markers take."""
    import numpy as np
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if not len(x):
        return
    points = np.repeat(np.column_stack([x, y]), 2, axis=0)
    codes = np.tile(np.array([Path.MOVETO, Path.LINETO], np.uint8), len(x))
    axes.add_patch(PathPatch(Path(points, codes), fill=False, edgecolor=colour, linewidth=size, capstyle="round"))


def count_by_batches(axes: "Axes", values: Sequence[int]) -> None:
    """A logarithmic x axis with the values themselves as ticks."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [str(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())


def spread_out(axes: "Axes", side: str) -> None:
    """Make an axis logarithmic where what is drawn differs by much, with plain numbers as ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.dataLim.intervalx if side == "x" else axes.dataLim.intervaly
    if not 0 < WIDELY * low < high:
        return
    axes.set(**{f"{side}scale": "log"})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
