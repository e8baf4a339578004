"""How figures look: sized for the columns of a paper, series told apart by colour, by line style and by marker.

Colours are those of Okabe and Ito, which stay apart for the colour-blind; line styles and markers change from the first
series on, so that a grey print still tells them apart.
"""

import io
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

COLUMN = 3.3
"""Width of a figure in inches, that of a column of a two-column page."""
WIDE = 7.0
"""That of both columns: no figure is wider, so that nothing in it is printed smaller than it is drawn."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's, without the yellow and the black that vanish on white or dark paper."""
MARKERS = "osD^vPXd"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
INK = "#1a2b3c"
"""Text and axes; `dien.plots.as_inline_svg` replaces it by the colour of the text around."""
SMALL = 6.5
"""Points of the smallest text, but for the names of history steps, which have 6."""
_STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # long enough to tell the line styles
    "lines.linewidth": 1.1,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",  # text looks the same everywhere and needs no font
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
}


class Look(NamedTuple):
    """What sets one series apart."""

    colour: str
    line: Any
    marker: str


def looks() -> Iterator[Look]:
    """Of the first, second, ... series; among 35 no two share colour and line, nor line and marker among 40."""
    for number in itertools.count():
        yield Look(COLOURS[number % len(COLOURS)], LINES[number % len(LINES)], MARKERS[number % len(MARKERS)])


@contextmanager
def style(salt: str = "dien") -> Iterator[None]:
    """The look of every figure; `salt` makes the ids in an SVG."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        yield


def drawn(figure: Figure, kind: str, *, dpi: int = 300, salt: str = "dien") -> bytes:
    """The content of a file of a figure, the same every time: `png`, `svg` or `pdf`."""
    file = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with style(salt):
        figure.savefig(file, format=kind, dpi=dpi, metadata=undated.get(kind, {}))
    return file.getvalue()
