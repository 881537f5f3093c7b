"""What every reader returns, and the errors that readers share."""

import importlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from jfedsl.errors import close_to, one_line

_LONGEST_REASON = 150  # characters


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the text says why and what is allowed."""


class Checkpoint(NamedTuple):
    """A pretrained model as its files have it.

    Attributes:
      architecture: "bert", "vit", "gpt2" or "llama".
      config: sizes and settings, under the names of config.json.
      names: of the tensors, as the base model of Hugging Face Transformers names them: without a
        leading "bert.", "vit.", "transformer." or "model.". Tensors outside of the base model, such
        as "lm_head.weight", keep their names. Empty if the folder has config.json alone: a model of
        that shape without trained weights.
      read: the tensor of a name, float32, with the axes that PyTorch has (a linear layer is
        `[out, in]`, but `[in, out]` in GPT-2). Only this tensor is read from disk. A
        `CheckpointError` if there is no such tensor or it is not of floating point.
      tokenizer: the text of tokenizer.json, for `tokenizers.Tokenizer.from_str`; None if there is
        none.
    """

    architecture: str
    config: dict[str, Any]
    names: frozenset[str]
    read: Callable[[str], np.ndarray]
    tokenizer: str | None


def library(name: str) -> Any:
    """A package of the extra `finetune`.

    Raises:
      CheckpointError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        remedy = "pip install 'jfedsl[finetune]'"
        raise CheckpointError(f"the package {name} is needed: {remedy}") from error


def unreadable(file: str, error: Exception) -> CheckpointError:
    """The error for a file that is damaged or cannot be opened."""
    reason = one_line(str(error), _LONGEST_REASON) or type(error).__name__
    return CheckpointError(f"{file} cannot be read: {reason}")


def no_tensor(name: str, names: Collection[str]) -> CheckpointError:
    """The error for a tensor that a checkpoint lacks."""
    return CheckpointError(f"there is no tensor {name} in it{close_to(name, names)}")
