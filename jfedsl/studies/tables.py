"""Tables of a study: means over seeds, and differences to a reference seed by seed."""

from collections.abc import Mapping, Sequence

from jfedsl.run.plots.page import escaped
from jfedsl.studies.claims import CAPTION as CLAIMS_CAPTION
from jfedsl.studies.claims import Claim, claims_table
from jfedsl.studies.columns import Column, mean_and_range, metric_columns, test_columns
from jfedsl.studies.outcome import Outcome, all_tasks, values_of
from jfedsl.studies.paired import CAPTION, ONE_SEED, Measure, paired_table

TARGET_NOTE = (
    "Means over seeds, least to greatest; n of N seeds where some have no number. To target: "
    "interpolated between the evaluation before and the first one that reaches it, if the next one "
    "does too; a run that ends there has not reached it."
)


def contents(
    outcomes: Sequence[Outcome],
    columns: Mapping[str, Column],
    reference: str | None = None,
    claims: Sequence[Claim] = (),
) -> str:
    """All tables of a study as Markdown, with captions.

    Args:
      outcomes: of the settings.
      columns: of the tables, by their titles; see `table`.
      reference: name of the setting that the others are compared with; None for the first.
      claims: about the settings.
    """
    parts = [table(outcomes, columns), TARGET_NOTE]
    if len(outcomes) > 1:
        name = outcomes[0].name if reference is None else reference
        caption = ONE_SEED if len(outcomes[0].summaries) == 1 else CAPTION
        parts += [f"Against {escaped(name)}. {caption}", against(outcomes, columns, name)]
    if claims:
        parts += [CLAIMS_CAPTION, claims_table(claims, outcomes)]
    return "\n\n".join(parts)


def table(outcomes: Sequence[Outcome], columns: Mapping[str, Column]) -> str:
    """A Markdown table with a row for each setting: means over seeds, with their ranges.

    Its first columns are the metric of the merged model and `deployed`, its metric when compressors
    act on the activation at inference. With a validation set these are of it, and the metric on
    the test set follows.

    Args:
      outcomes: of the settings.
      columns: further columns by their titles.
    """
    columns = {**_metrics(outcomes), **columns}
    lines = [
        " | ".join(["| setting", *columns]) + " |",
        "| --- " * (1 + len(columns)) + "|",
    ]
    for outcome in outcomes:
        cells = [mean_and_range(values_of(outcome, column)) for column in columns.values()]
        lines.append(" | ".join([f"| {escaped(outcome.name)}", *cells]) + " |")
    return "\n".join(lines)


def against(outcomes: Sequence[Outcome], columns: Mapping[str, Column], reference: str) -> str:
    """A Markdown table of the other settings against one: differences of metrics, ratios of costs.

    Args:
      outcomes: of the settings, with the same seeds.
      columns: costs, by their titles.
      reference: name of the setting that the others are compared with.
    """
    kinds = ((False, _metrics(outcomes)), (True, columns))
    measures = [
        Measure(title, is_ratio, {escaped(o.name): values_of(o, column) for o in outcomes})
        for is_ratio, of_kind in kinds
        for title, column in of_kind.items()
    ]
    return paired_table(measures, escaped(reference))


def _metrics(outcomes: Sequence[Outcome]) -> dict[str, Column]:
    tasks = all_tasks(outcomes)
    return {**metric_columns(tasks), **test_columns(tasks)}
