"""The pruner of a run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config, shown
from jfedsl.config.titles import model_flag
from jfedsl.engine.participants import group_sizes
from jfedsl.engine.state import Client, RunSpec
from jfedsl.errors import conflict, flag_error
from jfedsl.models.layers import Model, Params, Variables
from jfedsl.pruning import ladder as ladders
from jfedsl.pruning import narrow, policy, pruner
from jfedsl.pruning.adapter_ranks import rank_pruner
from jfedsl.pruning.auxiliary import with_auxiliary
from jfedsl.pruning.channels import channel_pruner
from jfedsl.pruning.cuts import Cuts, with_cuts
from jfedsl.pruning.plan import Plan, trace
from jfedsl.pruning.pruner import Masks, Pruner
from jfedsl.pruning.scores import SCORES
from jfedsl.pruning.weights import prunable, weight_pruner
from jfedsl.run.assemble.client_flops import Flops, flops_of, mean_flops
from jfedsl.run.assemble.hardware import capacities_of
from jfedsl.run.assemble.on_clients import layout_of_cuts
from jfedsl.run.assemble.pretrained import ClientAdapters, Layers
from jfedsl.run.storage.names import flatten


class Pruning(NamedTuple):
    """A pruner and what comes with it.

    Attributes:
      pruner: of the client-side layers.
      cuts: where they differ between clients; else None.
      group_sizes: how many participants are of each of the pruner's groups.
      flops: of a client.
      sides: the client-side layers at the widths of each of its forwards.
      notes: what became of settings, a line each.
    """

    pruner: Pruner
    cuts: Cuts | None
    group_sizes: tuple[int, ...]
    flops: Flops
    sides: tuple[Model, ...]
    notes: list[str]


class _Made(NamedTuple):
    """A pruner of the layers before a cut, and these layers at the widths of its forwards."""

    pruner: Pruner
    sides: tuple[Model, ...]
    notes: list[str]
    groups_by: str = "width"  # what clients of one group have in common


def build_pruner(
    config: Config, chosen: Layers, initial: Variables, image: tuple[int, ...]
) -> Pruning:
    """The pruner of the client-side layers that a config asks for.

    Args:
      config: all settings of the run.
      chosen: all layers, and which of them clients hold.
      initial: variables of the whole model.
      image: shape of an input.

    Raises:
      UserError: a ladder, rates or participants that cannot work.
    """
    model, cut, cuts = chosen.model, chosen.cut, None
    if chosen.cuts is None:
        made = _made(config, chosen, cut, initial, image)
    else:
        made, cuts = _with_cuts(config, chosen, chosen.cuts, initial, image)
    groups, of_group = made.pruner.groups, (cut,) if cuts is None else cuts.of_group
    last = made.pruner.width_configs[made.pruner.config_of_round[-1]]
    return Pruning(
        made.pruner,
        cuts,
        _group_sizes(config, made),
        Flops(
            round(mean_flops([model[:c] for c in of_group], groups, image)),
            mean_flops([made.sides[i] for i in last], groups, image),
        ),
        made.sides,
        made.notes,
    )


def _made(
    config: Config, chosen: Layers, cut: int, initial: Variables, image: tuple[int, ...],
    rates: np.ndarray | None = None,
) -> _Made:  # fmt: skip
    """The pruner of the layers before a cut.

    Args:
      config: all settings of the run.
      chosen: all layers.
      cut: how many of them there are.
      initial: variables of the whole model.
      image: shape of an input.
      rates: of removed channels, of each client, where they are known already.
    """
    model, adapters = chosen.model, chosen.adapters
    if adapters is not None and len(set(adapters.ranks.tolist())) > 1:
        return _ranks(adapters, initial.params[:cut])
    side = model[:cut]
    if config.pruning == "channel":
        _check_frozen(config, side, initial)
        plan = _plan(config, side, image)
        if plan.sources or rates is not None:
            return _channels(config, plan, image, rates)
    flags = _prunable(config, model, cut, initial)
    names = _sizes(side, flags, initial)
    if config.pruning == "mask" and names:
        requested = _requested(config)
        if config.prune_policy == "by_resource":
            requested = 1.0 - capacities_of(config)
        made = weight_pruner(
            side, flags, names, requested.tolist(), SCORES[config.prune_score],
            config.prune_scope, config.prune_ramp_rounds,
        )  # fmt: skip
        return _Made(made, (side,), [])
    notes = []
    if config.pruning != "none":
        notes.append(f"nothing is pruned: nothing can be in the layers up to {side[-1].name}")
    return _Made(pruner.none(side, config.clients), (side,), notes)


def _with_cuts(
    config: Config, chosen: Layers, of_client: np.ndarray, initial: Variables,
    image: tuple[int, ...],
) -> tuple[_Made, Cuts]:  # fmt: skip
    """The pruner of clients with different cuts, `of_client[C]`."""
    model, last, rates = chosen.model, chosen.cut, None
    if config.pruning == "channel" and _plan(config, model[:last], image).sources:
        rates = _channel_rates(config, _plan(config, model[:last], image), image)[0]
    numbers = list(chosen.possible) or np.unique(of_client).tolist()
    made = {cut: _made(config, chosen, cut, initial, image, rates) for cut in numbers}
    pruners = {cut: entry.pruner for cut, entry in made.items()}
    if chosen.possible:
        _check_groups(config, len(numbers) * len(pruners[last].groups))

    def masks_before(masks: Masks, cut: int) -> Masks:
        if rates is not None:
            return masks[: len(pruners[cut].names)]
        return masks if masks is None else masks[:cut]

    shapes = Variables(initial.params[:last], initial.stats[:last])
    layout = layout_of_cuts(model, numbers, image)
    joined, cuts, pairs = with_cuts(pruners, masks_before, of_client, layout, shapes)
    sides = tuple(made[cut].sides[index] for index, cut in pairs)
    groups_by = "cut" if rates is None else "cut and width"
    return _Made(joined, sides, made[last].notes, groups_by), cuts


def _prunable(config: Config, model: Model, cut: int, initial: Variables) -> tuple[Any, ...]:
    """Which parameters before a cut may be pruned, by layer; none of personal layers."""
    flags = prunable(initial.params[:cut], len(model))
    return tuple(
        jax.tree.map(lambda _: False, flagged) if layer.name in config.personal else flagged
        for layer, flagged in zip(model[:cut], flags, strict=True)
    )


def _sizes(side: Model, flags: tuple[Any, ...], initial: Variables) -> dict[str, int]:
    """Weights of every prunable leaf by its name, which is the layer's where that says it."""
    sizes: dict[str, int] = {}
    for layer, params, flagged in zip(side, initial.params, flags, strict=False):
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


