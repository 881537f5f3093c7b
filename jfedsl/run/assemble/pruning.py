"""The pruner of a run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, shown
from jfedsl.config.titles import model_flag
from jfedsl.engine.participants import group_sizes
from jfedsl.engine.parts import tail_part
from jfedsl.engine.state import Client, RunSpec
from jfedsl.engine.traffic import smashed_shape, tail_input_shape
from jfedsl.errors import conflict, flag_error
from jfedsl.models import layers
from jfedsl.models.flops import product_flops
from jfedsl.models.kept import kept
from jfedsl.models.layers import Model, Params, Variables
from jfedsl.pruning import ladder as ladders
from jfedsl.pruning import narrow, policy, pruner
from jfedsl.pruning.adapter_ranks import rank_pruner
from jfedsl.pruning.auxiliary import with_auxiliary
from jfedsl.pruning.channels import channel_pruner
from jfedsl.pruning.plan import Plan, trace
from jfedsl.pruning.pruner import Pruner
from jfedsl.pruning.scores import SCORES
from jfedsl.pruning.weights import prunable, weight_pruner
from jfedsl.run.assemble.hardware import capacities_of
from jfedsl.run.assemble.pretrained import ClientAdapters
from jfedsl.run.storage.names import flatten


class Flops(NamedTuple):
    """FLOPs of a client's products in an exchange, forward and backward, for one example.

    Attributes:
      dense: without pruning.
      pruned: as clients compute at their final rates, mean over clients.
    """

    dense: int
    pruned: float


class Pruning(NamedTuple):
    """A pruner and what comes with it.

    Attributes:
      pruner: of the client-side layers.
      group_sizes: how many participants are of each of its groups.
      flops: of a client.
      sides: the client-side layers at the widths of each of its forwards.
      notes: what became of settings, a line each.
    """

    pruner: Pruner
    group_sizes: tuple[int, ...]
    flops: Flops
    sides: tuple[Model, ...]
    notes: list[str]


def build_pruner(
    config: Config, model: Model, cut: int, initial: Variables, image: tuple[int, ...],
    adapters: ClientAdapters | None,
) -> Pruning:  # fmt: skip
    """The pruner of the client-side layers that a config asks for.

    Args:
      config: all settings of the run.
      model: all layers.
      cut: how many of them are the clients'.
      initial: variables of the whole model.
      image: shape of an input.
      adapters: of clients; None where they have none.

    Raises:
      UserError: a ladder, rates or participants that cannot work.
    """
    if adapters is not None and len(set(adapters.ranks.tolist())) > 1:
        return _ranks(config, adapters, initial.params[:cut], image)
    side = model[:cut]
    if config.pruning == "channel":
        _check_frozen(config, side, initial)
        plan = _plan(config, side, image)
        if plan.sources:
            return _channels(config, plan, image)
    names = _prunable(model, cut, initial)
    sizes = (config.participants or config.clients,)
    dense = _flops(side, image)
    flops = Flops(dense, float(dense))
    if config.pruning == "mask" and names:
        rates = _requested(config)
        if config.prune_policy == "by_resource":
            rates = 1.0 - capacities_of(config)
        flags = prunable(initial.params[:cut], len(model))
        made = weight_pruner(
            side, flags, names, rates.tolist(), SCORES[config.prune_score], config.prune_scope,
            config.prune_ramp_rounds,
        )  # fmt: skip
        return Pruning(made, sizes, flops, (side,), [])
    notes = []
    if config.pruning != "none":
        notes.append(f"nothing is pruned: nothing can be in the layers up to {side[-1].name}")
    return Pruning(pruner.none(side, config.clients), sizes, flops, (side,), notes)


def _prunable(model: Model, cut: int, initial: Variables) -> dict[str, int]:
    """Weights of every prunable leaf by its name, which is the layer's where that says it."""
    client_params = initial.params[:cut]
    flags = prunable(client_params, len(model))
    sizes: dict[str, int] = {}
    for layer, params, flagged in zip(model[:cut], client_params, flags, strict=True):
        leaves, flagged = flatten(params), flatten(flagged)
        kernels = {k.removesuffix(".kernel"): w.size for k, w in leaves.items() if flagged[k]}
        alone = len(kernels) == 1
        sizes |= {layer.name if alone else f"{layer.name}.{k}": n for k, n in kernels.items()}
    return sizes


def _check_frozen(config: Config, side: Model, initial: Variables) -> None:
    """Refuses to remove channels of layers with frozen variables, which are as wide for all."""
    held = [layer.name for layer, frozen in zip(side, initial.frozen, strict=False) if frozen]
    if held:
        allowed = f"none or mask with {model_flag(config)}"
        reason = f"{held[0]} has frozen variables, which all clients share"
        raise flag_error("prune_kind", config.pruning, allowed, reason=reason)


