"""The documents that users read, and the blocks of code and commands in them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# What users read; pages of the design have blocks for maintainers.
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "design" not in p.parts),
]


class Block(NamedTuple):
    """A fenced block of a document.

    Attributes:
      page: path of the document from the root.
      text: what is between the fences.
    """

    page: str
    text: str

    @property
    def name(self) -> str:
        """The page and the first line, for the name of a test."""
        return f"{self.page}: {self.text.splitlines()[0][:60]}"


def blocks(language: str) -> list[Block]:
    """All blocks of a language, page by page."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [
        Block(str(page.relative_to(ROOT)), text)
        for page in PAGES
        for text in fence.findall(page.read_text())
    ]


def files(page: str) -> dict[str, str]:
    """Blocks that a comment above them says to write into files, by the names of the files."""
    fence = r"^<!-- file: (\S+) -->\n```python\n(.*?)^```"
    return dict(re.findall(fence, (ROOT / page).read_text(), re.DOTALL | re.MULTILINE))


def commands(page: str) -> list[list[str]]:
    """The words of each command in the `bash` blocks of a page."""
    texts = "\n".join(block.text for block in blocks("bash") if block.page == page)
    lines = texts.replace("\\\n", " ").splitlines()
    return [shlex.split(part) for line in lines for part in line.split(" && ") if part.strip()]
