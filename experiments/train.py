"""Trains one federated split learning run; the same command with its --workdir resumes it."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.train import start

if __name__ == "__main__":
    start()
