"""The tables that `make demo` prints, as a picture: text in, SVG out. `make picture` writes docs/img/demo.svg.

The same text gives the same bytes. A cell stands where the text has it, whatever font a browser takes.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ADVANCE, LINE, MARGIN = 7.3, 18, 20  # pixels: a character, a line, around all
TITLE: Final = re.compile(r"\w+ \(\d+ rows\)")
STYLE: Final = """
  rect { fill: #f6f8fa; stroke: #d0d7de }
  text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328; white-space: pre }
  .title { font-weight: bold; fill: #0969da }
  .head { fill: #656d76 }
  @media (prefers-color-scheme: dark) {
    rect { fill: #0d1117; stroke: #30363d }
    text { fill: #e6edf3 }
    .title { fill: #58a6ff }
    .head { fill: #8d96a0 }
  }
"""


def tables(shown: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each table's title and lines: the names, the rule, the rows."""
    for block in shown.split("\n\n"):
        title, *lines = block.strip("\n").splitlines() or [""]
        if TITLE.fullmatch(title):
            yield title, lines


def cells(line: str, rule: str) -> Iterator[tuple[int, str]]:
    """Yield where each cell of a line begins, in columns of a terminal, and its text."""
    columns = "".join(c + "\0" * (unicodedata.east_asian_width(c) == "W") for c in line)  # an emoji takes two
    for column in re.finditer("-+", rule):
        if text := columns[column.start() : column.end()].replace("\0", "").strip():
            yield column.start(), text


def picture(shown: str) -> str:
    """Return the SVG."""
    texts: list[str] = []
    widest, number = 0, 0

    def write(column: int, text: str, kind: str = "") -> None:
        x, y = MARGIN + column * ADVANCE, MARGIN + (number + 0.8) * LINE
        texts.append(f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(text, quote=False)}</text>')

    for title, (names, rule, *rows) in tables(shown):
        number += bool(texts)
        write(0, title, ' class="title"')
        for line in (names, *rows):
            number += 1
            for column, text in cells(line, rule):
                write(column, text, ' class="head"' if line is names else "")
        number += 1
        widest = max(widest, len(rule))
    width, height = round(2 * MARGIN + widest * ADVANCE), 2 * MARGIN + number * LINE
    size = f'width="{width}" height="{height}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">',
            "<title>The five tables after two runs of make demo</title>",
            f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>',
            *texts,
            "</svg>\n",
        )
    )


if __name__ == "__main__":
    sys.stdout.write(picture(sys.stdin.read()))
