"""Another program: logits of an exported model from its manifest and arrays, with NumPy alone."""

from typing import Any

import numpy as np


def logits(manifest: dict[str, Any], arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """What the manifest says, in float64, of raw inputs `[N, ...]`."""
    facts, x = manifest["input"], x.astype(np.float64)
    if facts["mean"] is not None:
        x = (x - np.array(facts["mean"])) / np.array(facts["standard_deviation"])
    return run([step for layer in manifest["layers"] for step in layer["steps"]], arrays, x)


def run(steps: list[dict[str, Any]], arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    for step in steps:
        own = {name: arrays[place] for name, place in step.get("arrays", {}).items()}
        x = globals()[step["op"]](step, own, x, arrays)
    return x


def zero_pad(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return np.pad(x, [(0, 0), *step["padding"], (0, 0)])


def convolution(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    assert step["groups"] == 1
    assert step["kernel_dilation"] == step["input_dilation"] == [1, 1]
    kernel, (down, right) = own["kernel"], step["strides"]
    x = np.pad(x, [(0, 0), *step["padding"], (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
    y = np.einsum("bhwcij,ijco->bhwo", windows[:, ::down, ::right], kernel, optimize=True)
    return y + own.get("bias", 0)


def dense(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return x @ own["kernel"] + own.get("bias", 0)


def group_norm(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    parts = x.reshape(len(x), -1, step["groups"], x.shape[-1] // step["groups"])
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    y = (parts - mean) / np.sqrt(var + step["epsilon"])
    return y.reshape(x.shape) * own["scale"] + own["bias"]


def batch_norm(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    y = (x - own["mean"]) / np.sqrt(own["var"] + step["epsilon"])
    return y * own["scale"] + own["bias"]


def relu(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return np.maximum(x, 0)


def max_pool(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    assert step["window"] == step["strides"]
    (h, w), (rows, columns) = step["window"], x.shape[1:3]
    x = x[:, : rows // h * h, : columns // w * w]
    return x.reshape(len(x), rows // h, h, columns // w, w, -1).max((2, 4))


def mean(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return x.mean(tuple(step["axes"]))


def flatten(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return x.reshape(len(x), -1)


def residual(step: Any, own: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return run(step["main"], arrays, x) + run(step["shortcut"], arrays, x)
