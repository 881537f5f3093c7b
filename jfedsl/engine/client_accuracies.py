"""Test accuracies of what each client would use, by class."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.engine.averaging import merge_participants
from jfedsl.engine.client_memory import memories
from jfedsl.engine.evaluation import class_sizes, class_sums
from jfedsl.engine.evaluation_set import TestSet
from jfedsl.engine.masks import trained_masks
from jfedsl.engine.participants import last_round, period_start, with_width_config
from jfedsl.engine.parts import group_cuts
from jfedsl.engine.personal import models_differ, shared_part, with_local_stats, with_shared
from jfedsl.engine.state import Data, RunSpec, State, with_data
from jfedsl.pruning.pruner import ClientForward


def distinct_models(spec: RunSpec, state: State) -> tuple[list[np.ndarray], np.ndarray]:
    """Which clients' models differ, were all of them drawn.

    Returns:
      For each of the pruner's groups a client of each model in it, int `[V_g]`, and the position
      among all of these of every client's model, int `[C]`.
    """
    local = spec.statistics == "local" and bool(jax.tree.leaves(state.clients.stats))
    differ = local or spec.personal is not None
    mask_group = None if differ else spec.pruner.mask_group
    if mask_group is None:
        mask_group = np.arange(spec.clients)
    first = []
    model = np.zeros(spec.clients, int)
    before = 0
    for members in spec.pruner.groups:
        _, first_of_each, position = np.unique(
            mask_group[members], return_index=True, return_inverse=True
        )
        model[members] = before + position
        first.append(members[first_of_each])
        before += first_of_each.size
    return first, model


def class_accuracies(
    spec: RunSpec,
    data: Data,
    key: Array,
    state: State,
    test: TestSet,
    clients: Sequence[np.ndarray],
) -> Array:
    """Test accuracy on each class of what clients would use, were all of them drawn.

    The activation crosses the cut unchanged.

    Args:
      spec: functions and static numbers of the run.
      data: training data on the devices.
      key: run key.
      state: where the run stands.
      test: the test set.
      clients: of each group, see `distinct_models`.

    Returns:
      float32 `[V, classes]`, infinite for a class without test examples.
    """
    merged = merge_participants(spec, data.partition, state)[2]
    spec = with_data(spec, data, merged)
    server = spec.algorithm.server_of(spec, data.partition, state)
    examples = class_sizes(spec, test)

    plain = spec._replace(deployed=None)
    memory = memories(spec, state) if models_differ(spec) else None
    shared = shared_part(spec, merged.params)

    def one(forward: ClientForward, cut: int, number: Array) -> Array:
        params, stats = merged.params, merged.stats
        if memory is not None:
            held, local = jax.tree.map(lambda x: x[number], (memory.params, memory.stats))
            params, stats = with_shared(spec, held, shared), with_local_stats(spec, local, stats)
        masks = trained_masks(spec, key, state, number)
        any_client = jax.tree.map(lambda x: x[0], state.clients)
        client = any_client.replace(number=number, params=params, stats=stats, masks=masks)
        correct = class_sums(plain, key, data.pixels, forward, cut, client, server, test)[1]
        return jnp.where(examples > 0, correct / jnp.maximum(examples, 1), jnp.inf)

    def all_groups(forwards: Sequence[ClientForward]) -> Array:
        groups = zip(forwards, group_cuts(spec), clients, strict=True)
        return jnp.concatenate(
            [
                lax.map(partial(one, forward, cut), jnp.asarray(numbers, jnp.int32))
                for forward, cut, numbers in groups
            ]
        )

    return with_width_config(spec, period_start(spec, last_round(state)), all_groups)
