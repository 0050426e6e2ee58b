"""What a student learns from a teacher besides labels: probabilities, softened or gated, directions of hidden states.

>>> soft_target_loss(student_logits, teacher_logits, temperature=2.0)
>>> cosine_loss(student_hidden, teacher_hidden, mask)

No gradient reaches the teacher. Masks and reductions are those of `kdutils.divergences`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdutils.divergences import kl_divergence
from kdutils.errors import UserError


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
    has no gradient. T^2, not in the paper either, keeps the gradient's size as T grows. No gradient reaches the
    teacher. Raises UserError for a temperature that is not above 0.
    """
    check_temperature(temperature)
    exact = torch.promote_types(torch.promote_types(student_logits.dtype, teacher_logits.dtype), torch.float32)
    student, teacher = (z.to(exact) / temperature for z in (student_logits, teacher_logits.detach()))
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
    if mask is not None and mask.shape != student_hidden.shape[:-1]:
        shapes = f"{tuple(mask.shape)}, the positions have {tuple(student_hidden.shape[:-1])}"
        raise UserError(f"The mask has shape {shapes}.")
    exact = torch.promote_types(student_hidden.dtype, torch.float32)
    counted = torch.ones(student_hidden.shape[:-1], dtype=torch.bool) if mask is None else mask.bool()
    counted = counted.to(student_hidden.device)
    apart = 1.0 - F.cosine_similarity(
        student_hidden[counted].to(exact), teacher_hidden[counted].detach().to(exact), dim=-1
    )
    if reduction == "none":
        return torch.zeros(counted.shape, dtype=exact, device=apart.device).masked_scatter(counted, apart)
    return reduced(apart, reduction)


class FixedTeacher:
    """A fixed distribution over the words of each position, from logits (..., V) that are read slice by slice.

    words (V,): where it is given, only those that are True have a probability, and together 1. top_k > 0: only the K
    largest probabilities enter `probabilities`, as they are.
    """

    def __init__(self, logits: Tensor, words: Tensor | None, top_k: int) -> None:
        self.logits, self.top_k = logits.detach().reshape(-1, logits.shape[-1]), top_k
        self.banned = None if words is None else ~words.to(logits.device)

    def logp(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        z = self.logits[rows].to(dtype)
        if self.banned is not None:
            z = z.masked_fill(self.banned, -math.inf)
        return z.log_softmax(-1)

    def probabilities(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        q = self.logp(rows, dtype).exp_()
        if not self.top_k or self.top_k >= q.shape[-1]:
            return q
        largest = q.topk(self.top_k, dim=-1)
        return torch.zeros_like(q).scatter_(-1, largest.indices, largest.values)


class Gated:
    """a CE(p, y) + b g_t H(q, p) at position t, as a formula of `kdutils.divergences` for `weighted_sum`.

    nll: the formula of CE. The teacher's distribution q is fixed, and so are the gates g (N,), one for each position,
    and the weights (a, b).
    """

    def __init__(self, nll, teacher: FixedTeacher, gates: Tensor, weights: tuple[float, float]) -> None:
        self.nll, self.teacher, self.gates, self.weights = nll, teacher, gates, weights

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        a, b = self.weights
        soft = -(self.teacher.probabilities(rows, logp.dtype) * logp[0]).sum(-1)
        return a * self.nll.value(rows, logp) + b * self.gates[rows] * soft

    def slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor]:
        a, b = self.weights
        (grad,) = self.nll.slope(rows, logp, p)
        q = self.teacher.probabilities(rows, logp.dtype)
        mass = q.sum(-1, keepdim=True) if self.teacher.top_k else 1.0  # of the K words that are kept
        grad[0].mul_(a).add_((mass * p[0] - q).mul_(b * self.gates[rows, None]))
        return (grad,)

    def check(self, rows: Tensor | slice, classes: int) -> None:
        self.nll.check(rows, classes)


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Losses of single positions as their "mean" or "sum" (0 for no position), or as they are ("none").

    Raises UserError for another reduction.
    """
    if reduction not in ("mean", "sum", "none"):
        raise UserError(f"There is no reduction '{reduction}'. Known: mean, sum, none.")
    if reduction == "none":
        return values
    return values.sum() / (max(values.numel(), 1) if reduction == "mean" else 1)


def check_temperature(temperature: float) -> None:
    """Raises UserError unless a temperature is above 0."""
    if not temperature > 0:
        raise UserError(f"The temperature is {temperature}: it must be above 0.")
