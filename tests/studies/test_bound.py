"""The study of the bound: shared settings are trained once; verdicts, tables and the figure."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import parse, plain, script

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.convergence import scope
from jfedsl.run.pilot import Prediction
from jfedsl.run.plots.bounds import Bar, bounds
from jfedsl.studies.bound import BoundStudy, conduct, read, write
from jfedsl.studies.bound_outcome import Outcome
from jfedsl.studies.bound_prediction import PREDICTED, PilotPlan
from jfedsl.studies.bound_settings import settings_of
from jfedsl.studies.bound_tables import table
from jfedsl.studies.study import RECORDS, read_known

PLAN = PilotPlan(2, 1000)


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
    conduct(BoundStudy(base(tmp_path), sweeps, (0,), PLAN))
    folders = sorted(p.name for p in tmp_path.iterdir() if p.is_dir())
    assert folders == ["period_1", "pilot", "rate_1e30"], "the default period is 1"
    first, *predicted = (tmp_path / PREDICTED).read_text().splitlines()
    assert first.startswith("varied,value,predicted,initial_gap,") and len(predicted) == 3
    text = (tmp_path / "table.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert (tmp_path / "bound.png").read_bytes().startswith(b"\x89PNG")
    rows = {line.split(" |")[0]: line for line in text.splitlines()}
    assert rows["| rate 1e30"].count("nan") == 9, "terms of a run that diverged"
    assert "- 2 runs: commit" in text, "of the pilot and a setting; what diverged has no summary"
    assert "|  |  |  | diverged (1) |  |  |" in text
    assert text.splitlines()[2].endswith(" |") and "(1) |" in text.splitlines()[2]
    conduct(BoundStudy(base(tmp_path), sweeps, (0,), PLAN))
    assert (tmp_path / "table.md").read_text() == text, "resumed, nothing changes"
    for folder in folders:
        shutil.rmtree(tmp_path / folder)
    study = BoundStudy(base(tmp_path), sweeps, (0,), PLAN)
    result = read(study, read_known(tmp_path, trains=False))
    assert write(study, result, tmp_path) == text.strip(), "from its records"
    (tmp_path / RECORDS).unlink()
    with pytest.raises(UserError, match="is not a finished run of 'period 1', which has no record"):
        read(study, read_known(tmp_path, trains=False))


TERMS = (
    "initial_gap", "gradient_noise", "quantization_noise", "masked_update", "drift", "pruning",
    "disparity", "dropout_bias", "sampling",
)  # fmt: skip
FULL = {
    "verdict": "holds", "bound": 2.0, "average": 1.0, "with_one_beta": 9.0, "steepness": 0.5,
    "terms": dict.fromkeys(TERMS, 0.25),
}  # fmt: skip
LOST = {"verdict": "diverged"}


def outcome(predicted: float, *pairs: tuple[float, float] | None) -> Outcome:
    """An outcome from a bound and an average for each seed; None where it diverged."""
    reports = [{**FULL, "bound": p[0], "average": p[1]} if p else LOST for p in pairs]
    return Outcome(reports, Prediction(predicted, dict.fromkeys(TERMS, 0.0), 0.5))


def rows_of(outcomes: dict[str, Outcome]) -> dict[str, list[str]]:
    """Cells of the table by its first cell; of the last table where several have it."""
    lines = [line for line in table({"cut": outcomes}, PLAN).splitlines() if line.startswith("| ")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    return {first: rest for first, *rest in cells}


def test_ranks_are_of_each_seed_and_leave_out_what_diverged():
    # The first seed has the order of the predictions, the second one its reverse; its bounds agree
    # with it. The last setting would break the order, but diverged with the first seed.
    ordered = {
        "a": outcome(1.0, (3.0, 1.0), (1.0, 3.0)),
        "b": outcome(2.0, (2.0, 2.0), (2.0, 4.0)),
        "c": outcome(3.0, (1.0, 3.0), (3.0, 5.0)),
        "d": outcome(9.0, None, (0.5, 2.0)),
    }
    spearman_predicted, spearman, kendall_predicted, kendall = rows_of(ordered)["cut"]
    assert (spearman, kendall) == ("0 (-1 to 1)",) * 2
    assert spearman_predicted == "0.4 (-0.2 to 1)" and kendall_predicted == "0.5 (0 to 1)"
    few = {name: ordered[name] for name in ("a", "b")}
    assert rows_of(few)["cut"] == ["-"] * 4, "two settings are no order"


def test_a_setting_of_several_sweeps_counts_once_among_all():
    shared, deep, wide = (outcome(n, (n, n)) for n in (1.0, 2.0, 9.0))
    text = table({"cut": {"a": shared, "b": deep}, "rate": {"0": shared, "1": wide}}, PLAN)
    assert text.splitlines()[-3:] == [
        "| cut | - | - | - | - |", "| rate | - | - | - | - |", "| all | 1 | 1 | 1 | 1 |"
    ]  # fmt: skip


def test_the_table_counts_verdicts_over_seeds():
    other = {**FULL, "verdict": "vacuous", "average": 3.0}
    made = Outcome([FULL, other, FULL], Prediction(1.5, dict.fromkeys(TERMS, 0.0), 0.5))
    text = table({"cut": {"a": made}}, PLAN)
    row = "| cut a | 1.667 (1 to 3) | 1.5 | 2 | 9 | 0.50 | holds (2), vacuous (1) | "
    assert f"{row}1.556 (0.6667 to 2) | 1.167 (0.5 to 1.5) |" in text
    assert "from a pilot of 2 rounds with seed 1000" in text


def test_equal_measurements_can_be_drawn():
    # Their mean is rounded to less than the least of them.
    bar = Bar({"initial gap": 1.0, "drift": float("nan")}, [0.1] * 3, 1.4)
    (axis,) = bounds({"cut": {"a": bar, "b": None}}).axes
    assert [text.get_text() for text in axis.texts] == ["diverged"]
    assert [patch.get_height() for patch in axis.patches] == [1.0, pytest.approx(0.1)]
    assert axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 1.4, "a margin above all"
    assert [list(line.get_ydata()) for line in axis.lines] == [[1.4]]
    assert axis.get_legend_handles_labels()[1] == ["predicted", "initial gap", "measured"]


def test_a_study_needs_measurements(tmp_path: Path):
    with pytest.raises(UserError, match="--measure_constants_every must be a number of rounds"):
        settings_of(base(tmp_path, measure_constants_every=None), {}, (0,))


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
        conduct(BoundStudy(base(tmp_path / "study"), sweeps, (0,), PLAN))
    assert not (tmp_path / "study").exists()
