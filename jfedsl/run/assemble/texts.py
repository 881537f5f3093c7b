"""Texts of a data set as the token ids that a run trains on."""

from jfedsl.config import Config
from jfedsl.config.titles import model_flag
from jfedsl.data.arrays import ArrayError
from jfedsl.data.datasets import Dataset
from jfedsl.data.text.tokens import tokenized
from jfedsl.engine.task import TASKS
from jfedsl.errors import UserError
from jfedsl.files.paths import local
from jfedsl.models.pretrained.checkpoint import Checkpoint

_FOLDER = "tokens"  # in the folder of data sets


def with_tokens(config: Config, dataset: Dataset, checkpoint: Checkpoint | None) -> Dataset:
    """The data set with token ids in the place of texts, if it has texts.

    Args:
      config: its `tokens` are the positions of an example.
      dataset: as it is loaded.
      checkpoint: the pretrained model, whose tokenizer it is; None without one.

    Raises:
      UserError: there is no tokenizer, or the texts cannot be tokenized.
    """
    if not dataset.of_texts:
        return dataset
    name = f"--dataset={config.dataset}"
    if checkpoint is None:
        raise UserError(f"{name} holds texts; --pretrained=FOLDER names a model with a tokenizer")
    if checkpoint.architecture == "vit":
        raise UserError(f"{model_flag(config)} takes images, and {name} holds texts")
    if checkpoint.tokenizer is None:
        raise UserError(f"{model_flag(config)} has no tokenizer.json, and {name} holds texts")
    folder = local("data_dir", config.data_dir) / _FOLDER
    chunks = config.task is not None and TASKS[config.task].of_tokens
    try:
        return tokenized(dataset, checkpoint.tokenizer, config.tokens, folder, chunks)
    except ArrayError as error:
        raise UserError(f"{name}: {error}") from error
