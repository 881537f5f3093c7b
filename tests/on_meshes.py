"""Runs and sums on meshes of four virtual devices, in a process of their own: prints JSON.

Called with JSON as its argument: `cache` (folder of compiled programs), `train` (configs by name,
with what `meshes` each is to run on), `recut` (configs by name, with what numbers of `devices`) and
`sums` (bits and meshes of `weighted_sum`).
"""

import csv
import json
import re
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from scripted_cuts import scripted

from jfedsl.config import Config
from jfedsl.engine.averaging import joined
from jfedsl.engine.state import State
from jfedsl.run.assemble import Experiment, build, cuts_by_resource
from jfedsl.run.restore import restore_run
from jfedsl.run.training import train
from jfedsl.sharding.collectives import weighted_sum
from jfedsl.sharding.slots import AXES, SHARDED, put

ROUNDS, DRAWS, ROWS = 3, 64, 8
MESSAGE = re.compile(r" (?:all-|reduce-scatter|collective-)[a-z-]*\(")
Shape = list[int]


def mesh_of(shape: Shape | None) -> Mesh | None:
    if shape is None:
        return None
    return Mesh(np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape), AXES)


def trained(settings: dict[str, Any], shape: Shape | None) -> dict[str, Any]:
    """What a run of a few rounds came to."""
    experiment = build(Config(**settings), mesh_of(shape))
    data, key, state = experiment.data, experiment.key, experiment.init()
    run = experiment.rounds(ROUNDS).lower(data, key, state, ROUNDS).compile()
    state, record = run(data, key, state, ROUNDS)
    evaluation = experiment.evaluate()(data, state, experiment.evaluated)
    integers = {f"{column}_bytes": counts for column, counts in record.sent.items()}
    integers |= {
        name: getattr(record, name) for name in ("participants", "took_part", "has_current_model")
    }
    floats = {name: getattr(record, name) for name in ("losses", "train_loss", "pruned_fraction")}
    if record.conditions is not None:
        floats |= {n: getattr(record.conditions, n) for n in ("up_rate", "down_rate", "forward")}
        integers["reachable"] = record.conditions.reachable
    floats |= vars(evaluation)
    slots = experiment.spec.slots
    return {
        "integers": {name: np.asarray(x).astype(int).tolist() for name, x in integers.items()},
        "floats": {name: np.asarray(x, float).tolist() for name, x in floats.items()},
        "padding_slots": int((~slots.is_real).sum()),
        "groups": len(slots.group_slots),
        "messages": len(MESSAGE.findall(run.as_text())),
        "params": params_of(experiment, state) if "cut" in settings else [],
    }


def params_of(experiment: Experiment, state: State) -> list[float]:
    """Weights of the joined model."""
    whole = jax.jit(partial(joined, experiment.spec))(experiment.data.partition, state)
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(whole.params)]).tolist()


def recut(settings: dict[str, Any], devices: int) -> dict[str, Any]:
    """What a whole run whose cuts change came to."""
    cuts_by_resource.fastest_cuts = scripted()
    with tempfile.TemporaryDirectory() as folder:
        summary = train(Config(**settings, devices=devices, workdir=folder))
        rows = list(csv.DictReader((Path(folder) / "metrics.csv").read_text().splitlines()))
        params = params_of(*restore_run(folder)[1:])
    kept = {name: summary[name] for name in ("cuts", "bytes", "uncompressed_bytes")}
    losses = [float(row["train_loss"]) for row in rows]
    return {**kept, "losses": [*losses, float(rows[-1]["test_loss"])], "params": params}


def summands() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Weights and rows of unlike sizes; the same in every process."""
    draw = np.random.default_rng(0)
    weights = draw.uniform(0, 1, ROWS) * (np.arange(ROWS) != 3)
    rows = {"a": draw.normal(size=(ROWS, 40, 30)), "b": 10 * draw.normal(size=(ROWS, 7))}
    return weights.astype(np.float32), {n: x.astype(np.float32) for n, x in rows.items()}


def summed(bits: int, shape: Shape) -> dict[str, Any]:
    """Mean and greatest deviations of many sums, flat, and how many devices disagree."""
    mesh = mesh_of(shape)
    assert mesh is not None
    weights, rows = put(mesh, summands(), SHARDED)
    run = jax.jit(lambda key: weighted_sum(mesh, bits, key, weights, rows))
    draws, disagree = [], 0
    for n in range(DRAWS):
        leaves = jax.tree.leaves(run(jax.random.key(n)))
        draws.append(np.concatenate([np.asarray(x).ravel() for x in leaves]))
        for x in leaves:
            disagree += sum(not np.array_equal(s.data, x) for s in x.addressable_shards)
    sums = np.stack(draws).astype(float)
    return {
        "mean": sums.mean(0).tolist(), "least": sums.min(0).tolist(),
        "greatest": sums.max(0).tolist(), "disagree": disagree,
    }  # fmt: skip


def main(request: dict[str, Any]) -> dict[str, Any]:
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", request["cache"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    assert jax.device_count() == 4 and jnp.zeros(()).dtype == jnp.float32
    trains, recuts, sums = (request.get(name, {}) for name in ("train", "recut", "sums"))
    return {
        "train": {
            name: {str(shape): trained(case["config"], shape) for shape in case["meshes"]}
            for name, case in trains.items()
        },
        "recut": {
            name: [recut(case["config"], devices) for devices in case["devices"]]
            for name, case in recuts.items()
        },
        "sums": {
            f"{bits} {shape}": summed(bits, shape)
            for bits in sums.get("bits", []) for shape in sums["meshes"]
        },
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
