"""Pictures of runs and settings, as functions that return Matplotlib figures.

Each takes data and returns a `matplotlib.figure.Figure`, which `save` writes. `style` changes fonts
and other settings of Matplotlib for the figures that are made inside of it.

>>> rows = [{"round": 1, "model_up_bytes": 2_000_000}, {"round": 2, "model_up_bytes": 1_000_000}]
>>> traffic(rows).axes[0].get_ylabel()
'megabytes sent so far'
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from jfedsl.files.paths import Name, local
from jfedsl.run.plots.bounds import Bar, bounds
from jfedsl.run.plots.classes import confusion, labels
from jfedsl.run.plots.curves import curves, masks, traffic
from jfedsl.run.plots.pareto import Panel, trade
from jfedsl.run.plots.spread import spread
from jfedsl.run.plots.style import COLUMN, PAGE, PALETTE, save, style
from jfedsl.run.plots.timeline import timeline
from jfedsl.studies import report
from jfedsl.studies.collect import RecordedRun, find_runs, settings_of

__all__ = [
    "COLUMN",
    "PAGE",
    "PALETTE",
    "Bar",
    "Panel",
    "bounds",
    "comparison",
    "confusion",
    "curves",
    "labels",
    "masks",
    "read_runs",
    "save",
    "spread",
    "style",
    "timeline",
    "trade",
    "traffic",
]


def read_runs(*folders: Name) -> list[RecordedRun]:
    """The runs in folders, as far as they were evaluated at least once.

    Args:
      folders: each that of a run, or one with such folders at any depth.

    Raises:
      UserError: a folder has no evaluated run, or one that cannot be read.
    """
    return find_runs([local("folder", folder) for folder in folders])[0]


def comparison(runs: Sequence[RecordedRun], title: str = "") -> Figure:
    """The curves of a report: the deployed metric against rounds, megabytes, seconds and joules.

    Args:
      runs: from `read_runs`. Those that differ in their seeds alone are one setting, drawn as their
        mean and range.
      title: text over the picture.

    Returns:
      A figure of two columns' width. Its legend has the names of the settings: those of a sweep, or
      the flags in which settings differ.

    Raises:
      UserError: the runs have different metrics.
    """
    report.task_of(runs)
    settings = settings_of(runs)
    return report.comparison(settings, [setting.name for setting in settings], title)
