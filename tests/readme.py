"""What the README shows of the suite, computed: `python -m tests.readme` writes the verdicts and draws the picture.

>>> told(README.read_text()) == README.read_text()  # the table says what results/ says
"""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import torch

from kdutils.losses import divergences
from kdutils.notebook import plots, report
from kdutils.runner import names
from kdutils.study.claims import SYMBOLS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PICTURE = ROOT / "book" / "_static" / "eight_teachers.png"
ROW = re.compile(r"^(\| \d\d \| \[`\d\d_(\w+)`\]\([^)]*\) \|[^|]*\|).*\|$", re.MULTILINE)


def told(text: str) -> str:
    """The text with the last two columns of the table of papers as the records have them: headline, and verdicts."""
    claims = {name: importlib.import_module(f"kdutils.papers.{name}.claims").CLAIMS for name in names()}
    graded = report.headlines(report.gather("", ROOT / "results"), claims)

    def row(found: re.Match) -> str:
        if found[2] not in claims:
            return found[0]
        headline = next(claim for claim in claims[found[2]] if claim.rank == "headline")
        beds = graded.get(found[2], [])
        verdicts = [f"{bed}: {SYMBOLS[one.verdict]} {one.verdict}, {one.ours or 'no number'}" for bed, one in beds]
        return f"{found[1]} {headline.statement} | {'<br>'.join(verdicts) or 'not recorded yet'} |"

    return ROW.sub(row, text)


def drawn() -> plots.Picture:
    """The picture: the page of eight methods of notebook 00, by its own cells, but broad in place of tall."""
    cells = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))["cells"]
    known = {"torch": torch, "divergences": divergences, "plots": plots}
    for cell in cells:
        if "eight-teachers" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), known)
    plots.use_style()
    figure = known["eight_teachers"](columns=5, width=10, height=3.9, numbers=False)
    return plots.picture(figure, "What eight teachers add to a hard label")


if __name__ == "__main__":
    README.write_text(told(README.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_bytes(drawn().png)
