"""Prepares an image set for training, from a download, local files, or Debian's package."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.prepare_data import start

if __name__ == "__main__":
    start()
