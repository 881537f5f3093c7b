"""The loggers that a run may have, by name."""

from collections.abc import Callable
from typing import Any

# Each makes a `jfedsl.run.hooks.Hook` without arguments. The built-in ones are named by module and
# attribute, because hooks know configs, and so that a run imports no other loggers than its own.
LOGGERS: dict[str, str | Callable[[], Any]] = {
    "tensorboard": "jfedsl.run.loggers.tensorboard:TensorBoard",
    "jsonl": "jfedsl.run.loggers.jsonl:JsonLines",
    "wandb": "jfedsl.run.loggers.wandb:WeightsAndBiases",
}
NONE = ("none",)  # as the value of the flag
