"""The pruner of a run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.config import Config, shown
from jfedsl.errors import UserError, flag_error
from jfedsl.models import layers
from jfedsl.models.flops import product_flops
from jfedsl.models.layers import Model, Variables
from jfedsl.protocol.participants import group_sizes
from jfedsl.pruning import ladder as ladders
from jfedsl.pruning import narrow, policy, pruner
from jfedsl.pruning.channels import channel_pruner
from jfedsl.pruning.narrow import Plan
from jfedsl.pruning.pruner import Pruner
from jfedsl.pruning.weights import weight_pruner
from jfedsl.runtime.checkpoint import flatten


class Pruning(NamedTuple):
    """A pruner, how many participants are of each of its groups, and what there is to say of it."""

    pruner: Pruner
    group_sizes: tuple[int, ...]
    notes: list[str]


def build_pruner(
    config: Config, model: Model, cut: int, initial: Variables, image: tuple[int, ...]
) -> Pruning:
    """The pruner of the client-side layers that a config asks for.

    Args:
      config: of the run.
      model: all layers.
      cut: how many of them are the clients'.
      initial: variables of the whole model.
      image: shape of an input.

    Raises:
      UserError: a ladder, rates or participants that cannot work.
    """
    side, participants = model[:cut], config.participants or config.clients
    if config.prune_kind == "channel":
        return _channels(config, side, image, participants)
    names = _prunable(model, cut, initial)
    if config.prune_kind == "none" or not names:
        return _nothing(config, side, participants)
    rates = _requested(config)
    if config.prune_policy == "by_resource":
        rates = 1.0 - _capacities(config)
    flags = layers.prunable(initial.params[:cut], len(model))
    made = weight_pruner(
        side, flags, names, rates.tolist(), config.prune_score, config.prune_scope,
        config.prune_ramp_rounds,
    )  # fmt: skip
    return Pruning(made, (participants,), [])


def _prunable(model: Model, cut: int, initial: Variables) -> dict[str, int]:
    """Weights of every prunable leaf by its name, which is the layer's where that says it."""
    own = initial.params[:cut]
    flags = layers.prunable(own, len(model))
    sizes: dict[str, int] = {}
    for layer, params, flagged in zip(model, own, flags, strict=False):
        leaves = {k: leaf.size for k, leaf in flatten(params).items() if flatten(flagged)[k]}
        if len(leaves) == 1:
            leaves = {"": sum(leaves.values())}
        sizes |= {
            f"{layer.name}.{k.removesuffix('.kernel')}".rstrip("."): n for k, n in leaves.items()
        }
    return sizes


def _nothing(config: Config, side: Model, participants: int) -> Pruning:
    notes = []
    if config.prune_kind != "none":
        notes.append(f"nothing to prune: the layers up to {side[-1].name} have nothing prunable")
    return Pruning(pruner.none(side, config.clients), (participants,), notes)


def _channels(config: Config, side: Model, image: tuple[int, ...], participants: int) -> Pruning:
    try:
        inputs = jax.ShapeDtypeStruct((config.batch_size, *image), jnp.float32)
        plan = narrow.trace(side, inputs)
    except ValueError as error:
        allowed = f"none or mask with --model={config.model}: {error}"
        raise flag_error("prune_kind", config.prune_kind, allowed) from None
    if not plan.sources:
        return _nothing(config, side, participants)
    ladder = sorted(config.prune_ladder, reverse=True)
    rates, notes = _requested(config), []
    try:
        counts = ladders.keep_counts(ladder, plan.sources)
        if config.prune_policy == "by_resource":
            arithmetic = relative_flops(plan, counts, image)
            capacities = _capacities(config)
            rates = policy.rates_within(capacities, ladder, arithmetic)
            slow = np.sum(capacities < min(arithmetic))
            if slow:
                notes.append(
                    f"client_capacity: {slow} clients below {min(arithmetic):.3g}, the arithmetic "
                    f"of the narrowest rung, compute longer than the others"
                )
        made = channel_pruner(
            plan, rates.tolist(), ladder, config.prune_score, config.prune_ramp_rounds,
            config.aggregate_every,
        )  # fmt: skip
    except ValueError as error:
        raise flag_error("prune_ladder", shown(config.prune_ladder), str(error)) from None
    try:
        sizes = group_sizes([len(members) for members in made.groups], participants)
    except ValueError:
        allowed = f"at least {len(made.groups)}, one for each width that clients have"
        raise flag_error("participants", participants, allowed) from None
    return Pruning(made, sizes, notes + ladders.report(rates, ladder))


def _requested(config: Config) -> np.ndarray:
    return np.broadcast_to(np.asarray(config.prune_rate, np.float64), config.clients)


def _capacities(config: Config) -> np.ndarray:
    found = policy.parse(config.client_capacity)
    if found is None:
        raise UserError(f"--client_capacity={config.client_capacity}")
    return found.spread(config.clients, config.seed)


def relative_flops(plan: Plan, counts: np.ndarray, image: tuple[int, ...]) -> list[float]:
    """FLOPs of the client side at each rung over those of the dense one.

    Args:
      plan: of the client-side layers.
      counts: channels at each rung, `[R, sources]`.
      image: shape of an input.
    """
    dense = [source.size for source in plan.sources]
    each = [sum(map(sum, _flops(plan, row, image))) for row in [dense, *counts.tolist()]]
    return [flops / each[0] for flops in each[1:]]


def _flops(plan: Plan, counts: list[int], image: tuple[int, ...]) -> list[tuple[int, int]]:
    model = narrow.resized(plan, counts)
    shapes = jax.eval_shape(
        lambda x: layers.init(model, jax.random.key(0), x), jnp.zeros((1, *image))
    )
    return product_flops(model, shapes.params, shapes.stats, image)
