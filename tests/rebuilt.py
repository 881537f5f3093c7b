"""Logits of an exported model from its manifest and arrays, as another program computes them.

Uses NumPy alone. Each operation of a manifest is a function `(step, weights, x, arrays) -> y`.
"""

from typing import Any

import numpy as np


def logits(manifest: dict[str, Any], arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Logits `[N, classes]`, float64, of inputs `x[N, ...]` before normalisation."""
    facts, x = manifest["input"], x.astype(np.float64)
    if facts["mean"] is not None:
        x = (x - np.array(facts["mean"])) / np.array(facts["standard_deviation"])
    return run([step for layer in manifest["layers"] for step in layer["steps"]], arrays, x)


def run(steps: list[dict[str, Any]], arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    for step in steps:
        weights = {name: arrays[key] for name, key in step.get("arrays", {}).items()}
        x = globals()[step["op"]](step, weights, x, arrays)
    return x


def zero_pad(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return np.pad(x, [(0, 0), *step["padding"], (0, 0)])


def convolution(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    assert step["groups"] == 1
    assert step["kernel_dilation"] == step["input_dilation"] == [1, 1]
    kernel, (down, right) = weights["kernel"], step["strides"]
    x = np.pad(x, [(0, 0), *step["padding"], (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
    y = np.einsum("bhwcij,ijco->bhwo", windows[:, ::down, ::right], kernel, optimize=True)
    return y + weights.get("bias", 0)


def dense(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return x @ weights["kernel"] + weights.get("bias", 0)


def group_norm(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    parts = x.reshape(len(x), -1, step["groups"], x.shape[-1] // step["groups"])
    mean, var = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    y = (parts - mean) / np.sqrt(var + step["epsilon"])
    return y.reshape(x.shape) * weights["scale"] + weights["bias"]


def batch_norm(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    y = (x - weights["mean"]) / np.sqrt(weights["var"] + step["epsilon"])
    return y * weights["scale"] + weights["bias"]


def relu(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return np.maximum(x, 0)


def max_pool(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    assert step["window"] == step["strides"]
    (h, w), (rows, columns) = step["window"], x.shape[1:3]
    x = x[:, : rows // h * h, : columns // w * w]
    return x.reshape(len(x), rows // h, h, columns // w, w, -1).max((2, 4))


def mean(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return x.mean(tuple(step["axes"]))


def flatten(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return x.reshape(len(x), -1)


def residual(step: Any, weights: Any, x: np.ndarray, arrays: Any) -> np.ndarray:
    return run(step["main"], arrays, x) + run(step["shortcut"], arrays, x)
