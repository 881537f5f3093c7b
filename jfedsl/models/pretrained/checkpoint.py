"""Opens a pretrained model from wherever it is."""

from jfedsl.files.paths import local
from jfedsl.models.pretrained import folder, gguf, hub, package
from jfedsl.models.pretrained.contents import Checkpoint, CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "open_checkpoint"]


def open_checkpoint(place: str) -> Checkpoint:
    """The pretrained model in a folder, a file or a Python package, or on the Hugging Face hub.

    Args:
      place: path of a folder of the Hugging Face layout, or of a .gguf file. If there is no such
        path, "package:NAME" is the model inside an installed package, and "organisation/model" a
        name on the hub.

    Raises:
      CheckpointError: it cannot be read; the text, to follow "--pretrained=PLACE: ", says why.
      UserError: the place cannot be a path.
    """
    path = local("pretrained", place)
    if place.startswith(package.FORM) and not path.exists():
        path = package.find(place.removeprefix(package.FORM))
    if path.suffix.lower() == ".gguf" and not path.is_dir():
        return gguf.load(path)
    if path.is_dir():
        return folder.load(path)
    if path.exists():
        raise CheckpointError("a folder with config.json or a .gguf file is allowed")
    if hub.is_name(place):
        return folder.load(hub.fetch(place))
    raise CheckpointError("there is no such folder")
