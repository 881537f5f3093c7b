"""Scores of a run's joined model, class by class, of real targets, or of predicted tokens."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jfedsl.engine.evaluation_set import TestSet
from jfedsl.engine.task import NO_TOKEN, perplexity, token_accuracy, token_cross_entropy
from jfedsl.models import layers
from jfedsl.models.layers import Variables
from jfedsl.run.restore import Run, whole_of

MOST_CLASSES = 1000  # of a confusion matrix
_MOST_LISTED = 20  # classes in a table


def outputs_of(
    run: Run, test: TestSet, of: Callable[[Array, Array], Array] = lambda outputs, targets: outputs
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the joined model without masks, and targets.

    Args:
      run: at a checkpoint.
      test: examples.
      of: what to return of outputs `[B, D]` and their targets, with the same first axis.

    Returns:
      float32 `[N, D]`; and classes int32 `[N]` or real numbers float32 `[N, D]`, of the N examples.
    """
    spec, pixels = run.experiment.spec, run.experiment.data.pixels

    @run.experiment.jit  # arrays are arguments, so that none is built into the program
    def run_model(variables: Variables, test: TestSet) -> Array:
        model = layers.with_frozen(spec.model, variables.frozen)

        def batch(one: TestSet) -> Array:
            x = pixels.prepare(one.images)
            params, stats = variables.params, variables.stats
            return of(layers.apply(model, params, stats, x, False, spec.dtype)[0], one.labels)

        return lax.map(batch, test)

    outputs = np.asarray(run_model(whole_of(run), test))
    valid = np.asarray(test.valid)
    return outputs[valid], np.asarray(test.labels)[valid]


def predicted_of(run: Run, test: TestSet) -> tuple[np.ndarray, np.ndarray]:
    """Classes that the joined model without masks predicts, and true classes, int32 `[N]` each."""
    return outputs_of(run, test, lambda outputs, targets: jnp.argmax(outputs, axis=-1))


def confusion_of(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Examples by true class and predicted class, int `[classes, classes]`."""
    pairs = np.bincount(labels * classes + predicted, minlength=classes**2)
    return pairs.reshape(classes, classes)


def of_classes(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Scores of predicted classes.

    >>> scores = of_classes(np.array([0, 1, 1]), np.array([0, 0, 1]), classes=2)
    >>> scores["balanced_accuracy"], scores["confusion"]
    (0.75, [[1, 1], [0, 1]])

    Args:
      predicted: classes `[N]`.
      labels: true classes `[N]`.
      classes: number of classes.

    Returns:
      Plain values: balanced_accuracy, the mean recall of the classes that have test examples;
      macro_f1, the mean F1 of the classes that occur; recall, precision and f1 of each class, 0
      where it is undefined; and confusion, counts by true class and predicted class.
    """
    from sklearn import metrics  # here, as it takes long to import

    def mean(score: Any, of: np.ndarray) -> float:
        value = score(labels, predicted, labels=of, average="macro", zero_division=0)
        return float(value)

    every = np.arange(classes)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    return {
        "balanced_accuracy": mean(metrics.recall_score, np.unique(labels)),
        "macro_f1": mean(metrics.f1_score, np.union1d(labels, predicted)),
        "recall": recall.tolist(),
        "precision": precision.tolist(),
        "f1": f1.tolist(),
        "confusion": confusion_of(predicted, labels, classes).tolist(),
    }


def of_numbers(outputs: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Scores of real outputs `[N, D]` against targets `[N, D]`.

    Returns:
      Plain values: mean_squared_error, and r2, the mean over the D numbers of the explained
      fraction of the variance; None with fewer than two test examples.
    """
    from sklearn import metrics  # here, as it takes long to import

    r2 = float(metrics.r2_score(targets, outputs)) if len(targets) > 1 else None
    return {"mean_squared_error": float(np.mean(np.square(outputs - targets))), "r2": r2}


def of_tokens(run: Run, test: TestSet) -> dict[str, Any]:
    """Scores of predicted tokens.

    Returns:
      Plain values: predicted_tokens, their number; token_accuracy, the share of them with the
      greatest logit; perplexity; and bits_per_byte, None where the data set does not say how many
      bytes tokens stand for.
    """

    def of(outputs: Array, targets: Array) -> Array:
        values = token_accuracy(outputs, targets), token_cross_entropy(outputs, targets)
        return jnp.stack(values, axis=-1)

    means, targets = outputs_of(run, test, of)
    counts = np.sum(targets != NO_TOKEN, axis=1)
    right, nats = counts @ means.astype(np.float64)
    tokens = int(counts.sum())
    text = None if test.byte_counts is None else int(np.sum(test.byte_counts))
    return {
        "predicted_tokens": tokens,
        "token_accuracy": float(right / tokens),
        "perplexity": float(perplexity(jnp.float32(nats / tokens))),
        "bits_per_byte": None if text is None else float(nats / math.log(2) / text),
    }


def scores_of(run: Run, test: TestSet) -> dict[str, Any]:
    """The scores of a run's joined model without masks on examples, by the kind of its task."""
    task = run.experiment.spec.task
    if task.of_tokens:
        return of_tokens(run, test)
    if not task.of_classes:
        return of_numbers(*outputs_of(run, test))
    return of_classes(*predicted_of(run, test), run.experiment.spec.classes)


def lines_of(scores: dict[str, Any], names: Sequence[str], split: str = "test") -> list[str]:
    """Lines of a table.

    Args:
      scores: of `of_classes`, `of_numbers` or `of_tokens`.
      names: name of each class; empty for their numbers.
      split: that they are of.
    """
    if "perplexity" in scores:
        known = {name: value for name, value in scores.items() if value is not None}
        digits = {
            name: ",.4f" if isinstance(value, float) else "," for name, value in known.items()
        }
        words = {name: f"  {name.replace('_', ' ')}" for name in known}
        return ["joined model", *(f"{words[n]:<28}{v:{digits[n]}}" for n, v in known.items())]
    if "confusion" not in scores:
        r2 = "unknown" if scores["r2"] is None else f"{scores['r2']:.4f}"
        error = f"{scores['mean_squared_error']:.4f}"
        return ["joined model", f"{'  mean squared error':<28}{error}", f"{'  R2':<28}{r2}"]
    lines = [
        "joined model",
        f"{'  balanced accuracy':<28}{scores['balanced_accuracy']:.4f}",
        f"{'  macro F1':<28}{scores['macro_f1']:.4f}",
    ]
    counts = np.array(scores["confusion"])
    if len(counts) > _MOST_LISTED:
        return lines
    columns = [scores[name] for name in ("recall", "precision", "f1")]
    lines.append(f"{'  class':<28}recall  precision  F1      {split} examples")
    for number, (recall, precision, f1) in enumerate(zip(*columns, strict=True)):
        name = f"  {names[number] if names else number}"[:27]
        shown = f"{recall:<8.4f}{precision:<11.4f}{f1:<8.4f}{counts[number].sum()}"
        lines.append(f"{name:<28}{shown}")
    return lines
