"""HTML pages of Markdown, each a single file."""

import base64
import html
import re
from collections.abc import Mapping

import markdown

from jfedsl.errors import one_line

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }}
h1, h2, h3 {{ line-height: 1.2; margin-top: 2rem; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.7rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
th {{ border-bottom: 2px solid #888; }}
th, td + td {{ white-space: nowrap; }}
img {{ max-width: 100%; height: auto; }}
code {{ background: #f2f2f2; padding: 0 0.2rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def escaped(text: str) -> str:
    """A text on one line, in which Markdown and HTML find no markup."""
    # An underscore between letters is no markup, and many names have one.
    return re.sub(r"""[\\`*\[\]|<>&"#~$]|\b_+|_+\b""", _as_numbers, one_line(text))


def _as_numbers(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(c)};" for c in match[0])


def page(text: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """Markdown as an HTML page that contains its pictures.

    Args:
      text: the Markdown, in which text from users has been `escaped`.
      title: of the page.
      pictures: PNGs by their addresses in the text.
    """
    body = markdown.markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")
    for address, picture in pictures.items():
        data = base64.b64encode(picture).decode()
        body = body.replace(f'src="{address}"', f'src="data:image/png;base64,{data}"')
    return _PAGE.format(title=html.escape(one_line(title)), body=body)
