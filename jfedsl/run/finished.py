"""Runs that have been trained to their end: what they say needs no devices."""

from pathlib import Path
from typing import Any

from jfedsl.config import Config, plugins
from jfedsl.errors import UserError
from jfedsl.run.constants_recorder import MEASURED as MEASURED
from jfedsl.run.storage import ledger
from jfedsl.run.storage.fingerprints import plugins_changed
from jfedsl.run.storage.metrics import KEPT, METRICS, SIMULATED
from jfedsl.run.storage.workdir import differences, read_config, read_summary

# May change when a run is resumed, but then there is something to compute.
_COMPUTED = ("rounds", "eval_every", "target_accuracy", "measure_constants_every")


def finished(config: Config) -> dict[str, Any] | None:
    """The summary of a run that has been trained to its end with these settings, or None.

    One whose plugins have changed is none: training it again says so.
    """
    folder = Path(config.workdir)
    found, old = read_summary(folder), read_config(folder, config.plugin)
    if found is None or old is None or differences(old, config):
        return None
    if plugins_changed(folder, plugins.checksums(config.plugin)):
        return None
    same = all(getattr(old, name) == getattr(config, name) for name in _COMPUTED)
    # What a run that was killed at its end left may be of settings before.
    own = all(found.get(name) == getattr(config, name) for name in ("rounds", "target_accuracy"))
    return found if same and own else None


def already_done(config: Config) -> dict[str, Any] | None:
    """What training would return, if the run is finished and none of its files is missing."""
    if not config.workdir or config.coordinator:  # several processes would have to agree
        return None
    summary, folder = finished(config), Path(config.workdir).absolute()
    if summary is None:
        return None
    try:
        columns = ledger.read(folder / METRICS).partition("\n")[0].split(",")
        if config.measure_constants_every is not None:
            ledger.read(folder / MEASURED)
    except UserError:
        return None
    files = [folder / name for name in pictures_of(columns)]
    return {**summary, "workdir": str(folder)} if all(f.exists() for f in files) else None


def pictures_of(columns: list[str]) -> list[str]:
    """Pictures that a finished run with these columns of metrics has."""
    return [
        "labels.png",
        "curves.png",
        "traffic.png",
        *(["masks.png"] if any(name.startswith(KEPT) for name in columns) else []),
        *(["timeline.png"] if SIMULATED[0] in columns else []),
    ]
