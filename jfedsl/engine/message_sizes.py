"""What messages are expected to take, before any is sent: counted on messages of noise."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.compression.message import Message, message_bytes
from jfedsl.engine.masks import masks_of
from jfedsl.engine.messages import send_activation, send_activation_gradient
from jfedsl.engine.model_messages import model_bytes, upload
from jfedsl.engine.state import Client, RunSpec, State
from jfedsl.engine.streams import CUT_GRADIENT, DOWN, SMASHED, UP
from jfedsl.engine.traffic import bits_beside, is_sent, smashed_shape, tail_input_shape
from jfedsl.keys import Purpose, fold
from jfedsl.models import layers
from jfedsl.wireless.schedule import MessageBits

AFTER_RAMPS = 2**20  # the number of a round in which the pruning rate has long been reached


def expected_bits(spec: RunSpec, key: Array, image: tuple[int, ...]) -> Array:
    """Bits that clients send up in an exchange, float32 `[width configs, C]`.

    Counted on messages of noise in each width config of the pruner: what is dropped at random
    varies little, in activations of thousands of entries.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      image: shape of an input.
    """
    shapes = client_shapes(spec, key, image)
    tail = tail_input_shape(spec, shapes[1]) if spec.tail else None
    first = [
        int(np.argmax(spec.pruner.config_of_round == row))
        for row in range(len(spec.pruner.width_configs))
    ]

    def one(start: Array, number: Array) -> Array:
        client, message = send_noise(spec, key, shapes, start, number)
        bits = up_bits(spec, message)
        return bits if tail is None else bits + _bits_from_tail(spec, key, tail, client)

    every = jnp.arange(spec.clients)
    starts = jnp.asarray(first, jnp.int32)
    return jax.jit(lambda: lax.map(lambda s: lax.map(lambda n: one(s, n), every), starts))()


def noise_exchange(
    spec: RunSpec, key: Array, shapes: tuple[Any, Any], number: Array
) -> tuple[Message, Array, Message | None]:
    """Both messages of an exchange of a client when the pruning rate has been reached.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      shapes: from `client_shapes`.
      number: of the client.

    Returns:
      The activation as the server receives it; the gradient that the server returns, and that as
      the client receives it, None where none comes down.
    """
    client, up = send_noise(spec, key, shapes, jnp.int32(AFTER_RAMPS), number)
    noise = jax.random.normal(fold(key, Purpose.HARDWARE, 3, number), shapes[1].shape)
    gradient = noise.astype(shapes[1].dtype)
    if up.kept is not None:
        gradient = jnp.where(up.kept, gradient, 0.0)
    if not is_sent(spec, CUT_GRADIENT, shapes[0]):
        return up, gradient, None
    draw_key = fold(key, Purpose.HARDWARE, 4, number)
    return up, gradient, send_activation_gradient(spec, client, gradient, up.kept, draw_key)[1]


def message_bits(spec: RunSpec, key: Array, image: tuple[int, ...], state: State) -> MessageBits:
    """Expected sizes of all messages when the pruning rate has been reached.

    Args:
      spec: functions and static numbers of the run.
      key: run key.
      image: shape of an input.
      state: before the first round.
    """
    shapes, later = client_shapes(spec, key, image), state.replace(round=jnp.int32(AFTER_RAMPS))
    masks = jax.vmap(partial(masks_of, spec, key, later))(state.clients.number)
    clients = state.clients.replace(masks=masks)
    noise = noise_like(clients.params, fold(key, Purpose.HARDWARE, 7))
    trained = jax.tree.map(jnp.add, clients.params, noise)
    returned = clients.replace(params=trained, received=clients.params)
    model_up = jax.vmap(partial(upload, spec, key, later))(returned)[1]
    model_down = jax.vmap(partial(model_bytes, spec, with_masks=True))(clients)

    def of_client(number: Array) -> tuple[Array, Array]:
        up, _, down = noise_exchange(spec, key, shapes, number)
        returned = jnp.int32(0) if down is None else message_bytes([down])
        return up_bits(spec, up), bits_of(returned)

    exchanged = lax.map(of_client, state.participants)
    of_models = (spec.slots.to_participants(bits_of(x)) for x in (model_up, model_down))
    return MessageBits(*exchanged, *of_models)


def client_shapes(spec: RunSpec, key: Array, image: tuple[int, ...]) -> tuple[Any, Any]:
    """Shapes of the client-side parameters and of the activation at the cut."""
    shapes = jax.eval_shape(
        lambda x: layers.init(spec.model[: spec.cut], key, x), jnp.zeros((1, *image))
    )
    return shapes.params, smashed_shape(spec, shapes.params, shapes.stats, image)


def send_noise(
    spec: RunSpec, key: Array, shapes: tuple[Any, Any], start: Array, number: Array
) -> tuple[Client, Message]:
    """A client in the period from round `start` on, and what the server receives from it."""
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes[0])
    masks = spec.pruner.masks(
        spec.pruner.init(params), params, fold(key, Purpose.PRUNING), start, number
    )
    noise = jax.random.normal(fold(key, Purpose.HARDWARE, 1, number), shapes[1].shape)
    values = noise.astype(shapes[1].dtype)
    empty = jnp.zeros_like(values)
    states = {
        stream.name: spec.compressors[stream.name](0).init(empty)
        for stream in spec.algorithm.streams
        if stream.name in (SMASHED.name, CUT_GRADIENT.name)
    }
    client = Client(number, params, (), masks, None, states, None, number)
    noise_key = fold(key, Purpose.HARDWARE, 2, number)
    return client, send_activation(spec, client, values, noise_key)[1]


def up_bits(spec: RunSpec, message: Message) -> Array:
    """Bits of an activation with its labels, if these are sent, whole bytes, float32."""
    stream = next(stream for stream in spec.algorithm.streams if stream.name == SMASHED.name)
    return bits_of(message_bytes([message], bits_beside(spec, stream)))


def _bits_from_tail(
    spec: RunSpec, key: Array, shape: jax.ShapeDtypeStruct, client: Client
) -> Array:
    """Bits of the gradient that a client sends up from its tail, of the entries that came down."""
    way = {stream.direction: stream for stream in spec.algorithm.streams if stream.at_tail}
    values = jax.random.normal(fold(key, Purpose.HARDWARE, 7, client.number), shape.shape)
    states = {s.name: spec.compressors[s.name](0).init(values) for s in way.values()}
    client, noise_key = client.replace(compressor_states=states), fold(key, Purpose.HARDWARE, 8)
    noise_key = fold(noise_key, client.number)
    down = send_activation(spec, client, values, noise_key, stream=way[DOWN])[1]
    up = send_activation_gradient(spec, client, values, down.kept, noise_key, stream=way[UP])[1]
    return bits_of(message_bytes([up]))


def noise_like(tree: Any, key: Array) -> Any:
    """Standard Gaussian noise with the shapes and types of the leaves of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    drawn = [jax.random.normal(fold(key, i), x.shape, x.dtype) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)


def bits_of(count: Array) -> Array:
    """Bits of so many bytes, float32."""
    return 8.0 * count.astype(jnp.float32)
