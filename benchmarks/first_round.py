"""CPU seconds from the start of the main job until its first rounds are shown.

    python benchmarks/first_round.py

Prints one line for the first start, which compiles, and one for each of --repeats later ones, which
load what the first compiled: seconds until imports are done, the run is put together, and the first
call of rounds has been evaluated. These are user and system seconds of all threads.
"""

import os
import subprocess
import sys
import tempfile

from absl import app, flags

_REPEATS = flags.DEFINE_integer("repeats", 3, "Starts with all programs compiled.", lower_bound=1)

_START = """
import os, sys

def say(what):
    print(f"{what} {sum(os.times()[:2]):.2f} s", end="  ", flush=True)

from jfedsl.config import Config
from jfedsl.run.hooks import Hook
from jfedsl.run.training import train
say("imports")

class Said(Hook):
    def begin(self, start):
        say("built")

    def on_rows(self, rows):
        say("first rounds")
        os._exit(0)

config = Config(workdir=sys.argv[1], compilation_cache=sys.argv[2], progress="none")
train(config, [Said()])
"""


def main(_: list[str]) -> None:
    """Starts the main job again and again, and stops it after its first rounds."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1 + _REPEATS.value):
            places = [os.path.join(folder, str(number)), os.path.join(folder, "programs")]
            subprocess.run([sys.executable, "-c", _START, *places], check=True)
            print(flush=True)


if __name__ == "__main__":
    app.run(main)
