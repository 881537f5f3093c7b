"""Evaluates the newest checkpoint of a run on each client's data, and exports the model."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.evaluate import start

if __name__ == "__main__":
    start()
