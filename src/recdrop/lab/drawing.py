"""How every picture of a report is drawn and stored: colours, sheets, files."""

import io
import re
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recdrop.lab.paper.grid import Scheme

WIDTH = 5.2  # inches; nine points stay readable on a phone

# Okabe and Ito's colours, told apart with any colour vision, and the page's names for them: it has
# lighter ones on a dark ground.
COLOURS: dict[Scheme, str] = {
    "none": "#7A7A7A",
    "moon": "#D55E00",
    "gal": "#E69F00",
    "ours": "#0072B2",
    "moon-inverted": "#CC79A7",
    "ours-gal": "#009E73",
}
# Colours that nothing else has, so that a page can put its own in their places.
INK, _GRID, _GROUND = "#010203", "#DDDDDE", "#FFFFFE"
_ON_A_PAGE = {
    INK: "currentColor",
    _GRID: "var(--line)",
    _GROUND: "none",
    COLOURS["none"]: "var(--none)",
    COLOURS["moon"]: "var(--moon)",
    COLOURS["gal"]: "var(--gal)",
    COLOURS["ours"]: "var(--ours)",
    COLOURS["moon-inverted"]: "var(--inverted)",
    COLOURS["ours-gal"]: "var(--both)",
}
_RC: dict[Any, Any] = {
    "svg.hashsalt": "recdrop",
    "svg.fonttype": "none",  # text as text: small files
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.facecolor": "none",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


class Picture(NamedTuple):
    """A drawing in both formats.

    Attributes:
        name: Of its files, without the ending.
        caption: What it shows.
        svg: A whole file.
        png: The same, on white.
    """

    name: str
    caption: str
    svg: bytes
    png: bytes

    def inline(self) -> str:
        """The SVG as an element of a page: it takes the page's colours and fetches nothing."""
        text = self.svg.decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
        text = re.sub(r' (?:width|height)="[^"]*pt"', "", text, count=2)  # the page sets them
        # Names are unique within a picture only.
        text = re.sub(r'\bid="', f'id="{self.name}-', text)
        text = text.replace("url(#", f"url(#{self.name}-")
        text = text.replace('xlink:href="#', f'href="#{self.name}-')
        for colour, page in _ON_A_PAGE.items():
            text = re.sub(colour, page, text, flags=re.IGNORECASE)
        return text.strip()


def drawing() -> Any:
    """Everything is drawn within this context."""
    return mpl.rc_context(_RC)


def sheet(height: float) -> tuple[Figure, Axes]:
    """An empty picture.

    Args:
        height: Inches.
    """
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def picture(name: str, caption: str, figure: Figure) -> Picture:
    """A finished drawing in both formats."""
    files = []
    for suffix in ("svg", "png"):
        file = io.BytesIO()
        unstamped = {"Date": None, "Creator": None, "Format": None, "Type": None}
        metadata = unstamped if suffix == "svg" else {"Software": None}
        figure.savefig(file, format=suffix, dpi=160, facecolor=_GROUND, metadata=metadata)
        files.append(file.getvalue())
    return Picture(name, caption, *files)
