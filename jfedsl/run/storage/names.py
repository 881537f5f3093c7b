"""Arrays and plain values by name, as a checkpoint holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All entries of several mappings.

    Raises:
      ValueError: two of them have the same name.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        if clash := merged.keys() & part.keys():
            raise ValueError(f"two parts of a run save {min(clash)!r} in a checkpoint; rename one")
        merged |= part
    return merged


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their path in the tree, in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
