"""Compares accuracy, bytes and FLOPs of clients over prune rates, for weights and for channels."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.pruning_study import start

if __name__ == "__main__":
    start()
