"""Models by their name on the Hugging Face hub."""

import re
from pathlib import Path

from jfedsl.errors import one_line
from jfedsl.models.pretrained.contents import CheckpointError, library

# No pickled weights, and none of other frameworks: a folder of the hub may have them all.
_FILES = ["config.json", "tokenizer.json", "model*.safetensors", "model.safetensors.index.json"]
_LONGEST_REASON = 150  # characters


def is_name(place: str) -> bool:
    """Whether a text has the form of a name on the hub.

    >>> is_name("org/model-v1.5"), is_name("model"), is_name("../model"), is_name("a/b/c")
    (True, False, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", place, re.ASCII) is not None


def fetch(name: str) -> Path:
    """The folder of a model on this machine, downloaded unless an earlier call did.

    Args:
      name: as "organisation/model".

    Raises:
      CheckpointError: huggingface_hub is not installed, the hub or the network does not give the
        model, or it has no weights in safetensors.
    """
    neither = "there is no such folder, and"
    try:
        download = library("huggingface_hub").snapshot_download
    except CheckpointError as error:
        raise CheckpointError(f"{neither} for a name of the Hugging Face hub {error}") from error
    try:
        folder = Path(download(name, allow_patterns=_FILES))
    except Exception as error:  # of the package, of HTTP, of the disk
        reason = one_line(str(error), _LONGEST_REASON) or type(error).__name__
        raise CheckpointError(f"{neither} the Hugging Face hub cannot be read: {reason}") from error
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError("this model of the Hugging Face hub has no model.safetensors")
    return folder
