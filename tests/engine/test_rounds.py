"""The compiled loop: one compilation, the same bits however rounds are spread over calls."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import assert_equal, plain

from jfedsl.engine.masks import trained_masks
from jfedsl.run.assemble import build

EVERYTHING = {
    "clients": 5,
    "participants": 3,
    "aggregate_every": 2,
    "local_steps": 2,
    "prune_kind": "mask",
    "prune_rate": (0.3,),
    "prune_ramp_rounds": 4,
    "dropout_rate": 0.2,
    "cut_gradient_bits": 8,
    "client_gradient_bits": 8,
    "model_bits": 8,
    "momentum": 0.9,
}


def test_calls_of_any_length_compute_the_same_with_one_compilation():
    experiment = build(plain(**EVERYTHING))
    run = experiment.rounds(capacity=6)
    whole, records = run(experiment.data, experiment.key, experiment.init(), 6)
    state, parts = experiment.init(), []
    for count in (1, 3, 2):
        state, part = run(experiment.data, experiment.key, state, count)
        parts.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], part))
        assert not np.any(np.asarray(part.sent["model_down"])[count:]), "unused rows stay zero"
    assert_equal(state, whole)
    assert_equal(jax.tree.map(lambda *x: np.concatenate(x), *parts), records)
    assert run._cache_size() == 1
    assert int(state.round) == 6


def test_masks_move_without_a_new_compilation():
    experiment = build(plain(**{**EVERYTHING, "participants": 5, "aggregate_every": 1}))
    run, state = experiment.rounds(capacity=5), experiment.init()
    seen = set()
    for _ in range(10):
        state, _ = run(experiment.data, experiment.key, state, 5)
        masks = jax.tree.leaves(state.clients.masks)
        seen.add(b"".join(np.asarray(m).tobytes() for m in masks))
    assert len(seen) == 10 and run._cache_size() == 1


def test_channels_move_and_widths_change_without_a_new_compilation():
    changes = {"prune_kind": "channel", "prune_rate": (0.5, 0.5, 0.5, 0.25, 0.0)}
    experiment = build(plain(**{**EVERYTHING, **changes, "prune_score": "random", "rounds": 50}))
    pruner = experiment.spec.pruner
    assert len(pruner.groups) == 3 and len(pruner.width_configs) > 1
    run, state = experiment.rounds(capacity=10), experiment.init()
    seen, kept = set(), set()
    everyone = jax.jit(
        lambda state: jax.vmap(
            lambda n: trained_masks(experiment.spec, experiment.key, state, n)
        )(jnp.arange(5))
    )  # fmt: skip
    for _ in range(5):
        state, records = run(experiment.data, experiment.key, state, 10)
        masks = everyone(state)
        assert_equal(state.clients.masks, [m[state.participants] for m in masks])
        seen.add(b"".join(np.asarray(m).tobytes() for m in masks))
        kept |= set(np.asarray(records.kept_fractions).reshape(-1).tolist())
    assert int(state.round) == 50 and len(seen) == 5 and run._cache_size() == 1
    assert len(kept) > 1, "the ramp goes over several widths"


def test_learning_rate_follows_the_run_not_the_client():
    changes = {**EVERYTHING, "learning_rate_schedule": "linear", "rounds": 2, "momentum": 0.0}
    experiment = build(plain(**changes))
    state, _ = experiment.rounds(4)(experiment.data, experiment.key, experiment.init(), 2)
    before = jax.tree.map(jnp.copy, state.server.params)
    # Past its end the linear schedule is 0: nobody moves, whoever is drawn for the first time.
    state, _ = experiment.rounds(4)(experiment.data, experiment.key, state, 2)
    assert_equal(state.server.params, before)
