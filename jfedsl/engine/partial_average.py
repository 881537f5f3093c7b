"""An average of the client parts that have arrived, while other clients go on training theirs.

Each part that arrives moves the aggregated model by its weight among those that the server takes in
the same step: by the weighted mean of their changes, where one that does not average changes
nothing. Changes are of the model that the client received, which others may have changed since
(buffered asynchronous aggregation, arXiv 2106.06639).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.data.partition import Partition
from jfedsl.engine.averaging import merge
from jfedsl.engine.model_messages import upload
from jfedsl.engine.period import hold_model, moved_masks, pruned_anew
from jfedsl.engine.state import Aggregator, RunSpec, State, copies, weights
from jfedsl.sharding.slots import where_rows


class Returned(NamedTuple):
    """The participants whose parts have arrived.

    Attributes:
      which: bool `[K]`.
      received: the model that each one received, `[K, ...]`.
      age: averages since then, int32 `[K]`.
    """

    which: Array
    received: Any
    age: Array


def average_returned(
    spec: RunSpec, key: Array, partition: Partition, weight: Callable[[Array], Array],
    returned: Returned, state: State,
) -> tuple[State, Array, Array]:  # fmt: skip
    """Averages the parts that have arrived, and recomputes the masks.

    Args:
      spec: of the participants whose messages the server takes in this step, on one device.
      key: run key.
      partition: which examples each client has.
      weight: of a part by its age, from `staleness.parse`.
      returned: whose parts have arrived.
      state: with these participants, before the average.

    Returns:
      The state, in which participants whose parts were averaged hold the new model under the masks
      that they trained with; the bytes that each one sent, int32 `[K]`; and the overlap of its
      masks with the next ones, float32 `[K]`. Both are 0 for the others.
    """
    before, clients, which = state.aggregator, state.clients, returned.which
    trained = clients.replace(received=returned.received)
    sent, up = jax.vmap(partial(upload, spec, key, state))(trained)
    parts = _present_parts(before, sent.params, returned, weight(returned.age.astype(jnp.float32)))
    count = which.size
    rows = sent.replace(
        params=where_rows(which, parts, copies(before.params, count)),
        stats=where_rows(which, sent.stats, copies(before.stats, count)),
        received=None,
    )
    share = weights(spec, partition, state.participants)
    after = merge(spec, before, rows, spec.slots.weights(share))
    masks = where_rows(which, sent.masks, jax.tree.map(jnp.zeros_like, sent.masks))
    after = pruned_anew(spec, state, after, trained, masks)
    state = state.replace(aggregator=after, clients=sent.replace(received=clients.received))
    moved = moved_masks(spec, key, state, clients)
    held = where_rows(which, hold_model(spec, state), clients)
    return state.replace(clients=held), jnp.where(which, up, 0), jnp.where(which, moved, 0.0)


def _present_parts(before: Aggregator, params: Any, returned: Returned, weight: Array) -> Any:
    """The model after each part's change since it was received, `[K, ...]`.

    That of a part that no average came before is the part itself, to the bit.
    """

    def changed(model: Array, part: Array, received: Array) -> Array:
        scale = weight.reshape(-1, *(1,) * (part.ndim - 1))
        return model[None] + scale * (part - received)

    moved = jax.tree.map(changed, before.params, params, returned.received)
    return where_rows(returned.age > 0, moved, params)
