"""A picture of settings by two objectives, with the Pareto front and the chosen setting."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from jfedsl.run.plots.style import COLOURS, PAGE, new_figure, styled

_MUCH = 4  # if one value is this many times another, the axis is logarithmic


class Panel(NamedTuple):
    """Two objectives of all settings, smaller is better: each a label and values, float `[n]`."""

    x: tuple[str, np.ndarray]
    y: tuple[str, np.ndarray]

    @property
    def points(self) -> np.ndarray:
        """Both objectives of all settings, `[n, 2]`."""
        return np.stack([self.x[1], self.y[1]], axis=1)


@styled
def trade(panels: Sequence[Panel], chosen: int, title: str = "") -> Figure:
    """Settings, their Pareto front and the chosen one.

    Args:
      panels: drawn side by side; settings with a value that is not finite are left out.
      chosen: index of the setting to mark.
      title: text over the picture.

    Returns:
      A figure of two columns' width with a legend below.
    """
    figure = new_figure(PAGE, 2.9, title)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        points = panel.points
        drawn, edge = points[np.isfinite(points).all(axis=1)], points[pareto(points)]
        edge = edge[np.argsort(edge[:, 0], kind="stable")]
        axis.scatter(*drawn.T, s=10, color="0.6", label="settings")
        axis.plot(*edge.T, "o-", ms=4, color=COLOURS["blue"], label="not beaten in both")
        axis.plot(*points[chosen], "*", ms=11, color=COLOURS["vermillion"], label="chosen")
        axis.set_xlabel(panel.x[0])
        axis.set_ylabel(panel.y[0])
        for column, scale in enumerate((axis.set_xscale, axis.set_yscale)):
            low, high = drawn[:, column].min(), drawn[:, column].max()
            if low > 0 and high > _MUCH * low:
                scale("log")
        axis.grid()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def pareto(table: np.ndarray) -> np.ndarray:
    """Which settings are on the Pareto front, bool `[n]`.

    A setting is off the front if another is as good in all objectives and better in one.

    Args:
      table: objectives `[n, k]`, smaller is better; a setting with one that is not finite is off
        the front.
    """
    finite = np.isfinite(table).all(axis=1)
    rows = np.where(finite[:, None], table, np.inf)
    beaten = [((rows <= row).all(axis=1) & (rows < row).any(axis=1)).any() for row in rows]
    return finite & ~np.array(beaten, bool)
