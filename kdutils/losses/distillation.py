"""What a student learns from a teacher besides labels: probabilities, softened or gated, directions of hidden states.

>>> soft_target_loss(student_logits, teacher_logits, temperature=2.0)
>>> cosine_loss(student_hidden, teacher_hidden, mask)

No gradient reaches the teacher. Masks and reductions are those of `kdutils.losses.divergences`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdutils.core.errors import UserError
from kdutils.losses.divergences import (
    Formula,
    check_positions,
    counted_rows,
    kl_divergence,
    precision,
    reduced,
    rowwise,
    slices,
)


def soft_target_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """L_ce: T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)), a position.

    Logits (..., V), mask (...). The paper prints sum t log s, without the minus sign; the official code computes this
    (`distiller.py`, 411 to 417). It differs from the cross-entropy -sum t log s by the entropy of the teacher, which
    has no gradient. T^2, not in the paper either, keeps the gradient's size as T grows. At T = 1, over the words of a
    translation, it is word-level distillation (Kim and Rush 2016). No gradient reaches the teacher. Raises UserError
    for a temperature that is not above 0.
    """
    check_temperature(temperature)
    exact = precision(student_logits, teacher_logits)
    # z / T of student and teacher: (..., V)
    student, teacher = (z.to(exact) / temperature for z in (student_logits, teacher_logits.detach()))
    # T^2 KL(p || q), reduced
    return temperature**2 * kl_divergence(teacher, student, mask, reduction)


def cosine_loss(
    student_hidden: Tensor, teacher_hidden: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """L_cos: 1 - cos(h_student, h_teacher), a position; hidden states (..., width), mask (...).

    The code takes the last layer at all positions that are not padding (`distiller.py`, 435 to 448). Positions that
    the mask excludes may hold anything. Computed in float32 at least. No gradient reaches the teacher.
    """
    if student_hidden.shape != teacher_hidden.shape:
        shapes = f"{tuple(student_hidden.shape)} and {tuple(teacher_hidden.shape)}"
        raise UserError(f"Hidden states can be compared when their shapes are equal, not {shapes}.")
    check_positions(student_hidden.shape[:-1], mask, reduction)
    exact = torch.promote_types(student_hidden.dtype, torch.float32)
    rows = counted_rows(student_hidden.shape[:-1], mask)
    # h, h' at the positions that count: (n, width)
    ours, theirs = (h.reshape(-1, h.shape[-1])[rows].to(exact) for h in (student_hidden, teacher_hidden.detach()))
    # 1 - cos(h, h'): (n,)
    apart = 1.0 - F.cosine_similarity(ours, theirs, dim=-1)
    if reduction == "none":
        if mask is not None:
            apart = apart.new_zeros(mask.numel()).index_copy(0, rows, apart)
        return apart.reshape(student_hidden.shape[:-1])
    return reduced(apart, reduction)


class FixedTeacher:
    """A fixed distribution over the words of each position, from logits (..., V) that are read slice by slice.

    words (V,): where it is given, only those that are True have a probability, and together 1. top_k > 0: only the K
    largest probabilities enter `probabilities`, as they are. Raises UserError for words of another shape, or none.
    """

    def __init__(self, logits: Tensor, words: Tensor | None = None, top_k: int = 0) -> None:
        self.logits, self.top_k = logits.detach().reshape(-1, logits.shape[-1]), top_k
        if words is not None and (words.shape != logits.shape[-1:] or not (words.is_cuda or bool(words.any()))):
            wanted = f"({logits.shape[-1]},) with at least one that is True"
            raise UserError(f"The words of a teacher must be {wanted}, not {tuple(words.shape)}.")
        self.banned = None if words is None else ~words.bool().to(logits.device)

    def scores(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """The logits (n, V) of some positions, -inf for words that it does not use."""
        # z, -inf for banned words: (n, V)
        z = self.logits[rows].to(dtype)
        return z if self.banned is None else torch.where(self.banned, -math.inf, z)

    def probabilities(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """q (n, V) of some positions."""
        # q = softmax(z): (n, V)
        q = self.scores(rows, dtype).softmax(-1)
        if not self.top_k or self.top_k >= q.shape[-1]:
            return q
        # q where it is among the K largest, else 0: (n, V)
        largest = q.topk(self.top_k, dim=-1)
        return torch.zeros_like(q).scatter_(-1, largest.indices, largest.values)


def gated_distillation(
    nll: Formula,
    logits: Tensor,
    targets: Tensor,
    teacher: FixedTeacher,
    gates: Callable[[Tensor, Tensor, Tensor], Tensor],
    weights: tuple[float, float],
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """a CE(p, y) + b g_t H(q, p) at position t, with the labels' `nll_formula` and a teacher's fixed q.

    logits (..., V); targets and mask (...). gates(p*, q*, rows) gives g (n,) from the log-probabilities of the right
    words under student and teacher at the n counted positions, whose flat numbers are `rows`; it has no gradient.
    weights: (a, b). Only the student's logits have a gradient. Raises UserError for an unknown reduction or a mask of
    another shape.
    """
    check_positions(targets.shape, mask, reduction)
    rows, (a, b), exact = counted_rows(targets.shape, mask), weights, precision(logits, teacher.logits)
    nll.check(rows, logits.shape[-1])
    # log p*, log q*: (2, N), zeros where nothing counts; a gate may need those of a whole sentence
    right = logits.new_zeros(2, targets.numel(), dtype=exact)
    with torch.no_grad():
        flat = logits.reshape(-1, logits.shape[-1])
        for some in slices(rows, 2 * logits.shape[-1], logits.device):
            index = targets.reshape(-1)[some, None]
            for i, z in enumerate((flat[some].to(exact), teacher.scores(some, exact))):
                right[i, some] = z.log_softmax(-1).gather(-1, index)[:, 0]
        # b g_t: (N,)
        numbers = torch.arange(len(flat), device=logits.device)[rows]
        shares = torch.zeros_like(right[0]).index_copy(0, numbers, b * gates(*right[:, rows], numbers))
    if exact == torch.float64:
        logits = logits.double()  # beside a teacher in double
    return rowwise(_GatedDistillation(nll, teacher, a, shares), (logits[None],), mask, reduction)


class _GatedDistillation(Formula):
    """a CE(p, y) - b g_t <q, log p> for shares b g_t (N,) of a fixed teacher's q."""

    def __init__(self, nll: Formula, teacher: FixedTeacher, a: float, shares: Tensor) -> None:
        self.nll, self.teacher, self.a, self.shares, self.check = nll, teacher, a, shares, nll.check

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        # q: (n, V)
        q = self.teacher.probabilities(rows, logp.dtype)
        # a CE - b g <q, log p>: (n,)
        return self.a * self.nll.value(rows, logp) - self.shares[rows] * (q * logp[0]).sum(-1)

    def value_and_slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        # q: (n, V), and b g: (n, 1)
        q, share = self.teacher.probabilities(rows, logp.dtype), self.shares[rows, None]
        # a CE - b g <q, log p>: (n,)
        nll, slope = self.nll.value_and_slope(rows, logp, p)
        value = self.a * nll - (share * (q * logp[0]).sum(-1, keepdim=True))[:, 0]
        # sum_v q(v), less than 1 if only the K largest are kept: (n, 1)
        mass = q.sum(-1, keepdim=True) if self.teacher.top_k else 1.0
        # a (slope of CE) + b g (mass p - q): (1, n, V)
        return value, slope.mul_(self.a).addcmul_(p, share * mass).addcmul_(q, share, value=-1)


def check_temperature(temperature: float) -> None:
    """Raises UserError unless a temperature is above 0."""
    if not 0 < temperature < math.inf:
        raise UserError(f"The temperature is {temperature}: it must be finite and above 0.")
