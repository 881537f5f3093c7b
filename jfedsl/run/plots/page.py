"""HTML pages of Markdown, each a single file."""

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

import markdown

from jfedsl.errors import one_line

_PAGE = Path(__file__).with_name("page.html")
_TYPES = {"png": "image/png", "svg": "image/svg+xml"}


def escaped(text: str) -> str:
    """A text on one line, in which Markdown and HTML find no markup."""
    # An underscore between letters is no markup, and many names have one.
    return re.sub(r"""[\\`*\[\]|<>&"#~$]|\b_+|_+\b""", _as_numbers, one_line(text))


def _as_numbers(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(c)};" for c in match[0])


def page(text: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """Markdown as an HTML page that contains its pictures, and whose tables can be sorted.

    Args:
      text: the Markdown, in which text from users has been `escaped`.
      title: of the page.
      pictures: PNGs and SVGs by their addresses in the text, which end in `.png` or `.svg`.
    """
    body = markdown.markdown(text, extensions=["tables"])
    # Focusable, so that the keyboard scrolls a wide one.
    body = body.replace("<table>", '<div class="table" tabindex="0"><table>')
    body = body.replace("</table>", "</table></div>")
    body = body.replace("<p><img ", '<p class="picture" tabindex="0"><img ')
    for address, picture in pictures.items():
        kind = _TYPES[address.rpartition(".")[2]]
        data = base64.b64encode(picture).decode()
        body = body.replace(f'src="{address}"', f'src="data:{kind};base64,{data}"')
    template = Template(_PAGE.read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(one_line(title)), body=body)
