"""Compares ways to fine-tune a pretrained transformer: accuracy, bytes, simulated seconds."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.finetuning_study import start

if __name__ == "__main__":
    start()
