"""What the check of any paper's exercise must print for a right, a wrong and a missing answer; each paper has its own.

>>> told_right(capsys, "r_drop.alpha", 4)  # an assertion
"""

from __future__ import annotations

import re
from typing import Any

from kdutils.notebook.exercises import check, kept


def said(capsys, exercise: str, answer: Any) -> str:
    """The one line that the check prints."""
    check(exercise, answer)
    out = capsys.readouterr().out
    assert out.endswith("\n") and out.count("\n") == 1
    return out


def told_right(capsys, exercise: str, answer: Any) -> None:
    """A right answer is told so, with a reason."""
    out = said(capsys, exercise, answer)
    assert out.startswith(f"✓ right ({exercise}). ") and len(out.split()) > 8


def told_wrong(capsys, exercise: str, answer: Any, away: str) -> None:
    """A wrong answer gets the hint and not the answer; `away`: a pattern of what would give that away."""
    out = said(capsys, exercise, answer)
    assert out.startswith(f"✗ not yet ({exercise}). ") and out.endswith(kept(exercise).hint + "\n")
    assert not re.search(away, out)


def told_what_to_do(capsys, exercise: str, answer: Any, away: str) -> None:
    """An untouched cell says what goes in place of the dots, with all options of a prediction."""
    out, options = said(capsys, exercise, answer), kept(exercise).options
    assert out.startswith(f"… not answered yet ({exercise}): put ") and "in place of `...`" in out
    assert all(f'"{option}"' in out for option in options)
    assert options or not re.search(away, out)
