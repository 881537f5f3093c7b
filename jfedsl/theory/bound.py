"""The bound on the average squared gradient norm, term by term; its proof is in convergence.md.

Everything broadcasts: a field of a `Setting` or of `Effects` may be a number or an array, and the
terms have the shape that all of them broadcast to.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

_BISECTIONS = 64


class Constants(NamedTuple):
    """Constants of a problem, independent of the setting; `[L]` is all layers of the model.

    Attributes:
      gap: f(v^0) - f*.
      beta: smoothness of f along the path of v.
      beta_drift: change of the participants' mean gradient over their distance from v.
      beta_pruning: change of that gradient over the norm of the pruned weights.
      beta_clients: smoothness of every f_n; used with partial participation only.
      variance: sigma_j^2 `[L]`, of a client's mini-batch gradient, dropout's noise included.
      moment: G_j^2 `[L]`, mean square of that gradient.
      expected: M_j^2 `[L]`, mean square of its expectation.
      weight: W_j^2 `[L]`, squared norm of the weights.
      dissimilarity: S^2, sample variance over clients of their gradients at v.
    """

    gap: ArrayLike
    beta: ArrayLike
    beta_drift: ArrayLike
    beta_pruning: ArrayLike
    beta_clients: ArrayLike
    variance: Array
    moment: Array
    expected: Array
    weight: Array
    dissimilarity: ArrayLike = 0.0


class Effects(NamedTuple):
    """Effects of compression on gradients; the defaults are no compression.

    Attributes:
      rho: pruned share of the squared norm of client-side weights.
      phi: squared gradient of f on weights that nobody keeps, over the clients' G^2.
      chi: squared difference of the gradient of f and the keepers' mean of theirs, over G^2; 0
        where masks are alike.
      q: error of quantized client gradients, E||Q(g) - g||^2 / E||g||^2.
      eps_d: squared bias of the mean gradient by what happens to activations at the cut.
      coverage: over model weights that any client keeps, the least sum of the aggregation weights
        of the clients that keep it; 1 where masks are alike.
    """

    rho: ArrayLike = 0.0
    phi: ArrayLike = 0.0
    chi: ArrayLike = 0.0
    q: ArrayLike = 0.0
    eps_d: ArrayLike = 0.0
    coverage: ArrayLike = 1.0


class Setting(NamedTuple):
    """What can be chosen in a run.

    Attributes:
      cut: L_c, number of client-side layers.
      step_size: gamma, of both halves.
      steps: T, exchanges.
      period: I, exchanges between averages of all clients: local_steps * aggregate_every, or with
        edge servers those between averages of the cloud.
      clients: N.
      participants: number of clients in a period, at least 1.
      largest_weight: the largest aggregation weight of a participant; 1 / participants where all
        are equal.
      edge_period: J, exchanges between averages of an edge's clients.
      edge_weight: omega, the largest weight of a client in the average of its edge; 1 without edge
        servers, and J is then not read.
      server_drifts: 1 where each edge has a copy of the server's part, else 0.
    """

    cut: ArrayLike
    step_size: ArrayLike
    steps: ArrayLike
    period: ArrayLike
    clients: ArrayLike
    participants: ArrayLike
    largest_weight: ArrayLike
    edge_period: ArrayLike = 1.0
    edge_weight: ArrayLike = 1.0
    server_drifts: ArrayLike = 0.0


class Terms(NamedTuple):
    """Terms of the bound, in units of a squared gradient norm; `total` combines them.

    Attributes:
      initial_gap: from f(v^0) - f*; falls as 1 / (gamma T).
      gradient_noise: from mini-batches.
      quantization_noise: from quantized client gradients.
      masked_update: from the gradient on weights that nobody keeps.
      drift: from clients moving apart within a period.
      pruning: from clients computing with pruned weights.
      disparity: from masks that differ between clients.
      dropout_bias: from the compressors of the activation.
      sampling: from partial participation.
    """

    initial_gap: Array
    gradient_noise: Array
    quantization_noise: Array
    masked_update: Array
    drift: Array
    pruning: Array
    disparity: Array
    dropout_bias: Array
    sampling: Array

    @property
    def biases(self) -> tuple[Array, ...]:
        """The terms whose square roots are added before squaring."""
        return self.drift, self.pruning, self.disparity, self.dropout_bias, self.sampling

    @property
    def shares(self) -> "Terms":
        """Terms that add up to the total: each bias gets its share of the square of their sum."""
        roots = [jnp.sqrt(x) for x in self.biases]
        total = _sum(roots)
        return Terms(*self[:4], *[root * total for root in roots])

    @property
    def total(self) -> Array:
        """The bound: the sum of the first four terms, and the square of the sum of the roots."""
        return _sum(self[:4]) + _sum([jnp.sqrt(x) for x in self.biases]) ** 2


def bound(constants: Constants, effects: Effects, setting: Setting) -> Terms:
    """Bounds (1/T) sum_t E||grad f(v^t)||^2 for step sizes up to 1 / beta.

    Args:
      constants: of the problem, valid along the whole path of v.
      effects: of compression, valid along the whole path of v.
      setting: of the run.

    Returns:
      The terms, each of the shape that the fields of `effects` and `setting` broadcast to.
    """
    constants, effects, setting = map(_floats, (constants, effects, setting))
    roots, gamma = _roots(constants, effects, setting), jnp.asarray(setting.step_size)
    noise, quantized = _noise(constants, effects, setting)
    terms = (
        2 * constants.gap / (gamma * setting.steps),
        gamma * noise,
        gamma * quantized,
        effects.phi * _client_sum(constants.moment, setting),
        (gamma * roots.drift) ** 2,
        roots.pruning**2,
        roots.disparity**2,
        roots.dropout**2,
        (roots.sampling + gamma * roots.slope) ** 2,
    )
    return Terms(*jnp.broadcast_arrays(*terms))


def steps_needed(
    constants: Constants, effects: Effects, setting: Setting, target: ArrayLike
) -> Array:
    """The number of exchanges after which the bound is at most `target`; infinity if it never is.

    Args:
      constants: of the problem, valid along the whole path of v.
      effects: of compression, valid along the whole path of v.
      setting: of the run; `steps` is not read.
      target: a squared gradient norm.
    """
    # The gap's term may be so large that float32 would lose the others in a sum with it.
    floor = bound(constants._replace(gap=0.0), effects, setting._replace(steps=1.0)).total
    gap, gamma = _floats((constants.gap, setting.step_size))
    room = jnp.asarray(target, jnp.float32) - floor
    return jnp.where(room > 0, 2 * gap / gamma / jnp.where(room > 0, room, 1.0), jnp.inf)


def best_step_size(constants: Constants, effects: Effects, setting: Setting) -> Array:
    """The step sizes in (0, 1 / beta] with the least bound after the setting's number of steps.

    The bound is convex in gamma. Its derivative has the sign of a cubic with one positive root,
    which bisection finds.

    Args:
      constants: of the problem, valid along the whole path of v.
      effects: of compression, valid along the whole path of v.
      setting: of the run; `step_size` is not read.
    """
    constants, effects, setting = map(_floats, (constants, effects, setting))
    roots, linear = _roots(constants, effects, setting), sum(_noise(constants, effects, setting))
    rise = roots.drift + roots.slope
    level = roots.pruning + roots.disparity + roots.dropout + roots.sampling
    fall = 2 * jnp.asarray(constants.gap) / setting.steps
    most = 1.0 / jnp.asarray(constants.beta)
    arrays = jnp.broadcast_arrays(jnp.asarray(linear), rise, level, fall, most)
    linear, rise, level, fall, most = arrays

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        gamma = (low + high) / 2
        # gamma^2 times the derivative of fall / gamma + linear gamma + (rise gamma + level)^2.
        grows = gamma**2 * (linear + 2 * rise * (rise * gamma + level)) > fall
        return jnp.where(grows, low, gamma), jnp.where(grows, gamma, high)

    return lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(most), most))[1]


def _floats(fields: Any) -> Any:
    """Numbers and arrays of any type as float32."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), fields)


