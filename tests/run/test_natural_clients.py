"""Runs whose data says how many clients there are: trained, interrupted and resumed."""

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_equal, plain

from jfedsl.errors import Stopped, UserError
from jfedsl.run.hooks import Hook
from jfedsl.run.restore import restore_run
from jfedsl.run.storage.workdir import read_config
from jfedsl.run.training import train


class Interrupted(Hook):
    """Stops a run after its first call."""

    every = 1

    def interruption(self) -> BaseException | None:
        return Stopped("interrupted", signal.SIGTERM)


def data(path: Path, owners: int) -> str:
    """A data set of 60 examples of so many clients."""
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    labels, clients = np.arange(60) % 2, np.arange(60) % owners
    np.savez(path, features=inputs, label=labels, client=clients)
    return f"file:{path}"


def test_an_interrupted_run_goes_on_with_the_clients_of_its_data(tmp_path: Path) -> None:
    config = plain(
        dataset=data(tmp_path / "mine.npz", 3), partition="natural", clients=None, rounds=3,
        participants=2, workdir=str(tmp_path / "whole"), validation_fraction=0.1,
    )  # fmt: skip
    whole = train(config)
    part = dataclasses.replace(config, workdir=str(tmp_path / "part"))
    with pytest.raises(Stopped):
        train(part, [Interrupted()])
    assert restore_run(tmp_path / "part").state.round == 1
    recorded = read_config(tmp_path / "part")
    assert recorded is not None and (part.clients, recorded.clients) == (0, 3)
    resumed = train(part)
    assert_equal(restore_run(tmp_path / "part").state, restore_run(tmp_path / "whole").state)
    assert resumed["final_accuracy"] == whole["final_accuracy"]
    data(tmp_path / "mine.npz", 4)
    with pytest.raises(UserError, match=r"differing: clients .3 -> 4."):
        train(dataclasses.replace(part, rounds=4))
