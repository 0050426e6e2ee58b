"""LSSD's Equations (3) to (7), and what its code has besides, in plain float64.

One position at a time, the gates of sentences from their positions.

>>> Equation(2.5, "adaptive", level="sentence").of(z, targets, mask, sentences)   # value and gradient

z (2, ..., V) are the logits of student and teacher. No formula here comes from kdutils; `distilled` is the call under
test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdutils.papers.lssd.objective import lssd_loss
from tests.oracles import evaluate, example, log_softmax, smoothed_nll


def language(classes: int) -> np.ndarray:
    """The words (V,) of a language, for the tests: two of three, the first among them."""
    return np.arange(classes) % 3 != 1


def openness(log_p: float, log_q: float, kind: str, floor: float, cap: float, strict: bool) -> float:
    """(6) or (7) of what student and teacher give to the right word or words, as logarithms."""
    if kind == "whole":
        return 1.0
    if kind == "selective":
        return 1.0 if log_q > log_p or (log_q == log_p and not strict) else floor
    return min(cap, math.exp(min(log_q - log_p, 700.0)))


@dataclass(frozen=True)
class Equation:
    """(3) at a position that is distilled, with its switches; teacher=False is a position that is not."""

    alpha: float = 1.0
    kind: str = "whole"
    level: str = "sentence"
    combine: str = "sum"
    top_k: int = 0
    words: bool = False
    floor: float = 0.0
    cap: float = 2.0
    strict: bool = False
    epsilon: float = 0.1
    convention: str = "others"
    teacher: bool = True

    def log_q(self, z: np.ndarray) -> np.ndarray:
        """The teacher's distribution, of the language's words only where it is aware of them."""
        return log_softmax(np.where(language(len(z)), z, -np.inf) if self.words else z)

    def __call__(self, z: np.ndarray, target: int) -> Any:
        """z (2, V), or (3, V) with the gate in the third row. A complex step reaches neither teacher nor gate."""
        smoothed = smoothed_nll(self.epsilon, self.convention)(z[:1], target)
        if not self.teacher:
            return smoothed
        log_p, log_q = log_softmax(z[0]), self.log_q(z[1].real)
        g = z[2, 0].real if len(z) == 3 else self._gate(log_p.real[target], log_q[target])
        q = np.exp(log_q)
        if 0 < self.top_k < len(q):
            q[np.argsort(-q)[self.top_k :]] = 0.0
        soft, w = -(q * log_p).sum(), self.alpha
        if self.combine == "halved":
            return (smoothed + w * g * soft) / 2
        return (smoothed if self.combine == "sum" else (1 - w) * smoothed) + w * g * soft

    def _gate(self, log_p: float, log_q: float) -> float:
        return openness(log_p, log_q, self.kind, self.floor, self.cap, self.strict)

    def gates(self, z: Tensor, targets: Tensor, mask: Tensor, sentences: Tensor) -> np.ndarray:
        """g of every position; those of a sentence that count have one gate, of their sums. 1 where none counts."""
        z, found = z.detach().double().numpy(), np.ones(targets.shape)
        places: dict[Any, list[tuple[int, ...]]] = {}
        for place in map(tuple, mask.nonzero().tolist()):
            own = place if self.level == "token" else int(sentences[place])
            places.setdefault(own, []).append(place)
        for together in places.values():
            right = [(log_softmax(z[0][n]), self.log_q(z[1][n]), int(targets[n])) for n in together]
            log_p = np.logaddexp.reduce([p[y] for p, _, y in right])
            log_q = np.logaddexp.reduce([q[y] for _, q, y in right])
            for place in together:
                found[place] = self._gate(log_p, log_q)
        return found

    def of(self, z: Tensor, targets: Tensor, mask: Tensor, sentences: Tensor, reduction: str = "mean"):
        """Value and gradient (2, ..., V) over a batch."""
        third = torch.as_tensor(self.gates(z, targets, mask, sentences))[None, ..., None].expand_as(z[:1])
        value, gradient = evaluate(self, torch.cat([z.double(), third]), targets, mask, reduction)
        return value, gradient[:2]


def corpus(seed: int = 0, classes: int = 5) -> tuple[Tensor, ...]:
    """z (2, 4, 5, V), targets, mask and sentence numbers (4, 5): a sentence a row, of 5, 2, 0 and 4 words."""
    z, targets, _ = example(2, (4, 5), classes, seed)
    mask = torch.arange(5)[None] < torch.tensor([5, 2, 0, 4])[:, None]
    return z, targets, mask, torch.arange(4)[:, None].expand(4, 5)


def distilled(z: Tensor, targets: Tensor, words: bool = False, teacher: bool = True, **options) -> Tensor:
    """lssd_loss of student z[0] and teacher z[1]; words are those of `language`."""
    known = torch.as_tensor(language(z.shape[-1])) if words else None
    return lssd_loss(z[0], targets, z[1] if teacher else None, words=known, **options)
