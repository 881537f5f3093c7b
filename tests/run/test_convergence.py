"""The bound of a run: what is in scope, which constants it takes, what it reports."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.assemble import build
from jfedsl.run.constants_recorder import MEASURED, ConstantsRecorder, measure_run, read
from jfedsl.run.convergence import constants_of, report, scope, setting_of, table
from jfedsl.run.storage.ledger import Ledger
from jfedsl.run.training import train
from jfedsl.theory.measure import DEFAULT_EFFORT

RATE = {"client_learning_rate": 0.01, "server_learning_rate": 0.01}


def observed(workdir: Path, **changes: Any) -> Config:
    base = {"rounds": 5, "train_examples": 64, "sampling": "replacement", "aggregate_every": 2}
    settings = {"measure_constants_every": 3, "clients": 2, "workdir": str(workdir)}
    return plain(**{**base, **RATE, **settings, "test_examples": 20, **changes})


def test_the_theorem_covers_plain_training_with_every_compressor_of_gradients():
    changes: dict[str, Any] = {
        "dropout_rate": 0.2, "cut_gradient_bits": 4, "client_gradient_bits": 4,
        "prune_kind": "mask", "aggregation": "examples", "smashed_bits": 8,
    }  # fmt: skip
    assert scope(plain(sampling="replacement", **changes)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        {"optimizer": "adam"},
        {"weight_decay": 0.1},
        {"learning_rate_schedule": "cosine"},
        {"client_learning_rate": 0.2},
        {"sampling": "epoch"},
        {"augment": "crop_flip"},
        {"compute_dtype": "bfloat16"},
        {"client_backward": "int8"},
        {"norm": "batch"},
        {"participants": 2},
        {"model_up": "uniform(8)"},
        {"model_down": "uniform(8)"},
        {"client_gradient": "topk(0.5)"},
        {"client_gradient": "sign"},
        {"client_gradient": "ternary(clip=2)"},
        {"cut_gradient": "uniform(8,rounding=nearest)"},
        {"smashed": "feedback(topk(0.5))"},
    ],
)
def test_what_is_beyond_the_theorem_is_named(changes: dict[str, Any]):
    (name, value), *_ = changes.items()
    beyond = scope(plain(**{"sampling": "replacement", **changes}))
    assert any(entry.startswith(f"{name}={value}") for entry in beyond), beyond


def row(round_: int, **changes: Any) -> dict[str, Any]:
    """A measurement of a model of two layers."""
    scalars = {
        "loss": 1.0, "squared_gradient": 2.0, "beta": 3.0, "beta_step": 2.0, "beta_taken": 1.5,
        "beta_rise": 1.2, "beta_drift": 1.0,
        "beta_pruning": 0.5, "dissimilarity": 1.0, "rho": 0.1, "phi": 0.1, "chi": 0.0, "q": 0.1,
        "eps_d": 0.1, "coverage": 1.0,
    }  # fmt: skip
    layers = dict.fromkeys(("variance", "moment", "expected", "weight"), [1.0, 2.0])
    values: dict[str, Any] = {**scalars, **layers, **changes}
    return {"round": round_, **{name: [value, 0.0] for name, value in values.items()}}


def test_constants_are_the_largest_seen():
    rows = [
        row(0, loss=3.0, beta_drift=None, q=-0.1, variance=[4.0, 1.0], coverage=0.5),
        {"round": 1, "loss": [0.5, 0.0], "squared_gradient": [1.0, 0.0]},
        row(2, beta_step=7.0, q=-0.2, variance=[1.0, 5.0]),
    ]
    constants, effects = constants_of(rows)
    assert constants.gap == 2.5, "to the least f seen, between measurements of constants too"
    assert constants.beta == 7.0, "of the curvature and the secant along a step"
    assert constants.beta_drift == 1.0
    np.testing.assert_array_equal(constants.variance, [4.0, 5.0])
    assert effects.q == 0.0, "an estimate of a square below 0 is 0"
    assert effects.coverage == 0.5, "the least"


@pytest.mark.parametrize("name", ["beta_step", "beta_taken", "beta_rise"])
def test_beta_is_at_least_what_any_step_shows(name: str):
    assert constants_of([row(0), row(1, **{name: 9.0})])[0].beta == 9.0
    # One that could not be seen, and rows of builds that did not measure it.
    unseen, older = row(0, **{name: None}), row(1)
    del older[name]
    assert constants_of([unseen, older])[0].beta == 3.0


def test_beta_stands_in_for_secants_that_were_never_seen():
    constants, _ = constants_of([row(0, beta_drift=None, beta_pruning=None, coverage=0.25)])
    assert constants.beta_drift == constants.beta_pruning == 6.0, "beta / sqrt(coverage)"


def test_the_average_is_over_time_not_over_measurements(tmp_path: Path):
    config = observed(tmp_path)
    experiment = build(config)
    layers = len(experiment.spec.model)
    wide = {k: [1.0] * layers for k in ("variance", "moment", "expected", "weight")}
    rows = [row(r, squared_gradient=g, **wide) for r, g in ((0, 8.0), (1, 4.0), (5, 2.0))]
    result = report(config, experiment, rows)
    assert result["average"] == pytest.approx((6 * 1 + 3 * 4) / 5)
    assert result["largest"] == 8.0 and result["measurements"] == 3
    assert result["bound"] == pytest.approx(sum(result["terms"].values()), rel=1e-5)
    assert result["with_one_beta"] > result["bound"]
    ratio = result["bound"] / result["average"]
    assert result["bound_over_measured"] == pytest.approx(ratio)
    assert f"{result['verdict']}, bound / measured {ratio:.4g} (" in table(result)
    assert "a heuristic" not in table(result)
    beyond = report(dataclasses.replace(config, momentum=0.5), experiment, rows)
    assert "a heuristic here, beyond the theorem: momentum=0.5" in table(beyond)


def reported(config: Config, *rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The report of rows of a model of the size of the config's."""
    experiment = build(config)
    layers = len(experiment.spec.model)
    wide = {
        k: [[1.0] * layers, [0.0] * layers] for k in ("variance", "moment", "expected", "weight")
    }
    return report(config, experiment, [{**r, **wide} if "beta" in r else r for r in rows])


