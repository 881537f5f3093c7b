"""Sweeps: wrong grids are refused, runs are trained once, shards share them, and they resume."""

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import plain

from jfedsl.config import Config
from jfedsl.errors import UserError
from jfedsl.run.finished import finished
from jfedsl.run.storage import workdir
from jfedsl.studies import sweep
from jfedsl.studies.configs import run_configs, seeds_of
from jfedsl.studies.sweep import conduct, grid, shard_of

TINY: dict[str, Any] = {"clients": 2, "rounds": 2, "batch_size": 4, "train_examples": 100}


def base(folder: Path, **changes: Any) -> Config:
    return plain(**{**TINY, "workdir": str(folder), **changes})


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_cases_and_values_are_combined(tmp_path: Path):
    cases = ["light: --prune_kind=mask --dropout_rate=0.1", "plain:"]
    settings = grid(base(tmp_path), cases, ["local_steps=2 5", "cut=dense1 dense2"])
    assert len(settings) == 8
    first = settings["light, local_steps=2, cut=dense1"]
    assert first == {
        "prune_kind": "mask", "dropout_rate": "0.1", "local_steps": 2, "cut": "dense1",
    }  # fmt: skip
    assert settings["plain, local_steps=5, cut=dense2"] == {"local_steps": 5, "cut": "dense2"}
    assert grid(base(tmp_path), [], []) == {"base": {}}
    expression = "smashed=none topk(0.2)|uniform(8) 1/8"
    with pytest.raises(UserError, match="setting 'smashed=1/8'"):
        grid(plain(workdir=str(tmp_path), dropout_rate=None, smashed_bits=None), [], [expression])


@pytest.mark.parametrize(
    ("cases", "varied", "text"),
    [
        ([], ["prune_rat=0 0.3"], "--vary must be a flag of a run"),
        ([], ["seed=1 2"], "--vary must be a flag of a run, not seed; set seeds by --seeds"),
        ([], ["workdir=a b"], "--vary must be a flag of a run"),
        ([], ["prune_rate="], "--vary must be of the form flag=value value"),
        ([], ["prune_rate=0.3 0.3"], "each value once"),
        (["a: --prune_kind=mask"], ["prune_rate=0 high"], "setting 'a, prune_rate=high'"),
        (["a: --prune_kind=mask"], ["prune_rate=0.3 1.5"], "--prune_rate must be a rate"),
        ([], ["rounds=2 3", "rounds=4 5"], "--rounds is set twice"),
        (["a: --rounds=3"], ["rounds=4 5"], "--rounds is set twice"),
        (["a: --cut=dense1 --cut=dense2"], [], "--cut is set twice"),
        (["a: --no=3"], [], "--case must be a flag of a run"),
        (
            ["a --rounds=3"],
            [],
            "--case must be of the form NAME: --flag=value ..., not a --rounds=3",
        ),
        (["a: rounds=3"], [], "must be of the form NAME: --flag=value"),
        (["a:", "a: --rounds=3"], [], "two settings of the grid are named a"),
        (["a:", "b: --clients=2"], [], "two settings of the grid are the same: a and b"),
        (
            ["a: --algorithm=sl"],
            ["prune_rate=0.1 0.2"],
            "'a, prune_rate=0.1': --prune_rate=0.1",
        ),
        (["a: --algorithm=fedavg"], ["cut=dense1 dense2"], "setting 'a, cut=dense1': --cut=dense1"),
    ],
)
def test_bad_grids_are_refused(tmp_path: Path, cases: Any, varied: Any, text: str):
    with pytest.raises(UserError) as error:
        grid(base(tmp_path), cases, varied)
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("texts", [[], ["0", "0"], ["-1"], ["a"], [""], ["9" * 5000]])
def test_bad_seeds_are_refused(texts: list[str]):
    with pytest.raises(UserError, match="--seeds must be"):
        seeds_of(texts)


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/0", "a/b", "-1/2", f"1/{'9' * 5000}"])
def test_bad_shards_are_refused(text: str):
    with pytest.raises(UserError, match="--shard must be"):
        shard_of(text)


