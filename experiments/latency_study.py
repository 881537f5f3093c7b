"""Compares accuracy with simulated seconds and joules, over cuts, channel pruning and bits."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.latency_study import start

if __name__ == "__main__":
    start()