def _plan(config: Config, side: Model, image: tuple[int, ...]) -> Plan:
    try:
        return trace(side, jax.ShapeDtypeStruct((config.batch_size, *image), jnp.float32))
    except ValueError as error:
        allowed = f"none or mask with {model_flag(config)}"
        raise flag_error("prune_kind", config.pruning, allowed, reason=str(error)) from None


def _channels(config: Config, plan: Plan, image: tuple[int, ...]) -> Pruning:
    ladder = sorted(config.prune_ladder, reverse=True)
    try:
        counts = ladders.keep_counts(ladder, plan.sources)
    except ValueError as error:
        allowed, text = "fractions that leave every layer a channel", shown(config.prune_ladder)
        raise flag_error("prune_ladder", text, allowed, reason=str(error)) from None
    dense = _flops(plan.model, image)
    sides = tuple(narrow.with_widths(plan, row) for row in counts.tolist())
    each = np.array([_flops(side, image) for side in sides])
    rates, notes = _requested(config), []
    if config.prune_policy == "by_resource":
        capacities = capacities_of(config)
        rates = policy.rates_within(capacities, ladder, (each / dense).tolist())
        slow, least = int(np.sum(capacities < each.min() / dense)), each.min() / dense
        if slow:
            notes.append(
                f"client_capacity: {slow} below {least:.3g} get the narrowest rung all the same"
            )
    made = channel_pruner(
        plan, rates.tolist(), ladder, SCORES[config.prune_score], config.prune_ramp_rounds,
        config.aggregate_every,
    )  # fmt: skip
    if len(made.groups) > 1 and ALGORITHMS[config.algorithm].equal_shapes:
        reason, other = "all clients need one width", f"--algorithm={config.algorithm}"
        raise conflict("prune_policy", config.prune_policy, other, reason)
    sizes = _group_sizes(config, made, "width")
    flops = Flops(dense, float(np.mean(each[ladders.nearest_rung(rates, ladder)])))
    return Pruning(made, sizes, flops, sides, notes + ladders.rung_lines(rates, ladder))


def _ranks(
    config: Config, adapters: ClientAdapters, shapes: Params, image: tuple[int, ...]
) -> Pruning:
    """Adapters whose ranks differ between clients."""
    ranks = sorted(set(adapters.ranks.tolist()))
    sides = tuple(adapters.side(rank) for rank in ranks)
    made = rank_pruner(sides, ranks, adapters.ranks, shapes)
    each = np.array([_flops(side, image) for side in sides])
    flops = Flops(int(each[-1]), float(np.mean(each[np.searchsorted(ranks, adapters.ranks)])))
    counts = (int(np.sum(adapters.ranks == rank)) for rank in ranks)
    pairs = (f"{count} of rank {rank}" for rank, count in zip(ranks, counts, strict=True))
    note = f"adapters of clients: {', '.join(pairs)}"
    return Pruning(made, _group_sizes(config, made, "rank"), flops, sides, [note])


def _group_sizes(config: Config, made: Pruner, what: str) -> tuple[int, ...]:
    """How many participants are of each group of clients of one width, or one rank."""
    participants = config.participants or config.clients
    try:
        return group_sizes([len(members) for members in made.groups], participants)
    except ValueError:
        allowed = f"at least {len(made.groups)} (one for each {what} that clients have)"
        raise flag_error("participants", participants, allowed) from None


def _requested(config: Config) -> np.ndarray:
    return np.broadcast_to(np.asarray(config.prune_rate, np.float64), config.clients)


@kept
def _flops(model: Model, image: tuple[int, ...], trained_input: bool = False) -> int:
    """Of the products of these layers in an exchange, for one example."""
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    shapes = jax.eval_shape(lambda x: layers.init(model, jax.random.key(0), x), x)
    return sum(map(sum, product_flops(model, shapes, image, trained_input)))


def with_tail(flops: Flops, spec: RunSpec, image: tuple[int, ...]) -> Flops:
    """FLOPs of a client's layers before the cut with those of its tail.

    Args:
      flops: of the layers before the cut.
      spec: functions and static numbers of the run.
      image: shape of an input.
    """
    if not spec.tail:
        return flops
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    before = jax.eval_shape(lambda x: layers.init(spec.model[: spec.cut], jax.random.key(0), x), x)
    smashed = smashed_shape(spec, before.params, before.stats, image)
    shape = tail_input_shape(spec, smashed).shape[1:]
    of_tail = _flops(tail_part(spec, spec.model), shape, trained_input=True)
    return Flops(flops.dense + of_tail, flops.pruned + of_tail)


def prune_before_cut(spec: RunSpec, client: Client) -> RunSpec:
    """The run with a pruner that leaves clients' layers behind the cut alone.

    Args:
      spec: with a pruner of the layers before the cut.
      client: of the run, arrays or shapes.
    """
    if len(client.params) == spec.cut:
        return spec
    behind = client.params[spec.cut :], client.stats[spec.cut :]
    return spec._replace(pruner=with_auxiliary(spec.pruner, spec.cut, *behind))
