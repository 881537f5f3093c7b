"""Opens a pretrained model from wherever it is."""

from jfedsl.files.paths import local
from jfedsl.models.pretrained import folder
from jfedsl.models.pretrained.contents import Checkpoint, CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "open_checkpoint"]


def open_checkpoint(place: str) -> Checkpoint:
    """The pretrained model in a folder of the Hugging Face layout.

    Args:
      place: path of the folder.

    Raises:
      CheckpointError: it cannot be read; the text, to follow "--pretrained=PLACE: ", says why.
      UserError: the place cannot be a path.
    """
    path = local("pretrained", place)
    if path.is_dir():
        return folder.load(path)
    raise CheckpointError("there is no such folder")
