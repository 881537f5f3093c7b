"""The fingerprint of a run: of its data, its plugins, its task and what its model keeps frozen."""

from typing import Any

import numpy as np

from jfedsl.config import Config, plugins
from jfedsl.data.datasets import Dataset
from jfedsl.data.fingerprint import Fingerprint, fingerprint
from jfedsl.data.validation import HeldOut
from jfedsl.engine.task import Task
from jfedsl.models.layers import Model
from jfedsl.run.storage.names import flatten
from jfedsl.run.storage.task_record import record_of


def fingerprint_of(
    config: Config,
    dataset: Dataset,
    held: HeldOut,
    task: Task,
    frozen: tuple[Any, ...],
    model: Model,
) -> Fingerprint:
    """What must be the same when a run resumes.

    Args:
      config: all settings of the run.
      dataset: the whole data set, before a subset is chosen.
      held: examples of the clients, for training and validation.
      task: loss, targets and metrics.
      frozen: frozen variables of each layer; empty if no layer has any.
      model: the layers.
    """
    arrays = {
        f"{layer.name}.{name}": np.asarray(leaf)
        for layer, of_layer in zip(model, frozen, strict=False)
        for name, leaf in flatten(of_layer).items()
    }
    split = "validation" if held.validation.size else "test"
    about = record_of(task, split).stored
    shares = [*held.shares, *([held.validation] if held.validation.size else [])]
    return fingerprint(dataset, shares, plugins.checksums(config.plugin), about, arrays)
