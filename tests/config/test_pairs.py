"""Every feature with every algorithm: refused with one line, or put together and trained."""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
import stand_ins
from helpers import plain
from programs import PROGRAMS

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.canonical import canonical
from jfedsl.config.pairs import CLIENTS, FEATURES, Feature, config_with, pair_tables, refusal
from jfedsl.data.datasets import DATASETS
from jfedsl.engine.clocks import side_by_side
from jfedsl.engine.streams import LOCAL
from jfedsl.errors import UserError
from jfedsl.models.mlp import mlp
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.planner.settings import config_grid
from jfedsl.run.assemble import build
from jfedsl.run.training import train

Settings = dict[str, Any]
PAIRS = [(name, feature) for name in ALGORITHMS for feature in FEATURES]
HOLD = [(name, feature) for name, feature in PAIRS if refusal(name, feature) is None]
TINY: Settings = {
    "model": "tiny", "norm": "none", "clients": CLIENTS, "partition": "iid", "batch_size": 4,
    "local_steps": 2, "rounds": 4, "eval_every": 4, "train_examples": 80, "test_examples": 20,
    "progress": "none", "compilation_cache": str(PROGRAMS),
}  # fmt: skip
SPREAD = {"devices", "coordinator"}  # run/test_scale.py has them


BUT_FEDSL = (
    "sfl_v1", "sfl_v2", "sl", "fedavg", "centralized", "local_loss", "sage", "broadcast", "u_shape",
    "hierarchical", "semi_async",
)  # fmt: skip
ALL = ("fedsl", *BUT_FEDSL)
NO_TAIL = tuple(name for name in ALL if name != "u_shape")
ONE_SIDED = ("fedavg", "centralized")  # nothing is sent in an exchange
ALL_TAKE_PART = ("hierarchical", "semi_async")  # in every exchange
IN_TURN = ("sl", "centralized")  # one client, or one after another
NO_WAIT = ("sl", *ONE_SIDED, "local_loss", "sage")  # in no exchange does a client wait for others
ONE_DEVICE = ("sl", "sfl_v2", "centralized", "semi_async")
# By the title of each feature: the algorithms that refuse it, written by hand.
REFUSE: dict[str, tuple[str, ...]] = {
    "dropout at the cut": ONE_SIDED,
    "compressor of `smashed`": ONE_SIDED,
    "compressor of `cut_gradient`": (*ONE_SIDED, "local_loss"),
    "compressor of `client_gradient`": ("centralized",),
    "compressor of `model_up`": ("centralized",),
    "compressor of `model_down`": ("centralized", "semi_async"),
    "compressor of `tail_input`": NO_TAIL,
    "compressor of `tail_gradient`": NO_TAIL,
    "error feedback on `smashed`": ONE_SIDED,
    "error feedback on `cut_gradient`": (*ONE_SIDED, "local_loss", "broadcast"),
    "error feedback on `client_gradient`": ("centralized",),
    "error feedback on `model_up`": ("centralized",),
    "error feedback on `model_down`": ALL,
    "error feedback on `tail_input`": NO_TAIL,
    "error feedback on `tail_gradient`": NO_TAIL,
    "masks of weights": ("centralized",),
    "channels removed": ("centralized",),
    "widths by client": (*IN_TURN, "semi_async"),
    "cuts by client": BUT_FEDSL,
    "low-rank adapters": (),
    "ranks by client": (*IN_TURN, "semi_async"),
    "frozen clients": ("centralized",),
    "batch norm": (),
    "batch norm, statistics of each client": ("centralized",),
    "personal layers": ("sl", "centralized", *ALL_TAKE_PART),
    "FedProx": ("sl", "centralized", *ALL_TAKE_PART),
    "partial participation": ALL_TAKE_PART,
    "absent clients on the host": ("centralized", *ALL_TAKE_PART),
    "stateless clients": ("centralized", *ALL_TAKE_PART),
    "several devices": ONE_DEVICE,
    "several processes": ONE_DEVICE,
    "bandwidth by `minmax`": NO_WAIT,
    "outage": (*IN_TURN, *ALL_TAKE_PART),
    "deadline": (*NO_WAIT, *ALL_TAKE_PART),
    "convergence bound": tuple(name for name in BUT_FEDSL if name != "hierarchical"),
}


@pytest.fixture(autouse=True)
def small(tables: None, tmp_path: Path) -> Iterator[None]:
    """A small network, texts, and a transformer in the place of a pretrained one."""
    MODELS["tiny"] = ModelEntry(lambda classes, norm: mlp(classes, norm, (16, 8)), "dense1")
    DATASETS["texts"] = stand_ins.texts
    (tmp_path / "bert").mkdir()
    stand_ins.write_model(tmp_path / "bert", "bert")
    yield


def test_each_algorithm_refuses_the_features_that_it_cannot_have() -> None:
    found = {
        feature.title: {name for name in ALGORITHMS if (name, feature) not in HOLD}
        for feature in FEATURES
    }
    assert found == {title: set(names) for title, names in REFUSE.items()}


