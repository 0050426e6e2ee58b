"""From the plain docstrings of this project to reStructuredText that says the same.

>>> as_rst(["KL(p || q), for a `mask` see below.", "", "    python -m kdutils list"])

The docstrings are written to be read in the source: paragraphs, `names` in backticks, `>>>` examples, lists with
dashes, tables and commands that are set by spaces. In reStructuredText a star, a bar or a trailing underscore would be
markup, and spaces would be lost. Here each paragraph is seen for what it is; text in, text out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

COLUMNS = re.compile(r"\S {2,}\S")  # a paragraph with a gap in a line is a table
ITEM = re.compile(r"(- |\d+\. )")
# Names in backticks become links where the module has them; addresses are left to be recognised.
INLINE = re.compile(
    r"``(?P<double>.+?)``|`(?P<code>[^`]+)`|(?P<address>https?://[^\s)>,]+[^\s)>,.;:])|(?P<mark>[\\*`|_])"
)


def paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """The lines between blank lines."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def inline(text: str) -> str:
    """Backticks as code or as references to names, and what would be markup as itself."""

    def escape(match: re.Match) -> str:
        code = match["double"] or match["code"]
        if code:
            return f":py:obj:`{code}`" if re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", code) else f"``{code}``"
        return match["address"] or "\\" + match["mark"]

    return INLINE.sub(escape, text)


def block_as_rst(block: list[str]) -> list[str]:
    """One paragraph: an example, a table or a command as it is, a list, or prose."""
    literal = ["   " + line for line in block]
    if block[0].lstrip().startswith(">>>"):
        return [".. code-block:: pycon", "", *literal]
    if block[0].startswith(" ") or any(COLUMNS.search(line) for line in block):
        return ["::", "", *literal]
    if ITEM.match(block[0]):
        return inline("\n".join(block)).split("\n")
    # the rest of a paragraph may hang below a first line that ends in a colon: a table, or commands
    hanging = next((number for number, line in enumerate(block) if line.startswith((" ", ">>>", "- "))), len(block))
    prose = inline("\n".join(block[:hanging])).split("\n")
    return [*prose, "", *block_as_rst(block[hanging:])] if block[hanging:] else prose


def as_rst(lines: list[str]) -> list[str]:
    """A docstring, without the indentation of its source, as reStructuredText."""
    return [line for block in paragraphs(lines) for line in [*block_as_rst(block), ""]]
