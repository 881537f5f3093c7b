"""Markdown as an HTML page that needs no other file."""

import base64
import html
import re
from pathlib import Path

import markdown

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


def page(text: str, title: str, folder: Path) -> str:
    """Markdown as a page that stands alone: pictures become part of it.

    Args:
      text: the Markdown.
      title: of the page.
      folder: that pictures are relative to.
    """
    body = markdown.markdown(text, extensions=["tables"])
    body = body.replace("<table>", '<div class="table"><table>')
    body = body.replace("</table>", "</table></div>")

    def embedded(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / match[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return _PAGE.format(
        title=html.escape(title), body=re.sub(r'src="([^"]+\.png)"', embedded, body)
    )
