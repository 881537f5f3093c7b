"""What is found out about a model once, and kept for later runs of it in one process."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

from jfedsl.models.frozen import Bound
from jfedsl.models.layers import Layer, Model

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_MODELS = 64


def kept(
    function: Callable[Concatenate[Model, _Arguments], _Result],
) -> Callable[Concatenate[Model, _Arguments], _Result]:
    """Keeps the results of a function of a model and of other hashable arguments.

    Nothing is kept for pretrained models and for models with frozen variables: their layers are new
    in every run, and hold large arrays.
    """
    cached = lru_cache(maxsize=_MODELS)(function)

    @wraps(function)
    def call(model: Model, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        if any(map(_holds_arrays, model)) or not _hashable(model):
            return function(model, *args, **kwargs)
        return cached(model, *args, **kwargs)  # type: ignore[arg-type]

    return call


def _holds_arrays(layer: Layer) -> bool:
    return layer.start is not None or isinstance(layer.apply, Bound)


def _hashable(model: Model) -> bool:
    """Whether a model can be a key: the functions of a user's layer may be objects of any kind."""
    try:
        hash(model)
    except TypeError:
        return False
    return True
