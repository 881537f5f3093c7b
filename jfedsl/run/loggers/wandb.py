"""Weights & Biases, by the extra `wandb`."""

import dataclasses
import importlib.util
import os
import sys
from typing import Any

from jfedsl.errors import UserError, one_line
from jfedsl.run.hooks import Hook, RunStart
from jfedsl.run.storage.metrics import Row, known, rows_before
from jfedsl.run.storage.workdir import write_atomically

_PROJECT = "jfedsl"  # where WANDB_PROJECT names no other
_LONGEST_REASON = 200  # characters


class WeightsAndBiases(Hook):
    """Every column of metrics.csv, its round as the step, and the settings as the config.

    A folder has one W&B run, which a resumed run continues: its id is kept in `wandb/run_id`. The
    environment variables of W&B count; WANDB_MODE=offline writes to the folder alone.
    """

    def __init__(self) -> None:
        """Checks that the package is there.

        Raises:
          UserError: it is not.
        """
        found = importlib.util.find_spec("wandb")
        if found is None or found.origin is None:  # a folder of runs named wandb is no package
            raise UserError(
                "--loggers=wandb: the package wandb is needed: pip install 'jfedsl[wandb]'"
            )
        self._run: Any = None

    def begin(self, start: RunStart) -> None:
        """Opens the W&B run of the folder; a new one gets the rounds before the start too.

        Raises:
          UserError: W&B cannot be reached, or knows no account.
        """
        place = start.folder / "wandb" / "run_id"
        id_ = place.read_text().strip() if place.exists() else None
        task = start.experiment.record
        self._run = _opened(start, id_)
        self._run.define_metric(task.tested, summary="max" if task.higher_is_better else "min")
        if id_ is None:
            place.parent.mkdir(exist_ok=True)
            write_atomically(place, f"{self._run.id}\n")
            self.on_rows(rows_before(start.folder, start.round, task))

    def on_rows(self, rows: list[Row]) -> None:
        """Sends rows; the library does so in a process of its own."""
        for row in rows:
            values = known(row)
            self._run.log(values, step=values.pop("round"))

    def close(self) -> None:
        """Ends the W&B run, as failed while an error ends this one."""
        if self._run is not None:
            self._run.finish(exit_code=int(sys.exc_info()[0] is not None))


def _opened(start: RunStart, id_: str | None) -> Any:
    """The W&B run of an id, or a new one."""
    import wandb

    # Captured output would pass through the library on its way to the bar of the progress.
    settings = wandb.Settings(console="off", silent=start.config.progress == "none")
    try:
        return wandb.init(
            dir=str(start.folder),
            id=id_,
            resume="allow",
            reinit="create_new",  # beside a run that the program itself may have
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", start.folder.name),
            config=dataclasses.asdict(start.config),
            settings=settings,
        )
    except wandb.errors.Error as error:
        reason = one_line(str(error), _LONGEST_REASON)
        hint = "WANDB_MODE=offline needs neither account nor network"
        raise UserError(f"--loggers=wandb: {reason}; {hint}") from error
