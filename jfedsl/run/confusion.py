"""The picture of which classes a trained model takes for which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfedsl.engine.state import State
from jfedsl.run.hooks import Hook, Point, RunStart
from jfedsl.run.restore import Run
from jfedsl.run.scores import MOST_CLASSES, confusion_of, predicted_of
from jfedsl.run.storage.task_record import file_of


class ConfusionPicture(Hook):
    """Draws the picture once a run is done; for the process that writes files.

    It takes one pass of the joined model over the examples that the run is judged on: the test set,
    or the validation set where there is one, which leaves the test set unseen. In a run of several
    processes it draws nothing, as one alone does not have the state; `evaluate_run` draws it from a
    checkpoint.
    """

    def begin(self, start: RunStart) -> None:
        """Takes the run; its state may be that at the end."""
        self._config, self._experiment = start.config, start.experiment
        self._folder = start.folder
        self._state: State | None = start.state

    def before_call(self, round_: int, state: State) -> State:
        """Lets go of the state, whose arrays would else stay during the call."""
        self._state = None
        return state

    def between_calls(self, point: Point) -> None:
        """Takes the state."""
        self._state = point.state

    def finish(self, entries: dict[str, Any]) -> dict[str, Any]:
        """Draws the picture where targets are classes, not too many, and there is one model."""
        spec = self._experiment.spec
        drawn = spec.task.of_classes and spec.classes <= MOST_CLASSES and spec.personal is None
        if self._state is not None and drawn and jax.process_count() == 1:
            run = Run(self._config, self._experiment, self._state)
            counts = confusion_of(*predicted_of(run, self._experiment.evaluated), spec.classes)
            split = self._experiment.record.split
            draw(run, counts, self._folder, self._config.figure_format, split)
        return entries


def draw(
    run: Run, counts: np.ndarray, folder: Path, formats: Sequence[str], split: str = "test"
) -> None:
    """Draws the picture of a run into a folder.

    Args:
      run: whose joined model was tested.
      counts: examples by true class and predicted class, int `[classes, classes]`.
      folder: of the picture.
      formats: of the picture.
      split: that the examples are of.
    """
    from jfedsl.run.plots import classes, style  # here, as Matplotlib takes long to import

    title = f"{split.capitalize()} examples, joined model after round {int(run.state.round)}"
    figure = classes.confusion(counts, title, run.experiment.class_names)
    style.save_each(figure, folder / file_of("confusion", split), formats)
