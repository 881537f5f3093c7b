"""CPU seconds from the start of a default run until its first rounds are evaluated.

    python benchmarks/first_round.py

Prints one line for the first start, which compiles, and one for each of --repeats later starts,
which load the compiled programs: seconds until imports are done, the experiment is built, and the
first call of rounds has been evaluated. Seconds are user and system time of all threads.
"""

import os
import subprocess
import sys
import tempfile

from absl import app, flags

_REPEATS = flags.DEFINE_integer("repeats", 3, "Starts that load compiled programs.", lower_bound=1)

_START = """
import os, sys

def report(stage):
    print(f"{stage} {sum(os.times()[:2]):.2f} s", end="  ", flush=True)

from jfedsl.config import Config
from jfedsl.run.hooks import Hook
from jfedsl.run.training import train
report("imports")

class Stages(Hook):
    def begin(self, start):
        report("built")

    def on_rows(self, rows):
        report("first rounds")
        os._exit(0)

config = Config(workdir=sys.argv[1], compilation_cache=sys.argv[2], progress="none")
train(config, [Stages()])
"""


def main(_: list[str]) -> None:
    """Starts the run repeatedly; each stops after its first rounds."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + _REPEATS.value):
            folders = [os.path.join(folder, str(number)), os.path.join(folder, "programs")]
            subprocess.run([sys.executable, "-c", _START, *folders], check=True)
            print(flush=True)


if __name__ == "__main__":
    app.run(main)
