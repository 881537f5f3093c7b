"""Claims read from the flag --claim."""

import math
import re
from collections.abc import Collection, Mapping, Sequence

from jfedsl.config.allowed import OneOf
from jfedsl.errors import flag_error
from jfedsl.studies.claims import Claim, Comparison
from jfedsl.studies.columns import Column

FORM = "TEXT | MEASURE | COMPARISON ; COMPARISON ..."
_COMPARISONS = "A / B < 1, A / B < C / D or A - B > -0.01, with names of settings and < or >"
_TO_TARGET = "to target"  # how titles of costs to the target end


def claims_of(
    texts: Sequence[str],
    settings: Collection[str],
    metrics: Mapping[str, Column],
    costs: Mapping[str, Column],
) -> list[Claim]:
    """The claims from the entries of --claim.

    Metrics are compared by differences and costs by ratios, as in the study's other tables.

    Args:
      texts: the entries, each of the form `FORM`.
      settings: names of all settings.
      metrics: columns of the study's tables that are metrics, by their titles.
      costs: its other columns, by their titles.

    Raises:
      UserError: another form, an unknown setting or measure, or a difference of costs or ratio of
        metrics.
    """
    return [_claim(text, settings, metrics, costs) for text in texts]


def _claim(
    text: str,
    settings: Collection[str],
    metrics: Mapping[str, Column],
    costs: Mapping[str, Column],
) -> Claim:
    parts = [part.strip() for part in text.split("|", 2)]
    if len(parts) < 3 or not all(parts) or not all(map(str.strip, parts[2].split(";"))):
        raise flag_error("claim", text, f"of the form {FORM}")
    sentence, measure, rest = parts
    measures = {**metrics, **costs}
    if measure not in measures:
        names = list(measures)
        raise flag_error("claim", measure, f"about {OneOf(names).text}", names)
    comparisons = tuple(comparison_of(part, settings) for part in rest.split(";"))
    for comparison in comparisons:
        if comparison.is_ratio != (measure in costs):
            kind = "a cost: a ratio, A / B" if measure in costs else "a metric: a difference, A - B"
            raise flag_error("claim", comparison.text, f"for {measure}, {kind}")
    to_target = measure.endswith(_TO_TARGET)
    return Claim(sentence, measure, measures[measure], to_target, comparisons)


def comparison_of(text: str, settings: Collection[str]) -> Comparison:
    """A comparison from its text.

    >>> comparison_of("fast / slow < 0.5", ["fast", "slow"])[1:]
    (('fast', 'slow'), True, True, 0.5)

    Args:
      text: of one of the forms of `FORM`; operators have a space on both sides.
      settings: names of all settings.

    Raises:
      UserError: another form, or an unknown setting.
    """
    text = text.strip()
    parts = re.split(r"\s+([-/<>])\s+", text)
    names, operators = parts[::2], parts[1::2]
    match operators:
        case ["/" | "-", "<" | ">"]:
            bound = _number(names.pop(), text)
        case ["/", "<" | ">", "/"]:
            bound = 1.0
        case _:
            raise _wrong_form(text)
    unknown = next((name for name in names if name not in settings), None)
    if unknown is not None:
        allowed = f"about the settings {', '.join(settings)}"
        raise flag_error("claim", unknown, allowed, settings)
    pairs = names[:2], names[2:]
    if pairs[0] == pairs[1] or any(len(set(pair)) == 1 for pair in pairs):
        raise flag_error("claim", text, "a comparison of sides that differ")
    is_ratio = operators[0] == "/"
    if is_ratio and bound <= 0:
        raise flag_error("claim", text, "a ratio below or above a positive number")
    return Comparison(text, tuple(names), is_ratio, operators[1] == "<", bound)


def _number(text: str, comparison: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _wrong_form(comparison) from None
    if not math.isfinite(value):
        raise _wrong_form(comparison)
    return value


def _wrong_form(text: str) -> Exception:
    return flag_error("claim", text, f"comparisons such as {_COMPARISONS}")
