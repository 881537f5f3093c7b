"""Layers with their frozen variables: a model's `apply` then only reads them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jfedsl.models.layers import Layer, Model


@dataclass(frozen=True, eq=False)
class Bound:
    """The `apply` of a layer with its frozen variables."""

    apply: Callable[..., tuple[Any, Any]]
    frozen: Any

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Arguments and results as `Layer.apply` says."""
        return self.apply(*args, frozen=self.frozen, **kwargs)


def bound(layer: "Layer", frozen: Any) -> "Layer":
    """The layer with its frozen variables, `{}` if it has none; they replace those of before."""
    if not frozen:
        return layer
    layer = unbound(layer)
    return layer._replace(apply=Bound(layer.apply, frozen))


def unbound(layer: "Layer") -> "Layer":
    """The layer without its frozen variables, which `apply` takes as `frozen=` again."""
    held = layer.apply
    return layer._replace(apply=held.apply) if isinstance(held, Bound) else layer


def with_frozen(model: "Model", frozen: Any) -> "Model":
    """The model with its frozen variables, which its `apply` then only reads.

    A vmap of `apply` gives them no axis, as they are no argument of it. A compiled program should
    have them among its own arguments, or they are built into it.
    """
    return tuple(bound(*pair) for pair in zip(model, frozen, strict=True)) if frozen else model


def without_frozen(model: "Model") -> "Model":
    """The model without its frozen variables, as it was before `with_frozen`."""
    return tuple(map(unbound, model))
