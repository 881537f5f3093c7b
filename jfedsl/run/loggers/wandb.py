"""Weights & Biases, by the extra `wandb`."""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from jfedsl.errors import UserError, one_line
from jfedsl.run.hooks import Hook, RunStart, Saved
from jfedsl.run.storage.metrics import Row, known
from jfedsl.run.storage.workdir import write_atomically

_PROJECT = "jfedsl"  # where WANDB_PROJECT names no other
_LONGEST_REASON = 200  # characters
_SENT = "round in wandb"  # in a checkpoint: the last one that was sent


class WeightsAndBiases(Hook):
    """Every column of metrics.csv, its round as the step, and the settings as the config.

    A folder has one W&B run, which a resumed run continues: its id is kept in `wandb/run_id`. The
    environment variables of W&B count; WANDB_MODE=offline writes to the folder alone.
    """

    def __init__(self) -> None:
        """Checks the package and, unless it works offline, the account.

        Raises:
          UserError: there is no such package or account, or W&B cannot be reached.
        """
        package = importlib.util.find_spec("wandb")
        if package is None or package.origin is None:  # a folder of runs named wandb is no package
            raise UserError(
                "--loggers=wandb: the package wandb is needed: pip install 'jfedsl[wandb]'"
            )
        _log_in()
        self._run: Any = None
        self._failed = False

    def begin(self, start: RunStart) -> None:
        """Opens the W&B run of the folder, and sends the rounds before the start that it lacks.

        Raises:
          UserError: W&B can no longer be reached.
        """
        place = start.folder / "wandb" / "run_id"
        id_ = place.read_text().strip() if place.exists() else None
        task = start.experiment.record
        self._run = _opened(start, id_)
        self._run.define_metric(task.tested, summary="max" if task.higher_is_better else "min")
        self._sent = 0
        if id_ is None:
            place.parent.mkdir(exist_ok=True)
            write_atomically(place, f"{self._run.id}\n")
        elif self._run.starting_step:  # W&B, where it is reached, says what it has
            self._sent = self._run.starting_step - 1
        else:
            self._sent = start.saved.values.get(_SENT, 0)
        self.on_rows(start.rows[self._sent :])

    def on_rows(self, rows: Sequence[Row]) -> None:
        """Sends rows; the library does so in a process of its own."""
        for row in rows:
            values = known(row)
            self._sent = values.pop("round")
            # Without `commit` the last row would wait for the next one, and a kill would lose it.
            self._run.log(values, step=self._sent, commit=True)

    def on_checkpoint(self) -> Saved:
        """The last round that was sent."""
        return Saved({_SENT: self._sent})

    def on_error(self, error: BaseException) -> None:
        """Takes the run for a failed one."""
        self._failed = True

    def close(self) -> None:
        """Ends the W&B run, as failed if an error ends this one."""
        if self._run is not None:
            self._run.finish(exit_code=int(self._failed))


def _log_in() -> None:
    """Finds the account, which the library asks for on a terminal, before there is a folder."""
    import wandb

    try:
        if wandb.setup().settings.mode == "online":
            wandb.login()
    except wandb.errors.Error as error:
        raise _user_error(error) from error


def _user_error(error: Exception) -> UserError:
    reason = one_line(str(error), _LONGEST_REASON)
    hint = "WANDB_MODE=offline needs neither account nor network"
    return UserError(f"--loggers=wandb: {reason}; {hint}")


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
        raise _user_error(error) from error
