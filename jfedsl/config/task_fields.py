"""The settings of what a run is trained for, a part of `Config`."""

import dataclasses
import math

from jfedsl.config.allowed import Allowed, OneOf, setting
from jfedsl.engine.task import LOSSES, METRICS, TASKS


@dataclasses.dataclass(frozen=True)
class TaskFields:
    """Settings of loss and measure of success."""

    task: str | None = setting(
        None, "What the model is trained for. Default by the data set: classification of labels "
        "that are whole numbers, regression of real numbers. next_token predicts the next token of "
        "token ids.", OneOf(TASKS),
    )  # fmt: skip
    loss: str | None = setting(
        None, "Loss; default that of the task: cross_entropy of classification, squared_error of "
        "regression, token_cross_entropy of next_token.", OneOf(LOSSES),
    )  # fmt: skip
    metric: str | None = setting(
        None, "Measure of success; default that of the task: accuracy of classification, "
        "mean_absolute_error of regression, perplexity of next_token. balanced_accuracy gives "
        "each class the same weight.", OneOf(METRICS),
    )  # fmt: skip
    target_accuracy: float = setting(
        0.95, "Target of the metric as deployed, to report rounds and bytes to: an accuracy in "
        "[0, 1], or a value of another --metric.",
        Allowed("a number", math.isfinite), may_change_on_resume=True,
    )  # fmt: skip
