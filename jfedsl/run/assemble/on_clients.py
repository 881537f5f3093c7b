"""Which layers of a model clients hold, as the algorithm and its flags have it."""

from typing import Any

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.errors import UserError, flag_error
from jfedsl.models.cut import cut_index
from jfedsl.models.layers import Model


def layers_of_clients(config: Config, model: Model, cut: str) -> tuple[int, int]:
    """How many of the first and of the last layers clients hold.

    Args:
      config: all settings of the run.
      model: all layers.
      cut: the last layer before the cut, as `--cut` names it.

    Raises:
      UserError: the model has no such cut, or the tail leaves the server no layer.
    """
    algorithm = ALGORITHMS[config.algorithm]
    try:
        first = algorithm.client_layers(len(model), cut_index(model, cut))
    except ValueError as error:
        raise UserError(f"--cut must be {error}") from None
    tail, most = algorithm.tail(options_of(config)), len(model) - first - 1
    if tail and tail > most:
        count = f"{most + 1} layer{'s' if most else ''} behind it"
        if most < 1:
            reason = f"it has {count}, and server and tail need one each"
            raise flag_error("cut", cut, "an earlier layer", reason=reason)
        allowed = f"at most {most}, which leaves the server a layer"
        raise flag_error("tail", tail, allowed, reason=f"--cut={cut} has {count}")
    return first, tail


def options_of(config: Config) -> dict[str, Any]:
    """The values of the algorithm's own flags; the defaults of those that a plugin declares."""
    options = ALGORITHMS[config.algorithm].options
    return {option.name: getattr(config, option.name, option.default) for option in options}
