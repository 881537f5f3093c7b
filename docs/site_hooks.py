"""Hooks of mkdocs: tables written by the code, pages outside of docs/, and links of notebooks.

A document in docs/ links to any file of the repository by its relative path, so that links work in
a clone too. The site has the linked documents and pictures under repository/; a link to anything
else, such as source code, becomes plain text there.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from jfedsl.config.pairs import pair_tables
from jfedsl.config.reference import flag_tables

ROOT = Path(__file__).parents[1]
SHOWN = {".md", ".png", ".svg"}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_HREF = re.compile(r'href="([^":#]+)(#[^"]*)?"')
_PREFIX = "repository/"
_WRITTEN = {"<!-- flags -->": flag_tables, "<!-- pairs -->": pair_tables}


def _repository_path(uri: str) -> str:
    """Where a file of the site lies in the repository."""
    return uri.removeprefix(_PREFIX) if uri.startswith(_PREFIX) else f"docs/{uri}"


def _target(path: str, link: str) -> str:
    """The path in the repository that a relative link in the document `path` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _linked(path: str) -> set[str]:
    """Paths of the documents and pictures outside of docs/ that a document links to."""
    targets = {_target(path, match[3]) for match in _LINK.finditer((ROOT / path).read_text())}
    return {
        target
        for target in targets
        if not target.startswith("docs/")
        and Path(target).suffix in SHOWN
        and (ROOT / target).is_file()
    }


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds what the documents link to outside of docs/, and what these link to in turn."""
    waiting = {_repository_path(page.src_uri) for page in files.documentation_pages()}
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        done.add(path)
        if path.endswith(".md"):
            waiting |= _linked(path) - done
        if not path.startswith("docs/"):
            files.append(File.generated(config, _PREFIX + path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Leads links to where their targets are in the site, and writes tables into pages."""
    path = _repository_path(page.file.src_uri)

    def replaced(match: re.Match[str]) -> str:
        mark, text, link, anchor = match.groups()
        target = _target(path, link)
        uri = target.removeprefix("docs/") if target.startswith("docs/") else _PREFIX + target
        if files.get_file_from_path(uri) is None and (ROOT / target).exists():
            return str(text)
        relative = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return f"{mark}[{text}]({relative}{anchor or ''})"

    text = _LINK.sub(replaced, markdown)
    for mark, tables in _WRITTEN.items():
        if mark in text:
            text = text.replace(mark, tables())
    return text


def on_page_content(html: str, page: Page, files: Files, **_: Any) -> str:
    """Leads links of notebooks to pages, which mkdocs does for Markdown only.

    Raises:
      PluginError: a link leads nowhere.
    """
    path = page.file.src_uri
    if not path.endswith(".ipynb"):
        return html

    def replaced(match: re.Match[str]) -> str:
        file = files.get_file_from_path(_target(path, match[1]))
        if file is None:
            raise PluginError(f"{path}: no page for the link {match[1]}")
        return f'href="{file.url_relative_to(page.file)}{match[2] or ""}"'

    return _HREF.sub(replaced, html)
