"""Errors that a reader of a notebook should see: one sentence that says what is wrong and what to do.

>>> raise unknown("preset", "dmeo", ["demo", "study", "paper"])
UserError: There is no preset 'dmeo'. Did you mean 'demo'? Known: demo, study, paper.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The message is one sentence and names the remedy."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for this before it formats a traceback. The depths of the library
        # tell a reader nothing about a mistyped parameter, so a notebook shows the sentence alone.
        return [f"{type(self).__name__}: {self}"]


class Paused(UserError):
    """A run stopped cleanly before its time limit; the same call goes on from its last checkpoint."""


def unknown(kind: str, name: object, known: Iterable[object]) -> UserError:
    """An error for a name that does not exist, with the nearest one and the full list of those that do."""
    names = [str(item) for item in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"There is no {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
