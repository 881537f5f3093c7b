"""Learning rates chosen on validation data: which tries follow, which wins, what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers import plain

from jfedsl.errors import UserError
from jfedsl.studies import study
from jfedsl.studies.records import Known
from jfedsl.studies.study import Study
from jfedsl.studies.tuning import MORE, Tried, Tuning, chosen, next_exponent, table


def tried(peak: float, tries: int) -> dict[float, float]:
    """The scores of all tries where the metric falls off quadratically from a best exponent."""
    scores: dict[float, float] = {}
    while (exponent := next_exponent(scores, tries)) is not None:
        scores[exponent] = 1 - (exponent - peak) ** 2
    return scores


@pytest.mark.parametrize("tries", [3, 4, 5, 7])
def test_every_setting_has_as_many_tries_unless_its_best_is_at_an_edge(tries: int) -> None:
    for peak in np.random.default_rng(tries).uniform(-1.4, 1.4, 20):
        scores = tried(peak, tries)
        best = max(scores, key=lambda exponent: scores[exponent])
        assert min(scores) < best < max(scores) and abs(best - peak) <= 0.5
        needed = 3 + math.ceil(abs(peak) - 0.5)  # until the best is inside
        assert len(scores) == max(tries, needed)
    far = tried(-40, tries)
    assert len(far) == tries + MORE and min(far) == 2.0 - len(far) + 0.0


def test_half_steps_follow_beside_the_best() -> None:
    scores = {0.0: 0.9, -1.0: 0.7, 1.0: 0.8}
    assert next_exponent(scores, 5) == 0.5 and next_exponent(scores, 3) is None
    assert next_exponent({**scores, 0.5: 0.95}, 5) == 0.25, "between the best and the next best"
    assert next_exponent({0.0: 0.1, -1.0: 0.1, 1.0: -math.inf}, 3) == -2, "of equals the smallest"


def test_rates_are_chosen_on_validation_data_and_followed(tmp_path: Path) -> None:
    rates = {"client_learning_rate": 0.4, "server_learning_rate": 0.2}
    base = plain(
        **rates, rounds=2, clients=2, validation_fraction=0.2, train_examples=100,
        workdir=str(tmp_path),
    )  # fmt: skip
    settings = {"split": {}, "like it": {"batch_size": 4}, "whole": {"algorithm": "fedavg"}}
    one = Study(base, settings, (0,), tuning=Tuning(3, (7, 8), {"like it": "split"}))
    known = Known()
    tries = study.tune(one, known)
    assert list(tries) == one.tuned == ["split", "whole"]
    assert [len(of.records) for of in tries["split"]] == [2] * len(tries["split"])
    best = chosen(tries["split"])
    scores = [
        np.mean([r.summary["final_validation_accuracy"] for r in of.records if r.summary])
        for of in tries["split"]
    ]
    assert best.score == pytest.approx(max(scores))
    assert best.rates["client_learning_rate"] == pytest.approx(0.4 * 2**best.exponent, rel=0.01)
    records = study.train(one, tries, known)
    for name in ("split", "like it"):
        for flag, start in rates.items():
            assert float(records[name][0].flags[flag]) == pytest.approx(
                start * 2**best.exponent, rel=0.01
            )
    assert "server_learning_rate" not in records["whole"][0].flags, "fedavg has none"
    text = study.write(one, study.Result(records, tries), tmp_path / "results")
    assert "chosen on the validation set (seeds of these runs: 7, 8)" in text
    chosen_rates = text[text.index("| setting | tries") :].splitlines()
    row = next(line for line in chosen_rates if line.startswith("| whole | "))
    assert f"client_learning_rate {chosen(tries['whole']).rates['client_learning_rate']:g}" in row
    again = study.tune(one, study.read_known(tmp_path / "results", trains=False))
    assert again == tries, "known, not trained"


def test_a_rate_that_diverges_loses_and_one_at_the_edge_is_marked() -> None:
    rate = "client_learning_rate"
    wild, tame = Tried(1, {rate: 2.0}, -math.inf, []), Tried(0, {rate: 1.0}, 0.5, [])
    assert chosen([wild, tame]) == tame
    assert table({"it": [wild, tame]}).splitlines()[-1] == (
        "| it | 1: 0.5; 2: diverged | client_learning_rate 1, at the edge of what was tried |"
    )


@pytest.mark.parametrize(
    ("changes", "tuning", "text"),
    [
        ({}, Tuning(5, (9,), {}), "--validation_fraction must be above 0"),
        ({"validation_fraction": 0.2}, Tuning(2, (9,), {}), "--tries must be 0, or at least 3"),
        ({"validation_fraction": 0.2}, Tuning(5, (0,), {}), "--tune_seeds=0 is one of --seeds"),
    ],
)
def test_a_tuning_that_would_see_too_much_is_refused(changes, tuning, text, tmp_path) -> None:
    base = plain(**changes, workdir=str(tmp_path))
    with pytest.raises(UserError, match=text):
        study.check(Study(base, {"it": {}}, (0, 1), tuning=tuning))
