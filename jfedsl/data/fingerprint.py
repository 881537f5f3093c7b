"""What tells a run's data from other data: sizes, label counts and checksums."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jfedsl.data.datasets import Dataset, Split, Stored
from jfedsl.data.partition import Shares

Fingerprint = Mapping[str, Any]  # as in fingerprint.json
_SPLITS = {"train": "training split", "test": "test split"}
_PIECE = 1 << 20  # entries hashed at once, so that no copy of all inputs is made
_BEGAN = "when the run began"


def fingerprint(dataset: Dataset, shares: Shares, plugins: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of a run's data and of the code that a user brought.

    Args:
      dataset: all of it, before a part is chosen.
      shares: index lists of the clients.
      plugins: checksums by name.

    Returns:
      Plain values. Images that are read only when they are needed have no checksum.
    """
    sizes = np.array([len(share) for share in shares])
    return {
        "train": _of_split(dataset.train, dataset.classes),
        "test": _of_split(dataset.test, dataset.classes),
        "partition": _checksum(np.concatenate([sizes, *shares])),
        "plugins": dict(plugins),
    }


def _of_split(split: Split, classes: int) -> dict[str, Any]:
    images = split.images
    stored = isinstance(images, Stored)
    return {
        "examples": len(split.labels),
        "inputs": f"{'uint8' if stored else images.dtype} {list(images.shape[1:])}",
        "label_counts": np.bincount(split.labels, minlength=classes).tolist(),
        "label_checksum": _checksum(split.labels),
        "input_checksum": None if stored else _checksum(images),
    }


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    checksum = 0
    for piece in np.array_split(array, max(1, array.size // _PIECE)):
        checksum = zlib.crc32(np.ascontiguousarray(piece).data, checksum)
    return checksum


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """What is not as it was, in words; nothing if it is. Plugins may have been added.

    Args:
      old: when the run began.
      new: now.
    """
    found = plugin_differences(old["plugins"], new["plugins"])
    for split, name in _SPLITS.items():
        what = _difference(old[split], new[split])
        found += [f"the {name} {what}"] if what else []
    if not found and old["partition"] != new["partition"]:
        found.append(f"clients have other examples than {_BEGAN}")
    return found


def plugin_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Which plugins are not as they were, in words, by checksums; some may have been added."""
    return [
        f"plugin {name} " + ("has changed" if name in new else f"was there {_BEGAN}")
        for name, checksum in old.items()
        if checksum not in new.values()
    ]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first thing that differs between two splits, the one that says most."""
    if old["examples"] != new["examples"]:
        return f"has {new['examples']} examples, {old['examples']} {_BEGAN}"
    if old["inputs"] != new["inputs"]:
        return f"has inputs {new['inputs']}, {old['inputs']} {_BEGAN}"
    before, now = old["label_counts"], new["label_counts"]
    if len(before) != len(now):
        return f"has {len(now)} classes, {len(before)} {_BEGAN}"
    for label, (was, count) in enumerate(zip(before, now, strict=True)):
        if was != count:
            return f"has {count} examples of class {label}, {was} {_BEGAN}"
    if old["label_checksum"] != new["label_checksum"]:
        return f"has its labels in another order than {_BEGAN}"
    sums = {old["input_checksum"], new["input_checksum"]} - {None}
    return f"has other inputs than {_BEGAN} (checksum)" if len(sums) > 1 else ""
