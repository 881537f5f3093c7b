"""Descriptions of Debian's packages: sections are the classes, maintainers the natural clients.

The lists of apt change with time, so a set is made of them once and kept, with what it is made of.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jfedsl.data.text import apt_lists
from jfedsl.data.text.apt_lists import Package
from jfedsl.errors import UserError
from jfedsl.files.paths import UNFINISHED

NAME, VERSION, FILE, MADE_OF = "debian_packages", "1.0.0", "packages.parquet", "made_of.json"
# Sections and maintainers with fewer examples are left out.
LEAST_OF_SECTION = 50  # training examples
LEAST_TESTED = 10  # test examples of a section
LEAST_OF_MAINTAINER = 32  # training examples
_FOLDS = 5  # one of so many source packages is for testing


class Packages(NamedTuple):
    """The examples of a prepared set.

    Attributes:
      texts: descriptions, objects `[N]`.
      sections: the section of each, str `[N]`.
      maintainers: the maintainer of each, str `[N]`.
      is_test: whether each is for testing, bool `[N]`.
    """

    texts: np.ndarray
    sections: np.ndarray
    maintainers: np.ndarray
    is_test: np.ndarray


def build(folder: Path, raw: Path) -> None:
    """Writes the set into a folder, which appears when it is complete.

    Args:
      folder: of the prepared set, with `packages.parquet` and `made_of.json`.
      raw: folder of the lists of apt.

    Raises:
      UserError: a list cannot be read, or the lists have too few packages.
    """
    import pyarrow as pa
    from pyarrow import parquet

    lists = apt_lists.find(raw)
    every = list(apt_lists.packages(lists))
    kept = chosen(every)
    if not kept:
        raise UserError(
            f"{raw}: {len(every)} packages are too few: a section needs {LEAST_OF_SECTION} for "
            f"training and {LEAST_TESTED} for testing, and a maintainer {LEAST_OF_MAINTAINER}; "
            "on Debian, run apt-get update"
        )
    table = pa.table(
        {
            "text": [package.description for package in kept],
            "label": [section_of(package) for package in kept],
            "client": [package.maintainer for package in kept],
            "split": ["test" if is_tested(package) else "train" for package in kept],
        }
    )
    made_of = {
        "lists": {p.name: _checksum(p) for p in (*lists.packages, *lists.translations)},
        "packages": len(every),
        "long_descriptions": sum(package.is_long for package in every),
        "examples": len(kept),
        "least_of_section": LEAST_OF_SECTION,
        "least_tested": LEAST_TESTED,
        "least_of_maintainer": LEAST_OF_MAINTAINER,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.parent) as place:
        temporary = Path(place) / "set"
        temporary.mkdir()
        parquet.write_table(table, temporary / FILE, write_page_checksum=True)
        (temporary / MADE_OF).write_text(json.dumps(made_of, indent=2) + "\n")
        os.replace(temporary, folder)
    if not any(package.is_long for package in every):
        print(
            f"note: the lists have only the first line of each description; for whole ones, run "
            f"{apt_lists.LONG_DESCRIPTIONS}, delete {folder} and prepare it again",
            file=sys.stderr,
        )


def read(folder: Path) -> Packages:
    """The examples of a prepared set; errors of Arrow where it is damaged."""
    from pyarrow import parquet

    table = parquet.read_table(folder / FILE, page_checksum_verification=True)
    texts, *names = (
        np.array(table[name].to_pylist(), object) for name in ("text", "label", "client", "split")
    )
    sections, maintainers, split = (column.astype(str) for column in names)
    return Packages(texts, sections, maintainers, split == "test")


def section_of(package: Package) -> str:
    """The section without the area of the archive: `games` of `contrib/games`."""
    return package.section.rpartition("/")[2]


def is_tested(package: Package) -> bool:
    """Whether a package is for testing: by its source, as packages of one source read alike."""
    digest = hashlib.sha256(package.source.encode()).digest()
    return int.from_bytes(digest) % _FOLDS == 0


def chosen(packages: list[Package]) -> list[Package]:
    """Packages with different descriptions, of sections and maintainers with enough examples.

    Leaving out a section may leave a maintainer with too few and the other way round, so both rules
    are applied until nothing changes.
    """
    distinct: dict[str, Package] = {}
    for package in packages:
        distinct.setdefault(package.description, package)
    kept, count = list(distinct.values()), -1
    while count != len(kept):
        count = len(kept)
        train = [package for package in kept if not is_tested(package)]
        sections = Counter(map(section_of, train))
        tested = Counter(section_of(package) for package in kept if is_tested(package))
        maintainers = Counter(package.maintainer for package in train)
        kept = [
            package
            for package in kept
            if sections[section_of(package)] >= LEAST_OF_SECTION
            and tested[section_of(package)] >= LEAST_TESTED
            and maintainers[package.maintainer] >= LEAST_OF_MAINTAINER
        ]
    return kept


def _checksum(path: Path) -> str:
    """SHA-256 in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
