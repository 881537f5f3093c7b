"""Descriptions of packages: prepared once, with maintainers as clients."""

import json
from pathlib import Path

import debian_lists
import numpy as np
import pytest

from jfedsl.data.datasets import load
from jfedsl.data.files import load as load_file
from jfedsl.data.preparation import prepare
from jfedsl.data.text import debian
from jfedsl.data.text.apt_lists import Package
from jfedsl.errors import UserError


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    debian_lists.write(tmp_path / "lists")
    return tmp_path / "lists"


def test_a_prepared_set_has_sections_as_classes_and_maintainers_as_clients(
    tmp_path: Path, lists: Path
) -> None:
    folder = prepare("debian_packages", tmp_path, lists)
    assert folder == tmp_path / "debian_packages" / "1.0.0"
    data = load("debian_packages", str(tmp_path))
    assert data.of_texts and not data.normalise and not data.integer_inputs
    assert data.class_names == ("games", "net", "x11")
    assert data.client_values is not None
    assert data.client_values.tolist() == ["Ann Lee", "Debian Bob Team"]
    assert len(data.train.labels) + len(data.test.labels) == 599, "Cid has too few"
    assert abs(len(data.test.labels) - 120) < 40
    numbers = [int(text.split()[1]) for text in data.train.images]
    np.testing.assert_array_equal(data.train.owners, np.array(numbers) // 2 % 2)
    np.testing.assert_array_equal(data.train.labels, np.array(numbers) % 3)
    tested = {int(text.split()[1]) // 2 for text in data.test.images}
    assert not tested & {number // 2 for number in numbers}, "packages of a source are together"
    made_of = json.loads((folder / debian.MADE_OF).read_text())
    assert made_of["packages"] == 601 and len(made_of["lists"]) == 3


def test_it_is_kept_when_the_lists_change_and_is_read_as_a_file_of_a_user(
    tmp_path: Path, lists: Path
) -> None:
    folder = prepare("debian_packages", tmp_path, lists)
    for path in lists.iterdir():
        path.unlink()
    assert prepare("debian_packages", tmp_path) == folder
    named, file = load("debian_packages", str(tmp_path)), load_file(folder / debian.FILE)
    for a, b in ((named.train, file.train), (named.test, file.test)):
        for array, other in zip(a[:3], b[:3], strict=True):
            np.testing.assert_array_equal(array, other)


def test_first_lines_alone_are_used_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    debian_lists.write(tmp_path / "lists", translated=False)
    for path in (tmp_path / "lists").glob("*updates*"):
        path.unlink()
    prepare("debian_packages", tmp_path, tmp_path / "lists")
    assert "apt-get -o Acquire::Languages=en update" in capsys.readouterr().err
    assert "thing 2 of x11" in load("debian_packages", str(tmp_path)).train.images


def test_small_sections_and_maintainers_and_copies_are_left_out() -> None:
    def package(number: int, section: str, maintainer: str, text: str = "") -> Package:
        name = f"p{number}"
        return Package(name, name, section, maintainer, text or f"{section} {name}", False)

    enough = [package(n, "games", "ann") for n in range(300)]
    copies = [package(n, "games", "ann", "the same") for n in range(300, 310)]
    few = [package(n, "games", "bob") for n in range(400, 430)]
    # Of the maintainer with the section that is too small.
    section = [package(n, "news", "cid") for n in range(500, 540)]
    rest = [package(n, "games", "cid") for n in range(600, 610)]
    assert debian.chosen([*enough, *copies, *few, *section, *rest]) == [*enough, copies[0]]


def test_what_is_missing_or_too_small_is_one_line(tmp_path: Path, lists: Path) -> None:
    with pytest.raises(UserError, match="not prepared in .*; run: .* --dataset=debian_packages"):
        load("debian_packages", str(tmp_path))
    with pytest.raises(UserError, match="has no lists of packages"):
        prepare("debian_packages", tmp_path, tmp_path)
    debian_lists.write(tmp_path / "few", 20)
    with pytest.raises(UserError, match="few: 21 packages are too few: a section needs 50"):
        prepare("debian_packages", tmp_path, tmp_path / "few")
    folder = prepare("debian_packages", tmp_path, lists)
    content = bytearray((folder / debian.FILE).read_bytes())
    content[len(content) // 4] ^= 1
    (folder / debian.FILE).write_bytes(content)
    with pytest.raises(UserError, match="damaged .*; delete this folder, then run: "):
        load("debian_packages", str(tmp_path))
