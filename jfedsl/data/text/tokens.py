"""Data sets of texts as data sets of token ids, tokenized once and kept."""

import contextlib
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jfedsl.data.arrays import ArrayError
from jfedsl.data.datasets import Dataset, Split
from jfedsl.data.text.encoding import PADDING, Encoded, cut_off, open_tokenizer, windows
from jfedsl.errors import flag_error, line_of
from jfedsl.files.paths import temporary

_FORMAT = b"1"  # of the files; a change of what is computed needs another
_SPLITS = ("train", "test")
_SHOWN = 30  # characters of a text in an error


def tokenized(
    dataset: Dataset, tokenizer: str, tokens: int, folder: Path, chunks: bool = False
) -> Dataset:
    """The data set with token ids int32 `[N, T]` in the place of texts; -1 at the end is padding.

    Args:
      dataset: of texts.
      tokenizer: text of a `tokenizer.json`, whose special tokens are added.
      tokens: positions of an example, T. What is longer is cut off.
      folder: where ids are kept and read again if texts, tokenizer and settings are the same.
      chunks: cuts texts into consecutive windows instead, each an example with the label and the
        client of its text, and sets `Split.byte_counts`.

    Raises:
      ArrayError: the tokenizer cannot be used, or a text has no tokens.
      UserError: T is too small.
    """
    texts = {name: getattr(dataset, name).images for name in _SPLITS}
    place = folder / f"{_key(texts, tokenizer, tokens, chunks)}.npz"
    notes, encoded = dataset.notes, _read(place)
    if encoded is None:
        opened, encode = open_tokenizer(tokenizer), windows if chunks else cut_off
        _check_positions(opened, tokens, chunks)
        encoded = {name: encode(opened, texts[name], tokens) for name in _SPLITS}
        _check(encoded, texts)
        notes += _write(place, encoded)
    train, test = (_split(getattr(dataset, name), encoded[name], chunks) for name in _SPLITS)
    longer, count = int(encoded["train"].longer), len(texts["train"])
    if longer:
        notes += (f"{longer} of {count} training texts are cut off after {tokens} tokens",)
    return dataset._replace(train=train, test=test, normalise=False, notes=notes)


def _check_positions(tokenizer: Any, tokens: int, chunks: bool) -> None:
    special = tokenizer.num_special_tokens_to_add(False)
    least, reason = special + 1, f"the tokenizer adds {special} special tokens to a text"
    if chunks:
        least, reason = 2, "each token but the first is predicted"
    if tokens < least:
        raise flag_error("tokens", tokens, f"{least} or more", reason=reason)


def _check(encoded: dict[str, Encoded], texts: dict[str, np.ndarray]) -> None:
    """Refuses texts of which the tokenizer makes no tokens, and splits without windows."""
    for name, one in encoded.items():
        if not one.ids.size:
            raise ArrayError(f"{name} inputs: no text has two tokens, of which one is predicted")
        (empty,) = np.nonzero(one.ids[:, 0] == PADDING)
        if empty.size:
            shown = texts[name][empty[0]][:_SHOWN]
            row = f"row {empty[0] + 1}, {shown!r}"
            raise ArrayError(f"{name} inputs: no tokens in {row}; leave such texts out")


def _split(split: Split, encoded: Encoded, chunks: bool) -> Split:
    owners = None if split.owners is None else split.owners[encoded.rows]
    byte_counts = encoded.byte_counts if chunks else None
    return Split(encoded.ids, split.labels[encoded.rows], owners, byte_counts)


def _key(texts: dict[str, np.ndarray], tokenizer: str, tokens: int, chunks: bool) -> str:
    """A checksum of all that ids depend on, in hexadecimal digits."""
    settings = f"{tokens} {chunks} {[len(texts[name]) for name in _SPLITS]}"
    checksum = hashlib.sha256(_FORMAT)
    for part in (settings, tokenizer, *texts["train"], *texts["test"]):
        content = part.encode()
        checksum.update(len(content).to_bytes(8))  # so that no text runs into the next one
        checksum.update(content)
    return checksum.hexdigest()


def _read(place: Path) -> dict[str, Encoded] | None:
    """What is kept in a file; None if it is not there or damaged."""
    try:
        # Reading an array verifies its checksum in the archive.
        with place.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = {name: [kept[f"{name}_{f}"] for f in Encoded._fields] for name in _SPLITS}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return {name: Encoded(*given) for name, given in arrays.items()}


def _write(place: Path, encoded: dict[str, Encoded]) -> tuple[str, ...]:
    """Keeps what is encoded, or returns a note on why it cannot be kept."""
    arrays: dict[str, Any] = {
        f"{name}_{field}": array
        for name, one in encoded.items()
        for field, array in one._asdict().items()
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary(place).open("wb") as file:
            np.savez(file, **arrays)
        temporary(place).replace(place)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary(place).unlink()
        return (f"token ids are not kept: {line_of(error)}",)
    return ()
