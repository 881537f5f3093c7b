"""Clients with different cuts: each holds and computes the layers before its own.

Arrays are as for the last of the cuts, as those of pruned clients are as for all channels: the
layers that a client does not hold are masked, so that it neither steps on them nor sends them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jfedsl.models.layers import Frozen, Params, Stats, Variables
from jfedsl.pruning.pruner import ClientForward, Kept, Masks, Pruner, PruningState


class CutLayout(NamedTuple):
    """How activations at different cuts lie in arrays of one shape.

    As they are where all have one shape. Else flattened, those of fewer entries with zeros behind
    them, which are not sent.

    Attributes:
      shapes: by cut, of an example's activation.
    """

    shapes: Mapping[int, tuple[int, ...]]

    @property
    def is_flat(self) -> bool:
        """Whether activations are flattened."""
        return len(set(self.shapes.values())) > 1

    def size(self, cut: int) -> int:
        """Entries of an example's activation at a cut."""
        return math.prod(self.shapes[cut])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an example's activation in the common arrays."""
        if self.is_flat:
            return (max(map(self.size, self.shapes)),)
        return next(iter(self.shapes.values()))

    def only(self, cut: int) -> "CutLayout":
        """The layout of activations at one cut alone."""
        return CutLayout({cut: self.shapes[cut]})

    def join(self, values: Array) -> Array:
        """Activations `[B, ...]` at some cut in the common shape."""
        if not self.is_flat:
            return values
        flat = values.reshape(len(values), -1)
        return jnp.pad(flat, ((0, 0), (0, self.shape[0] - flat.shape[1])))

    def split(self, values: Array, cut: int) -> Array:
        """Activations at a cut `[n, ...]`, from the common shape."""
        if not self.is_flat:
            return values
        return values[:, : self.size(cut)].reshape(-1, *self.shapes[cut])

    def entries(self, cut: int, channels: Array | None) -> Array:
        """Which entries of the last axis of the common shape are of an activation, bools.

        Args:
          cut: that it is at.
          channels: which of its channels exist, bools; None: all.
        """
        shape = self.shapes[cut]
        if channels is None:
            channels = jnp.ones(shape[-1:], bool)
        if not self.is_flat:
            return channels
        there = jnp.broadcast_to(channels, shape).reshape(-1)
        return jnp.pad(there, (0, self.shape[0] - there.size))


class Cuts(NamedTuple):
    """Cuts that differ between clients.

    Attributes:
      of_group: how many of the first layers the clients of each of the pruner's groups run.
      layout: of the activations at all cuts that clients may have.
    """

    of_group: tuple[int, ...]
    layout: CutLayout

    @property
    def first(self) -> int:
        """The earliest cut that clients may have: the server has the layers behind it."""
        return min(self.layout.shapes)


class CutMasks(NamedTuple):
    """What a client has of the layers before the last cut.

    Attributes:
      pruned: masks of the pruner of all these layers.
      held: which of the layers the client holds, bool `[L_c]`.
    """

    pruned: Masks
    held: Array


# Of the masks for all layers before the last cut, those of the layers before another one.
MasksBefore = Callable[[Masks, int], Masks]


