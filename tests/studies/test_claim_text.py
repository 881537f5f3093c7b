"""What --claim may say, and the one line that refuses everything else."""

import pytest

from jfedsl.errors import UserError
from jfedsl.studies.claim_text import claims_of
from jfedsl.studies.claims import Claim, Comparison
from jfedsl.studies.columns import Column

SETTINGS = ["light, pool1", "full-size", "a/b"]
PAIR = ("light, pool1", "full-size")


def accuracy(summary: dict[str, float]) -> float:
    return summary["accuracy"]


def cost(summary: dict[str, float]) -> float:
    return summary["cost"]


METRICS: dict[str, Column] = {"test accuracy": accuracy}
COSTS: dict[str, Column] = {"MB sent": cost, "MB to target": cost}


def read(*texts: str) -> list[Claim]:
    return claims_of(texts, SETTINGS, METRICS, COSTS)


def test_claims_of_every_form() -> None:
    ratios = " light, pool1 / full-size < 1;a/b  /  full-size > 1e-3 "
    first, second, third = read(
        f"It is cheaper. | MB to target |{ratios}",
        "It loses < 1% | test accuracy | light, pool1 - full-size > -0.01",
        "It depends | MB sent | a/b / full-size < light, pool1 / full-size",
    )
    assert first == Claim(
        "It is cheaper.", "MB to target", cost, True,
        (
            Comparison("light, pool1 / full-size < 1", PAIR, True, True, 1),
            Comparison("a/b  /  full-size > 1e-3", ("a/b", "full-size"), True, False, 1e-3),
        ),
    )  # fmt: skip
    assert second[:4] == ("It loses < 1%", "test accuracy", accuracy, False)
    (difference,) = second.comparisons
    assert difference[1:] == (PAIR, False, False, -0.01)
    (of_ratios,) = third.comparisons
    assert of_ratios[1:] == (("a/b", "full-size", *PAIR), True, True, 1.0)


FORM = "of the form TEXT . MEASURE . COMPARISON ; COMPARISON"
SUCH = "comparisons such as A / B < 1, A / B < C / D or A - B > -0.01, with names"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", f"{FORM}.*not set"),
        ("It is cheaper", FORM),
        ("It is cheaper | MB sent", FORM),
        (" | MB sent | a/b / full-size < 1", FORM),
        ("It is | MB sent | a/b / full-size < 1;", FORM),
        ("It is | MB | a/b / full-size < 1", "one of test accuracy, MB sent, MB to target, not"),
        ("It is | MB sent | a/b", f"{SUCH}.* not a/b"),
        ("It is | MB sent | a/b / full-size", SUCH),
        ("It is | MB sent | a/b / full-size <1", SUCH),
        ("It is | MB sent | a/b / full-size < one", SUCH),
        ("It is | MB sent | a/b / full-size < nan", SUCH),
        ("It is | MB sent | a/b < full-size", SUCH),
        ("It is | MB sent | a/b + full-size < 1", SUCH),
        ("It is | MB sent | a/b / full-size < a/b - full-size", SUCH),
        ("It is | test accuracy | a/b - full-size < a/b - full-size", SUCH),
        ("It is | MB sent | a/b / full-size < 0", "a ratio below or above a positive number"),
        ("It is | MB sent | a/b / a/b < 1", "a comparison of sides that differ"),
        ("It is | MB sent | a/b / full-size < a/b / full-size", "sides that differ"),
        ("It is | MB sent | a/b / full-size < a/b / a/b", "sides that differ"),
        ("It is | MB sent | a/b / full size < 1", "the settings .* not full size; .* full-size"),
        ("It is | MB sent | a/b / full-size < a/b / c", "the settings light, pool1, .* not c"),
        ("It is | MB sent | a/b - full-size < 1", "for MB sent, a cost: a ratio, A / B, not a/b -"),
        ("It is | test accuracy | a/b / full-size < 1", "accuracy, a metric: a difference, A - B"),
    ],
)  # fmt: skip
def test_a_wrong_claim_is_refused_in_one_line(text: str, error: str) -> None:
    with pytest.raises(UserError, match=f"^--claim must be .*{error}") as raised:
        read(text)
    assert "\n" not in str(raised.value)
