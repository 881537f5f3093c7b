"""Small lists of packages, of the format in which apt keeps those of Debian."""

import hashlib
import lzma
from pathlib import Path

import pyarrow as pa

SECTIONS, MAINTAINERS = ("games", "contrib/net", "x11"), ("Ann Lee", "Debian Bob Team")
_HOST = "deb.debian.org_debian_dists_stable_main"
PACKAGE = """Package: {name}
Source: {source} (1.{number})
Version: 1.{number}
Maintainer: {maintainer} <{number}@example.org>
Description: {short}
Description-md5: {md5}
Tag: role::program,
 use::{number}
Section: {section}
"""
TRANSLATION = """Package: {name}
Description-md5: {md5}
Description-en: {short}
 It does {number} things,
 and then more.
 .
  - a point
"""


def write(folder: Path, packages: int = 600, translated: bool = True) -> None:
    """Lists of packages: a source has two, sections and maintainers take turns.

    Args:
      folder: where they are written.
      packages: number of packages.
      translated: whether there are long descriptions.
    """
    folder.mkdir()
    fields = []
    for number in range(packages):
        short = f"thing {number} of {SECTIONS[number % 3]}"
        fields.append(
            {
                "number": number,
                "name": f"p{number}",
                "source": f"s{number // 2}",
                "section": SECTIONS[number % 3],
                "maintainer": MAINTAINERS[number // 2 % 2],
                "short": short,
                "md5": hashlib.md5(short.encode()).hexdigest(),
            }
        )
    content = "\n".join(PACKAGE.format(**package) for package in fields) + "\n"
    with pa.output_stream(folder / f"{_HOST}_binary-amd64_Packages.lz4", compression="lz4") as file:
        file.write(content.encode())
    # The list of updates has a package again, and one that needs no other list.
    whole = "Description: whole\n here\nSection: net\nMaintainer: Cid <c@example.org>\n"
    updates = f"Package: p0\n{whole}\nPackage: own\n{whole}\nPackage: lacking\nSection: net\n"
    (folder / f"{_HOST}-updates_binary-amd64_Packages").write_text(updates)
    (folder / f"{_HOST}_InRelease").write_text("Origin: Debian\n")
    if translated:
        text = "\n".join(TRANSLATION.format(**package) for package in fields) + "\n"
        (folder / f"{_HOST}_i18n_Translation-en.xz").write_bytes(lzma.compress(text.encode()))
