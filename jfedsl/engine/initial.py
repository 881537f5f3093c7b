"""The state before the first round."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jfedsl.engine.adapter_averaging import adapted_kernels
from jfedsl.engine.client_memory import first_memory, fresh_client
from jfedsl.engine.participants import first_participants
from jfedsl.engine.parts import client_part, server_part
from jfedsl.engine.state import Aggregator, Client, RunSpec, Server, State
from jfedsl.engine.traffic import smashed_shape
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.models.kept import kept
from jfedsl.models.layers import Model, Variables


def initial_variables(model: Model, key: Array, image: Array) -> Variables:
    """Variables of the whole model before the first round; they do not depend on the cut.

    Args:
      model: all layers. What one of them starts with, such as pretrained values, is not drawn.
      key: run key.
      image: a normalised sample input; only its shape and dtype matter.

    Raises:
      ValueError: the model cannot take such inputs, or cannot start with its values.
    """
    key, inputs, draw = fold(key, Purpose.INITIAL_WEIGHTS), image[None], _draw(model)
    if all(layer.start is None for layer in model):
        made: Variables = draw(key, inputs)
        return made
    shapes = draw.eval_shape(key, inputs)
    given = [
        jax.tree.map(lambda _: None, held) if layer.start is None else layer.start(held)
        for layer, held in layers.by_layer(model, shapes)
    ]

    def drawn(key: Array, inputs: Array) -> list[Any]:
        """What is not given, None in the place of the rest, so that the rest is not computed."""
        fresh = layers.by_layer(model, draw(key, inputs))
        return [
            jax.tree.map(lambda w, value: w if value is None else None, held, values)
            for (_, held), values in zip(fresh, given, strict=True)
        ]

    def is_leaf(value: Any) -> bool:
        return value is None

    parts = jax.tree.map(
        lambda w, value: w if value is None else value,
        jax.jit(drawn)(key, inputs), given, is_leaf=is_leaf,
    )  # fmt: skip
    whole = Variables(*zip(*parts, strict=True))
    return whole if any(whole.frozen) else whole._replace(frozen=())


@kept
def _draw(model: Model) -> Any:
    """`layers.init` of a model, to be traced and compiled once."""
    return jax.jit(partial(layers.init, model))


def initial_client(spec: RunSpec, key: Array, start: Variables, image: Array) -> Client:
    """A client that has not taken part yet, without number and masks.

    Args:
      spec: functions and static numbers of the run.
      key: run key, which the algorithm's auxiliary layers are drawn with.
      start: parameters and statistics of the whole model.
      image: a normalised sample input; only its shape and dtype matter.
    """
    params, stats = client_part(spec, start.params), client_part(spec, start.stats)
    if spec.auxiliary:
        extra = auxiliary_variables(spec, key, start, image)
        params, stats = params + extra.params, stats + extra.stats
    return fresh_client(spec, params, stats, image.shape)


def auxiliary_variables(spec: RunSpec, key: Array, start: Variables, image: Array) -> Variables:
    """Fresh variables of the algorithm's auxiliary layers, which take the activation at the cut.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      start: parameters and statistics of the whole model; only shapes matter.
      image: a normalised sample input; only its shape and dtype matter.
    """
    shape = smashed_shape(spec, start.params, start.stats, image.shape)
    sample = jnp.zeros(shape.shape, shape.dtype)
    return layers.init(spec.auxiliary, fold(key, Purpose.AUXILIARY), sample)


def init(spec: RunSpec, key: Array, start: Variables, image: Array) -> State:
    """The state before the first round, all clients holding the same model.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      start: parameters and statistics of the whole model.
      image: a normalised sample input; only its shape and dtype matter.
    """
    fresh, zero = initial_client(spec, key, start, image), jnp.zeros((), jnp.int32)
    params, stats = (server_part(spec, kind) for kind in (start.params, start.stats))
    server = Server(params, stats, spec.server_optimizer.init(params))
    pruning, slots = spec.pruner.init(fresh.params), spec.slots
    shared = fresh.optimizer if spec.client_optimizer_state == "average" else None

    def client(number: Array) -> Client:
        masks = spec.pruner.masks(pruning, fresh.params, fold(key, Purpose.PRUNING), zero, number)
        return fresh.replace(number=number, masks=masks)

    ids = first_participants(spec)
    clients = jax.vmap(client, axis_size=slots.num_slots)(slots.to_slots(ids))
    trained = pruning.replace(score_state=None)
    state = State(
        round=zero,
        server=spec.algorithm.init_server(spec, server),
        aggregator=Aggregator(
            fresh.params, fresh.stats, shared, pruning, trained, **_of_adapters(spec, start)
        ),
        clients=slots.shard(clients),
        memory=first_memory(spec, fresh),
        participants=ids,
        has_current_model=jnp.ones(spec.participants, bool),
    )
    return state.replace(algorithm_state=spec.algorithm.init_state(spec, key, image.shape, state))


def _of_adapters(spec: RunSpec, start: Variables) -> dict[str, Any]:
    """What the aggregator keeps of clients' adapters beside their factors."""
    rule = spec.adapters
    if rule is None:
        return {}
    if rule.stacks:
        cut = spec.cut
        return {"kernels": adapted_kernels(start.params[:cut], start.frozen[:cut])}
    return {"adapter_error": jnp.zeros(())} if rule.reports_error else {}
