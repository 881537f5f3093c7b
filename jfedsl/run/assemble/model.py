"""The model of a run with its initial variables, once it suits the data."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax import Array

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.data.datasets import Dataset
from jfedsl.engine.initial import initial_variables
from jfedsl.errors import UserError, flag_error, one_line
from jfedsl.models import layers, tokens, trial
from jfedsl.models.layers import Model, Variables
from jfedsl.models.pretrained.checkpoint import Checkpoint, CheckpointError
from jfedsl.models.registry import MODELS, ModelEntry
from jfedsl.run.assemble.on_clients import layers_of_clients
from jfedsl.run.assemble.pretrained import Layers, pretrained_model


def model_of(
    config: Config, dataset: Dataset, checkpoint: Checkpoint | None, image: Array,
    chosen: np.ndarray | None = None,
) -> Layers:  # fmt: skip
    """The layers of a run, and which of them clients hold.

    Args:
      config: all settings of the run.
      dataset: all examples of the run.
      checkpoint: the pretrained model, None without one.
      image: a sample input as the first layer is given it.
      chosen: cuts by resource that have been chosen already, int `[C]`.

    Raises:
      UserError: the model has no such cut or tail, or a pretrained one does not suit the data.
    """
    if checkpoint is not None:
        return pretrained_model(config, checkpoint, dataset, image, chosen)
    entry = MODELS[config.model]
    settings = dataset.outputs, config.norm
    model = _layers(entry, *settings) if entry.checked else entry.build(*settings)
    if dataset.integer_inputs:
        model = (tokens.with_integer_inputs(model[0]), *model[1:])
    cut = entry.default_cut if config.cut is None else config.cut
    x = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    try:
        held = layers_of_clients(config, model, cut, x, chosen)
    except UserError:
        raise
    except (ValueError, FlaxError) as error:
        raise _unsuited(config, image, dataset, error) from error
    return Layers(model, held.cut, held.tail, None, *held[2:])


@lru_cache(maxsize=64)
def _layers(entry: ModelEntry, outputs: int, norm: str) -> Model:
    """The layers of a built-in model, the same for every run: what is found out of them is kept."""
    return entry.build(outputs, norm)


def initial_of(
    config: Config, chosen: Layers, key: Array, image: Array, dataset: Dataset
) -> tuple[Variables, int]:
    """Initial variables, if the model can take such inputs and its outputs suit the targets.

    Args:
      config: all settings of the run.
      chosen: all layers, and who holds which.
      key: run key.
      image: a sample input as the first layer is given it.
      dataset: all examples of the run.

    Returns:
      The variables, and the width of the outputs: how many classes, numbers or token ids.

    Raises:
      UserError: names the model or the batch size and what is wrong with it.
    """
    model, cut = chosen.model, chosen.cut

    def run(variables: Variables) -> Array:
        (params, stats, frozen), x = variables, image[None]
        held = layers.with_frozen(model, frozen)
        lengths = layers.lengths_of(held, x)
        x, _ = layers.apply(held[:cut], params[:cut], stats[:cut], x, True)
        return layers.apply(held[cut:], params[cut:], stats[cut:], x, True, lengths=lengths)[0]

    try:
        initial = initial_variables(model, key, image)
        outputs = jax.eval_shape(run, initial)
    except CheckpointError as error:
        raise UserError(f"--pretrained={config.pretrained}: {error}") from error
    except (ValueError, FlaxError) as error:
        raise _unsuited(config, image, dataset, error) from error
    _check_outputs(config, model, outputs.shape, dataset)
    if jax.tree.leaves(initial.stats):
        _check_batches(config, chosen, initial, image.shape)
    return initial, outputs.shape[-1]


def _check_outputs(config: Config, model: Model, shape: tuple[int, ...], dataset: Dataset) -> None:
    """Refuses a model whose outputs `[1, ...]` are not those of the targets."""
    width, reason = dataset.outputs, f"those of this one have {list(shape)}"
    if dataset.token_ids is None:
        suits, allowed = shape == (1, width), f"[B, {width}]"
    else:
        positions = dataset.train.images.shape[1]
        suits = len(shape) == 3 and shape[1] == positions and shape[2] >= width
        allowed = f"[B, {positions}, {width} or more] with --task={config.task}"
    flag = "pretrained" if config.pretrained else "model"
    if not suits:
        allowed = f"a model whose outputs have the shape {allowed}"
        raise flag_error(flag, getattr(config, flag), allowed, reason=reason)
    if dataset.token_ids is not None and model[0].lengths is None:
        allowed = "a model for padded sequences"
        how = "models.tokens.padded(...) makes its first layer give them"
        reason = f"--task={config.task} needs the lengths of texts; {how}"
        raise flag_error(flag, getattr(config, flag), allowed, reason=reason)


_AS_THEY_ARE = "a data set of from_arrays(..., normalise=False) leaves whole numbers as they are"


def _unsuited(config: Config, image: Array, dataset: Dataset, error: Exception) -> UserError:
    reason = one_line(str(error)).rstrip(".")
    if "must be an integer" in reason and not dataset.integer_inputs:  # as nn.Embed says
        reason += f"; {_AS_THEY_ARE}"
    allowed = f"a model for inputs {list(image.shape)}"
    flag = "pretrained" if config.pretrained else "model"
    return flag_error(flag, getattr(config, flag), allowed, reason=reason)


def check_examples(
    config: Config, model: Model, initial: Variables, examples: Array, dataset: Dataset
) -> None:
    """Refuses a model that mixes the examples of a batch, or rounds what is normalised.

    Args:
      config: all settings of the run.
      model: all layers.
      initial: variables of every layer.
      examples: two inputs `[2, ...]` as the first layer is given them.
      dataset: all examples of the run.

    Raises:
      UserError: names the model, the data set and what to do.
    """
    inputs = f"inputs {list(examples.shape[1:])} of --dataset={config.dataset}"
    try:
        name = trial.first_mixing_layer(model, initial, examples)
        rounded = dataset.normalise and trial.rounds_inputs(model, initial, examples)
    except (ValueError, TypeError, FlaxError) as error:
        raise _unsuited(config, examples[0], dataset, error) from error
    if name is not None:
        allowed = "a model that keeps the examples of a batch apart"
        reason = (
            f"{name} mixes {inputs}; images without channels need an axis for them: x[..., None]"
        )
        raise flag_error("model", config.model, allowed, reason=reason)
    if rounded:
        reason = f"it rounds {inputs}, which are normalised; {_AS_THEY_ARE}"
        raise flag_error("model", config.model, "a model for real numbers", reason=reason)


def _check_batches(
    config: Config, chosen: Layers, initial: Variables, image: tuple[int, ...]
) -> None:
    """Refuses a batch in which batch norm has one value a channel: it makes 0 of any."""
    params, stats, frozen = initial
    model = layers.with_frozen(chosen.model, frozen)
    participants = config.participants or config.clients
    together = config.batch_size * ALGORITHMS[config.algorithm].server_batch(participants)
    ends, shape = (chosen.cut, len(model) - chosen.tail, len(model)), image
    batches, start = (config.batch_size, together, config.batch_size), 0
    for end, rows in zip(ends, batches, strict=True):
        part, batch = slice(start, end), jax.ShapeDtypeStruct((rows, *shape), jnp.float32)
        name, output = trial.layer_with_single_values(model[part], params[part], stats[part], batch)
        if name is not None:
            break
        start, shape = end, output.shape[1:]
    if name is not None:
        reason = f"the batch norm of {name} has one value a channel, whose variance is 0"
        raise flag_error("batch_size", config.batch_size, "2 or more", reason=reason)
