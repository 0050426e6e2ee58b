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
COMBINATIONS = ("halved", "sum", "convex")


def gate(
    student_logp: Tensor,
    teacher_logp: Tensor,
    kind: str = "whole",
    level: str = "token",
    sentences: Tensor | None = None,
    floor: float = 0.2,
    cap: float = 1.0,
) -> Tensor:
    """Equation (7) of the notebook: how much of the teacher each position takes, from log-probabilities (N,).

    They are those of the right word under student and teacher. "whole": 1. "selective": 1 where the teacher is better,
    else `floor`; a tie is not better. "adaptive": the ratio of teacher to student, at most `cap`. "token" compares
    the probabilities q* and p* of a position; "sentence" their sums over the positions of a sentence, which are
    numbered in `sentences` (N,), any integers. Nothing has a gradient. Raises UserError for an unknown kind or level,
    for sentences that are not told, and for shapes that differ.
    """
    _check_gate(kind, level, floor, cap)
    given = [student_logp, teacher_logp, *([] if sentences is None else [sentences])]
    if any(one.shape != student_logp.shape for one in given):
        raise UserError(f"A gate needs one number a position, not {[tuple(one.shape) for one in given]}.")
    # log p*, log q*: (N,), finite also for a word that is impossible
    least = torch.finfo(student_logp.dtype).min
    p, q = student_logp.detach().clamp_min(least), teacher_logp.detach().clamp_min(least)
    if kind == "whole":
        # g = 1: (N,)
        return torch.ones_like(p)
    if level == "sentence":
        if sentences is None:
            raise UserError("A gate of whole sentences needs to know which position belongs to which: give sentences.")
        # log sum_t p*_t, log sum_t q*_t of the sentence, at each of its positions: (N,)
        p, q = _by_sentence(p, sentences), _by_sentence(q, sentences)
    if kind == "selective":
        # g = 1 where q* > p*, else the floor: (N,)
        return torch.where(q > p, torch.ones_like(p), torch.full_like(p, floor))
    # g = min(q* / p*, cap): (N,)
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
    weight: float = 1.0,
    kind: str = "whole",
    level: str = "token",
    mask: Tensor | None = None,
    sentences: Tensor | None = None,
    combine: str = "halved",
    top_k: int = 0,
    words: Tensor | None = None,
    floor: float = 0.2,
    cap: float = 1.0,
    epsilon: float = 0.1,
    convention: str = "others",
    reduction: str = "mean",
) -> Tensor:
    """Equations (5) to (8) of the notebook, a position: 1/2 [CE + weight g H(q, p)] with a teacher, CE without one.

    logits, teacher_logits (..., V); targets, mask and sentences (...); without `sentences`, targets of (B, T) have a
    sentence a row. H is the cross-entropy under the teacher's distribution q at temperature 1, g the `gate` of `kind`
    and `level`. combine: "halved" is the released code, in which labels count half wherever a teacher speaks, with a
    weight of 0 too; "sum" is CE + weight g H; "convex" (1 - weight) CE + weight g H. top_k > 0: only the teacher's K
    most probable words enter H, not renormalised. words (V,): q is renormalised over those that are True, before top-K
    and gate; the student is not. Label smoothing touches CE only. No gradient reaches the teacher or passes the gate.
    "mean" divides by the counted positions. Raises UserError for shapes that differ and for a weight or name that
    makes no sense.
    """
    # CE(p, y), smoothed, at each position: (n,)
    nll = nll_formula(targets, logits.shape[-1], epsilon, convention)
    if logits.shape[:-1] != targets.shape or (teacher_logits is not None and teacher_logits.shape != logits.shape):
        given = [tuple(one.shape) for one in (logits, teacher_logits, targets) if one is not None]
        raise UserError(
            f"Logits and teacher logits must be ({', '.join(map(str, [*targets.shape, 'V']))}), not {given}."
        )
    # a of CE and b of g H: two numbers
    weights = checked_weights(weight, combine)
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
        # g of the counted positions: (n,)
        return gate(p, q, kind, level, None if numbers is None else numbers[rows], floor, cap)

    # a CE + b g H(q, p), reduced: a number, or (...) for "none"
    return gated_distillation(nll, logits, targets, teacher, gates, weights, mask, reduction)


def checked_weights(weight: float, combine: str) -> tuple[float, float]:
    """What CE and the distillation term count on a distilled batch. Raises UserError for what makes no sense."""
    if combine not in COMBINATIONS:
        raise unknown("combination", combine, COMBINATIONS)
    if not 0.0 <= weight < math.inf:
        raise UserError(f"Distillation cannot count {weight}: choose a weight of 0 or more.")
    if combine == "convex" and weight > 1.0:
        raise UserError(f"The convex form weighs labels by 1 - weight: choose a weight from 0 to 1, not {weight}.")
    return {"halved": (0.5, weight / 2), "sum": (1.0, weight), "convex": (1.0 - weight, weight)}[combine]


def _check_gate(kind: str, level: str, floor: float, cap: float) -> None:
    if kind not in GATES:
        raise unknown("gate", kind, GATES)
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    if not 0.0 <= floor < math.inf or not 0.0 < cap < math.inf:
        raise UserError(f"A gate needs a floor of 0 or more and a cap above 0, not {floor} and {cap}.")
