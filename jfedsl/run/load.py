"""A trained model for predictions in Python, from the folder of a run or from an export."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.config import plugins
from jfedsl.errors import UserError
from jfedsl.files.paths import Name, local
from jfedsl.models import layers, tokens
from jfedsl.models.layers import Model, Variables
from jfedsl.models.registry import MODELS
from jfedsl.run.restore import fitted, is_export, restore_run, whole_of
from jfedsl.run.storage import export
from jfedsl.run.storage.task_record import read_record

_PIECE = 500  # examples at once
_SCALE = ("mean", "standard_deviation")


class Trained(NamedTuple):
    """A trained dense model, which prepares its inputs itself.

    Attributes:
      model: all layers, without their frozen variables.
      variables: their parameters, statistics and frozen variables.
      shape: shape of one input, without the axis of examples.
      mean: `[C]`, subtracted along the last axis; None if inputs are not normalised.
      std: `[C]`, by which inputs are divided then; None if they are not normalised.
      of_classes: whether outputs are logits, of classes or of the next token at each position
        `[N, T, V]`; else they are real numbers.
    """

    model: Model
    variables: Variables
    shape: tuple[int, ...]
    mean: np.ndarray | None
    std: np.ndarray | None
    of_classes: bool = True

    @jax.enable_x64(False)
    def logits(self, x: Any) -> np.ndarray:
        """Logits of inputs; outputs of a task of real numbers.

        Args:
          x: inputs `[N, ...]` as in the data set, such as uint8 images.

        Returns:
          float32 `[N, classes]`, or `[N, D]`.

        Raises:
          UserError: inputs have another shape, or are not numbers.
        """
        inputs = np.asarray(x)
        if inputs.shape[1:] != self.shape or not inputs.ndim or inputs.dtype.kind not in "buif":
            allowed = f"numbers [N, {', '.join(map(str, self.shape))}]"
            given = f"{inputs.dtype} {list(inputs.shape)}"
            raise UserError(f"inputs must be {allowed}, not {given}")
        pieces = np.split(inputs, range(_PIECE, len(inputs), _PIECE))
        logits = [_apply(self.model, self.variables, self._prepared(piece)) for piece in pieces]
        return np.concatenate([np.asarray(part) for part in logits])

    def predict(self, x: Any) -> np.ndarray:
        """Class of each input, int `[N]`, or its real numbers, float32 `[N, D]`.

        Where tokens are predicted, the next one of each, int `[N, T]`; at padding it means nothing.
        `x` is as for `logits`.
        """
        outputs = self.logits(x)
        return outputs.argmax(axis=-1) if self.of_classes else outputs

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        """As `Pixels.prepare`, in the precision of a data set of large numbers."""
        if self.mean is None or self.std is None:
            return x.astype(np.int32 if self.model[0].integer_inputs else np.float32)
        return ((x.astype(np.float64) - self.mean) / self.std).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Model, variables: Variables, x: Any) -> Any:
    """Outputs of prepared inputs; compiled once for each model and number of inputs."""
    model = layers.with_frozen(model, variables.frozen)
    return layers.apply(model, variables.params, variables.stats, x, False)[0]


@jax.enable_x64(False)
def load(folder: Name, data_dir: Name | None = None, plugin: Name = "") -> Trained:
    """The trained model of a run at its newest checkpoint, or of an export.

    Examples:
      >>> model = load("runs/first")  # doctest: +SKIP
      >>> model.predict(images)  # doctest: +SKIP

    Args:
      folder: workdir of a run, or an export.
      data_dir: folder of the run's data set, if that has moved. An export needs no data set.
      plugin: files or modules that add the user's model to the tables.

    Raises:
      UserError: the folder holds no run or export, or a damaged one, or the model is unknown.
    """
    folder = local("folder", folder)
    if not is_export(folder):
        run = restore_run(folder, data_dir, plugin, "folder")
        scale = run.experiment.scale or run.experiment.data.pixels
        mean, std = (None if x is None else np.asarray(x) for x in (scale.mean, scale.std))
        spec, shape = run.experiment.spec, run.experiment.image.shape
        of_classes = spec.task.of_classes or spec.task.of_tokens
        model = layers.without_frozen(spec.model)  # or programs would have their arrays built in
        return Trained(model, whole_of(run), shape, mean, std, of_classes)
    plugins.load(plugins.absolute(plugin))
    return _of_export(folder)


def _of_export(folder: Path) -> Trained:
    manifest = export.read_manifest(folder)
    try:
        if manifest.get("pretrained"):
            place = manifest["pretrained"]
            raise UserError(
                f"{folder}: of --pretrained={place}; load the folder of the run instead"
            )
        if manifest["model"] not in MODELS:
            known = f"{', '.join(MODELS)}; plugin=FILE adds one of your own"
            raise UserError(f"{folder}: of a model {manifest['model']!r}; known are {known}")
        facts = manifest["input"]
        shape = tuple(map(int, facts["shape"]))
        mean, std = [None if facts[k] is None else np.array(facts[k], np.float64) for k in _SCALE]
        model = MODELS[manifest["model"]].build(manifest["classes"], manifest["norm"])
        if facts.get("integer_inputs"):
            model = (tokens.with_integer_inputs(model[0]), *model[1:])
        key, zeros = jax.random.key(0), jnp.zeros((1, *shape))
        fresh = jax.eval_shape(lambda: layers.init(model, key, zeros))
        variables = fitted(export.read(folder), model, fresh)
        task = read_record(manifest)
        return Trained(model, variables, shape, mean, std, task.of_classes or task.of_tokens)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: not an export of this model ({error})") from error
