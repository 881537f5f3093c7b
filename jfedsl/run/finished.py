"""Finished runs: their summaries are returned without training, or starting a device."""

from pathlib import Path
from typing import Any

from jfedsl.config import Config, plugins
from jfedsl.config.loggers import NONE
from jfedsl.errors import UserError
from jfedsl.run.constants_recorder import MEASURED as MEASURED
from jfedsl.run.early_stopping import ended_by_flags
from jfedsl.run.storage import ledger
from jfedsl.run.storage.fingerprints import plugins_changed
from jfedsl.run.storage.metrics import KEPT, METRICS, SIMULATED, columns_in, read
from jfedsl.run.storage.task_record import TaskRecord, read_record
from jfedsl.run.storage.workdir import differences, read_config, read_summary

# Settings that may change on a resume, and with which there is more to compute.
_COMPUTED = (
    "rounds", "eval_every", "target_accuracy", "measure_constants_every", "patience",
    "stop_at_target",
)  # fmt: skip


def finished(config: Config) -> dict[str, Any] | None:
    """The summary of a run that is done with these settings, or None.

    It is done after its last round, or where `--patience` or `--stop_at_target` ends it. None also
    for a run whose plugins have changed: `train` refuses to resume it, and says why.
    """
    folder = Path(config.workdir)
    summary, old = read_summary(folder), read_config(folder, config.plugin)
    if summary is None or old is None or differences(old, config):
        return None
    if plugins_changed(folder, plugins.checksums(config.plugin)):
        return None
    if any(getattr(old, name) != getattr(config, name) for name in _COMPUTED):
        return None
    if not {*config.loggers} <= {*old.loggers, *NONE}:  # a new logger gets the earlier rounds
        return None
    # A run that was killed before it wrote its summary may have left one of earlier settings.
    if summary.get("target_accuracy") != config.target_accuracy:
        return None
    done = summary.get("rounds") == config.rounds or _ended_early(config, summary)
    return summary if done else None


def _ended_early(config: Config, summary: dict[str, Any]) -> bool:
    """Whether the flags of a run end it where its summary was written."""
    ended = summary.get("ended_early")  # earlier builds did not write it
    if not ended or ended["planned_rounds"] != config.rounds:
        return False
    try:
        task = read_record(summary)
        rows = read(Path(config.workdir, METRICS), task)
    except UserError:  # of a file that training restores
        return False
    return len(rows) == summary["rounds"] and ended_by_flags(config, rows, task)


def already_done(config: Config) -> dict[str, Any] | None:
    """The summary that `train` would return, if the run is finished and all its files are there."""
    if not config.workdir or config.coordinator:  # several processes would have to agree
        return None
    summary, folder = finished(config), Path(config.workdir).absolute()
    if summary is None:
        return None
    try:
        columns = columns_in(folder / METRICS)
        if config.measure_constants_every is not None:
            ledger.read(folder / MEASURED)
    except UserError:
        return None
    names = pictures_of(columns, read_record(summary))
    files = [folder / f"{name}.{kind}" for name in names for kind in config.figure_format]
    return {**summary, "workdir": str(folder)} if all(f.exists() for f in files) else None


def pictures_of(columns: list[str], task: TaskRecord) -> list[str]:
    """Names of the pictures of a finished run, without the endings of files.

    Args:
      columns: of its metrics.csv.
      task: what the run is judged by.
    """
    return [
        *(["labels"] if task.of_classes else []),
        "curves",
        "traffic",
        *(["masks"] if any(name.startswith(KEPT) for name in columns) else []),
        *(["timeline"] if SIMULATED[0] in columns else []),
    ]
