"""From a config to everything a run needs; every wrong setting is found here, before any folder."""

from jfedsl.run.assemble.experiment import Experiment, build

__all__ = ["Experiment", "build"]
