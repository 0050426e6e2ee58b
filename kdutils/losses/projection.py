"""Losses behind a vocabulary projection, computed in slices of positions: no logits of a whole batch ever stand.

>>> total, soft, hard = projected_losses(h, head, h_teacher, teacher_head, targets, soft=5 / n, hard=2 / y)
>>> total.backward()                                       # into h, and into the weight and bias of the head

The logits of a masked language model are by far its largest tensors: a batch of 4,000 tokens and 30,522 words
has 0.5 GB of them in float32, once for the student, once for the teacher, and again for every gradient and
log-softmax. Here each slice is projected, turned into its share of the loss and of the gradient, and forgotten. The
projection is computed once; the gradient is made in the forward pass, while the logits are at hand.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.losses.divergences import log_and_probabilities, precision, scaled, slices

CELLS_AT_ONCE = {"cpu": 2**22, "cuda": 2**25}  # logits of a slice: wide enough for a fast matrix product


def projected_losses(
    hidden: Tensor,
    head: nn.Linear,
    teacher_hidden: Tensor | None,
    teacher_head: nn.Linear | None,
    targets: Tensor,
    *,
    soft: float = 0.0,
    hard: float = 0.0,
    temperature: float = 1.0,
    asked: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, soft_sum, hard_sum) with total = soft * soft_sum + hard * hard_sum, from what the heads are given.

    hidden (N, d) and teacher_hidden (N, d'): inputs of the output projections at the N positions that count; head
    and teacher_head map them to V logits. targets (N,): the true word, or -100 where none is asked.
    soft_sum = T^2 sum_n KL(softmax(z_teacher / T) || softmax(z / T)) over all N positions; hard_sum is the
    cross-entropy at temperature 1, summed over the positions with a target. A weight of 0 leaves its term out, and
    its sum is then 0; without `soft` the teacher is not touched and may be None. asked: which of the N have a target,
    rising; where it is not told they are looked for, and a GPU must be waited for.
    Only `total` has a gradient: into hidden and the head, never into the teacher. Computed in float32 at least; under
    autocast the matrix products take its precision. Raises UserError on shapes that do not match.
    """
    _check(hidden, head, teacher_hidden, teacher_head, targets, soft, hard, temperature)
    student, teacher = (hidden, head.weight, head.bias), (None, None, None)
    if soft:
        teacher = [_detached(one) for one in (teacher_hidden, teacher_head.weight, teacher_head.bias)]
    if not torch.is_grad_enabled():  # where nothing can be learned, nothing has a slope
        student = [_detached(one) for one in student]
    if hard and asked is None:
        asked = (targets >= 0).nonzero()[:, 0].tolist()
    return _Projected.apply((float(soft), float(hard), float(temperature)), targets, asked, *teacher, *student)


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx, settings, targets, asked, teacher_hidden, teacher_weight, teacher_bias, hidden, weight, bias):
        soft, hard, temperature = settings
        exact, kind = precision(hidden), _product_type(hidden)
        inputs, matrix = hidden.to(kind), weight.to(kind)
        teacher = None if teacher_hidden is None else (teacher_hidden.to(kind), teacher_weight.to(kind))
        # soft_sum, hard_sum: (2,)
        sums = hidden.new_zeros(2, dtype=exact)
        grads = [torch.zeros_like(one, dtype=exact) if one is not None and wanted else None
                 for one, wanted in zip((hidden, weight, bias), ctx.needs_input_grad[6:], strict=True)]  # fmt: skip
        # slopes are kept near 1 in the matrix products, since float16 has no room for 1 / N, and scaled afterwards
        unit = max(soft * temperature, hard) or 1.0
        with torch.autocast(hidden.device.type, enabled=False):
            for some in slices(slice(0, len(hidden)), len(weight), hidden.device, CELLS_AT_ONCE):
                # z = W h + b: (n, V)
                logits = _affine(inputs[some], matrix, bias).to(exact)
                if soft:
                    # z' of the teacher: (n, V)
                    theirs = _affine(teacher[0][some], teacher[1], teacher_bias).to(exact)
                for part in slices(slice(0, len(logits)), 2 * len(weight), hidden.device):  # what fits the cache
                    z = logits[part]
                    slope = torch.zeros_like(z) if not soft else None
                    if soft:
                        value, slope = _soft(z, theirs[part], temperature, soft * temperature / unit)
                        sums[0] += value
                    if hard:
                        start, stop = some.start + part.start, some.start + part.stop
                        own = asked[bisect_left(asked, start) : bisect_left(asked, stop)]
                        rows = torch.tensor(own, dtype=torch.long).to(z.device, non_blocking=True)
                        sums[1] += _add_hard(slope, z, rows - start, targets[rows], hard / unit)
                    logits[part] = slope  # in the place of logits that nobody needs any more
                if any(ctx.needs_input_grad):
                    _add_products(grads, some, logits, inputs[some], matrix)
        for grad in grads:
            if grad is not None:
                grad.mul_(unit)
        ctx.save_for_backward(*grads)
        ctx.kinds = [one.dtype if one is not None else None for one in (hidden, weight, bias)]
        parts = (sums[0].clone(), sums[1].clone())
        ctx.mark_non_differentiable(*parts)
        return soft * sums[0] + hard * sums[1], *parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor, *_unused: Tensor | None) -> tuple[Tensor | None, ...]:
        return (*[None] * 6, *scaled(ctx.saved_tensors, outer, ctx.kinds))


