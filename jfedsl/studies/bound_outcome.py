"""What became of one setting in a study of the bound."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jfedsl.run.pilot import Prediction
from jfedsl.theory.bound import Terms
from jfedsl.theory.verdict import Verdict


class Outcome(NamedTuple):
    """The outcome of one setting.

    Attributes:
      reports: for each seed, the entry `convergence` of summary.json.
      prediction: made before the runs.
    """

    reports: list[dict[str, Any]]
    prediction: Prediction

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The reports of the runs that did not diverge."""
        return [r for r in self.reports if r["verdict"] != Verdict.DIVERGED]

    @property
    def predicted(self) -> float | None:
        """The predicted bound; None if it is not finite."""
        return self.prediction.total if np.isfinite(self.prediction.total) else None

    def mean(self, name: str) -> float:
        """Mean of an entry over the finished runs; NaN if there are none or one lacks it."""
        values = np.array([r[name] for r in self.finished], np.float64)
        return float(np.mean(values)) if values.size else float("nan")

    def known(self, name: str) -> list[float]:
        """An entry of all finished runs that have it."""
        return [r[name] for r in self.finished if r[name] is not None]

    def by_seed(self, name: str) -> list[float | None]:
        """An entry for each seed; None if the run diverged or lacks it."""
        return [None if r["verdict"] == Verdict.DIVERGED else r[name] for r in self.reports]

    def mean_terms(self) -> dict[str, float]:
        """Means of the bound's terms over the finished runs; NaN where one run lacks a term."""
        rows = np.array([list(r["terms"].values()) for r in self.finished], np.float64)
        means = rows.mean(axis=0) if rows.size else np.full(len(Terms._fields), np.nan)
        return dict(zip(TERMS, means, strict=True))


TERMS = [name.replace("_", " ") for name in Terms._fields]


def distinct(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes without repetitions of the same setting."""
    return list({id(outcome): outcome for outcome in outcomes}.values())
