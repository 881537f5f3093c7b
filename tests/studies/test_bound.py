"""The study of the bound: shared settings are trained once; verdicts, tables and the figure."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import parse, plain, script

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.convergence import scope
from jfedsl.run.plots.bounds import Bar, bounds
from jfedsl.studies.bound import Outcome, conduct, correlation, measure, table


def base(workdir: Path, **changes: Any) -> Config:
    settings = {
        "rounds": 3, "clients": 2, "train_examples": 64, "test_examples": 20,
        "measure_constants_every": 2, "sampling": "replacement", "client_learning_rate": 0.01,
        "server_learning_rate": 0.01, "workdir": str(workdir),
    }  # fmt: skip
    return plain(**{**settings, **changes})


@pytest.mark.slow
def test_settings_that_agree_are_trained_once_and_divergence_is_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    sweeps = {
        "period": {"1": {"aggregate_every": 1}},
        "rate": {
            "0.01": {},
            "1e30": {"client_learning_rate": 1e30, "server_learning_rate": 1e30},
        },
    }
    conduct(base(tmp_path), sweeps, (0,))
    folders = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
    assert folders == ["period_1", "rate_1e30"], "the default period is 1"
    text = (tmp_path / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert (tmp_path / "bound.png").read_bytes().startswith(b"\x89PNG")
    rows = {line.split(" |")[0]: line for line in text.splitlines()}
    assert rows["| rate 1e30"].count("nan") == 9, "terms of a run that diverged"
    assert "| rate 1e30 | | | | | diverged (1) | |" in text
    assert text.splitlines()[2].endswith(" |") and "(1) |" in text.splitlines()[2]


def outcome(bound: float, *averages: float) -> Outcome:
    return Outcome([{"verdict": "holds", "bound": bound, "average": a} for a in averages])


def test_rank_correlation_is_of_means_over_seeds_without_diverged_settings():
    lost = Outcome([{"verdict": "diverged"}])
    ordered = [outcome(1.0, 1.0, 3.0), outcome(2.0, 2.0, 2.5), outcome(3.0, 9.0), lost]
    assert correlation(ordered) == pytest.approx(1.0)
    assert correlation([outcome(3.0, 1.0), *ordered[1:2], outcome(1.0, 9.0)]) == pytest.approx(-1)
    assert np.isnan(correlation([*ordered[:2], lost]))
    assert np.isnan(correlation([outcome(1.0, 2.0)] * 3)), "no order among equals"


def test_the_table_counts_verdicts_over_seeds():
    full = {
        "verdict": "holds", "bound": 2.0, "average": 1.0, "with_one_beta": 9.0, "steepness": 0.5,
        "terms": dict.fromkeys(
            ("initial_gap", "gradient_noise", "quantization_noise", "masked_update", "drift",
             "pruning", "disparity", "dropout_bias", "sampling"), 0.25,
        ),
    }  # fmt: skip
    other = {**full, "verdict": "vacuous", "average": 3.0}
    text = table({"cut": {"a": Outcome([full, other, full])}})
    row = "| cut a | 1.667 (1 to 3) | 2 (2 to 2) | 9 | 0.50 | holds (2), vacuous (1) | "
    assert f"{row}1.556 (0.6667 to 2) |" in text


def test_equal_measurements_can_be_drawn():
    # Their mean is rounded to less than the least of them.
    bar = Bar({"initial gap": 1.0, "drift": float("nan")}, [0.1] * 3)
    (axis,) = bounds({"cut": {"a": bar, "b": None}}).axes
    assert [text.get_text() for text in axis.texts] == ["diverged"]
    assert [patch.get_height() for patch in axis.patches] == [1.0, pytest.approx(0.1)]
    assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 1, "a margin above the bars"


def test_a_study_needs_measurements(tmp_path: Path):
    with pytest.raises(UserError, match="--measure_constants_every must be a number of rounds"):
        measure(base(tmp_path, measure_constants_every=None), {}, (0,))


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_presets_stay_within_the_theorem(name: str):
    study = script("bound_study")
    path = Path("experiments", "studies", f"bound_{name}.flags")
    lines = (Path(__file__).parents[2] / path).read_text().splitlines()
    assert lines[0] == f"# python experiments/bound_study.py --flagfile={path}"
    of_study = dict(line[2:].split("=") for line in lines if line.startswith(("--cuts", "--seeds")))
    base = parse([line for line in lines[2:] if line[2:].split("=")[0] not in of_study])
    sweeps = study.sweeps_of(of_study["cuts"].split(","))
    assert base.cut in sweeps["cut"]
    for values in sweeps.values():
        configs = [dataclasses.replace(base, **changes) for changes in values.values()]
        assert base in configs, "every sweep goes through the base"
        assert [scope(config) for config in configs] == [[]] * len(configs)


def test_a_wrong_cut_is_found_before_anything_is_trained(tmp_path: Path):
    sweeps = {"cut": {"dense1": {"cut": "dense1"}, "elsewhere": {"cut": "elsewhere"}}}
    with pytest.raises(UserError, match="--cut must be one of .*, not elsewhere"):
        measure(base(tmp_path / "study"), sweeps, (0,))
    assert not (tmp_path / "study").exists()
