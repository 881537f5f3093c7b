"""The layers of a run that fine-tunes a pretrained model, once it suits data, cut and adapters."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.adapters import Adapters, adapters_of, client_ranks, parse
from jfedsl.data.datasets import Dataset
from jfedsl.data.text.encoding import vocabulary_size
from jfedsl.engine.adapter_averaging import AdapterRule
from jfedsl.errors import UserError, flag_error
from jfedsl.models.layers import Model
from jfedsl.models.pretrained.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from jfedsl.models.transformers.adapter import ALL, Adapter
from jfedsl.models.transformers.architecture import Architecture
from jfedsl.models.transformers.model import ARCHITECTURES, DEFAULT_CUT, transformer
from jfedsl.run.assemble.cuts_by_resource import Links
from jfedsl.run.assemble.hardware import capacities_of
from jfedsl.run.assemble.on_clients import layers_of_clients


class ClientAdapters(NamedTuple):
    """The low-rank adapters of clients.

    Attributes:
      rule: how they are averaged.
      ranks: of each client, int `[C]`.
      side: `rank -> ` the client-side layers with adapters of that rank.
    """

    rule: AdapterRule
    ranks: np.ndarray
    side: Callable[[int], Model]


class Layers(NamedTuple):
    """The layers of a run.

    Attributes:
      model: all layers.
      cut: how many of them are before the cut.
      tail: how many of the last ones clients hold too.
      adapters: of clients; None where they have none.
      cuts: of each client, int `[C]`, where they differ or may change; else None.
      possible: the cuts that clients may have, ascending, the last of them being `cut`; () for
        those that they have.
      choose: from links to cuts of clients, where they may change; see `chooser`.
    """

    model: Model
    cut: int
    tail: int
    adapters: ClientAdapters | None = None
    cuts: np.ndarray | None = None
    possible: tuple[int, ...] = ()
    choose: Callable[[Links], np.ndarray] | None = None


def checkpoint_of(config: Config) -> Checkpoint | None:
    """The pretrained model that a config names; None if it names none.

    Raises:
      UserError: it cannot be read; the text says why and what to do.
    """
    if not config.pretrained:
        return None
    try:
        return open_checkpoint(config.pretrained)
    except CheckpointError as error:
        raise UserError(f"--pretrained={config.pretrained}: {error}") from error


def pretrained_model(
    config: Config, checkpoint: Checkpoint, dataset: Dataset, image: Array,
    chosen: np.ndarray | None = None,
) -> Layers:  # fmt: skip
    """The layers of a run that trains a pretrained model.

    Args:
      config: all settings of the run.
      checkpoint: the pretrained model.
      dataset: all examples of the run, texts as token ids.
      image: a sample input as the first layer is given it.
      chosen: cuts by resource that have been chosen already, int `[C]`.

    Raises:
      UserError: the model has no such cut or projection, or does not suit the data or the task.
    """
    predicts_tokens = dataset.token_ids is not None
    architecture = _architecture(config, checkpoint, predicts_tokens)
    _check_projections(config, architecture)
    _check_data(config, architecture, dataset, checkpoint.tokenizer)
    classes = None if predicts_tokens else dataset.classes
    adapters = adapters_of(config)
    read = checkpoint.read if checkpoint.names else None

    def layers(cut: int, tail: int, client: Adapter = adapters.client) -> Model:
        return transformer(architecture, classes, client, adapters.server, cut, read, tail)

    names = layers(0, 0)
    x = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    held = layers_of_clients(config, names, config.cut or DEFAULT_CUT, x, chosen)
    cut, tail = held.cut, held.tail
    _check_tail(names, tail, len(architecture.blocks), adapters.client)
    sides = partial(layers, cut, tail)
    if held.cuts is not None:  # factors are averaged apart, like all other weights
        return Layers(sides(), cut, tail, None, *held[2:])
    return Layers(sides(), cut, tail, _client_adapters(config, adapters, sides, cut))


def _check_tail(model: Model, tail: int, blocks: int, adapter: Adapter) -> None:
    """Refuses a tail with low-rank adapters, whose ranks and averages are those before the cut."""
    most = len(model) - 1 - blocks
    if tail > most and adapter.kind == "lora" and adapter.rank > 0:
        allowed = f"at most {most} with low-rank adapters on clients"
        raise flag_error("tail", tail, allowed, reason=f"{model[-tail].name} has some")


def _client_adapters(
    config: Config, adapters: Adapters, layers: Callable[[Adapter], Model], cut: int
) -> ClientAdapters | None:
    """What differs between the adapters of clients, and how they are averaged."""
    largest = adapters.client
    averaged = "aggregation" in ALGORITHMS[config.algorithm].uses
    has_any = largest.kind == "lora" and largest.rank > 0 and cut > 1  # the embedding has none
    if not averaged or not has_any:
        return None

    # All products have the scale alpha / R, so that factors of different ranks go together.
    scale = largest.alpha / largest.rank

    def side(rank: int) -> Model:
        return layers(largest._replace(rank=rank, alpha=scale * rank))[:cut]

    ranks = client_ranks(config, partial(capacities_of, config))
    rule = AdapterRule(config.adapter_averaging, scale, int(ranks.sum()))
    return ClientAdapters(rule, ranks, side)


def _architecture(config: Config, checkpoint: Checkpoint, predicts_tokens: bool) -> Architecture:
    try:
        made = ARCHITECTURES[checkpoint.architecture](checkpoint.config)
    except KeyError as error:
        raise UserError(f"--pretrained={config.pretrained}: config.json lacks {error}") from error
    except (ValueError, TypeError, ZeroDivisionError) as error:  # of sizes that are none
        raise UserError(f"--pretrained={config.pretrained}: config.json: {error}") from error
    if predicts_tokens and made.logits is None:
        allowed = f"classification with an encoder of {checkpoint.architecture}'s kind"
        raise flag_error("task", config.task, allowed)
    return made


def _check_projections(config: Config, architecture: Architecture) -> None:
    """Refuses an adapter on a projection that the blocks do not have."""
    names, architecture_name = architecture.shape.projections, f"--pretrained={config.pretrained}"
    for flag in ("adapter", "client_adapter"):
        adapter = parse(getattr(config, flag) or "none")
        assert adapter is not None  # the config has checked it
        lacking = [name for name in adapter.on if name not in (ALL, *names)]
        if lacking:
            allowed = f"on {'+'.join(names)} or {ALL} with {architecture_name}"
            reason = f"there is no projection {lacking[0]}"
            raise flag_error(flag, getattr(config, flag), allowed, reason=reason)


def _check_data(
    config: Config, architecture: Architecture, dataset: Dataset, tokenizer: str | None
) -> None:
    """Refuses inputs that the first layer cannot take."""
    inputs, place = dataset.train.images, f"--pretrained={config.pretrained}"
    if not architecture.vocabulary:
        if dataset.integer_inputs:
            raise UserError(f"{place} takes images, and --dataset={config.dataset} has token ids")
        return
    if not dataset.integer_inputs or inputs.ndim != 2:
        reason = f"--dataset={config.dataset} has inputs {list(inputs.shape[1:])}"
        raise UserError(f"{place} takes texts or token ids [T], and {reason}")
    if tokenizer is not None and vocabulary_size(tokenizer) > architecture.vocabulary:
        rows = f"its embedding {architecture.vocabulary} rows"
        raise UserError(
            f"{place}: its tokenizer has {vocabulary_size(tokenizer)} tokens, and {rows}"
        )
    if inputs.shape[1] > architecture.positions:
        allowed = f"at most {architecture.positions}, the positions of {place}"
        raise flag_error("tokens", inputs.shape[1], allowed)
    largest = max(int(np.max(split.images)) for split in (dataset.train, dataset.test))
    if largest >= architecture.vocabulary:
        reason = f"--dataset={config.dataset} has ids up to {largest}"
        raise UserError(f"{place} has {architecture.vocabulary} token ids from 0, and {reason}")
