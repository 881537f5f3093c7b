"""Trains a grid of settings and seeds, one run after another."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.sweep import start

if __name__ == "__main__":
    start()