def test_a_folder_of_something_else_is_refused_before_anything_runs(tmp_path: Path):
    other = tmp_path / "rounds=2" / "seed_0"
    other.mkdir(parents=True)
    (other / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="a new or empty folder"):
        conduct(base(tmp_path), grid(base(tmp_path), [], ["rounds=1 2"]), [0], (1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["rounds=2"]


def test_shards_share_a_grid_and_an_interrupted_one_goes_on(tmp_path: Path, monkeypatch: Any):
    config = base(tmp_path)
    settings = grid(config, [], ["aggregate_every=1 2"])
    trained: list[str] = []
    train = sweep.train_setting

    def interrupted(config: Config) -> dict[str, Any]:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(config.workdir)
        return train(config)

    monkeypatch.setattr(sweep, "train_setting", interrupted)
    assert conduct(config, settings, [0, 1], (2, 4)) == 0
    states = [row["state"] for row in rows(tmp_path)]
    assert states == ["not finished", "finished", "not finished", "not finished"]
    with pytest.raises(KeyboardInterrupt):
        conduct(config, settings, [0, 1], (1, 1))
    trained.clear()
    monkeypatch.setattr(sweep, "train_setting", lambda c: trained.append(c.workdir) or train(c))
    assert conduct(config, settings, [0, 1], (1, 1)) == 0
    assert len(trained) == 3, "one was finished"
    table = rows(tmp_path)
    assert [row["aggregate_every"] for row in table] == ["1", "1", "2", "2"]
    assert [row["seed"] for row in table] == ["0", "1", "0", "1"]
    for row in table:
        summary = finished(
            plain(**{
                **TINY, "workdir": str(tmp_path / row["folder"]), "seed": int(row["seed"]),
                "aggregate_every": int(row["aggregate_every"]),
            })
        )  # fmt: skip
        assert summary is not None
        assert float(row["final_accuracy"]) == summary["final_accuracy"]
        assert int(row["model_up_bytes"]) == summary["bytes"]["model_up"]


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path):
    config = base(tmp_path)
    settings = grid(config, [], ["batch_size=1000 4"])
    assert conduct(config, settings, [0], (1, 1)) == 1
    bad, good = rows(tmp_path)
    assert bad["state"].startswith("failed: --batch_size must be at most")
    assert good["state"] == "finished"
    assert bad["final_accuracy"] == ""
    assert conduct(config, settings, [0], (2, 2)) == 0, "the finished one"
    assert rows(tmp_path)[0]["state"] == bad["state"], "whoever writes the rows"


def owned(folder: Path, owners: int) -> str:
    """A file of examples of so many clients, as a data set."""
    inputs, rng = np.zeros((8 * owners, 3)), np.random.default_rng(0)
    inputs += rng.normal(size=inputs.shape)
    arrays = {"features": inputs, "label": np.arange(len(inputs)) % 2}
    np.savez(folder / f"{owners}.npz", **arrays, client=np.arange(len(inputs)) % owners)
    return f"file:{folder / f'{owners}.npz'}"


def test_every_setting_has_the_clients_of_its_data(tmp_path: Path):
    few, many = owned(tmp_path, 3), owned(tmp_path, 4)
    usual = {"clients": None, "train_examples": None, "batch_size": 2}
    either = base(tmp_path / "either", **usual, dataset=few, sampling="replacement")
    assert conduct(either, grid(either, [], ["partition=iid natural"]), [0], (1, 1)) == 0
    assert [(row["state"], row["clients"]) for row in rows(tmp_path / "either")] == [
        ("finished", "10"), ("finished", "3"),
    ]  # fmt: skip
    natural = base(tmp_path / "natural", **usual, partition="natural")
    cases = ["iid: --partition=iid", "natural:", "five: --clients=5 --partition=iid"]
    settings = grid(natural, cases, [f"dataset={few} {many}"])
    configs = [config for (config,) in run_configs(natural, settings, [0]).values()]
    assert [config.clients for config in configs] == [10, 10, 3, 4, 5, 5]
    given = base(tmp_path, **{**usual, "clients": 20}, dataset=few)
    settings = grid(given, [], ["partition=iid natural"])
    assert [c.clients for (c,) in run_configs(given, settings, [0]).values()] == [20, 20], (
        "as given"
    )


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--workdir must be a writable folder, not .*file"):
        conduct(base(tmp_path / "file"), {"base": {}}, [0], (1, 1))


def test_a_seed_beside_seeds_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="--seed=3 is for one run; set --seeds=3"):
        conduct(base(tmp_path, seed=3), {"base": {}}, [0], (1, 1))
    assert not list(tmp_path.iterdir())


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path: Path, capsys: Any):
    config = base(tmp_path)
    mine = dataclasses.replace(config, workdir=str(tmp_path / "base" / "seed_0"))
    with workdir.hold(mine):
        assert conduct(config, {"base": {}}, [0], (1, 1)) == 0
    assert "another process trains it" in capsys.readouterr().out
    assert [row["state"] for row in rows(tmp_path)] == ["not finished"]


def test_a_setting_without_effect_in_all_runs_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    adam = plain(workdir=str(tmp_path), optimizer="adam", momentum=0.5)
    with pytest.raises(UserError, match="--momentum=0.5 has no effect with --optimizer=adam"):
        conduct(adam, grid(adam, [], ["rounds=1 2"]), [0, 1], (1, 1))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sweep, "train_setting", lambda config: {"final_accuracy": 1.0})
    assert conduct(adam, grid(adam, [], ["optimizer=adam sgd"]), [0], (1, 1)) == 0
