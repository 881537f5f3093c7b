"""Tables in documents: taken from those of studies, and what asks for too much is refused."""

from pathlib import Path

import pytest

from jfedsl.errors import UserError
from jfedsl.studies.pages import refreshed

ROOT = Path(__file__).parents[2]
TABLES = """| setting | accuracy | MB |
| --- | --- | --- |
| plain | 0.8 (0.7 to 0.9) | 4 |
| light, dropout | 0.7 | 2 |

Means over seeds.

| setting | accuracy, difference | MB, ratio |
| --- | --- | --- |
| light, dropout | -0.1 | 0.5 |

| claim | verdict |
| --- | --- |
| It is less | **holds** |

| setting | tries: rate | chosen |
| --- | --- | --- |
| plain | 0.1: 0.8 | 0.1 |

| varied | Spearman |
| --- | --- |
| cut | 1 |

- Command: x
"""


@pytest.fixture(name="results")
def _results(tmp_path: Path) -> Path:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "table.md").write_text(TABLES)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "table.md").write_text(TABLES.split("\n\n")[0])
    return tmp_path


def block(asked: str, *lines: str) -> str:
    """A document with a block."""
    return "\n".join(
        ["before", f"<!-- results {asked} -->", *lines, "<!-- end of results -->", "x"]
    )


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (
            "some: means | MB; accuracy | light, dropout; plain",
            ["| setting | MB | accuracy |", "| --- | --- | --- |", "| light, dropout | 2 | 0.7 |",
             "| plain | 4 | 0.8 (0.7 to 0.9) |"],
        ),
        (
            "some: pairs | MB, ratio",
            ["| setting | MB, ratio |", "| --- | --- |", "| light, dropout | 0.5 |"],
        ),
        ("some: claims", ["| claim | verdict |", "| --- | --- |", "| It is less | **holds** |"]),
        (
            "some: rates",
            ["| setting | tries: rate | chosen |", "| --- | --- | --- |",
             "| plain | 0.1: 0.8 | 0.1 |"],
        ),
        ("some: ranks", ["| varied | Spearman |", "| --- | --- |", "| cut | 1 |"]),
    ],
)  # fmt: skip
def test_a_block_gets_its_table(asked: str, lines: list[str], results: Path) -> None:
    fresh = refreshed(block(asked), results)
    assert fresh == block(asked, *lines) == refreshed(fresh, results)
    two = f"{block(asked, 'old')}\n{block('some: claims')}"
    assert refreshed(two, results).startswith(f"{fresh}\nbefore")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("other: means", "there is no table 'means' in .*other"),
        ("some: medians", "there is no table 'medians'"),
        ("some: means | joules", "there is no 'joules' among setting; accuracy; MB"),
        ("bare: claims", "the study has no such table"),
        ("some means", "blocks of results need two lines of their own"),
        ("some: means -->\n<!-- results some: pairs", "blocks of results need two lines"),
        ("some: means | MB | heavy", "there is no 'heavy' among plain; light, dropout"),
    ],
)
def test_what_there_is_not_is_refused(asked: str, text: str, results: Path) -> None:
    with pytest.raises(UserError, match=text):
        refreshed(block(asked), results)


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/guides/choosing.md"])
def test_the_tables_of_this_repository_are_those_of_its_studies(page: str) -> None:
    text = (ROOT / page).read_text()
    assert refreshed(text, ROOT / "experiments" / "results") == text
