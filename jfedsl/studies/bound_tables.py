"""The tables of a study of the bound."""

from collections.abc import Mapping, Sequence

from jfedsl.run.convergence import over_measured
from jfedsl.studies.bound_outcome import TERMS, Outcome, distinct
from jfedsl.studies.bound_prediction import PREDICTED, PilotPlan
from jfedsl.studies.columns import mean_and_range
from jfedsl.studies.ranks import STATISTICS, rank_correlation

_COLUMNS = (
    "measured", "predicted", "bound", "with one beta", "gamma * beta", "verdict",
    "bound / measured", "predicted / measured",
)  # fmt: skip


def table(outcomes: Mapping[str, Mapping[str, Outcome]], plan: PilotPlan) -> str:
    """Markdown tables: bounds and verdict of every setting, its terms, and rank correlations.

    Args:
      outcomes: by the name of what is varied: by its values.
      plan: of the pilot that the predictions are from.
    """
    named = [(f"{v} {value}", o) for v, values in outcomes.items() for value, o in values.items()]
    ranked = {varied: list(values.values()) for varied, values in outcomes.items()}
    ranked["all"] = distinct([outcome for _, outcome in named])
    kinds = [f"{name}, {bound}" for name in STATISTICS for bound in ("predicted", "bound")]
    parts = [
        _markdown(["setting", *_COLUMNS], [_row(name, outcome) for name, outcome in named]),
        _caption(plan),
        "Terms of the bound:",
        _markdown(["setting", *TERMS], [_terms(name, outcome) for name, outcome in named]),
        "Rank correlation with the measured average over the settings of a row, seed by seed:",
        _markdown(["varied", *kinds], [[name, *_ranks(of)] for name, of in ranked.items()]),
    ]
    return "\n\n".join(parts)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _caption(plan: PilotPlan) -> str:
    return (
        "Means over seeds, least to greatest. `measured` is the average squared gradient norm. "
        "`predicted` was computed before any of these runs was trained, from a pilot of "
        f"{plan.rounds} rounds with seed {plan.seed} (`{PREDICTED}` has its terms). `bound` has the"
        " constants that each run measured of itself."
    )


def _row(name: str, outcome: Outcome) -> list[str]:
    """The row of a setting in the table with `_COLUMNS`."""
    verdicts = [r["verdict"] for r in outcome.reports]
    counted = ", ".join(f"{v} ({verdicts.count(v)})" for v in dict.fromkeys(verdicts))
    predicted = mean_and_range([outcome.predicted])
    if not outcome.finished:
        return [name, "", predicted, "", "", "", counted, "", ""]
    measured, steepest = outcome.known("average"), max(outcome.known("steepness"), default=0.0)
    return [
        name,
        mean_and_range(measured),
        predicted,
        mean_and_range(outcome.known("bound")),
        f"{outcome.mean('with_one_beta'):.4g}",
        f"{steepest:.2f}",
        counted,
        mean_and_range([over_measured(r["bound"], r["average"]) for r in outcome.finished]),
        mean_and_range([over_measured(outcome.predicted, average) for average in measured]),
    ]


def _terms(name: str, outcome: Outcome) -> list[str]:
    return [name, *(f"{value:.3g}" for value in outcome.mean_terms().values())]


def _ranks(outcomes: Sequence[Outcome]) -> list[str]:
    """Rank correlations over these settings, as mean and range over seeds."""
    seeds = range(len(outcomes[0].reports))
    cells = []
    for statistic in STATISTICS:
        for name in ("predicted", "bound"):
            values = [_of_seed(statistic, name, outcomes, seed) for seed in seeds]
            cells.append(mean_and_range([None if v is None else round(v, 2) for v in values]))
    return cells


def _of_seed(statistic: str, bound: str, outcomes: Sequence[Outcome], seed: int) -> float | None:
    """The rank correlation of a bound, `predicted` or `bound`, and the average with one seed."""
    measured = [outcome.by_seed("average")[seed] for outcome in outcomes]
    if bound == "predicted":
        return rank_correlation(statistic, [o.predicted for o in outcomes], measured)
    return rank_correlation(statistic, [o.by_seed(bound)[seed] for o in outcomes], measured)
