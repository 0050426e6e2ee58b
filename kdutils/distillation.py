"""What a student learns from a teacher besides labels: probabilities, softened or gated, directions of hidden states.

>>> soft_target_loss(student_logits, teacher_logits, temperature=2.0)
>>> cosine_loss(student_hidden, teacher_hidden, mask)

No gradient reaches the teacher. Masks and reductions are those of `kdutils.divergences`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdutils.divergences import CELLS_AT_ONCE, kl_divergence
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
    largest probabilities enter `probabilities`, as they are. Raises UserError for words of another shape, or none.
    """

    def __init__(self, logits: Tensor, words: Tensor | None = None, top_k: int = 0) -> None:
        self.logits, self.top_k = logits.detach().reshape(-1, logits.shape[-1]), top_k
        if words is not None and (words.shape != logits.shape[-1:] or not (words.is_cuda or bool(words.any()))):
            wanted = f"({logits.shape[-1]},) with at least one that is True"
            raise UserError(f"The words of a teacher must be {wanted}, not {tuple(words.shape)}.")
        self.banned = None if words is None else ~words.bool().to(logits.device)

    def scores(self, rows: Tensor | slice, dtype: torch.dtype) -> Tensor:
        """The logits of some positions, -inf for words that it does not use."""
        z = self.logits[rows].to(dtype)
        return z if self.banned is None else z.masked_fill(self.banned, -math.inf)

    def probabilities(self, rows: Tensor | slice, norms: Tensor) -> Tensor:
        """q of some positions, from what `_norms` says of their logits."""
        q = _log_probabilities(self.logits[rows].to(norms.dtype), norms)
        q = (q if self.banned is None else q.masked_fill_(self.banned, -math.inf)).exp_()
        if not self.top_k or self.top_k >= q.shape[-1]:
            return q
        largest = q.topk(self.top_k, dim=-1)
        return torch.zeros_like(q).scatter_(-1, largest.indices, largest.values)


def gated_distillation(
    nll: object,
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
    weights: (a, b). Logits are read in slices, and the gradient is made while they are at hand, so that it is all
    that is kept of their size. Only the student's logits have a gradient. Raises UserError for an unknown reduction
    or a mask of another shape.
    """
    if mask is not None and mask.shape != targets.shape:
        raise UserError(f"The mask has shape {tuple(mask.shape)}, the positions have {tuple(targets.shape)}.")
    flat, right = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    rows = torch.arange(len(right), device=right.device) if mask is None else mask.reshape(-1).nonzero()[:, 0]
    nll.check(rows, logits.shape[-1])
    values = _GatedDistillation.apply(nll, right, teacher, gates, weights, rows, flat)
    return values.reshape(targets.shape) if reduction == "none" else reduced(values[rows], reduction)


class _GatedDistillation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, nll, right, teacher, gates, weights, rows, logits):
        exact = torch.promote_types(torch.promote_types(logits.dtype, teacher.logits.dtype), torch.float32)
        slices = list(_slices(rows, logits))
        norms = logits.new_zeros(2, 2, len(rows), dtype=exact)  # of student and teacher
        gold = logits.new_zeros(2, len(rows), dtype=exact)  # log-probability of the right word
        for some, place in slices:
            for i, z in enumerate((logits[place].to(exact), teacher.scores(place, exact))):
                at_gold = z.gather(-1, right[rows[some], None])
                norms[i, :, some] = _norms(z)
                gold[i, some] = _log_probabilities(at_gold, norms[i, :, some])[:, 0]
        a, b, g = *weights, gates(*gold, rows)
        # float16 has no room for a slope that a loss scale has not yet enlarged
        kind = exact if logits.dtype == torch.float16 else logits.dtype
        values, wanted = logits.new_zeros(len(logits), dtype=exact), ctx.needs_input_grad[-1]
        grad = torch.zeros_like(logits, dtype=kind) if wanted else None
        for some, place in slices:
            logp = _log_probabilities(logits[place].to(exact), norms[0, :, some])
            p, q, share = logp.exp(), teacher.probabilities(place, norms[1, :, some]), b * g[some]
            values[place] = a * nll.value(place, logp[None]) - share * (q * logp).sum(-1)
            if wanted:
                (slope,) = nll.slope(place, logp[None], p[None])
                mass = q.sum(-1, keepdim=True) if teacher.top_k else 1.0  # of the K words that are kept
                grad[place] = slope[0].mul_(a).add_(p.mul_(mass).sub_(q).mul_(share[:, None])).to(kind)
        ctx.save_for_backward(grad)
        ctx.kind = logits.dtype
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return (*[None] * 6, (grad * outer[:, None]).to(ctx.kind))


def _norms(z: Tensor) -> Tensor:
    """The largest of each row of logits, and the log of the sum of exponentials beside it, (2, n)."""
    top = z.amax(-1)
    return torch.stack([top, (z - top[:, None]).exp_().sum(-1).log_()])


def _log_probabilities(z: Tensor, norms: Tensor) -> Tensor:
    """log softmax of rows whose `_norms` are known; what all of a row have in common is taken off exactly."""
    return (z - norms[0, :, None]).sub_(norms[1, :, None])


def _slices(rows: Tensor, logits: Tensor) -> Iterator[tuple[slice, Tensor | slice]]:
    """Cuts the counted rows into pieces: which of them, and where they lie (in one run, if nothing is left out)."""
    step = max(1, CELLS_AT_ONCE.get(logits.device.type, 2**25) // max(1, 2 * logits.shape[-1]))
    for start in range(0, len(rows), step):
        some = slice(start, min(start + step, len(rows)))
        yield some, some if len(rows) == len(logits) else rows[some]


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
    if not 0 < temperature < math.inf:
        raise UserError(f"The temperature is {temperature}: it must be finite and above 0.")
