"""Lists of apt in the true format, compressed and not."""

import bz2
import gzip
from pathlib import Path

import debian_lists
import pytest

from jfedsl.data.text import apt_lists
from jfedsl.errors import UserError


def test_packages_have_their_long_descriptions_and_come_once(tmp_path: Path) -> None:
    debian_lists.write(tmp_path / "lists", 6)
    packages = list(apt_lists.packages(apt_lists.find(tmp_path / "lists")))
    assert [p.name for p in packages] == ["p0", "own", *(f"p{n}" for n in range(1, 6))]
    assert packages[4] == apt_lists.Package(
        "p3", "s1", "games", "Debian Bob Team",
        "thing 3 of games\nIt does 3 things, and then more.\n- a point", True,
    )  # fmt: skip
    own = apt_lists.Package("own", "own", "net", "Cid", "whole\nhere", True)
    assert packages[1] == own


def test_without_translations_descriptions_are_the_first_lines(tmp_path: Path) -> None:
    debian_lists.write(tmp_path / "lists", 6, translated=False)
    packages = list(apt_lists.packages(apt_lists.find(tmp_path / "lists")))
    assert packages[2].description == "thing 1 of contrib/net" and not packages[2].is_long


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_other_compressions(tmp_path: Path, ending: str, compress: object) -> None:
    debian_lists.write(tmp_path / "lists", 2)
    (path,) = (tmp_path / "lists").glob("*updates*")
    assert callable(compress)
    path.with_name(f"other_Packages{ending}").write_bytes(compress(path.read_bytes()))
    for other in (tmp_path / "lists").glob("deb*"):
        other.unlink()
    packages = apt_lists.packages(apt_lists.find(tmp_path / "lists"))
    assert [p.name for p in packages] == ["p0", "own"]


def test_missing_and_damaged_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no lists of packages.*run apt-get update"):
        apt_lists.check(tmp_path)
    debian_lists.write(tmp_path / "lists", 6)
    (path,) = (tmp_path / "lists").glob("*.lz4")
    path.write_bytes(path.read_bytes()[:-20])
    apt_lists.check(tmp_path / "lists")
    with pytest.raises(UserError, match="Packages.lz4 cannot be read: "):
        list(apt_lists.packages(apt_lists.find(tmp_path / "lists")))
