"""Lines that can be told apart: by colour, then by dashes, and always by marker."""

from typing import Any, NamedTuple

from jfedsl.run.plots.style import COLOURS

_COLOURS = [name for name in COLOURS if name != "yellow"]
# By Matplotlib's names: the name in words, and the dashes of SVG in pixels.
_DASHES = {
    "-": ("", ""),
    "--": ("dashed ", "5 2"),
    ":": ("dotted ", "1.5 2"),
    "-.": ("dash-dotted ", "6 2 1.5 2"),
}
_MOST_MARKERS = 12  # on a line
# By Matplotlib's names, the outlines of markers around the middle (17, 7) of a sample.
_MARKERS = {
    "o": "M13.5 7a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
    "s": "M13.8 3.8h6.4v6.4h-6.4z",
    "^": "M17 3l4 7.5h-8z",
    "D": "M17 2.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z",
    "v": "M17 11l4 -7.5h-8z",
    "P": "M15.6 3h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    "X": "M13 5l2-2l2 2l2-2l2 2l-2 2l2 2l-2 2l-2-2l-2 2l-2-2l2-2z",
}


class Line(NamedTuple):
    """How a line is drawn.

    Attributes:
      colour: its name in `style.COLOURS`.
      dashes: Matplotlib's name of its dashes.
      marker: Matplotlib's name of its markers.
    """

    colour: str
    dashes: str
    marker: str

    def style(self, points: int) -> dict[str, Any]:
        """Arguments of `Axes.plot` for a line of so many points; not every point has a marker."""
        return {
            "color": COLOURS[self.colour],
            "ls": self.dashes,
            "marker": self.marker,
            "markevery": max(1, points // _MOST_MARKERS),
        }

    @property
    def words(self) -> str:
        """The line in words, such as "blue dashed line"."""
        return f"{self.colour} {_DASHES[self.dashes][0]}line"

    @property
    def sample(self) -> bytes:
        """A picture of a short piece of the line, SVG, to stand beside its name."""
        colour, dashes = COLOURS[self.colour], _DASHES[self.dashes][1]
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            '<svg xmlns="http://www.w3.org/2000/svg" width="34" height="14" viewBox="0 0 34 14">'
            f'<path d="M0 7h34" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
            f'<path d="{_MARKERS[self.marker]}" fill="{colour}"/></svg>\n'
        ).encode()


def line(number: int) -> Line:
    """The line of the n-th thing in a picture, from 0. They repeat after 28.

    >>> line(0)
    Line(colour='blue', dashes='-', marker='o')
    >>> line(7).words
    'blue dashed line'
    """
    cycle, colour = divmod(number, len(_COLOURS))
    markers, dashes = list(_MARKERS), list(_DASHES)
    marker = markers[(colour + cycle) % len(markers)]
    return Line(_COLOURS[colour], dashes[cycle % len(dashes)], marker)
