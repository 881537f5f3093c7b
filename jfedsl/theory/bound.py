"""The bound on the average squared gradient norm, term by term; proved in convergence.md here.

Everything broadcasts: a field of a `Setting` or of `Effects` may be a number or an array, and the
terms have the shape that all of them broadcast to.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

_BISECTIONS = 64


class Constants(NamedTuple):
    """What a problem is like, whatever the setting; per layer `[L]` for all layers of the model.

    Attributes:
      gap: f(v^0) - f*.
      beta: smoothness of f along the path of v.
      beta_drift: how fast the participants' mean gradient changes as they leave v.
      beta_pruning: how fast it changes as weights are pruned.
      beta_clients: smoothness of every f_n; only partial participation needs it.
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
    """What compression does to gradients; the defaults are no compression.

    Attributes:
      rho: pruned share of the squared norm of client-side weights.
      phi: squared gradient of f on weights that nobody keeps, over the clients' G^2.
      chi: squared difference of the gradient of f and the keepers' mean of theirs, over G^2; 0
        where masks are alike.
      q: error of quantized client gradients, E||Q(g) - g||^2 / E||g||^2.
      eps_d: squared bias of the mean gradient by what happens to activations at the cut.
      coverage: least weight of the clients that keep a weight which anyone keeps; 1 where masks
        are alike.
    """

    rho: ArrayLike = 0.0
    phi: ArrayLike = 0.0
    chi: ArrayLike = 0.0
    q: ArrayLike = 0.0
    eps_d: ArrayLike = 0.0
    coverage: ArrayLike = 1.0


class Setting(NamedTuple):
    """What one chooses.

    Attributes:
      cut: L_c, how many layers are the clients'.
      step_size: gamma, of both halves.
      steps: T, exchanges.
      period: I, exchanges between aggregations: local_steps * aggregate_every.
      clients: N.
      participants: of them in a period; more than 0.
      largest_weight: of a participant in the mean; 1 / participants where all are equal.
    """

    cut: ArrayLike
    step_size: ArrayLike
    steps: ArrayLike
    period: ArrayLike
    clients: ArrayLike
    participants: ArrayLike
    largest_weight: ArrayLike


class Terms(NamedTuple):
    """Parts of the bound, squared gradient norms; how they add up says `total`.

    Attributes:
      initial_gap: falls as 1 / (gamma T).
      gradient_noise: of mini-batches.
      quantization_noise: of clients' gradients.
      masked_update: gradient on weights that nobody keeps.
      drift: of clients from their mean within a period.
      pruning: clients compute with pruned weights.
      disparity: clients' masks differ.
      dropout_bias: of the activation's compressors.
      sampling: not all clients take part.
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
        """Terms of which the square roots add up."""
        return self.drift, self.pruning, self.disparity, self.dropout_bias, self.sampling

    @property
    def shares(self) -> "Terms":
        """Parts that add up to the total: biases get their part of the square of their sum."""
        sides = [jnp.sqrt(x) for x in self.biases]
        whole = _sum(sides)
        shared = [side * whole for side in sides]
        return Terms(*self[:4], *shared)

    @property
    def total(self) -> Array:
        """The bound: the sum of the terms outside of the square and of the square itself."""
        return _sum(self[:4]) + _sum([jnp.sqrt(x) for x in self.biases]) ** 2


def bound(constants: Constants, effects: Effects, setting: Setting) -> Terms:
    """Bounds (1/T) sum_t E||grad f(v^t)||^2 for step sizes up to 1 / beta.

    Args:
      constants: of the problem, valid all along the path.
      effects: of compression, likewise.
      setting: what is chosen.

    Returns:
      The terms, each of the shape that the fields of `effects` and `setting` broadcast to.
    """
    constants, effects, setting = map(_floats, (constants, effects, setting))
    sides, gamma = _sides(constants, effects, setting), jnp.asarray(setting.step_size)
    noise, quantized = _noise(constants, effects, setting)
    terms = (
        2 * constants.gap / (gamma * setting.steps),
        gamma * noise,
        gamma * quantized,
        effects.phi * _client_sum(constants.moment, setting),
        (gamma * sides.drift) ** 2,
        sides.pruning**2,
        sides.disparity**2,
        sides.dropout**2,
        (sides.sampling + gamma * sides.slope) ** 2,
    )
    return Terms(*jnp.broadcast_arrays(*terms))


def steps_needed(
    constants: Constants, effects: Effects, setting: Setting, target: ArrayLike
) -> Array:
    """Exchanges after which the bound is at most `target`; infinite where it never is.

    Args:
      constants: as in `bound`.
      effects: as in `bound`.
      setting: as in `bound`; its `steps` is not read.
      target: squared gradient norm.
    """
    # The gap's term may be so large that the others vanish in a sum with it.
    floor = bound(constants._replace(gap=0.0), effects, setting._replace(steps=1.0)).total
    gap, gamma = _floats((constants.gap, setting.step_size))
    room = jnp.asarray(target, jnp.float32) - floor
    return jnp.where(room > 0, 2 * gap / gamma / jnp.where(room > 0, room, 1.0), jnp.inf)


def best_step_size(constants: Constants, effects: Effects, setting: Setting) -> Array:
    """The step size in (0, 1 / beta] with the least bound after the setting's number of steps.

    The bound is convex in gamma, so its derivative, of the sign of a cubic with one positive root,
    is bisected.

    Args:
      constants: as in `bound`.
      effects: as in `bound`.
      setting: as in `bound`; its `step_size` is not read.
    """
    constants, effects, setting = map(_floats, (constants, effects, setting))
    sides, linear = _sides(constants, effects, setting), sum(_noise(constants, effects, setting))
    rise = sides.drift + sides.slope
    level = sides.pruning + sides.disparity + sides.dropout + sides.sampling
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


class Verdict(enum.StrEnum):
    """What the bound says of a run."""

    HOLDS = "holds"
    VACUOUS = "vacuous"
    BROKEN = "assumption broken"
    DIVERGED = "diverged"


def verdict(total: float, average: float, largest: float, steepness: float) -> Verdict:
    """Puts a run in one of four classes.

    Args:
      total: the bound.
      average: measured mean of the squared gradient norm; not finite if the run diverged.
      largest: squared gradient norm seen.
      steepness: gamma * beta, the most seen.

    Returns:
      DIVERGED, or BROKEN where gamma * beta exceeds 1 or the average exceeds the bound (then some
      constant was larger than seen), or VACUOUS where the bound exceeds the largest squared norm
      seen, or HOLDS.
    """
    if not jnp.isfinite(average) or not jnp.isfinite(largest):
        return Verdict.DIVERGED
    if not (steepness <= 1 and average <= total):  # also where one of them is NaN
        return Verdict.BROKEN
    return Verdict.VACUOUS if total > largest else Verdict.HOLDS


def _floats(fields: Any) -> Any:
    """Numbers and arrays of any type as float32, which whole numbers of a setting fit."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), fields)


