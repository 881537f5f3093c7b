"""The fingerprint of a run's data and task: sizes, label counts and checksums."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jfedsl.data.datasets import Dataset, Split
from jfedsl.data.partition import Shares
from jfedsl.data.stored import StoredImages

Fingerprint = Mapping[str, Any]  # the content of fingerprint.json
_SPLITS = {"train": "training split", "test": "test split"}
_PIECE = 1 << 20  # entries hashed at once, so that no copy of all inputs is made
_BEGAN = "when the run began"


def fingerprint(
    dataset: Dataset,
    shares: Shares,
    plugins: Mapping[str, str],
    task: Mapping[str, Any],
    frozen: Mapping[str, np.ndarray],
) -> Fingerprint:
    """The fingerprint of a run's data and of its plugins.

    Args:
      dataset: the whole data set, before a subset is chosen.
      shares: index lists of the clients, `[C][n_c]`, and of the validation set if there is one.
      plugins: checksums of the plugins' files, by name.
      task: what is recorded of the task.
      frozen: the model's frozen variables, by name.

    Returns:
      Plain values for JSON. Images that stay on disk have no checksum.
    """
    sizes = np.array([len(share) for share in shares])
    names = {"class_names": list(dataset.class_names)} if dataset.class_names else {}
    return {
        **names,
        "train": _of_split(dataset.train, dataset.classes),
        "test": _of_split(dataset.test, dataset.classes),
        "partition": _checksum(np.concatenate([sizes, *shares])),
        "plugins": dict(plugins),
        "task": dict(task),
        "frozen": {name: _checksum(array) for name, array in frozen.items()},
    }


def _of_split(split: Split, classes: int) -> dict[str, Any]:
    images, labels = split.images, split.labels
    is_stored, real = isinstance(images, StoredImages), labels.dtype.kind == "f"
    return {
        "examples": len(labels),
        "inputs": f"{'uint8' if is_stored else images.dtype} {list(images.shape[1:])}",
        # Real targets have no counts.
        "label_counts": [] if real else np.bincount(labels, minlength=classes).tolist(),
        "label_checksum": _checksum(labels),
        "input_checksum": None if is_stored else _checksum(images),
    }


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    checksum, array = 0, np.atleast_1d(array)
    for piece in np.array_split(array, max(1, array.size // _PIECE)):
        checksum = zlib.crc32(np.ascontiguousarray(piece).view(np.uint8).data, checksum)
    return checksum


def differences(old: Fingerprint, new: Fingerprint) -> list[str]:
    """Clauses on the differences between two fingerprints; none for a plugin that was added.

    Args:
      old: the fingerprint when the run began.
      new: the fingerprint now.
    """
    clauses = plugin_differences(old["plugins"], new["plugins"])
    if "task" in old and old["task"] != new["task"]:  # earlier builds did not record it
        clauses.append(f"the kind of targets or the metric is not that {_BEGAN}")
    if "frozen" in old and old["frozen"] != new["frozen"]:
        clauses.append(f"the model's frozen variables are not those {_BEGAN}")
    if old.get("class_names") != new.get("class_names"):
        clauses.append(f"classes have other names than {_BEGAN}")
    for split, name in _SPLITS.items():
        predicate = _difference(old[split], new[split])
        clauses += [f"the {name} {predicate}"] if predicate else []
    if not clauses and old["partition"] != new["partition"]:
        clauses.append(f"clients have other examples than {_BEGAN}")
    return clauses


def plugin_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Clauses on plugins that changed or are missing, from checksums by name."""
    return [
        f"plugin {name} " + ("has changed" if name in new else f"was there {_BEGAN}")
        for name, checksum in old.items()
        if checksum not in new.values()
    ]


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A predicate on the most telling difference between two splits; "" if they are the same."""
    if old["examples"] != new["examples"]:
        return f"has {new['examples']} examples, {old['examples']} {_BEGAN}"
    if old["inputs"] != new["inputs"]:
        return f"has inputs {new['inputs']}, {old['inputs']} {_BEGAN}"
    old_counts, new_counts = old["label_counts"], new["label_counts"]
    if len(old_counts) != len(new_counts):
        return f"has {len(new_counts)} classes, {len(old_counts)} {_BEGAN}"
    for label, (before, now) in enumerate(zip(old_counts, new_counts, strict=True)):
        if before != now:
            return f"has {now} examples of class {label}, {before} {_BEGAN}"
    if old["label_checksum"] != new["label_checksum"]:
        what = "its labels in another order" if old_counts else "other targets"
        return f"has {what} than {_BEGAN}"
    sums = {old["input_checksum"], new["input_checksum"]} - {None}
    return f"has other inputs than {_BEGAN} (checksum)" if len(sums) > 1 else ""
