"""A user's own entries: files or modules that add to the tables when they are imported."""

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from pathlib import Path
from types import ModuleType

from jfedsl.errors import UserError, as_text, flag_error
from jfedsl.files.paths import Name, path_error

_MOVED = "if it has moved, give its new place by --plugin=FILE"
_OURS = (__file__, importlib.__file__)
_loaded: dict[str, str] = {}  # checksums of what has been imported, by place


def absolute(plugins: Name) -> str:
    """The same plugins, files by absolute paths, so that they are found from every folder."""
    places = [
        os.path.abspath(os.path.expanduser(p)) if _is_file(p) else p for p in _places(plugins)
    ]
    return ",".join(places)


def moved(recorded: str, given: Name) -> str:
    """The plugins given, and what was recorded that is there still and is none of them.

    >>> moved("/old/mine.py,theirs", "/new/mine.py")
    '/new/mine.py,theirs'
    """
    names = {_name(place) for place in _places(given)}
    others = [p for p in _places(recorded) if not _is_file(p) or Path(p).exists()]
    return ",".join([*_places(given), *(p for p in others if _name(p) not in names)])


def load(plugins: str) -> None:
    """Imports plugins, each once in a process, whatever becomes of its file.

    Args:
      plugins: files and modules, separated by commas, as `absolute` has them.

    Raises:
      UserError: there is no such file or module, or it fails; the text names the line.
    """
    for place in _places(plugins):
        if place not in _loaded:
            _loaded[place] = ""  # one that comes back here while it is being imported goes on
            try:
                _loaded[place] = _import_file(Path(place)) if _is_file(place) else _import(place)
            except BaseException:
                del _loaded[place]
                raise


def checksums(plugins: str) -> dict[str, str]:
    """What was imported: SHA-256 by the name of the file or module."""
    return {Path(p).name if _is_file(p) else p: _loaded[p] for p in _places(plugins)}


def notes(plugins: str) -> list[str]:
    """Says which files have changed since this process imported them."""
    return [
        f"{place} has changed since this process imported it; what was imported goes on"
        for place in _places(plugins)
        if _is_file(place) and _digest(Path(place)) != _loaded[place]
    ]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _places(plugins: Name) -> list[str]:
    return [place.strip() for place in os.fspath(plugins).split(",") if place.strip()]


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _name(place: str) -> str:
    return Path(place).stem if _is_file(place) else place.rpartition(".")[2]


def _import_file(path: Path) -> str:
    """Runs a file as a module of its own; what lies beside it can be imported by it."""
    try:
        source = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        why = f"{reason}; {_MOVED}"
        raise path_error("plugin", path, "a Python file that can be read", why) from error
    checksum = hashlib.sha256(source).hexdigest()
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is not None and Path(script).absolute() == path:
        return checksum  # the program that is running has added its entries itself
    name = f"{path.stem}_{checksum[:8]}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses and pickles look their module up
    _reach(str(path.parent))
    try:
        # What was hashed, and no bytecode of an earlier version.
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failure(str(path), error) from error
    return checksum


def _import(name: str) -> str:
    allowed = "a Python file FILE.py or a module that can be imported"
    if not all(part.isidentifier() for part in name.split(".")):
        raise flag_error("plugin", name, allowed, reason=_MOVED)
    _reach(os.getcwd())
    try:
        return _checksum(importlib.import_module(name))
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            names = [module.name for module in pkgutil.iter_modules([os.getcwd()])]
            raise flag_error("plugin", name, allowed, names, _MOVED) from error
        raise _failure(name, error) from error


def _reach(folder: str) -> None:
    """Lets modules of a folder be imported, after all others."""
    if folder not in sys.path:
        sys.path.append(folder)


def _checksum(module: ModuleType) -> str:
    """SHA-256 of a module's file, or of all files of a package."""
    if not module.__file__:
        return ""
    path = Path(module.__file__)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _failure(place: str, error: BaseException) -> UserError:
    """One line that says where in the plugin it failed."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [(f.filename, f.lineno) for f in frames if f.filename not in _OURS]
    lines = [line for line in lines if not line[0].startswith("<frozen")]
    if isinstance(error, SyntaxError) and error.filename and not lines:
        lines = [(error.filename, error.lineno)]
    numbers = [line for file, line in lines if file == lines[0][0]]
    where = f"{Path(lines[0][0]).name}, line {numbers[-1]}: " if numbers else ""
    reason = error.msg if isinstance(error, SyntaxError) else error
    return UserError(f"--plugin={as_text(place)} fails: {where}{type(error).__name__}: {reason}")
