"""The task of a run: its loss and metric, and the targets of the data set as it needs them."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jfedsl.config import Config
from jfedsl.data.datasets import Dataset, Split
from jfedsl.engine.task import LOSSES, METRICS, NO_TOKEN, TASKS, OfExamples, Task, default_task
from jfedsl.errors import flag_error, one_line


def asked_task(config: Config, of_classes: bool) -> Task:
    """The task that flags ask for, its loss and metric by flags of their own.

    Args:
      config: all settings of the run.
      of_classes: whether targets of the data set are classes, which decides where no flag does.
    """
    task = TASKS[config.task or default_task(of_classes)]
    if config.loss is not None:
        task = task._replace(loss=LOSSES[config.loss])
    if config.metric is not None:
        task = task._replace(metric=METRICS[config.metric])
    return task


def task_of(config: Config, dataset: Dataset) -> Task:
    """The task that flags and data set ask for, as in `asked_task`.

    Raises:
      UserError: the targets of the data set do not suit the task, or its functions do not suit
        them, or the target is no accuracy.
    """
    name = config.task or default_task(dataset.of_classes)
    task = asked_task(config, dataset.of_classes)
    if task.of_tokens:
        _check_tokens(config, dataset)
    elif task.of_classes and not dataset.of_classes:
        reason = "targets of the data set are real numbers"
        raise flag_error("task", name, _suited(of_classes=False), reason=reason)
    elif not task.of_classes and _has_texts(dataset):
        reason = "labels of the data set are texts"
        raise flag_error("task", name, _suited(of_classes=True), reason=reason)
    splits = dataset.train, dataset.test
    if task.metric.by_bytes and any(split.byte_counts is None for split in splits):
        reason = f"--dataset={config.dataset} does not say how many bytes of text tokens stand for"
        raise flag_error("metric", task.metric.name, "another metric", reason=reason)
    width = _width(task, dataset)
    cause = f"--task={name}"
    _check("loss" if config.loss else "task", config.loss or name, task.loss, task, width, cause)
    given = config.metric or name
    _check("metric" if config.metric else "task", given, task.metric.of, task, width, cause)
    column = task.metric.name
    if not re.fullmatch("[a-z0-9_]+", column) or column == "loss":
        allowed = "a metric whose `name` has only a-z, 0-9 and _ and is not loss"
        raise flag_error("metric", column, allowed)
    if column == "accuracy" and not 0 <= config.target_accuracy <= 1:
        raise flag_error("target_accuracy", config.target_accuracy, "a number in [0, 1]")
    return task


def _check_tokens(config: Config, dataset: Dataset) -> None:
    """Refuses inputs that are no token ids, of which the next ones could be predicted."""
    allowed = f"one of {', '.join(name for name, task in TASKS.items() if not task.of_tokens)}"
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        ids = split.images
        reason = ""
        if not dataset.integer_inputs or ids.ndim != 2:
            reason = f"inputs of --dataset={config.dataset} are no token ids [T]"
        elif (ids < NO_TOKEN).any() or ((ids[:, :-1] == NO_TOKEN) & (ids[:, 1:] >= 0)).any():
            reason = f"{name} inputs need ids from 0, and -1 only as padding at their ends"
        elif not (ids[:, 1:] >= 0).any():
            reason = f"no {name} example has two tokens, of which the second is predicted"
        if reason:
            raise flag_error("task", config.task, allowed, reason=reason)


def _has_texts(dataset: Dataset) -> bool:
    """Whether labels are texts, which stand for no numbers."""
    return dataset.class_values is not None and dataset.class_values.dtype.kind == "U"


def _suited(of_classes: bool) -> str:
    """The tasks of classes, or those of real numbers, as an error names them."""
    kinds = {name: task for name, task in TASKS.items() if not task.of_tokens}
    names = (name for name, task in kinds.items() if task.of_classes == of_classes)
    return f"one of {', '.join(names)}"


def _width(task: Task, dataset: Dataset) -> int:
    """How wide outputs are: a real number for each label where labels are taken as numbers."""
    return 1 if dataset.of_classes and not task.of_classes else dataset.classes


def with_targets(dataset: Dataset, task: Task) -> Dataset:
    """The data set with targets as the task needs them.

    Classes stay int32 `[N]`; real numbers become float32 `[N, D]`. Next tokens are added to
    labels, which partitions go by: of each token the next one, int32 `[N, T]`, and -1 where there
    is none.
    """
    if task.of_classes:
        return dataset
    if task.of_tokens:
        splits = _with_next_ids(dataset.train), _with_next_ids(dataset.test)
        largest = max(int(split.images.max()) for split in splits)
        return dataset._replace(train=splits[0], test=splits[1], token_ids=largest + 1)

    values = dataset.class_values

    def real(split: Split) -> Split:
        labels = split.labels if values is None else values[split.labels]
        rows = labels.reshape(len(labels), -1)
        return split._replace(labels=np.asarray(rows, np.float32))

    return dataset._replace(
        train=real(dataset.train),
        test=real(dataset.test),
        classes=_width(task, dataset),
        class_values=None,
    )


def _with_next_ids(split: Split) -> Split:
    none = np.full((len(split.images), 1), NO_TOKEN, np.int32)
    following = np.concatenate([split.images[:, 1:], none], axis=1, dtype=np.int32)
    return split._replace(next_ids=following)


def _check(flag: str, name: str, function: OfExamples, task: Task, width: int, cause: str) -> None:
    """Refuses a function that does not make one float32 of each example, by shapes alone."""
    examples = width + 1  # so that no axis passes for another
    outputs = jax.ShapeDtypeStruct((examples, width), jnp.float32)
    targets: Any = jax.ShapeDtypeStruct((examples, width), jnp.float32)
    kind = f"float32 [B, {width}]"
    shape = f"[B, {width}]"
    if task.of_classes:
        targets, kind = jax.ShapeDtypeStruct((examples,), jnp.int32), "int32 [B]"
    if task.of_tokens:
        outputs = jax.ShapeDtypeStruct((examples, examples + 1, width), jnp.float32)
        targets = jax.ShapeDtypeStruct(outputs.shape[:2], jnp.int32)
        shape, kind = "[B, T, V]", "int32 [B, T]"
    try:
        made = jax.eval_shape(function, outputs, targets)
        what = f"makes {made.dtype} {list(made.shape)} of {examples} examples"
        suits = made.shape == (examples,) and made.dtype == jnp.float32
    except Exception as error:  # a user's own function may raise anything
        what = f"fails: {type(error).__name__}: {one_line(str(error), _MOST_REASON)}"
        suits = False
    if not suits:
        makes = f"float32 [B] of outputs float32 {shape} and targets {kind}"
        allowed = f"one that makes {makes} with {cause}"
        raise flag_error(flag, name, allowed, reason=f"this one {what}")


_MOST_REASON = 150  # characters
