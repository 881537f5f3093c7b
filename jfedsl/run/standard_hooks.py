"""The hooks that every run has, or that its settings ask for."""

from pkgutil import resolve_name

from jfedsl.config import Config
from jfedsl.config.loggers import LOGGERS, NONE
from jfedsl.errors import Stopped
from jfedsl.run import early_stopping
from jfedsl.run.client_store import MemorySwap
from jfedsl.run.confusion import ConfusionPicture
from jfedsl.run.constants_recorder import MEASURED, ConstantsRecorder
from jfedsl.run.hooks import Hook, RunStart
from jfedsl.run.processes import distributed
from jfedsl.run.processes.stopping import Stop
from jfedsl.run.progress import Progress
from jfedsl.run.replanning import Replanning
from jfedsl.run.run_logger import RunLogger


class Signals(Hook):
    """Interrupts a run after the call in which a signal came."""

    def __init__(self, stop: Stop) -> None:
        """Asks `stop`, which takes the signals."""
        self._stop = stop

    def interruption(self) -> Stopped | None:
        """The error of the signal, or None."""
        return Stopped("interrupted", self._stop.asked) if self._stop.asked else None


def standard_hooks(start: RunStart, stop: Stop) -> list[Hook]:
    """The hooks of a run but for a user's own.

    Signals come first, because a run that both a signal and another hook interrupt ends as the
    signal wants. The run logger comes before all hooks that add to the summary, as it is the last
    to finish and writes the file.

    Raises:
      UserError: a file that a hook goes on with is damaged.
    """
    config, experiment = start.config, start.experiment
    hooks: list[Hook] = [Signals(stop)]
    if experiment.spec.memory_on_host:
        hooks.append(MemorySwap(start))
    if distributed.first():
        hooks.append(Progress(config.progress, start.round, config.rounds, experiment.record))
        hooks += [RunLogger(start), ConfusionPicture()]
    if config.replan_every is not None:
        hooks.append(Replanning(start))
    if config.measure_constants_every is not None:
        seal = start.saved.files.get(MEASURED)
        hooks.append(ConstantsRecorder(config, experiment, start.folder, seal))
    return [*hooks, *early_stopping.hooks_of(config)]


def loggers_of(config: Config) -> list[Hook]:
    """The hooks of `--loggers`, in the process that writes files.

    Raises:
      UserError: a package is missing.
    """
    if config.loggers == NONE or not distributed.first():
        return []
    entries = [LOGGERS[name] for name in config.loggers]
    return [(resolve_name(e) if isinstance(e, str) else e)() for e in entries]
