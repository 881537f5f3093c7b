"""Texts of a data set as the token ids that a run trains on."""

from jfedsl.config import Config
from jfedsl.data.arrays import ArrayError
from jfedsl.data.datasets import Dataset
from jfedsl.data.text.tokens import tokenized
from jfedsl.errors import UserError
from jfedsl.files.paths import local

_FOLDER = "tokens"  # in the folder of data sets


def with_tokens(
    config: Config, dataset: Dataset, tokenizer: str | None, chunks: bool = False
) -> Dataset:
    """The data set with token ids in the place of texts, if it has texts.

    Args:
      config: its `tokens` are the positions of an example.
      dataset: as it is loaded.
      tokenizer: text of the `tokenizer.json` of the model; None if it has none.
      chunks: as for `tokenized`.

    Raises:
      UserError: there is no tokenizer, or the texts cannot be tokenized.
    """
    if not dataset.of_texts:
        return dataset
    name = f"--dataset={config.dataset}"
    if tokenizer is None:
        raise UserError(f"{name} holds texts; --pretrained=FOLDER names a model with a tokenizer")
    folder = local("data_dir", config.data_dir) / _FOLDER
    try:
        return tokenized(dataset, tokenizer, config.tokens, folder, chunks)
    except ArrayError as error:
        raise UserError(f"{name}: {error}") from error