def with_cuts(
    pruners: Mapping[int, Pruner], masks_before: MasksBefore, of_client: np.ndarray,
    layout: CutLayout, shapes: Variables,
) -> tuple[Pruner, Cuts, list[tuple[int, int]]]:  # fmt: skip
    """The pruner of clients with different cuts, in groups of one cut and one forward.

    Layers are ranked as for the last cut: one that two clients hold is pruned alike on both.

    Args:
      pruners: by cut, of the layers before it; all with the same groups and width configs.
      masks_before: cuts masks of the layers before the last cut short.
      of_client: cut of each client, int `[C]`.
      layout: of their activations.
      shapes: of the variables of the layers before the last cut, arrays or shapes.

    Returns:
      The pruner, the cuts, and of each of its forwards the number among those of the pruners given
      and the cut.
    """
    cuts = sorted(pruners)
    last = pruners[cuts[-1]]
    number_of_cut = jnp.asarray(np.searchsorted(cuts, np.arange(cuts[-1] + 1)), jnp.int32)

    def masks(
        state: PruningState, params: Params, key: Array, round_: Array, client: Array
    ) -> CutMasks:
        held = jnp.arange(cuts[-1]) < jnp.asarray(of_client)[client]
        return CutMasks(last.masks(state, params, key, round_, client), held)

    def kept(masks: CutMasks) -> Kept:
        of_params, of_stats = last.kept(masks.pruned)
        return Kept(
            _of_layers(masks.held, shapes.params, of_params),
            _of_layers(masks.held, shapes.stats, of_stats),
        )

    def by_cut(masks: CutMasks, function: Callable[[int, Masks], Array]) -> Array:
        """What a function of a cut and the masks before it gives for the client's cut."""
        rows = [function(cut, masks_before(masks.pruned, cut)) for cut in cuts]
        return jnp.stack(rows)[number_of_cut[jnp.sum(masks.held)]]

    def entries(cut: int, masks: Masks) -> Array:
        return layout.entries(cut, pruners[cut].cut_channel_mask(masks))

    groups, of_group, rows = _groups(last, cuts, of_client)
    pairs = sorted({(index, cut) for row in rows for index, cut in zip(row, of_group, strict=True)})
    forwards = tuple(
        _before_cut(pruners[cut].forwards[index], cut, masks_before, layout) for index, cut in pairs
    )
    pruner = last._replace(
        update=lambda state, before, after, kept, rate: last.update(
            state, before, after, kept.pruned, rate
        ),
        masks=masks,
        kept=kept,
        cut_channel_mask=lambda masks: by_cut(masks, entries),
        prunable_masks=lambda masks: last.prunable_masks(masks.pruned),
        mask_bits=lambda masks: by_cut(masks, lambda cut, before: pruners[cut].mask_bits(before)),
        held=lambda masks: masks.held,
        forwards=forwards,
        groups=groups,
        width_configs=tuple(
            tuple(pairs.index(pair) for pair in zip(row, of_group, strict=True)) for row in rows
        ),
        mask_group=_mask_group(last, of_client),
    )
    return pruner, Cuts(of_group, layout), pairs


def _groups(
    pruner: Pruner, cuts: list[int], of_client: np.ndarray
) -> tuple[tuple[np.ndarray, ...], tuple[int, ...], list[tuple[int, ...]]]:
    """A pruner's groups divided by cut, the cut of each, and rows of width configs for them."""
    found = [
        (number, cut, members[of_client[members] == cut])
        for number, members in enumerate(pruner.groups)
        for cut in cuts
    ]
    filled = [entry for entry in found if entry[2].size]
    rows = [tuple(row[number] for number, _, _ in filled) for row in pruner.width_configs]
    return tuple(ids for _, _, ids in filled), tuple(cut for _, cut, _ in filled), rows


def _mask_group(pruner: Pruner, of_client: np.ndarray) -> np.ndarray | None:
    if pruner.mask_group is None:
        return None
    pairs = np.stack([pruner.mask_group, of_client], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _of_layers(held: Array, shapes: Any, kept: Any) -> Any:
    """Masks of the entries of each layer: those of `kept`, or all, of a layer that is held."""

    def entries(number: int, leaf: Any, mask: Array | None = None) -> Array:
        there = jnp.ones(leaf.shape, bool) if mask is None else mask
        return there & held[number]

    if kept is None:
        return tuple(
            jax.tree.map(lambda leaf, number=number: entries(number, leaf), layer)
            for number, layer in enumerate(shapes)
        )
    return tuple(
        jax.tree.map(lambda leaf, mask, number=number: entries(number, leaf, mask), layer, masks)
        for number, (layer, masks) in enumerate(zip(shapes, kept, strict=True))
    )


def in_layout(forward: ClientForward, layout: CutLayout) -> ClientForward:
    """The forward pass with the activation in the common shape."""

    def joined(
        params: Params, stats: Stats, masks: Masks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        y, moved = forward(params, stats, masks, x, train, dtype, frozen=frozen)
        return layout.join(y), moved

    return joined


def _before_cut(
    forward: ClientForward, cut: int, masks_before: MasksBefore, layout: CutLayout
) -> ClientForward:
    """The forward pass of the layers before a cut, given the variables of all before the last."""

    def first(
        params: Params, stats: Stats, masks: CutMasks, x: Array, train: bool, dtype: DTypeLike,
        frozen: Frozen = (),
    ) -> tuple[Array, Stats]:  # fmt: skip
        before = masks_before(masks.pruned, cut)
        y, moved = forward(params[:cut], stats[:cut], before, x, train, dtype, frozen=frozen[:cut])
        return y, moved + stats[cut:]

    return in_layout(first, layout)


def kept_of_held(pruner: Pruner, masks: Masks) -> Any:
    """What a client keeps of the layers that it holds, a tree of bools; True of other layers.

    Those are computed at the server, where nothing of them is pruned. None: everything.
    """
    kept, held = pruner.kept(masks).params, pruner.held(masks)
    if held is None:
        return kept
    pairs = zip(held, kept, strict=True)
    return tuple(jax.tree.map(lambda m, h=h: m | ~h, layer) for h, layer in pairs)
