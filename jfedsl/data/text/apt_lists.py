"""The lists of packages that apt keeps on a machine, in the format of Debian's repositories.

`*_Packages` has a paragraph of fields for each package. Its description may be there whole; or only
its first line, and then the whole is in `*_Translation-en` under the checksum `Description-md5`.
Format: https://wiki.debian.org/DebianRepository/Format
"""

import bz2
import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from jfedsl.errors import UserError, line_of

FOLDER = Path("/var/lib/apt/lists")
LONG_DESCRIPTIONS = "apt-get -o Acquire::Languages=en update"

_KIND = re.compile(r"_(Packages|Translation-en)(\.\w+)?")
_NEEDED = ("Package", "Section", "Maintainer")


class Package(NamedTuple):
    """A package as the lists describe it.

    Attributes:
      name: of the package.
      source: name of the source package that it is built from.
      section: as in the list, such as `contrib/games`.
      maintainer: name without the address.
      description: first line and paragraphs, each on a line.
      is_long: whether there is more than the first line.
    """

    name: str
    source: str
    section: str
    maintainer: str
    description: str
    is_long: bool


class Lists(NamedTuple):
    """Files of lists in a folder, in the order of their names.

    Attributes:
      packages: lists of packages.
      translations: lists of whole descriptions in English.
    """

    packages: list[Path]
    translations: list[Path]


def find(folder: Path) -> Lists:
    """The lists in a folder; those whose compression is unknown are left out."""
    found: dict[str, list[Path]] = {"Packages": [], "Translation-en": []}
    for path in sorted(folder.glob("*")):
        kind = _KIND.fullmatch(path.name[path.name.rfind("_") :])
        if kind and (kind[2] or "") in _OPENED:
            found[kind[1]].append(path)
    return Lists(found["Packages"], found["Translation-en"])


def check(folder: Path) -> None:
    """Raises UserError unless the folder has lists of packages."""
    if not find(folder).packages:
        raise UserError(
            f"{folder} has no lists of packages (*_Packages); on Debian, run apt-get update, or "
            "add --manual_dir=FOLDER with such lists"
        )


def packages(lists: Lists) -> Iterator[Package]:
    """The packages of lists, a name only once; those without a field that is needed are left out.

    Raises:
      UserError: names a list that cannot be read.
    """
    whole = {
        fields["Description-md5"]: fields["Description-en"]
        for path in reversed(lists.translations)  # of the first list, if several have it
        for fields in _paragraphs(path)
        if {"Description-md5", "Description-en"} <= fields.keys()
    }
    names = set()
    for path in lists.packages:
        for fields in _paragraphs(path):
            short = fields.get("Description", fields.get("Description-en", ""))
            lines = _paragraphs_of(whole.get(fields.get("Description-md5", ""), short))
            if not all(map(fields.get, _NEEDED)) or not lines or fields["Package"] in names:
                continue
            names.add(fields["Package"])
            yield Package(
                fields["Package"],
                fields.get("Source", fields["Package"]).split()[0],  # a version may follow
                fields["Section"],
                fields["Maintainer"].partition("<")[0].strip(' "'),
                "\n".join(lines),
                len(lines) > 1,
            )


def _paragraphs(path: Path) -> Iterator[dict[str, str]]:
    """The fields of each paragraph of a list; lines of a field are separated by line breaks."""
    for paragraph in _text(path).split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line[1:]}"
            else:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def _paragraphs_of(description: str) -> list[str]:
    """The first line of a description and its paragraphs, which lines with a dot separate."""
    first, *rest = description.split("\n")
    paragraphs = "\n".join("" if line.strip() == "." else line for line in rest).split("\n\n")
    return [" ".join(text.split()) for text in (first, *paragraphs) if text.strip()]


def _text(path: Path) -> str:
    try:
        return _OPENED[path.suffix if path.suffix in _OPENED else ""](path).decode(errors="replace")
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:  # of Arrow: OSError
        raise UserError(f"{path} cannot be read: {line_of(error)}") from error


def _arrow(compression: str) -> Callable[[Path], bytes]:
    def read(path: Path) -> bytes:
        import pyarrow as pa

        with pa.input_stream(str(path), compression=compression) as stream:
            content: bytes = stream.read()
            return content

    return read


_OPENED: dict[str, Callable[[Path], bytes]] = {
    "": Path.read_bytes,
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".bz2": lambda path: bz2.decompress(path.read_bytes()),
    ".xz": lambda path: lzma.decompress(path.read_bytes()),
    ".lz4": _arrow("lz4"),
    ".zst": _arrow("zstd"),
}
