"""The one style of all pictures: print sizes, fonts, colours; and files that depend on data alone.

The style acts while a figure is made and saved, and leaves Matplotlib's own settings as they were.
"""

import contextlib
import functools
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec

import matplotlib
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from jfedsl.errors import UserError, one_line
from jfedsl.files.paths import Name, local, temporary

# Colours of Okabe and Ito, which colour-blind people can tell apart: "Color Universal Design",
# 2008, https://jfly.uni-koeln.de/color/. Yellow is last: a thin line of it is hard to see on white.
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky blue": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
PALETTE = tuple(COLOURS.values())
COLUMN, PAGE = 3.5, 7.0  # inches: widths of one column of a paper, and of two
CHARACTERS = 14  # of the font, in an inch

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with Matplotlib
    "font.size": 8,
    # Relative to the size of the font, so that one change of it concerns all texts.
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "legend.fontsize"), "medium"),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), "medium"),
    "figure.titlesize": "large",
    "axes.prop_cycle": cycler("color", PALETTE),
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "jfedsl",
}
# A file without its date has the same bytes every time.
_UNDATED: dict[str, dict[str, None]] = {
    "png": {},
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
}
_changes: ContextVar[Mapping[str, Any]] = ContextVar("changes", default=MappingProxyType({}))

P = ParamSpec("P")


@contextlib.contextmanager
def style(changes: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The style of the pictures, with changes, for the figures made and saved inside of it.

    Args:
      changes: Matplotlib's settings by name, such as `{"font.size": 9}`.

    Examples:
      >>> with style({"font.size": 9}):
      ...     matplotlib.rcParams["font.size"], matplotlib.rcParams["pdf.fonttype"]
      (9.0, 42)
    """
    token = _changes.set({**_changes.get(), **(changes or {})})
    try:
        settings: dict[Any, Any] = {**_STYLE, **_changes.get()}
        with matplotlib.rc_context(settings):
            yield
    finally:
        _changes.reset(token)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that makes a figure, which then does so in the style."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return in_style


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure.

    Args:
      width: in inches.
      height: in inches, without the title.
      title: over the picture; empty for none.
    """
    lines = wrapped(title, int(0.8 * CHARACTERS * width)) if title else ""
    high = height + (0.2 * (1 + lines.count("\n")) if lines else 0)
    figure = Figure(figsize=(width, high), layout="constrained")
    if lines:
        figure.suptitle(lines)
    return figure


def literal(text: str) -> str:
    """A text that Matplotlib draws as it is: a dollar sign does not begin a formula."""
    return text.replace("$", r"\$")


def wrapped(text: str, wide: int, lines: int = 3) -> str:
    """A text in a few lines of at most `wide` characters, ready to be drawn."""
    return literal(textwrap.fill(one_line(text), wide, max_lines=lines, placeholder=" ..."))


def save(figure: Figure, path: Name) -> None:
    """Writes a picture as PNG, PDF or SVG, whichever the path ends in.

    A kill leaves the old file or the new one, whole. A figure made from the same data has the same
    bytes every time.

    Args:
      figure: as a function of this package returns it, changed or not.
      path: of the picture; its folder exists.

    Raises:
      UserError: the path has another ending.
    """
    path = local("path", path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in _UNDATED:
        raise UserError(f"a picture must end in .png, .pdf or .svg, not {path}")
    part = temporary(path)
    with style(), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(part, format=kind, metadata=_UNDATED[kind])
    part.replace(path)


def save_each(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Writes a picture in several formats; returns the files.

    Args:
      figure: the picture.
      stem: path of the files without their endings.
      formats: some of png, pdf and svg.
    """
    paths = files_of(stem, formats)
    for path in paths:
        save(figure, path)
    return paths


def files_of(stem: Path, formats: Sequence[str]) -> list[Path]:
    """The files of a picture in several formats."""
    return [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
