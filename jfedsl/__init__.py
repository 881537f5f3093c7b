"""Lightweight federated split learning over wireless networks, in JAX.

The names below and the modules `jfedsl.plots` and `jfedsl.steps` are the public interface. Each is
imported when it is first used, so that importing the package takes no time.

>>> from jfedsl import ALGORITHMS, Config
>>> Config(clients=4).algorithm in ALGORITHMS
True
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jfedsl.algorithms.registry import ALGORITHMS
    from jfedsl.compression.registry import COMPRESSORS
    from jfedsl.config import Config
    from jfedsl.config.loggers import LOGGERS
    from jfedsl.data.datasets import DATASETS, from_arrays, from_texts
    from jfedsl.data.partition import PARTITIONS
    from jfedsl.engine.algorithm import Algorithm
    from jfedsl.engine.task import LOSSES, METRICS, TASKS
    from jfedsl.models.layers import from_function, from_linen
    from jfedsl.models.registry import MODELS, ModelEntry
    from jfedsl.planner.from_python import plan
    from jfedsl.planner.plan import Goal
    from jfedsl.pruning.scores import SCORES
    from jfedsl.run.assemble import Experiment, build
    from jfedsl.run.early_stopping import EarlyStopping
    from jfedsl.run.evaluate import evaluate_run as evaluate
    from jfedsl.run.hooks import Hook
    from jfedsl.run.load import load
    from jfedsl.run.targets.programs import compile_for
    from jfedsl.run.training import train

__version__ = "0.1.0"
__all__ = [
    "ALGORITHMS",
    "COMPRESSORS",
    "DATASETS",
    "LOGGERS",
    "LOSSES",
    "METRICS",
    "MODELS",
    "PARTITIONS",
    "SCORES",
    "TASKS",
    "Algorithm",
    "Config",
    "EarlyStopping",
    "Experiment",
    "Goal",
    "Hook",
    "ModelEntry",
    "build",
    "compile_for",
    "evaluate",
    "from_arrays",
    "from_function",
    "from_linen",
    "from_texts",
    "load",
    "plan",
    "train",
]

_MODULES = {
    "ALGORITHMS": "algorithms.registry",
    "COMPRESSORS": "compression.registry",
    "DATASETS": "data.datasets",
    "LOGGERS": "config.loggers",
    "LOSSES": "engine.task",
    "METRICS": "engine.task",
    "MODELS": "models.registry",
    "PARTITIONS": "data.partition",
    "SCORES": "pruning.scores",
    "TASKS": "engine.task",
    "Algorithm": "engine.algorithm",
    "Config": "config",
    "EarlyStopping": "run.early_stopping",
    "Experiment": "run.assemble",
    "Goal": "planner.plan",
    "Hook": "run.hooks",
    "ModelEntry": "models.registry",
    "build": "run.assemble",
    "compile_for": "run.targets.programs",
    "evaluate": "run.evaluate",
    "from_arrays": "data.datasets",
    "from_function": "models.layers",
    "from_linen": "models.layers",
    "from_texts": "data.datasets",
    "load": "run.load",
    "plan": "planner.from_python",
    "train": "run.training",
}
_NAMES = {"evaluate": "evaluate_run"}  # where the module has another name


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"jfedsl.{_MODULES[name]}")
    return getattr(module, _NAMES.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