def _noise(constants: Constants, effects: Effects, setting: Setting) -> tuple[Array, Array]:
    """The terms of mini-batch noise and quantization noise, for gamma = 1."""
    scale = jnp.asarray(constants.beta) * setting.largest_weight
    # A model weight kept by few clients is averaged over few, so its noise is larger.
    few = 1.0 / jnp.square(jnp.asarray(effects.coverage))
    client_side = _client_sum(constants.variance, setting)
    batches = few * client_side + jnp.sum(constants.variance) - client_side
    quantized = few * effects.q * _client_sum(constants.moment, setting)
    return scale * batches, scale * quantized


class _Roots(NamedTuple):
    """Square roots of the biases. Drift is for gamma = 1; sampling is plus gamma times `slope`."""

    drift: Array
    pruning: Array
    disparity: Array
    dropout: Array
    sampling: Array
    slope: Array


def _roots(constants: Constants, effects: Effects, setting: Setting) -> _Roots:
    period, q = jnp.asarray(setting.period), jnp.asarray(effects.q)
    ages = (period - 1) / 2  # mean of the steps since the last aggregation
    squares = (period - 1) * (2 * period - 1) / 6  # mean of their squares
    moment = _client_sum(constants.moment, setting)
    variance = _client_sum(constants.variance, setting)
    expected = _client_sum(constants.expected, setting)
    server_side = jnp.sum(constants.moment) - moment
    # Copies of the server's part drift too; their noise is a mean over the clients of an edge.
    copies, weight = jnp.asarray(setting.server_drifts), jnp.asarray(setting.edge_weight)
    direct = jnp.sqrt(squares * ((1 + q) * moment + copies * server_side))
    # Noise adds up as a random walk; the expected gradient adds up in one direction. What a client
    # has walked before its edge's last average has been averaged over the edge.
    own = (jnp.minimum(jnp.asarray(setting.edge_period), period) - 1) / 2
    noise = (ages - (1 - weight) * (ages - own)) * (variance + q * moment)
    noise += weight * ages * copies * (jnp.sum(constants.variance) - variance)
    pull = expected + copies * (jnp.sum(constants.expected) - expected)
    walk = jnp.sqrt(noise) + jnp.sqrt(squares * pull)
    absent = 1 - jnp.asarray(setting.participants) / setting.clients
    path = jnp.sqrt(squares * ((1 + q) * moment / effects.coverage + server_side))
    pruned = effects.rho * _client_sum(constants.weight, setting)
    return _Roots(
        drift=jnp.asarray(constants.beta_drift) * jnp.minimum(direct, walk),
        pruning=jnp.asarray(constants.beta_pruning) * jnp.sqrt(pruned),
        disparity=jnp.sqrt(effects.chi * moment),
        dropout=jnp.sqrt(effects.eps_d),
        sampling=jnp.sqrt(absent / setting.participants * constants.dissimilarity),
        slope=2 * absent * constants.beta_clients * path,
    )


def _client_sum(per_layer: Array, setting: Setting) -> Array:
    """Sum of `per_layer[L]` over the client-side layers, of the shape of the cut."""
    cut = jnp.asarray(setting.cut)[..., None]
    shape = (1,) * (cut.ndim - 1) + (-1,)
    layers = jnp.arange(len(per_layer), dtype=cut.dtype).reshape(shape)
    return jnp.sum(jnp.where(layers < cut, per_layer.reshape(shape), 0.0), axis=-1)


def _sum(arrays: Any) -> Array:
    return sum(arrays, start=jnp.zeros(()))
