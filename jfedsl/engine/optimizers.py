"""Optax optimizers whose learning rate follows the run's exchanges, and masked steps with them."""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jfedsl.models.layers import Params

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "linear", "cosine", "warmup_cosine")
WARMUP = 0.05


def schedule(name: str, peak: float, steps: int) -> optax.Schedule:
    """Learning rate against the number of exchanges since the start of the run.

    Args:
      name: one of `SCHEDULES`; all but constant end at 0; warmup_cosine first rises from 0 over a
        twentieth of the run.
      peak: the greatest learning rate.
      steps: exchanges of the whole run.
    """
    if name == "constant":
        return optax.constant_schedule(peak)
    if name == "linear":
        return optax.linear_schedule(peak, 0.0, steps)
    if name == "cosine":
        return optax.cosine_decay_schedule(peak, steps)
    warmup = max(1, round(WARMUP * steps))
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, max(steps, warmup + 1))


def build(name: str, rate: optax.Schedule, momentum: float, weight_decay: float) -> Optimizer:
    """An optimizer whose `update` also takes `step`, the number of exchanges before this one.

    A client's own count falls behind the run's when it is not drawn, hence the argument.

    Args:
      name: sgd or adam (weight decay is added to the gradient), adamw (decoupled).
      rate: learning rate by step.
      momentum: of sgd; the others ignore it.
      weight_decay: coefficient, on every parameter.
    """
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    if name == "sgd":
        parts = [*decay, *([optax.trace(momentum)] if momentum else [])]
    elif name == "adam":
        parts = [*decay, optax.scale_by_adam()]
    else:
        parts = [optax.scale_by_adam(), *decay]
    return optax.chain(*parts, _descend(rate))


def _descend(rate: optax.Schedule) -> Optimizer:
    def update(
        updates: Any, state: Any, params: Any = None, *, step: Array, **extra: Any
    ) -> tuple[Any, Any]:
        del params, extra
        scale = -jnp.asarray(rate(step), jnp.float32)
        return jax.tree.map(lambda u: scale * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def masked_step(
    optimizer: Optimizer, masks: Any, gradient: Any, state: Any, params: Params, step: Array
) -> tuple[Params, Any]:
    """One step on kept weights; pruned ones stay, and so do their moments. Step counts advance.

    Args:
      optimizer: from `build`.
      masks: bool tree like `params`, or None.
      gradient: tree like `params`.
      state: of the optimizer.
      params: dense parameters.
      step: int32 scalar.

    Returns:
      New parameters and state.
    """
    updates, moved = optimizer.update(gradient, state, params, step=step)
    if masks is None:
        return optax.apply_updates(params, updates), moved
    params = jax.tree.map(lambda m, w, u: jnp.where(m, w + u, w), masks, params, updates)
    kept = like_moments(optimizer, moved, masks, counts=True)
    return params, jax.tree.map(jnp.where, kept, moved, state)


def like_moments(optimizer: Optimizer, state: Any, tree: Any, counts: Any) -> Any:
    """An optimizer state with `tree` in place of every moment and `counts` for everything else.

    Args:
      optimizer: whose state it is.
      state: gives the structure.
      tree: like the parameters.
      counts: the value for step counts.
    """
    return optax.tree.map_params(
        optimizer, lambda _, leaf: leaf, state, tree, transform_non_params=lambda _: counts
    )