def test_a_run_first_measured_late_counts_from_there(tmp_path: Path):
    config = observed(tmp_path, rounds=100)
    whole = reported(config, row(0, loss=3.0), row(10))
    late = reported(config, row(90, loss=3.0), row(100))
    assert late["bound"] == whole["bound"], "the gap is spread over the rounds since"
    # A period's first rounds are missing: the ages that the drift counts with would be too small.
    inside = reported(config, row(89, loss=9.0, squared_gradient=99.0), row(90, loss=3.0), row(100))
    assert inside == late
    lost = reported(config, row(89), row(91))
    assert lost["beyond_the_theorem"] == ["first measured inside of a period"]


def test_drift_that_was_not_seen_is_said_to_be(tmp_path: Path):
    config = observed(tmp_path)
    (said,) = reported(config, row(0, beta_drift=None), row(4, beta_drift=None))[
        "beyond_the_theorem"
    ]
    assert said.startswith("drift not seen")
    assert reported(config, row(0, beta_drift=None), row(3))["beyond_the_theorem"] == []
    alone = dataclasses.replace(config, aggregate_every=1)
    never = reported(alone, row(0, beta_drift=None), row(4, beta_drift=None))
    assert never["beyond_the_theorem"] == [], "without periods there is none"


@pytest.mark.parametrize("name", ["beta", "moment", "variance", "loss"])
def test_what_should_have_been_had_and_was_not_is_not_zero(tmp_path: Path, name: str):
    lost: Any = row(2)
    value: Any = [None, 1.0, 1.0, 1.0] if name in ("moment", "variance") else None
    config = observed(tmp_path)
    layers = {k: [[1.0] * 4, [0.0] * 4] for k in ("variance", "moment", "expected", "weight")}
    lost = {**row(2), **layers, name: [value, None]}
    result = report(config, build(config), [{**row(0), **layers}, lost])
    assert result["bound"] is None and result["verdict"] == "assumption broken"
    assert "bound not known" in table(result) and "bound / measured not known" in table(result)


