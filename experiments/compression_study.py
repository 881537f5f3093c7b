"""Compares accuracy and bytes of compressors of the activation and the gradient at the cut."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.compression_study import start

if __name__ == "__main__":
    start()
