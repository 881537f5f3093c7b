"""Writes a report on runs, as an HTML page and as Markdown."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.report import start

if __name__ == "__main__":
    start()
