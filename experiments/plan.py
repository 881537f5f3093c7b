"""Plans a run: predicts the cost of settings and writes the best one as flags of a run."""

from jfedsl.run import startup  # noqa: F401 (first: the imports below take seconds)

# isort: split
from jfedsl.commands.plan import start

if __name__ == "__main__":
    start()
