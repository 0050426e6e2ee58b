"""The triple loss, and how likely a token is to be asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kdutils.core.errors import UserError
from kdutils.losses.distillation import check_temperature, cosine_loss, soft_target_loss
from kdutils.losses.divergences import label_smoothed_nll


def triple_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Sequence[float] = (5.0, 2.0, 1.0),
    temperature: float = 2.0,
    restrict_to_mask: bool = False,
) -> Tensor:
    """alpha_ce L_ce + alpha_mlm L_mlm + alpha_cos L_cos, each a mean over its own positions, as in the official code.

    Logits (..., V), hidden states (..., width); mask (...), True where there is no padding; targets (...): the true
    token, or -100 where none was asked. L_ce and L_cos are means over the mask, L_mlm (temperature 1) over the
    targets; with `restrict_to_mask` L_ce is one over the targets too. `weights`: alpha_ce, alpha_mlm, alpha_cos; the
    paper gives none, its first author names 5, 2, 1. A term of weight 0 is not computed. Gradients reach the student
    only. This form takes finished logits; training uses `kdutils.losses.projection`, which never holds them all.
    """
    alpha_ce, alpha_mlm, alpha_cos = _checked_weights(weights)
    check_temperature(temperature)
    # which positions count, and at which of them a token was asked for: (...), boolean
    counted = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.bool()
    asked = (targets >= 0) & counted
    # L, a number in float32 at least, with a gradient of zeros where every term is left out
    total = student_logits.new_zeros((), dtype=torch.promote_types(student_logits.dtype, torch.float32))
    total = total + 0.0 * student_logits.flatten()[:0].sum()
    if alpha_ce:
        # ... + alpha_ce T^2 mean KL(t || s): a number
        where = asked if restrict_to_mask else counted
        total = total + alpha_ce * soft_target_loss(student_logits, teacher_logits, temperature, where)
    if alpha_mlm:
        # ... + alpha_mlm mean -log s(y): a number
        total = total + alpha_mlm * label_smoothed_nll(student_logits, targets, mask=asked)
    if alpha_cos:
        # ... + alpha_cos mean [1 - cos(h_s, h_t)]: a number
        total = total + alpha_cos * cosine_loss(student_hidden, teacher_hidden, counted)
    return total


def smoothed_masking(examples: Iterable[dict], vocabulary: int, exponent: float = 0.7) -> Tensor:
    """How likely a token is to be asked for: max(count, 1) ** -exponent, shape (V,); rare tokens more often.

    The counts are those of the training examples {"input_ids"}. `collate_masked_lm` draws the targets of a batch by
    these weights, special tokens never (`train.py`, 271 to 274, and `distiller.py`, 214 to 216; not in the paper).
    """
    # how often each token stands in the training texts: {token: count}
    counts = Counter(token for example in examples for token in example["input_ids"])
    # max(count, 1)^-exponent: (V,)
    return torch.tensor([max(counts[token], 1) ** -exponent for token in range(vocabulary)])


def _checked_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    if len(weights) != 3 or not all(0 <= weight < float("inf") for weight in weights):
        raise UserError(f"The loss takes three weights of at least 0, not {tuple(weights)}.")
    return tuple(float(weight) for weight in weights)
