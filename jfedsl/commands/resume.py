"""Goes on with a run from its newest checkpoint.

jfedsl resume runs/first --rounds=80

The settings of the run hold; other flags may change those that may change when a run is resumed.
"""

from absl import flags

from jfedsl.commands import train
from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.script import run


def main(config: Config) -> None:
    """Trains the rest of the run and prints its summary.

    Raises:
      UserError: no run is named.
    """
    if not flags.FLAGS["resume"].value:
        raise UserError("no run to go on with; the folder of a run is the first argument")
    train.main(config)


def start() -> None:
    """Runs it on the command line."""
    run(main, about=__doc__)
