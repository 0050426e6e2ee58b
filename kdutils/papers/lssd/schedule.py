"""Algorithm 1: which language is taught in which epoch, and by whom. Bookkeeping only, no weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdutils.core.errors import UserError, unknown


@dataclass
class _Best:
    loss: float = math.inf
    epoch: int = 0  # of the student that is now the teacher; 0: there is none


class LanguageTeachers:
    """Who teaches each language in each epoch, as Algorithm 1 has it.

    >>> teachers = LanguageTeachers(["de", "ko"])
    >>> teachers.update({"de": 5.0, "ko": 5.5})        # at the end of epoch 1: both are replaced, both switches off
    ['de', 'ko']
    >>> teachers.update({"de": 4.0, "ko": 5.5})        # epoch 2: ko has a tie, keeps its teacher and is switched on
    ['de']
    >>> teachers.active("de"), teachers.active("ko")   # epoch 3
    (False, True)

    A teacher is replaced by the student of an epoch whose validation loss is strictly lower, and by the first; its
    language is then switched off for an epoch, and on again once a teacher is kept. That is the same as: a teacher
    speaks from the age of two epochs on, for one of the epoch before is the student itself. age: another number
    of epochs, which the paper does not have. Epochs count from 1. Raises UserError for a language without a loss or
    an age below 1.
    """

    def __init__(self, languages: Iterable[str], age: int = 2) -> None:
        if age < 1:
            raise UserError(f"Teachers need an age of 1 epoch or more, not {age}.")
        self.age, self.finished = age, 0
        self.best = {language: _Best() for language in languages}

    def update(self, losses: Mapping[str, float]) -> list[str]:
        """Ends an epoch with each language's validation loss; returns the languages whose teacher is replaced."""
        for language in self.best:
            if language not in losses:
                raise unknown("language with a validation loss", language, losses)
        self.finished += 1
        replaced = [one for one, best in self.best.items() if self.finished == 1 or losses[one] < best.loss]
        for language in replaced:
            loss = losses[language]
            self.best[language] = _Best(math.inf if math.isnan(loss) else loss, self.finished)
        return replaced

    def active(self, language: str) -> bool:
        """Omega_l: whether the language is distilled in the epoch under way."""
        since = self.best[language].epoch
        return since > 0 and self.finished + 1 - since >= self.age

    def state(self) -> dict[str, Any]:
        return {"finished": self.finished, "best": {name: [one.loss, one.epoch] for name, one in self.best.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.finished = state["finished"]
        self.best = {name: _Best(*one) for name, one in state["best"].items()}


def replayed(losses: Sequence[Mapping[str, float]], age: int = 2) -> list[dict[str, tuple[bool, bool]]]:
    """For each epoch, language -> (was it taught in it, was its teacher replaced at its end), from losses alone."""
    teachers, story = LanguageTeachers(losses[0], age), []
    for epoch in losses:
        taught = {language: teachers.active(language) for language in epoch}
        replaced = teachers.update(epoch)
        story.append({language: (taught[language], language in replaced) for language in epoch})
    return story
