"""Memories of clients on the host: the store, and runs that move them to and from the devices."""

import csv
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import assert_equal, plain, slow
from hypothesis import given
from hypothesis import strategies as st

from jfedsl.config import Config
from jfedsl.engine.client_memory import memories
from jfedsl.run.assemble import build
from jfedsl.run.client_store import ClientStore
from jfedsl.run.restore import restore_run
from jfedsl.run.training import train

CLIENTS = 300


def metrics(workdir: Path) -> list[dict[str, str]]:
    with open(workdir / "metrics.csv", newline="") as file:
        return [{**row, "host_seconds": ""} for row in csv.DictReader(file)]


@given(st.lists(st.lists(st.integers(0, CLIENTS - 1), unique=True, max_size=60), max_size=12))
def test_a_store_is_a_dictionary_with_a_default(steps: list[list[int]]) -> None:
    fresh = {"a": np.array([1.5, -2.0], np.float32), "b": np.int32(7)}
    store, expected = ClientStore(fresh, CLIENTS), dict[int, dict[str, Any]]()
    for step, clients in enumerate(steps):
        ids = np.array(clients, np.int64)
        rows = {
            "a": (ids[:, None] * 10.0 + [step, 0]).astype(np.float32),
            "b": (ids + step).astype(np.int32),
        }
        store.write(ids, rows)
        expected |= {n: {k: x[i] for k, x in rows.items()} for i, n in enumerate(clients)}
        assert sorted(store.ids.tolist()) == sorted(expected)
        assert all(len(array) <= max(64, 2 * len(expected)) for array in store._arrays)
    asked = np.random.default_rng(0).permutation(CLIENTS)[:100]
    rows = store.read(asked)
    assert rows["b"].dtype == np.int32 and rows["a"].shape == (100, 2)
    for i, n in enumerate(asked.tolist()):
        assert_equal({k: x[i] for k, x in rows.items()}, expected.get(n, fresh))
    rows["b"][:] = -1  # a copy: the store keeps its rows
    assert_equal(store.read(asked)["b"], [expected.get(n, fresh)["b"] for n in asked.tolist()])


def lasting(workdir: Path, **changes: Any) -> Config:
    """Clients with much memory and a personal layer, and checkpoints within periods."""
    settings = {
        "clients": 7, "participants": 3, "rounds": 8, "local_steps": 2, "momentum": 0.9,
        "norm": "batch", "batch_norm_statistics": "local", "aggregate_every": 3, "eval_every": 4,
        "checkpoint_every": 2, "model_up": "feedback(topk(0.1))", "model_down": "topk(0.1)",
        "batch_size": 4, "train_examples": 300, "test_examples": 100, "cut": "dense2",
        "personal": "dense1", "proximal": 0.1,
    }  # fmt: skip
    return plain(**{**settings, "workdir": str(workdir), **changes})


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("resident") / "run"
    train(lasting(workdir))
    return workdir


@pytest.mark.parametrize("stops", [slow(()), (3, 4)], ids=["straight", "stopped"])
def test_memories_on_the_host_train_to_the_same_bits(
    resident: Path, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Stopped between two periods, and inside one."""
    for rounds in (*stops, 8):
        train(lasting(tmp_path, client_state="host", rounds=rounds))
    rows, others = metrics(tmp_path), metrics(resident)
    for row in (*rows, *others):  # the last round before a stop is evaluated too
        for name in [name for name in row if name.startswith("test_")]:
            row[name] = row[name] if row["round"] == "8" else ""
    assert rows == others
    runs = [restore_run(workdir) for workdir in (tmp_path, resident)]
    assert_equal(*(run.state.replace(memory=None) for run in runs))
    assert_equal(*(memories(run.experiment.spec, run.state) for run in runs))


@pytest.mark.parametrize("client_state", ["host", "stateless"])
def test_the_state_on_the_devices_does_not_grow_with_clients(client_state: str) -> None:
    def shapes(clients: int) -> Any:
        settings: dict[str, Any] = {"model": "mlp", "norm": "none", "sampling": "replacement"}
        config = plain(
            **settings, partition="iid", clients=clients, participants=5, client_state=client_state
        )
        return jax.tree.map(lambda x: x.shape, jax.eval_shape(build(config).init))

    assert shapes(10) == shapes(500)
