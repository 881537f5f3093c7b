"""Texts as token ids, by the library `tokenizers`."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jfedsl.data.arrays import ArrayError
from jfedsl.errors import line_of

PADDING = -1  # in the place of a token id, as `jfedsl.models.tokens` has it
_PIECE = 4096  # texts encoded at once


class Encoded(NamedTuple):
    """Texts as examples of T positions.

    Attributes:
      ids: token ids, then -1 as padding, int32 `[M, T]`.
      rows: position of the text of each example, int32 `[M]`.
      byte_counts: bytes of text, in UTF-8, that the tokens after the first of each example stand
        for, int32 `[M]`; empty where texts are cut off.
      longer: number of texts that are cut off.
    """

    ids: np.ndarray
    rows: np.ndarray
    byte_counts: np.ndarray
    longer: int


def open_tokenizer(content: str) -> Any:
    """A tokenizer without padding.

    Args:
      content: text of a `tokenizer.json`.

    Raises:
      ArrayError: the library is not installed, or does not read this.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        remedy = "pip install 'jfedsl[finetune]'"
        raise ArrayError(f"texts need the package tokenizers: {remedy}") from error
    # Before 0.23 the library warns when a process that has encoded in threads is forked.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing more specific
        raise ArrayError(f"the tokenizer cannot be read: {line_of(error)}") from error
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(content: str) -> int:
    """One more than the largest id of a tokenizer: the rows that an embedding needs.

    Args:
      content: text of a `tokenizer.json`.

    Raises:
      ArrayError: as `open_tokenizer`.
    """
    return 1 + max(open_tokenizer(content).get_vocab(with_added_tokens=True).values())


def cut_off(tokenizer: Any, texts: np.ndarray, tokens: int) -> Encoded:
    """One example of each text: its first tokens, and the special tokens that the tokenizer adds.

    Args:
      tokenizer: of `open_tokenizer`.
      texts: objects `[N]`.
      tokens: positions T, more than there are special tokens.
    """
    tokenizer.enable_truncation(max_length=tokens)
    ids, longer = np.full((len(texts), tokens), PADDING, np.int32), 0
    for row, encoding in _encodings(tokenizer.encode_batch_fast, texts):  # without offsets
        ids[row, : len(encoding.ids)] = encoding.ids
        longer += bool(encoding.overflowing)
    return Encoded(ids, np.arange(len(texts), dtype=np.int32), np.zeros(0, np.int32), longer)


def windows(tokenizer: Any, texts: np.ndarray, tokens: int) -> Encoded:
    """Consecutive windows of each text's tokens, for the prediction of the next one.

    The first token of a window is not predicted in it. A window of one token, in which nothing is
    predicted, is left out.

    Args:
      tokenizer: of `open_tokenizer`.
      texts: objects `[N]`.
      tokens: positions T, at least 2.
    """
    tokenizer.no_truncation()
    ids, rows, byte_counts = [], [], []
    for row, encoding in _encodings(tokenizer.encode_batch, texts):
        count = -(-len(encoding.ids) // tokens)
        padding = (0, count * tokens - len(encoding.ids))
        padded = np.pad(np.array(encoding.ids, np.int32), padding, constant_values=PADDING)
        counts = np.pad(token_bytes(texts[row], encoding.offsets), padding)
        ids.append(padded.reshape(count, tokens))
        byte_counts.append(counts.reshape(count, tokens)[:, 1:].sum(axis=1, dtype=np.int32))
        rows.append(np.full(count, row, np.int32))
    every = Encoded(np.concatenate(ids), np.concatenate(rows), np.concatenate(byte_counts), 0)
    predicts = every.ids[:, 1] != PADDING
    return Encoded(every.ids[predicts], every.rows[predicts], every.byte_counts[predicts], 0)


def token_bytes(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """The bytes of a text, in UTF-8, that each of its tokens stands for, int32 `[n]`.

    A token stands for what lies between the end of the token before and its own end, so that no
    byte counts twice. Characters that the tokenizer drops, such as spaces, belong to the token
    after them; special tokens stand for nothing.

    >>> token_bytes("é b", [(0, 0), (0, 1), (2, 3), (0, 0)]).tolist()
    [0, 2, 2, 0]

    Args:
      text: what was encoded.
      offsets: first and last character, excluded, of each token.
    """
    ends = np.maximum.accumulate(np.array([end for _, end in offsets], np.int64), dtype=np.int64)
    if not text.isascii():
        ends = np.cumsum([0, *(len(character.encode()) for character in text)])[ends]
    return np.diff(ends, prepend=0).astype(np.int32)


def _encodings(encode: Any, texts: np.ndarray) -> Iterator[tuple[int, Any]]:
    """The position and the encoding of each text, encoded in parallel a piece at a time."""
    for first in range(0, len(texts), _PIECE):
        yield from enumerate(encode(texts[first : first + _PIECE].tolist()), first)