def _noise(constants: Constants, effects: Effects, setting: Setting) -> tuple[Array, Array]:
    """Noise of mini-batches and of quantizers, for gamma = 1."""
    scale = jnp.asarray(constants.beta) * setting.largest_weight
    thinner = 1.0 / jnp.square(jnp.asarray(effects.coverage))
    own = _client_sum(constants.variance, setting)
    batches = thinner * own + jnp.sum(constants.variance) - own
    quantized = thinner * effects.q * _client_sum(constants.moment, setting)
    return scale * batches, scale * quantized


class _Sides(NamedTuple):
    """Square roots of the biases; drift for gamma = 1, `slope` times gamma is part of sampling."""

    drift: Array
    pruning: Array
    disparity: Array
    dropout: Array
    sampling: Array
    slope: Array


def _sides(constants: Constants, effects: Effects, setting: Setting) -> _Sides:
    period, q = jnp.asarray(setting.period), jnp.asarray(effects.q)
    ages = (period - 1) / 2  # mean of the steps since the last aggregation
    squares = (period - 1) * (2 * period - 1) / 6  # and of their square
    moment = _client_sum(constants.moment, setting)
    variance = _client_sum(constants.variance, setting)
    expected = _client_sum(constants.expected, setting)
    direct = jnp.sqrt(squares * (1 + q) * moment)
    # Noise adds up as a random walk; only the expected gradient pulls one way.
    walk = jnp.sqrt(ages * (variance + q * moment)) + jnp.sqrt(squares * expected)
    absent = 1 - jnp.asarray(setting.participants) / setting.clients
    others = jnp.sum(constants.moment) - moment
    path = jnp.sqrt(squares * ((1 + q) * moment / effects.coverage + others))
    weight = _client_sum(constants.weight, setting)
    return _Sides(
        drift=jnp.asarray(constants.beta_drift) * jnp.minimum(direct, walk),
        pruning=jnp.asarray(constants.beta_pruning) * jnp.sqrt(effects.rho * weight),
        disparity=jnp.sqrt(effects.chi * moment),
        dropout=jnp.sqrt(effects.eps_d),
        sampling=jnp.sqrt(absent / setting.participants * constants.dissimilarity),
        slope=2 * absent * constants.beta_clients * path,
    )


def _client_sum(per_layer: Array, setting: Setting) -> Array:
    """Sum over the clients' layers of `per_layer[L]`, of the shape of the cut."""
    cut = jnp.asarray(setting.cut)[..., None]
    shape = (1,) * (cut.ndim - 1) + (-1,)
    layers = jnp.arange(len(per_layer), dtype=cut.dtype).reshape(shape)
    return jnp.sum(jnp.where(layers < cut, per_layer.reshape(shape), 0.0), axis=-1)


def _sum(arrays: Any) -> Array:
    return sum(arrays, start=jnp.zeros(()))
