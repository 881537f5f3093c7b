"""Compares the convergence bound, term by term, with the measured mean squared gradient norm."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.bound_study import start

if __name__ == "__main__":
    start()