def test_with_one_participant_of_many_the_bound_is_not_known(tmp_path: Path):
    config = observed(tmp_path, participants=1, clients=3)
    result = reported(config, row(0, dissimilarity=None), row(3, dissimilarity=None))
    assert result["bound"] is None
    assert result["beyond_the_theorem"][-1] == "dissimilarity not seen, with one participant"


def test_without_steps_there_is_no_bound(tmp_path: Path):
    still = observed(tmp_path, client_learning_rate=0.0, server_learning_rate=0.0)
    rows = "".join(json.dumps(r) + "\n" for r in (row(0), row(3)))
    seal = Ledger(tmp_path / MEASURED, rows, None).seal()
    assert ConstantsRecorder(still, build(still), tmp_path, seal).report() is None
    moving = dataclasses.replace(still, client_learning_rate=0.1)
    assert ConstantsRecorder(moving, build(moving), tmp_path, None).report() is None, (
        "there are none yet"
    )


def test_the_setting_counts_exchanges_and_knows_the_largest_weight(tmp_path: Path):
    uneven = {"partition": "quantity", "quantity_alpha": 2.0, "clients": 3}
    config = observed(tmp_path, **uneven, local_steps=3, aggregation="examples")
    experiment = build(config)
    setting = setting_of(config, experiment, 5)
    assert (setting.steps, setting.period) == (15, 6)
    sizes = np.asarray(experiment.data.partition.sizes)
    assert setting.largest_weight == pytest.approx(sizes.max() / sizes.sum())


def test_a_run_measures_when_due_and_resumes_to_the_same_lines(tmp_path: Path):
    every = {"rounds": 22, "measure_constants_every": 21}
    whole = train(observed(tmp_path / "whole", **every))
    rows = read(tmp_path / "whole" / MEASURED)
    # Powers of two, multiples of a fourth of 21, multiples of 21, and the end.
    assert [r["round"] for r in rows] == [0, 1, 2, 4, 5, 8, 10, 15, 16, 20, 21, 22]
    assert [r["round"] for r in rows if "beta" in r] == [0, 21, 22]
    assert whole["convergence"]["measurements"] == 12
    assert whole["convergence"]["verdict"] in ("holds", "vacuous", "assumption broken")

    cut = observed(tmp_path / "cut", **every, checkpoint_every=4)
    train(dataclasses.replace(cut, rounds=4))
    path = tmp_path / "cut" / MEASURED
    # The last round of the shorter run is measured in full; the longer one asks only for f there.
    # A run killed while it wrote leaves lines past its checkpoint, the last of them torn.
    with open(path, "a") as file:
        file.write(json.dumps({**rows[5], "loss": [99.0, 0.0]}) + '\n{"round": 6, "lo')
    train(cut)
    kept = read(path)
    assert [{k: r[k] for k in w} for r, w in zip(kept, rows, strict=True)] == rows


def test_a_checkpoint_gives_what_its_run_measured(tmp_path: Path):
    train(observed(tmp_path))
    last = read(tmp_path / MEASURED)[-1]
    text = measure_run(tmp_path, DEFAULT_EFFORT)
    assert f"| after round {last['round']} |" in text
    beta, error = last["beta"]
    assert f"| beta | {beta:.4g} | {error:.4g} |" in text
    assert "| dense1 |" in text and "flatten" not in text, "layers with weights only"


def test_a_damaged_file_of_measurements_is_refused(tmp_path: Path):
    for text in ('{"round": 0, "loss": [1, 0]}\nnonsense\n', "5\n", '{"round": 0}\n'):
        (tmp_path / MEASURED).write_text(text)
        with pytest.raises(UserError, match="not a file of measurements"):
            read(tmp_path / MEASURED)