def test_a_pair_that_does_not_hold_is_refused_with_one_line() -> None:
    for algorithm, feature in PAIRS:
        text = refusal(algorithm, feature)
        if text is not None:
            assert "\n" not in text and len(text) < 200, text
            assert any(f"--{name}" in text for name in (*feature.flags, *feature.beside)), text


def test_no_flag_of_a_pair_that_holds_is_without_effect() -> None:
    names = {"dropout_rate": "smashed"}  # a shorthand
    never = {*SPREAD, "processes", "process"}  # may change on a resume
    for algorithm, feature in HOLD:
        kept = canonical(config_with(algorithm, feature)).keys()
        assert {names.get(flag, flag) for flag in feature.flags} <= kept | never


def test_the_tables_have_every_pair() -> None:
    table, reasons = pair_tables().split("## Why not")
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines() if row]
    assert rows[0][1:] == [f"`{name}`" for name in ALGORITHMS]
    assert [row[1:] for row in rows[2:]] == [
        ["yes" if (name, feature) in HOLD else "no" for name in ALGORITHMS] for feature in FEATURES
    ]
    assert all(f"| {f.title} |" in reasons for name, f in PAIRS if (name, f) not in HOLD)


def test_an_algorithm_of_a_users_own_has_its_column(tables: None) -> None:
    fedsl = ALGORITHMS["fedsl"]
    ALGORITHMS["mine"] = fedsl._replace(uses=fedsl.uses - {"deadline_s"})
    row = next(row for row in pair_tables().splitlines() if row.startswith("| deadline"))
    assert row.endswith("| no |")
    assert refusal("mine", FEATURES[0]) is None


def test_the_planner_takes_what_the_bound_covers() -> None:
    bound = FEATURES[-1]
    assert "bound" in bound.title
    for algorithm in ALGORITHMS:
        config = Config(algorithm=algorithm)
        simple = ALGORITHMS[algorithm].clock is side_by_side
        assert simple or algorithm != "fedsl"
        if refusal(algorithm, bound) is None and simple:
            assert config_grid(config, [[{}]] * 7).size == 1
        else:
            with pytest.raises(UserError, match="--algorithm must be one that the"):
                config_grid(config, [[{}]] * 7)


def settings(feature: Feature, tmp_path: Path) -> Settings:
    """Settings of a short run with a feature."""
    given: Settings = {**TINY, **feature.beside, **feature.flags}
    if "pretrained" in given:
        given |= {"pretrained": str(tmp_path / "bert"), "dataset": "texts", "tokens": 6}
        given |= {"model": Config.model, "norm": Config.norm}
    if "deadline_s" in given:
        given["deadline_s"] = 3e-4  # some of the short messages take longer
    return given


def merged(algorithm: str, tmp_path: Path) -> list[Settings]:
    """Runs of which each has the features that go together; one of them has any feature."""
    runs: list[Settings] = []
    of_algorithm = (feature for name, feature in HOLD if name == algorithm)
    for feature in (f for f in of_algorithm if not f.flags.keys() & SPREAD):
        new = settings(feature, tmp_path)
        for i, run in enumerate(runs):
            if all(run.get(name, value) == value for name, value in new.items()):
                try:
                    config_with(algorithm, feature, **{**run, **new})
                except UserError:
                    continue
                runs[i] = run | new
                break
        else:
            runs.append(new)
    return runs


def test_what_goes_together_is_put_together(tmp_path: Path) -> None:
    for algorithm in ALGORITHMS:
        run = merged(algorithm, tmp_path)[0]
        assert len(run) > len(TINY) or "pretrained" in run
        assert jax.eval_shape(build(Config(algorithm=algorithm, **run)).init)


def test_widths_by_what_clients_can_compute_are_refused_where_all_need_one() -> None:
    changes = {"prune_policy": "by_resource", "client_capacity": "0.25-1"}
    with pytest.raises(UserError, match="=by_resource cannot be combined with --algorithm=sl; all"):
        build(plain(algorithm="sl", prune_kind="channel", model="tiny", **changes))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_goes_together_trains(algorithm: str, tmp_path: Path) -> None:
    for n, run in enumerate(merged(algorithm, tmp_path)):
        workdir = tmp_path / str(n)
        train(Config(algorithm=algorithm, workdir=str(workdir), **run))
        with open(workdir / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        losses = [float(row["train_loss"]) for row in rows]
        assert len(rows) == TINY["rounds"] and all(map(math.isfinite, losses)), run
        lost = [float(row["lost_fraction"]) for row in rows]
        assert any(lost) == ("outage_snr_db" in run or "deadline_s" in run)
        assert (workdir / "constants.jsonl").exists() == ("measure_constants_every" in run)
        sent: dict[str, int] = {}
        for stream in ALGORITHMS[algorithm].streams:
            if stream.direction != LOCAL:
                count = sum(int(row[f"{stream.column}_bytes"]) for row in rows)
                sent[stream.compressor] = sent.get(stream.compressor, 0) + count
        # Else clients have nothing to train, or no model to send.
        if run.get("client_adapter") != "none" and "personal" not in run:
            assert all(sent.values()), (run, sent)
