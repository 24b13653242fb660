"""A page in Markdown, as HTML that needs nothing but itself and its images."""

from __future__ import annotations

import base64
import html
import itertools
import pathlib
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from experiments._page import slug

STYLE = """\
:root { color-scheme: light dark; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3, h4 { line-height: 1.2; }
h2 { margin-top: 3rem; border-bottom: 2px solid; padding-bottom: .3rem; }
h3 { margin-top: 2.2rem; }
h4 { margin: 1.6rem 0 .3rem; }
h4 + p { margin: .3rem 0; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .92rem; }
th, td { border: 1px solid #8886; padding: .3rem .6rem; text-align: left;
         vertical-align: top; }
tr:nth-child(even) td { background: #8881; }
code { font-size: .9em; background: #8882; padding: .1em .3em; border-radius: 3px;
       overflow-wrap: anywhere; }
img { max-width: 100%; background: #fff; }
a { color: #0072b2; }
@media (prefers-color-scheme: dark) { a { color: #56b4e9; } }
"""
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def render(markdown: str, title: str, embed: pathlib.Path | None = None) -> str:
    """Returns a page of HTML, with the anchors that GitHub would give.

    Args:
      markdown: the page; HTML in it is shown, not used.
      title: of the window.
      embed: where the links of images start, if the images are to be part of the
        page.
    """
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    unique = _unique()
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", unique(slug(_text(inline))))
    if embed is not None:
        for token in tokens:
            for child in token.children or ():
                if child.type == "image":
                    _embed(child, embed)
    body = parser.renderer.render(tokens, parser.options, {})
    return PAGE.format(title=html.escape(title), style=STYLE, body=body)


def _text(inline: Any) -> str:
    return "".join(
        child.content for child in inline.children
        if child.type in ("text", "text_special", "code_inline")
    )


def _unique() -> Callable[[str], str]:
    """Returns what numbers anchors that occur again, as GitHub does."""
    seen: dict[str, int] = {}

    def unique(anchor: str) -> str:
        count = seen.get(anchor, 0)
        seen[anchor] = count + 1
        return f"{anchor}-{count}" if count else anchor

    return unique


def _embed(image: Any, root: pathlib.Path) -> None:
    content = (root / unquote(str(image.attrGet("src")))).read_bytes()
    encoded = base64.b64encode(content).decode()
    image.attrSet("src", f"data:image/png;base64,{encoded}")
