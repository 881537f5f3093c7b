"""Arrays by their path in a tree; entries that several parts save."""

import jax.numpy as jnp
import pytest

from jfedsl.run.storage.names import flatten, merged


def test_leaves_are_named_by_their_path() -> None:
    tree = {"clients": ({"w": jnp.ones(2)}, None), "round": jnp.zeros(())}
    assert list(flatten(tree)) == ["clients.0.w", "round"]
    assert flatten(tree)["clients.0.w"].shape == (2,)


def test_entries_with_one_name_are_refused() -> None:
    assert merged([{"a": 1}, {}, {"b": 2}]) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="save 'b' in a checkpoint"):
        merged([{"a": 1, "b": 2}, {"b": 2}])
