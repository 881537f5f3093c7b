"""Which layers of a model clients hold, as the algorithm and its flags have it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.algorithms.registry import ALGORITHMS
from jfedsl.config import Config
from jfedsl.config.cuts import CutText, parse
from jfedsl.errors import UserError, flag_error
from jfedsl.models.cut import cut_index
from jfedsl.models.layers import Model
from jfedsl.models.shapes import output_of, variables_of
from jfedsl.per_client import PerClient
from jfedsl.pruning.cuts import CutLayout
from jfedsl.run.assemble.cuts_by_resource import Links, chooser, links_of


class OnClients(NamedTuple):
    """Which layers clients hold.

    Attributes:
      cut: how many of the first ones; where that differs, the most.
      tail: how many of the last ones.
      cuts: how many of the first ones each client holds, int `[C]`; None where all hold as many.
      possible: the cuts that clients may have in this run, ascending; () for those that they have.
      choose: from links to cuts of clients, where they may change; see `chooser`.
    """

    cut: int
    tail: int
    cuts: np.ndarray | None = None
    possible: tuple[int, ...] = ()
    choose: Callable[[Links], np.ndarray] | None = None


def layers_of_clients(
    config: Config, model: Model, cut: str, x: jax.ShapeDtypeStruct,
    chosen: np.ndarray | None = None,
) -> OnClients:  # fmt: skip
    """How many of the first and of the last layers clients hold.

    Args:
      config: all settings of the run.
      model: all layers.
      cut: the last layer before the cut, as `--cut` names it.
      x: an input, `[1, ...]`.
      chosen: cuts by resource that have been chosen already, int `[C]`.

    Raises:
      UserError: the model has no such cut, the tail leaves the server no layer, or clients cannot
        have these cuts.
    """
    text = parse(cut)
    if text.differs:
        return _with_cuts(config, model, text, x, chosen)
    algorithm = ALGORITHMS[config.algorithm]
    first = algorithm.client_layers(len(model), _index(model, cut))
    tail, most = algorithm.tail(options_of(config)), len(model) - first - 1
    if tail and tail > most:
        count = f"{most + 1} layer{'s' if most else ''} behind it"
        if most < 1:
            reason = f"it has {count}, and server and tail need one each"
            raise flag_error("cut", cut, "an earlier layer", reason=reason)
        allowed = f"at most {most}, which leaves the server a layer"
        raise flag_error("tail", tail, allowed, reason=f"--cut={cut} has {count}")
    return OnClients(first, tail)


def _index(model: Model, cut: str) -> int:
    try:
        return cut_index(model, cut)
    except ValueError as error:
        raise UserError(f"--cut must be {error}") from None


def _with_cuts(
    config: Config, model: Model, text: CutText, x: jax.ShapeDtypeStruct,
    chosen: np.ndarray | None,
) -> OnClients:  # fmt: skip
    """Cuts that may differ between clients."""
    given = [_index(model, name) for name in text.names]
    if text.is_range and given[0] > given[1]:
        allowed = "a range from an earlier layer to a later one"
        raise flag_error("cut", text, allowed)
    possible: tuple[int, ...] = ()
    choose = None
    if text.by_resource:
        possible = _possible(model, given or [1, len(model) - 1], x)
        choose = chooser(config, model, possible, x)
        cuts = choose(links_of(config)) if chosen is None else chosen
    elif text.is_range:
        even = PerClient(tuple(map(float, given)), is_range=True)
        cuts = np.rint(even.spread(config.clients, config.device_seed)).astype(int)
    else:
        cuts = np.asarray(given)
    changes = config.replan_every is not None
    numbers = possible if changes else tuple(np.unique(cuts).tolist())
    lacking = _lacks(model, numbers, x)
    if lacking is not None:
        raise flag_error("cut", text, "layers that all clients can be cut behind", reason=lacking)
    _check_compressors(config, layout_of_cuts(model, numbers, x.shape[1:]))
    if changes:
        return OnClients(numbers[-1], 0, cuts, numbers, choose)
    return OnClients(numbers[-1], 0, cuts if len(numbers) > 1 else None)


def _check_compressors(config: Config, layout: CutLayout) -> None:
    """Refuses compressors of channels where activations of several shapes lie flattened."""
    if not layout.is_flat:
        return
    for flag in ("smashed", "cut_gradient"):
        for call in config.compressors.get(flag, ()):
            if call.name == "splitfc" or call.arguments.get("unit") == "channel":
                shapes = [list(shape) for shape in layout.shapes.values()]
                allowed = f"without compressors of channels with --cut={config.cut}"
                reason = f"activations are of the shapes {', '.join(map(str, shapes))}"
                raise flag_error(flag, config.expressions[flag], allowed, reason=reason)


def _possible(model: Model, ends: Sequence[int], x: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The cuts from one to another that clients can have, behind the first that they can have."""
    possible: list[int] = []
    for cut in range(ends[0], ends[-1] + 1):
        if _lacks(model, [*possible[:1], cut], x) is None:
            possible.append(cut)
    if not possible:
        names, reason = [model[cut - 1].name for cut in ends], _lacks(model, [ends[-1]], x) or ""
        allowed = "a range with a layer that clients can be cut behind"
        raise flag_error("cut", "-".join(names), allowed, reason=reason)
    return tuple(possible)


def _lacks(model: Model, cuts: Sequence[int], x: jax.ShapeDtypeStruct) -> str | None:
    """Why clients cannot have these cuts; None if they can."""
    for cut in cuts:
        if not jax.tree.leaves(variables_of(model[:cut], x).params):
            return f"no layer up to {model[cut - 1].name} has parameters to train"
    layout = layout_of_cuts(model, cuts, x.shape[1:])
    if model[0].lengths is not None and layout.is_flat:
        shapes = [list(layout.shapes[cut]) for cut in (min(cuts), max(cuts))]
        return f"padded sequences need one shape at all cuts, not {shapes[0]} and {shapes[1]}"
    return None


def layout_of_cuts(model: Model, cuts: Sequence[int], image: tuple[int, ...]) -> CutLayout:
    """How the activations at some cuts lie in arrays.

    Args:
      model: all layers.
      cuts: numbers of client-side layers.
      image: shape of an input.
    """
    x = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    return CutLayout({cut: output_of(model[:cut], x).shape[1:] for cut in cuts})


def options_of(config: Config) -> dict[str, Any]:
    """The values of the algorithm's own flags; the defaults of those that a plugin declares."""
    options = ALGORITHMS[config.algorithm].options
    return {option.name: getattr(config, option.name, option.default) for option in options}
