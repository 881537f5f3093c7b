"""A trained model in files that any program can read: NumPy archives and a JSON manifest."""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jfedsl.errors import UserError
from jfedsl.models.layers import Model, Variables
from jfedsl.runtime.checkpoint import flatten
from jfedsl.runtime.workdir import write_atomically

FORMAT = "jfedsl export 1"
MANIFEST, JOINED = "manifest.json", "joined.npz"

Arrays = Mapping[str, Any]


def named(model: Model, variables: Variables) -> dict[str, Any]:
    """Every array of a model, or of its first layers, by `params.LAYER...` or `stats.LAYER...`."""
    return {
        f"{kind}.{layer.name}.{name}": leaf
        for kind, parts in variables._asdict().items()
        for layer, part in zip(model, parts, strict=False)
        for name, leaf in flatten(part).items()
    }


def write(folder: Path, files: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
    """Writes archives and then the manifest, which knows their checksums, shapes and `facts`.

    Args:
      folder: made if need be; files of an earlier export are replaced.
      files: arrays by name, by the name of the archive.
      facts: plain values for the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # no manifest of other files, were this killed
    contents = {}
    for file, arrays in files.items():
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        temporary = folder / f".{file}"
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)
        os.replace(temporary, folder / file)
        contents[file] = {
            "sha256": _sha256(folder / file),
            "arrays": {n: {"shape": a.shape, "dtype": str(a.dtype)} for n, a in arrays.items()},
        }
    manifest = {"format": FORMAT, **facts, "files": contents}
    write_atomically(folder / MANIFEST, _text(manifest))


def read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of the joined model.

    Raises:
      UserError: names the file that is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"{path}: of another format than this program's ({FORMAT})")
        expected = manifest["files"][JOINED]["sha256"]
        path = folder / JOINED
        if _sha256(path) != expected:
            raise UserError(f"{path}: damaged, or not the file that {MANIFEST} was written for")
        with np.load(path) as archive:
            return dict(archive)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _text(manifest: Any) -> str:
    """JSON with every innermost list on one line."""
    text = json.dumps(manifest, indent=2)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