def _soft(logits: Tensor, theirs: Tensor, temperature: float, weight: float) -> tuple[Tensor, Tensor]:
    """T^2 times the summed KL of a slice, and `weight` times (q - p), which is its slope divided by T."""
    # log q, q of the student, log p, p of the teacher at temperature T: (n, V)
    (log_q, q), (log_p, p) = (log_and_probabilities(z / temperature) for z in (logits, theirs))
    # T^2 sum_n sum_v p (log p - log q)
    value = log_p.sub_(log_q).mul_(p).sum() * temperature**2
    return value, q.sub_(p).mul_(weight)


def _add_hard(slope: Tensor, logits: Tensor, rows: Tensor, targets: Tensor, weight: float) -> Tensor:
    """The cross-entropy of some rows (m,) with their targets (m,), summed; adds `weight` times its slope to them."""
    # y: (m, 1), log q, q: (m, V)
    wanted, (log_q, q) = targets[:, None], log_and_probabilities(logits[rows])
    # weight (q - [v = y]): (m, V)
    slope.index_add_(0, rows, q.scatter_add_(-1, wanted, q.new_full(wanted.shape, -1.0)), alpha=weight)
    return -log_q.gather(-1, wanted).sum()


def _add_products(grads: list[Tensor | None], some: slice, slope: Tensor, inputs: Tensor, matrix: Tensor) -> None:
    """The chain rule through z = W h + b: a slice's slope (n, V) becomes its part of the gradients, in place."""
    to_hidden, to_weight, to_bias = grads
    narrow = slope.to(matrix.dtype)
    if to_hidden is not None:
        # slope W: (n, d)
        to_hidden[some] = narrow @ matrix
    if to_weight is not None and to_weight.dtype == narrow.dtype:
        # ... + slope^T h: (V, d)
        to_weight.addmm_(narrow.T, inputs)
    elif to_weight is not None:
        shrink = _room(slope, inputs)
        to_weight += ((slope * shrink).to(matrix.dtype).T @ inputs).to(to_weight.dtype) / shrink
    if to_bias is not None:
        # ... + sum_n slope: (V,)
        to_bias += slope.sum(0)


def _room(slope: Tensor, inputs: Tensor) -> Tensor | float:
    """What a product over all rows must be shrunk by so that float16, which ends at 65,504, can hold it."""
    if inputs.dtype != torch.float16:
        return 1.0
    most = slope.abs().sum(0).max() * inputs.abs().max().to(slope.dtype)
    return (2.0**14 / most).clamp(max=1.0)


def _affine(inputs: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(inputs, matrix, None if bias is None else bias.to(matrix.dtype))


def _product_type(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _detached(one: Tensor | None) -> Tensor | None:
    return None if one is None else one.detach()


def _check(hidden, head, teacher_hidden, teacher_head, targets, soft: float, hard: float, temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise UserError(f"The temperature is {temperature}: it must be finite and above 0.")
    if hidden.ndim != 2 or targets.shape != hidden.shape[:1]:
        shapes = f"{tuple(hidden.shape)} and {tuple(targets.shape)}"
        raise UserError(f"The loss needs hidden states (N, width) and targets (N,), not {shapes}.")
    _check_width("hidden states", hidden, head)
    if hard and targets.device.type == "cpu" and len(targets) and int(targets.max()) >= len(head.weight):
        raise UserError(f"The vocabulary has {len(head.weight):,} words, but a target is {int(targets.max())}.")
    if not soft:
        return
    if teacher_hidden is None or teacher_head is None:
        raise UserError("Soft targets need a teacher: give its hidden states and its output projection.")
    _check_width("teacher's hidden states", teacher_hidden, teacher_head)
    if len(teacher_hidden) != len(hidden):
        raise UserError(f"The teacher has {len(teacher_hidden)} positions, the student {len(hidden)}: give the same.")
    if len(teacher_head.weight) != len(head.weight):
        sizes = f"{len(teacher_head.weight):,} words, the student's {len(head.weight):,}"
        raise UserError(f"The teacher's vocabulary has {sizes}: distillation needs one and the same tokenizer.")


def _check_width(what: str, hidden: Tensor, head: nn.Linear) -> None:
    if hidden.ndim != 2 or hidden.shape[1] != head.weight.shape[1]:
        wanted = f"(N, {head.weight.shape[1]})"
        raise UserError(f"The {what} have the shape {tuple(hidden.shape)}, their output projection wants {wanted}.")
