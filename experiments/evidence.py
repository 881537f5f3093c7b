"""Makes all tables and figures of this repository again, from one build."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.evidence import start

if __name__ == "__main__":
    start()
