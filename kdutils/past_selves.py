"""A network taught by its own past: who teaches in which epoch, and frozen copies that take no room on the device.

>>> teachers, copies = LanguageTeachers(["de", "ko"]), FrozenCopies()
>>> for language in teachers.update({"de": 4.0, "ko": 5.5}):      # the end of an epoch
...     copies.keep("1", model)                                   # one copy, whoever's teacher it is
>>> network = copies.network("1", model)                          # on the device, in evaluation mode
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdutils.errors import UserError, unknown

# --- which language is taught, and by whom -----------------------------------------------------------------------


@dataclass
class _Best:
    loss: float = math.inf
    epoch: int = 0  # of the student that is now the teacher; 0: there is none


class LanguageTeachers:
    """Who teaches each language in each epoch (Equations (3) and (4) of the notebook): bookkeeping only, no weights.

    >>> teachers = LanguageTeachers(["de", "ko"])
    >>> teachers.update({"de": 5.0, "ko": 5.5})        # at the end of epoch 1: both are replaced
    ['de', 'ko']
    >>> teachers.update({"de": 4.0, "ko": 5.5})        # epoch 2: ko has a tie, and keeps its teacher
    ['de']
    >>> teachers.active("de"), teachers.active("ko")   # epoch 3
    (False, True)

    A teacher is replaced by the student of an epoch whose validation loss is strictly lower, and by the first. It
    teaches in epoch e when e > warmup and it is at least `age` epochs old: one that was replaced at the end of e - 1
    is the student itself. Epochs count from 1. Raises UserError for a language without a loss, a warmup below 0 or
    an age below 1.
    """

    def __init__(self, languages: Iterable[str], warmup: int = 1, age: int = 2) -> None:
        if warmup < 0 or age < 1:
            raise UserError(f"Teachers need a warmup of 0 epochs or more and an age of 1 or more, not {warmup}, {age}.")
        self.warmup, self.age, self.finished = warmup, age, 0
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
        """Whether the language is distilled in the epoch under way."""
        epoch, since = self.finished + 1, self.best[language].epoch
        return since > 0 and epoch > self.warmup and epoch - since >= self.age

    def state(self) -> dict[str, Any]:
        return {"finished": self.finished, "best": {name: [one.loss, one.epoch] for name, one in self.best.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.finished = state["finished"]
        self.best = {name: _Best(*one) for name, one in state["best"].items()}


def replayed(
    losses: Sequence[Mapping[str, float]], warmup: int = 1, age: int = 2
) -> list[dict[str, tuple[bool, bool]]]:
    """For each epoch, language -> (was it taught in it, was its teacher replaced at its end), from losses alone."""
    teachers, story = LanguageTeachers(losses[0], warmup, age), []
    for epoch in losses:
        taught = {language: teachers.active(language) for language in epoch}
        replaced = teachers.update(epoch)
        story.append({language: (taught[language], language in replaced) for language in epoch})
    return story


# --- their weights -----------------------------------------------------------------------------------------------


class FrozenCopies:
    """Weights of a network at several moments, by name, in half precision in the main memory.

    One network on the device, made when the first is needed, takes the weights of whoever is asked for, so any number
    of copies costs the memory of one there. It computes in half precision on a GPU and in float32 elsewhere, in
    evaluation mode, and has no gradient.
    """

    def __init__(self) -> None:
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.seat: nn.Module | None = None
        self.seated = ""

    @torch.no_grad()
    def keep(self, name: str, model: nn.Module) -> None:
        """Copies the model's weights under a name, tied ones once."""
        self.weights[name] = _pinned(
            {key: one.detach().to("cpu", torch.float16, copy=True) for key, one in model.named_parameters()}
        )
        self.seated = "" if self.seated == name else self.seated

    def keep_only(self, names: Iterable[str]) -> None:
        """Forgets all other copies."""
        wanted = set(names)
        self.weights = {name: weights for name, weights in self.weights.items() if name in wanted}

    @torch.no_grad()
    def network(self, name: str, like: nn.Module) -> nn.Module:
        """The network on the device with these weights; `like` shows its shape. The next call changes it."""
        if self.seat is None:
            plain = like.module if hasattr(like, "module") else like  # under data parallelism
            self.seat = copy.deepcopy(plain).eval().requires_grad_(False)
            if next(plain.parameters()).is_cuda:
                self.seat.half()
        if self.seated != name:
            for key, parameter in self.seat.named_parameters():
                parameter.copy_(self.weights[name][key], non_blocking=True)
            self.seated = name
        return self.seat

    def megabytes(self) -> dict[str, float]:
        """What the copies take in the main memory, and the network on the device."""
        host = sum(one.nbytes for weights in self.weights.values() for one in weights.values())
        device = sum(one.nbytes for one in self.seat.parameters()) if self.seat is not None else 0
        return {"host": host / 2**20, "device": device / 2**20}

    def state(self) -> dict[str, Any]:
        return self.weights

    def restore(self, state: dict[str, Any]) -> None:
        self.weights, self.seated = {name: _pinned(weights) for name, weights in state.items()}, ""


def _pinned(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors where a GPU can fetch them by itself, if there is one."""
    return {key: one.pin_memory() if torch.cuda.is_available() else one for key, one in weights.items()}
