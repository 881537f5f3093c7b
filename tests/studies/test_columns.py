"""Columns of tables: their numbers from a summary, and cells over seeds."""

from jfedsl.run.storage.task_record import CLASSIFICATION
from jfedsl.studies.columns import (
    mean_and_range,
    megabytes,
    metric_columns,
    simulated,
    to_target,
)
from jfedsl.studies.costs import COSTS, Costs

SUMMARY = {
    "bytes": {"model_up": 2_500_000, "model_down": 1_000_000},
    COSTS: {"to_target": None, "median_round_seconds": None},
    "simulated": None,
}


def test_columns_are_empty_where_a_run_has_no_number() -> None:
    assert megabytes("model_up", "model_down")(SUMMARY) == 3.5
    assert to_target("bytes", 1e6)(SUMMARY) is None and simulated("seconds")(SUMMARY) is None
    reached = {**SUMMARY, COSTS: {"to_target": Costs(2.5, 500_000, None, None)._asdict()}}
    assert to_target("bytes", 1e6)(reached) == 0.5 and to_target("joules")(reached) is None
    assert simulated("seconds")({**SUMMARY, "simulated": {"seconds": 7.0}}) == 7.0


def test_cells_count_the_seeds_that_have_a_number() -> None:
    assert mean_and_range([1200.0, 1300.0]) == "1,250 (1,200 to 1,300)"
    assert mean_and_range([None, 0.0]) == "0 (1 of 2)"


def test_the_metric_of_a_study_is_that_of_the_validation_set_if_there_is_one() -> None:
    task = CLASSIFICATION._replace(split="validation")
    columns = metric_columns([task])
    summary = {"final_validation_accuracy": 0.75, "final_accuracy": 0.5}
    assert list(columns) == ["validation accuracy", "deployed"]
    assert columns["validation accuracy"](summary) == 0.75
    assert metric_columns([CLASSIFICATION])["test accuracy"](summary) == 0.5
