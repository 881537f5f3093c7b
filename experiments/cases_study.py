"""Compares named settings over seeds by their bytes, seconds and joules."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.cases_study import start

if __name__ == "__main__":
    start()
