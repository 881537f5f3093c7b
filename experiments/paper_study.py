"""The studies of the paper: pruning, bits, dropout, cut, period, ablation, rivals, unequal data."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.paper_study import start

if __name__ == "__main__":
    start()
