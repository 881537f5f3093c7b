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
from jfedsl.engine.state import RunSpec, State, copies, weights
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
    scale, count = weight(returned.age.astype(jnp.float32)), which.size
    parts = _moved(before.params, sent.params, returned.received, scale)
    # What statistics were at the start is not kept: they move from those of the last average.
    stats = _moved(before.stats, sent.stats, copies(before.stats, count), scale)
    parts, stats = where_rows(returned.age > 0, (parts, stats), (sent.params, sent.stats))
    # Who sent an activation changes nothing, with its weight in every entry.
    rows = sent.replace(
        params=where_rows(which, parts, copies(before.params, count)),
        stats=where_rows(which, stats, copies(before.stats, count)),
        masks=where_rows(which, sent.masks, jax.tree.map(jnp.ones_like, sent.masks)),
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


def _moved(before: Any, sent: Any, received: Any, scale: Array) -> Any:
    """The aggregator's values after each client's change of what it had received, `[K, ...]`.

    Args:
      before: of the aggregator, `[...]`.
      sent: of the clients, `[K, ...]`.
      received: of the clients, `[K, ...]`.
      scale: of each one's change, `[K]`.
    """

    def one(value: Array, new: Array, old: Array) -> Array:
        return value[None] + scale.reshape(-1, *(1,) * (new.ndim - 1)) * (new - old)

    return jax.tree.map(one, before, sent, received)
