"""Documents: their links lead somewhere; their paths, names and flags are those of the code."""

import dataclasses
import importlib
import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from test_architecture import ROOMS

from jfedsl.config import Config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "BUILD_NOTES.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w./-])(?:jfedsl|tests|benchmarks|experiments|docs)/[\w./*-]*[\w*/]")
DOTTED = re.compile(r"(?<![\w./-])jfedsl(?:\.\w+)+")
FLAG = re.compile(r"(?<![\w-])--(\w+)")
# Of pytest, absl, mkdocs, XLA and SLURM; `--flag` stands for one.
FOREIGN = {"array", "flag", "gpus", "help", "hypothesis", "no", "nodes", "ntasks", "wrap"}
FOREIGN |= {"strict", "xla_force_host_platform_device_count"}


def slugs(document: Path) -> set[str]:
    """Anchors of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, rest = "jfedsl", dotted.split(".")[1:]
    while rest and importlib.util.find_spec(f"{module}.{rest[0]}"):
        module = f"{module}.{rest.pop(0)}"
        if not importlib.util.find_spec(module).submodule_search_locations:  # type: ignore[union-attr]
            break
    value = importlib.import_module(module) if rest else None
    for name in rest:
        value = getattr(value, name, None)
        if value is None:
            return False
    return True


def flags() -> set[str]:
    """Names of flags: those of a config, and every word that a script has as text of its own."""
    names = {field.name for field in dataclasses.fields(Config)} | {
        "config",
        "resume",
        "preset",
        "flagfile",
        "version",
        "helpfull",
    }
    for folder in ("experiments", "benchmarks", "jfedsl/studies", "jfedsl/commands"):
        for path in (ROOT / folder).rglob("*.py"):
            names |= set(re.findall(r'"(\w+)"', path.read_text()))
    return names


def test_what_the_tests_here_call_an_error():
    assert exists("jfedsl.models.registry.MODELS") and exists("jfedsl.run.training.train")
    assert not exists("jfedsl.models.registry.NONE") and not exists("jfedsl.protocol.state")
    assert PATH.findall("`jfedsl/nn/pooling.py`, tests/nn.") == ["jfedsl/nn/pooling.py", "tests/nn"]
    assert {"clients", "vary", "repeats"} <= flags()


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document):
    for link in LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / unquote(name)).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_paths_exist(document):
    for path in PATH.findall(document.read_text()):
        if "NAME" not in path:  # stands for one
            assert any(ROOT.glob(path.rstrip("/"))), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_dotted_names_exist(document):
    for dotted in set(DOTTED.findall(document.read_text())):
        assert exists(dotted), dotted


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_flags_exist(document):
    assert set(FLAG.findall(document.read_text())) - flags() - FOREIGN == set()


def test_architecture_has_the_rooms_in_their_order():
    text = (ROOT / "docs" / "design" / "architecture.md").read_text()
    table = text[: text.index("## Main types")]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ROOMS


def test_every_page_of_the_design_is_in_its_index():
    folder = ROOT / "docs" / "design"
    listed = set(LINK.findall((folder / "README.md").read_text()))
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} <= listed


def test_the_hash_of_a_program_is_printed(capsys):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "BUILD_NOTES.md").read_text(), re.DOTALL)
    for block in code:
        exec(compile(block, "BUILD_NOTES.md", "exec"), {})
    assert re.fullmatch(r"[0-9a-f]{64}\n", capsys.readouterr().out)


def test_the_one_page_stays_one():
    assert len((ROOT / "BUILD_NOTES.md").read_text().splitlines()) <= 120


def test_the_glossary_is_in_order():
    text = (ROOT / "docs" / "glossary.md").read_text()
    terms = re.findall(r"^- \*\*`?([^*`]+)`?\*\*", text, re.MULTILINE)
    plain = [re.sub(r"[^a-z0-9 ]", " ", term.lower()).strip() for term in terms]
    assert len(terms) > 80 and plain == sorted(plain)
