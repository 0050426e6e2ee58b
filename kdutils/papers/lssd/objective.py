"""Gates and loss of language-specific self-distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdutils.core.errors import UserError, unknown
from kdutils.losses.distillation import FixedTeacher, gated_distillation
from kdutils.losses.divergences import nll_formula, weighted_sum

GATES = ("whole", "selective", "adaptive")
LEVELS = ("token", "sentence")
COMBINATIONS = ("sum", "halved", "convex")
# What the paper prints, and what its released code does (label_smoothed_cross_entropy_with_online_distillation.py).
FORMS = {
    "paper": {"combine": "sum", "floor": 0.0, "cap": 2.0, "strict": False},
    "released": {"combine": "halved", "floor": 0.2, "cap": 1.0, "strict": True},
}


def gate(
    student_logp: Tensor,
    teacher_logp: Tensor,
    kind: str = "whole",
    level: str = "sentence",
    sentences: Tensor | None = None,
    floor: float = 0.0,
    cap: float = 2.0,
    strict: bool = False,
) -> Tensor:
    """G of Equations (5) to (7): how much of the teacher each position takes, from log-probabilities (N,).

    They are those of the right word under student and teacher. "whole": 1. "selective" (6): 1 where the teacher is at
    least as good, else `floor`; strict: a tie counts for the student. "adaptive" (7): the ratio of teacher to student,
    at most `cap`, the paper's sigma. "sentence" compares the mean probabilities q* and p* of a sentence, whose
    positions have its number in `sentences` (N,), any integers; "token" those of each position. Nothing has a
    gradient. The defaults are the paper's; `FORMS` has the released code's, which gates some runs by tokens. Raises
    UserError for an unknown kind or level, for sentences that are not told, and for shapes that differ.
    """
    _check_gate(kind, level, floor, cap)
    given = [student_logp, teacher_logp, *([] if sentences is None else [sentences])]
    if any(one.shape != student_logp.shape for one in given):
        raise UserError(f"A gate needs one number a position, not {[tuple(one.shape) for one in given]}.")
    # log p*, log q*: (N,), finite also for a word that is impossible
    least = torch.finfo(student_logp.dtype).min
    p, q = student_logp.detach().clamp_min(least), teacher_logp.detach().clamp_min(least)
    if kind == "whole":
        # G = 1: (N,)
        return torch.ones_like(p)
    if level == "sentence":
        if sentences is None:
            raise UserError("A gate of whole sentences needs to know which position belongs to which: give sentences.")
        # log sum_t p*_t, log sum_t q*_t of the sentence, at each of its positions: (N,); both means have its length
        p, q = _by_sentence(p, sentences), _by_sentence(q, sentences)
    if kind == "selective":
        # G = 1 where q* >= p*, else the floor: (N,)
        return torch.where(q > p if strict else q >= p, torch.ones_like(p), torch.full_like(p, floor))
    # G = min(q* / p*, sigma): (N,)
    return (q - p).clamp(max=math.log(cap)).exp()


def _by_sentence(logp: Tensor, sentences: Tensor) -> Tensor:
    """At each position, the log of the sum of the probabilities of its sentence."""
    # the number of its sentence, from 0 to S - 1: (N,); by a sort, since `unique` makes the host wait for a GPU
    numbers, order = sentences.sort()
    own = torch.zeros_like(order).scatter(0, order[1:], (numbers[1:] != numbers[:-1]).long().cumsum(0))
    # max_t log p*_t of each sentence, taken off before the exponential: the first S of (N,)
    top = torch.full_like(logp, -math.inf).scatter_reduce(0, own, logp, "amax")
    # sum_t exp(log p*_t - max): the first S of (N,)
    total = torch.zeros_like(logp).index_add(0, own, (logp - top[own]).exp())
    # max + log of that sum, at each position: (N,)
    return top[own] + total[own].log()


def lssd_loss(
    logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor | None = None,
    alpha: float = 1.0,
    kind: str = "whole",
    level: str = "sentence",
    mask: Tensor | None = None,
    sentences: Tensor | None = None,
    combine: str = "sum",
    top_k: int = 0,
    words: Tensor | None = None,
    floor: float = 0.0,
    cap: float = 2.0,
    strict: bool = False,
    epsilon: float = 0.1,
    convention: str = "others",
    reduction: str = "mean",
) -> Tensor:
    """Equations (3) to (7), a position: CE + alpha G H(q, p) with a teacher, CE without one.

    logits, teacher_logits (..., V); targets, mask and sentences (...); without `sentences`, targets of (B, T) have a
    sentence a row. H is the cross-entropy under the teacher's distribution q at temperature 1 (4), G the `gate` of
    `kind` and `level` (5). combine: "sum" is the paper's (3); "halved" the released code's 1/2 [CE + alpha G H], in
    which labels count half wherever a teacher speaks, with an alpha of 0 too; "convex" (1 - alpha) CE + alpha G H. Of
    the code alone are `top_k` > 0: only the teacher's K most probable words enter H, not renormalised; and `words`
    (V,): q is renormalised over those that are True, before top-K and gate; the student is not. Label smoothing
    touches CE only. No gradient reaches the teacher or passes the gate. "mean" divides by the counted positions.
    Raises UserError for shapes that differ and for an alpha or name that makes no sense.
    """
    # CE(p, y), smoothed, at each position: (n,)
    nll = nll_formula(targets, logits.shape[-1], epsilon, convention)
    if logits.shape[:-1] != targets.shape or (teacher_logits is not None and teacher_logits.shape != logits.shape):
        given = [tuple(one.shape) for one in (logits, teacher_logits, targets) if one is not None]
        raise UserError(
            f"Logits and teacher logits must be ({', '.join(map(str, [*targets.shape, 'V']))}), not {given}."
        )
    # a of CE and b of G H: two numbers
    weights = checked_weights(alpha, combine)
    _check_gate(kind, level, floor, cap)
    if top_k < 0:
        raise UserError(f"top_k is {top_k}: choose how many words of the teacher count, or 0 for all.")
    if teacher_logits is None:
        # CE, reduced: a number, or (...) for "none"
        return weighted_sum([(1.0, nll)], logits[None], mask, reduction)
    # q, over the words that it may use, its K largest: (..., V)
    teacher = FixedTeacher(teacher_logits, words, top_k)
    if sentences is None and targets.ndim == 2:
        sentences = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)
    if sentences is not None and sentences.shape != targets.shape:
        raise UserError(f"Sentences have the shape {tuple(sentences.shape)}, the positions {tuple(targets.shape)}.")
    # the sentence of each position: (N,)
    numbers = None if sentences is None else sentences.reshape(-1)

    def gates(p: Tensor, q: Tensor, rows: Tensor) -> Tensor:
        # G of the counted positions: (n,)
        return gate(p, q, kind, level, None if numbers is None else numbers[rows], floor, cap, strict)

    # a CE + b G H(q, p), reduced: a number, or (...) for "none"
    return gated_distillation(nll, logits, targets, teacher, gates, weights, mask, reduction)


def checked_weights(alpha: float, combine: str) -> tuple[float, float]:
    """What CE and the distillation term count on a distilled batch. Raises UserError for what makes no sense."""
    if combine not in COMBINATIONS:
        raise unknown("combination", combine, COMBINATIONS)
    if not 0.0 <= alpha < math.inf:
        raise UserError(f"Distillation cannot count {alpha}: choose an alpha of 0 or more.")
    if combine == "convex" and alpha > 1.0:
        raise UserError(f"The convex form weighs labels by 1 - alpha: choose an alpha from 0 to 1, not {alpha}.")
    return {"sum": (1.0, alpha), "halved": (0.5, alpha / 2), "convex": (1.0 - alpha, alpha)}[combine]


def _check_gate(kind: str, level: str, floor: float, cap: float) -> None:
    if kind not in GATES:
        raise unknown("gate", kind, GATES)
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    if not 0.0 <= floor < math.inf or not 0.0 < cap < math.inf:
        raise UserError(f"A gate needs a floor of 0 or more and a cap above 0, not {floor} and {cap}.")