def _channel_rates(
    config: Config, plan: Plan, image: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """The rate of removed channels of each client `[C]`, and notes on it."""
    if config.prune_policy != "by_resource":
        return _requested(config), []
    ladder = sorted(config.prune_ladder, reverse=True)
    counts = _keep_counts(config, plan, ladder)
    each = np.array([flops_of(narrow.with_widths(plan, row), image) for row in counts.tolist()])
    share, capacities = each / flops_of(plan.model, image), capacities_of(config)
    slow, notes = int(np.sum(capacities < share.min())), []
    if slow:
        notes.append(
            f"client_capacity: {slow} below {share.min():.3g} get the narrowest rung all the same"
        )
    return policy.rates_within(capacities, ladder, share.tolist()), notes


def _keep_counts(config: Config, plan: Plan, ladder: Sequence[float]) -> np.ndarray:
    try:
        return ladders.keep_counts(ladder, plan.sources)
    except ValueError as error:
        allowed, text = "fractions that leave every layer a channel", shown(config.prune_ladder)
        raise flag_error("prune_ladder", text, allowed, reason=str(error)) from None


def _channels(
    config: Config, plan: Plan, image: tuple[int, ...], rates: np.ndarray | None
) -> _Made:
    ladder, notes = sorted(config.prune_ladder, reverse=True), list[str]()
    counts = _keep_counts(config, plan, ladder)
    sides = tuple(narrow.with_widths(plan, row) for row in counts.tolist())
    if rates is None:
        rates, notes = _channel_rates(config, plan, image)
    made = channel_pruner(
        plan, rates.tolist(), ladder, SCORES[config.prune_score], config.prune_ramp_rounds,
        config.aggregate_every,
    )  # fmt: skip
    if len(made.groups) > 1 and ALGORITHMS[config.algorithm].equal_shapes:
        reason, other = "all clients need one width", f"--algorithm={config.algorithm}"
        raise conflict("prune_policy", config.prune_policy, other, reason)
    return _Made(made, sides, notes + ladders.rung_lines(rates, ladder))


def _ranks(adapters: ClientAdapters, shapes: Params) -> _Made:
    """Adapters whose ranks differ between clients."""
    ranks = sorted(set(adapters.ranks.tolist()))
    sides = tuple(adapters.side(rank) for rank in ranks)
    made = rank_pruner(sides, ranks, adapters.ranks, shapes)
    counts = (int(np.sum(adapters.ranks == rank)) for rank in ranks)
    pairs = (f"{count} of rank {rank}" for rank, count in zip(ranks, counts, strict=True))
    return _Made(made, sides, [f"adapters of clients: {', '.join(pairs)}"], "rank")


def _check_groups(config: Config, groups: int) -> None:
    """Refuses participants that do not suffice for a client of each cut and width there may be."""
    participants, most = config.participants or config.clients, min(groups, config.clients)
    if participants < most:
        allowed = f"at least {most} (one for each cut and width that clients may have)"
        raise flag_error("participants", participants, allowed)


def _group_sizes(config: Config, made: _Made) -> tuple[int, ...]:
    """How many participants are of each of the pruner's groups."""
    participants, groups = config.participants or config.clients, made.pruner.groups
    try:
        return group_sizes([len(members) for members in groups], participants)
    except ValueError:
        allowed = f"at least {len(groups)} (one for each {made.groups_by} that clients have)"
        raise flag_error("participants", participants, allowed) from None


def _requested(config: Config) -> np.ndarray:
    return np.broadcast_to(np.asarray(config.prune_rate, np.float64), config.clients)


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
