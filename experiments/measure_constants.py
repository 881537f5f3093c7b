"""Measures the constants of the convergence bound at the newest checkpoint of a run."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.measure_constants import start

if __name__ == "__main__":
    start()
