"""A trained model in files that any program can read: NumPy archives and a JSON manifest."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jfedsl.errors import UserError
from jfedsl.files.paths import Name, local
from jfedsl.files.signed import parsed, signed, verified
from jfedsl.models.layers import Model, Variables, by_layer
from jfedsl.run.storage.names import flatten
from jfedsl.run.storage.workdir import write_atomically

FORMAT = "jfedsl export 2"
MANIFEST, JOINED, CLIENT, SERVER = "manifest.json", "joined.npz", "client.npz", "server.npz"
CLIENT_MASKS, CLIENT_STATISTICS = "client_masks.npz", "client_statistics.npz"
CLIENT_PERSONAL = "client_personal.npz"
_ARCHIVES = (JOINED, CLIENT, SERVER, CLIENT_MASKS, CLIENT_STATISTICS, CLIENT_PERSONAL)

Arrays = Mapping[str, Any]


def named(model: Model, variables: Variables) -> dict[str, Any]:
    """Every array of a model by `params.LAYER...`, `stats.LAYER...` or `frozen.LAYER...`."""
    return {
        f"{kind}.{layer.name}.{name}": leaf
        for kind in Variables._fields
        for layer, layer_variables in by_layer(model, variables)
        for name, leaf in flatten(getattr(layer_variables, kind)).items()
    }


def write(folder: Path, files: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
    """Writes archives, and then the manifest with their checksums and shapes.

    Args:
      folder: made if it is missing; an earlier export is replaced once all archives are on disk.
      files: for each archive, by file name, its arrays by name.
      facts: plain values that the manifest has too.

    Raises:
      UserError: the folder has a manifest that is not of an export.
      OSError: the folder cannot be written. If that happened before all archives were on disk, an
        earlier export is whole; if later, there is no manifest until the next export.
    """
    files = {file: _plain(arrays) for file, arrays in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    earlier = read_manifest(folder)["files"] if (folder / MANIFEST).exists() else {}
    # Only files with our names are removed: anybody may have written the manifest.
    stale = [name for name in _ARCHIVES if name in earlier and name not in files]
    with tempfile.TemporaryDirectory(prefix=".export.", dir=folder) as temporary:
        for file, arrays in files.items():
            with (Path(temporary) / file).open("wb") as stream:
                np.savez(stream, **arrays)
        (folder / MANIFEST).unlink(missing_ok=True)  # a kill must not leave one for other files
        for file in files:
            os.replace(Path(temporary) / file, folder / file)
    for file in stale:
        (folder / file).unlink(missing_ok=True)
    contents = {file: _contents(folder / file, arrays) for file, arrays in files.items()}
    manifest = signed({"format": FORMAT, **facts, "files": contents})
    write_atomically(folder / MANIFEST, _text(manifest))


def _plain(arrays: Arrays) -> dict[str, Any]:
    """Arrays of types that NumPy has by itself: bfloat16 as float32, int4 as int8, exactly."""

    def one(array: np.ndarray) -> np.ndarray:
        if array.dtype.isbuiltin == 1:
            return array
        return array.astype(np.float32 if jnp.issubdtype(array.dtype, jnp.floating) else np.int8)

    return {name: one(np.asarray(array)) for name, array in arrays.items()}


def _contents(path: Path, arrays: Arrays) -> dict[str, Any]:
    """The entry of an archive in the manifest: its checksum, and its arrays' shapes and dtypes."""
    listed = {
        name: {"shape": array.shape, "dtype": str(array.dtype)} for name, array in arrays.items()
    }
    return {"sha256": _sha256(path), "arrays": listed}


def read(folder: Name) -> dict[str, np.ndarray]:
    """The arrays of the joined model in an export, by name.

    Raises:
      UserError: a file is missing or damaged; the error names it.
    """
    folder = local("export", folder)
    manifest, path = read_manifest(folder), folder / JOINED
    try:
        whole = _sha256(path) == manifest["files"][JOINED]["sha256"]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not whole:
        raise UserError(f"{path}: damaged, or not the file that {MANIFEST} was written for")
    with np.load(path) as archive:
        return dict(archive)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
      UserError: it cannot be read, or is not the manifest of an export.
    """
    path = folder / MANIFEST
    try:
        manifest = verified(parsed(path.read_text(encoding="utf-8-sig")))
        if manifest["format"] == FORMAT and manifest["files"][JOINED]["sha256"]:
            return manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the manifest of an export ({error!r})") from error
    raise UserError(f"{path}: not the manifest of an export ({FORMAT})")


def _text(manifest: Any) -> str:
    """JSON with every innermost list on one line."""
    text = json.dumps(manifest, indent=2)
    return re.sub(r"\[[^\[\]{}]*\]", lambda match: " ".join(match[0].split()), text) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
