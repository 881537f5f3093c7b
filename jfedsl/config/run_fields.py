"""The settings of what a run shows and writes, and of when it ends, a part of `Config`."""

import dataclasses

from jfedsl.config.allowed import Allowed, NamesOf, OneOf, setting, whole
from jfedsl.config.loggers import LOGGERS

PROGRESS = ("auto", "bar", "lines", "none")


@dataclasses.dataclass(frozen=True)
class RunFields:
    """Settings that change nothing of the rounds that are trained."""

    progress: str = setting(
        "auto", "Progress as a bar, as lines, or none; auto is a bar on a terminal.",
        OneOf(PROGRESS), may_change_on_resume=True,
    )  # fmt: skip
    loggers: tuple[str, ...] = setting(
        ("tensorboard",), "What each round is written to beside metrics.csv: TensorBoard events, "
        "metrics.jsonl, Weights & Biases.", NamesOf(LOGGERS), may_change_on_resume=True,
    )  # fmt: skip
    stop_at_target: bool = setting(
        False, "End the run once it reaches --target_accuracy.",
        Allowed("true or false", lambda value: isinstance(value, bool)), may_change_on_resume=True,
    )  # fmt: skip
    patience: int = setting(
        0, "Evaluations without improvement of the metric after which the run ends; 0 for never.",
        whole(0), may_change_on_resume=True,
    )  # fmt: skip
