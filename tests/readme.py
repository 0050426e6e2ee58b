"""The verdicts in the README's table of papers: computed from the records, written by `python -m tests.readme`.

>>> told(README.read_text()) == README.read_text()  # the table says what results/ says
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from kdutils.notebook import report
from kdutils.runner import names
from kdutils.study.claims import SYMBOLS

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
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


if __name__ == "__main__":
    README.write_text(told(README.read_text(encoding="utf-8")), encoding="utf-8")
