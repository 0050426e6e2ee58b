"""Tutor-KD's rewards and losses, as in the released code: the text of the paper could not be had.

Notation: X the text, x_t its token at a chosen position t; X^M the masked text; X' the text that the tutor wrote,
x'_t its token at t. p_T is the teacher's distribution of a token, G the tutor's. Logits of X^M or of X'
come from a pass over that text; to mix the two up is the likeliest mistake.

No gradient reaches the teacher. Masks, reductions and the empty mask are those of `kdutils.losses.divergences`. With
`mask=None` every position counts, padding included: so does the released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.losses.divergences import check_positions, counted_rows, kl_divergence, label_smoothed_nll, reduced

WEIGHTS = (0.5, 25.0, 1.0, 1.0)  # of the representation, the modified logit, the policy gradient and the tutor's KL


def modified_teacher_logit(masked_logits: Tensor, original: Tensor, replaced: Tensor) -> Tensor:
    """a^T = min(1, p_T(x' | X^M) / p_T(x | X^M)): how well the written token fits, beside the original one. (...)

    masked_logits (..., V): the teacher's on the masked text; original, replaced (...): x and x'. 1 where they are the
    same, or where the written one is the likelier; never below 0. It has no gradient. `sampling.py`, 20 to 27.
    """
    _check_tokens(masked_logits, original, replaced)
    # log p(x') and log p(x) up to the same constant, which the ratio does not see: (...)
    ours, theirs = (_at(masked_logits.detach(), token) for token in (replaced, original))
    # a^T = exp(min(0, z(x') - z(x))): (...)
    return (ours - theirs).clamp(max=0.0).exp()


def teacher_reward(replaced_logits: Tensor, original: Tensor, replaced: Tensor) -> Tensor:
    """R_T = p_T(x | X') - p_T(x' | X'): whether the teacher still sees what stood there, from -1 to 1. (...)

    replaced_logits (..., V): the teacher's on the written text, its second pass. 0 where x' = x. It has no gradient.
    `distillation.py`, 204 to 208.
    """
    _check_tokens(replaced_logits, original, replaced)
    # p_T(x | X') and p_T(x' | X'): (...)
    right, wrong = probabilities(replaced_logits, original, replaced)
    # R_T: (...)
    return right - wrong


def student_reward(modified_teacher: Tensor, student_logit: Tensor) -> Tensor:
    """R_S = |a^T - a^S| with a^S = sigmoid(o): how far the student is off, from 0 to 1. (...)

    modified_teacher: a^T (...); student_logit: o (...). It has no gradient. The summary of the paper speaks of the
    distillation loss; the released code takes the absolute difference (`distillation.py`, 212 and 213).
    """
    _check_same(student_logit, modified_teacher)
    # |a^T - sigmoid(o)|: (...)
    return (modified_teacher.detach() - _exact(student_logit.detach()).sigmoid()).abs()


def policy_gradient_loss(
    tutor_logits: Tensor,
    replaced: Tensor,
    rewards: Tensor,
    mask: Tensor | None = None,
    reduction: str = "mean",
    baseline: Tensor | float = 0.0,
) -> Tensor:
    """L_PG = -log G(x' | X^M) (R - b), a chosen position (`distillation.py`, 219 and 220).

    tutor_logits (..., V); replaced, mask (...): the tokens that were drawn from it; rewards (...): R_T + R_S. Its
    gradient is an unbiased estimate of that of -E[R], as the tokens are draws from G. baseline: b, 0 in the released
    code; any number that does not depend on the draw leaves the mean of the gradient as it is. The gradient reaches the
    tutor only, not the rewards.
    """
    if rewards.shape != replaced.shape:
        raise UserError(f"Rewards {tuple(rewards.shape)} need tokens of the same shape, not {tuple(replaced.shape)}.")
    # -log G(x'): (...)
    surprise = label_smoothed_nll(tutor_logits, replaced, mask=mask, reduction="none")
    # -log G(x') (R - b), reduced
    return _reduced(surprise * (_exact(rewards.detach()) - baseline), mask, reduction)


def tutor_loss(
    tutor_logits: Tensor, masked_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """L_tutor = KL(p_T(. | X^M) || G(. | X^M)), a chosen position: what keeps the tutor's words plausible.

    tutor_logits, masked_logits (..., V), the latter the teacher's; mask (...). `distillation.py`, 216 and 217.
    """
    # KL(p_T || G), reduced
    return kl_divergence(masked_logits.detach(), tutor_logits, mask, reduction)


def modified_logit_loss(
    student_logit: Tensor, modified_teacher: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """L_logit = -a^T log sigmoid(o) - (1 - a^T) log(1 - sigmoid(o)), a position of the text.

    student_logit: o (...) of the student on the written text; modified_teacher: a^T (...), 1 where nothing was chosen.
    It is least, H(a^T) and not 0, where sigmoid(o) = a^T. `distillation.py`, 212.
    """
    _check_same(student_logit, modified_teacher)
    check_positions(student_logit.shape, mask, reduction)
    logit, right = _exact(_kept(student_logit, mask)), _kept(modified_teacher.detach(), mask)
    # binary cross-entropy of sigmoid(o) under a^T, from the logit, so that none is too large: (...)
    value = F.binary_cross_entropy_with_logits(logit, right.to(logit), reduction="none")
    return _reduced(value, mask, reduction)


def hidden_loss(
    student_hidden: Sequence[Tensor],
    teacher_hidden: Sequence[Tensor],
    projection: nn.Module,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """L_hidden = sum_i (1/d) ||W h_i + c - h'_i||^2, a position of the text (`__main__module.py`, 63 to 82).

    student_hidden: L + 1 tensors (..., d_S), the embeddings first; teacher_hidden: as many (..., d), of the layers
    that `layer_map` names; projection: W and c, one for all layers, also where the widths are equal. mask (...).
    Raises UserError where their numbers differ, or the shapes of W h + c and h'.
    """
    _check_layers(student_hidden, teacher_hidden)
    check_positions(student_hidden[0].shape[:-1], mask, reduction)
    total = 0.0
    for ours, theirs in zip(student_hidden, teacher_hidden, strict=True):
        projected = projection(_kept(ours, mask))
        _check_same(projected, theirs)
        # W h + c - h': (..., d)
        apart = _exact(projected) - _exact(_kept(theirs.detach(), mask))
        # ... + the mean over the d dimensions of its square: (...)
        total = total + apart.square().mean(-1)
    return _reduced(total, mask, reduction)


def attention_loss(
    student_scores: Sequence[Tensor],
    teacher_scores: Sequence[Tensor],
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """L_att = sum_i mean_h mean_k (A - A')^2, a query: scores before the softmax (`__main__module.py`, 63 to 82).

    student_scores: L tensors (B, H, S, S), heads, queries, keys; teacher_scores: as many of the same shape, of the
    layers that `layer_map` names. mask (B, S): which tokens count, as queries and as keys; keys are averaged over those
    of the text. Raises UserError where the numbers of layers or heads differ.
    """
    _check_layers(student_scores, teacher_scores)
    counted = student_scores[0].new_ones(student_scores[0][:, 0, 0].shape) if mask is None else mask
    check_positions(student_scores[0][:, 0, 0].shape, counted, reduction)
    # which pairs of query and key count: (B, 1, S, S)
    pairs = counted.bool()[:, None, :, None] & counted.bool()[:, None, None, :]
    # how many keys a query has: (B, 1)
    keys = counted.bool().sum(-1, keepdim=True).clamp(min=1)
    total = 0.0
    for ours, theirs in zip(student_scores, teacher_scores, strict=True):
        if ours.shape != theirs.shape:
            shapes = f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
            raise UserError(f"Attention scores (B, heads, S, S) are compared head by head, not {shapes}.")
        # A - A', 0 where a pair does not count: (B, H, S, S)
        apart = (_exact(ours) - _exact(theirs.detach())).where(pairs, 0.0)
        # ... + the mean over heads and keys of its square: (B, S)
        total = total + apart.square().mean(1).sum(-1) / keys
    if reduction == "none":
        return total
    return total.sum() / (counted.bool().sum().clamp(min=1) if reduction == "mean" else 1)


def total_loss(
    representation: Tensor,
    logit: Tensor,
    policy: Tensor,
    tutor: Tensor,
    weights: Sequence[float] = WEIGHTS,
) -> Tensor:
    """L = 0.5 (L_att + L_hidden) + 25 L_logit + L_PG + L_tutor (`distillation.py`, 126 to 129 and 224).

    representation: L_att + L_hidden. The first two terms reach the student, its projection and its scalar head, the
    last two the tutor: no parameter has a gradient from both.
    """
    check_weights(weights)
    # the weighted sum: a number
    return sum(weight * term for weight, term in zip(weights, (representation, logit, policy, tutor), strict=True))


def layer_map(teacher_layers: int, student_layers: int) -> list[int]:
    """The teacher's layer for each of the student's, counted from 1: i m with m = L_T / L_S, so 2, 4, ... for half.

    The hidden state i of the student learns from i m too, with 0, the embeddings, from 0. Raises UserError unless L_S
    divides L_T.
    """
    if not 1 <= student_layers <= teacher_layers or teacher_layers % student_layers:
        raise UserError(
            f"A student of {student_layers} layers cannot follow a teacher of {teacher_layers}, layer by layer: choose "
            "a number that divides it."
        )
    every = teacher_layers // student_layers
    return [every * layer for layer in range(1, student_layers + 1)]


def probabilities(logits: Tensor, *tokens: Tensor) -> list[Tensor]:
    """p(token) for each of some tokens (...), from logits (..., V), without gradient. [(...), ...]"""
    # the softmax, and not exp(z - log sum_v exp z(v)), which large logits would round: (..., V)
    p = _exact(logits.detach()).softmax(-1)
    return [_at(p, token) for token in tokens]


def check_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """The four weights as numbers. Raises UserError unless all are finite and none is negative."""
    if len(weights) != 4 or not all(0 <= weight < float("inf") for weight in weights):
        raise UserError(f"The loss takes four weights of at least 0, not {tuple(weights)}.")
    return tuple(float(weight) for weight in weights)


def _at(values: Tensor, tokens: Tensor) -> Tensor:
    """Of (..., V) the logit or the probability of one token a position: (...)."""
    return _exact(values.gather(-1, tokens[..., None])[..., 0])


def _exact(values: Tensor) -> Tensor:
    """In float32 at least, also under autocast."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _kept(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values (...) or (..., d), 0 where nothing counts: a NaN would turn the gradient of 0 there into NaN."""
    if mask is None:
        return values
    return values.where(mask.bool()[(..., *[None] * (values.ndim - mask.ndim))], 0.0)


def _reduced(values: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """The values (...) at the positions that count: their mean, their sum, or each, with zeros at the others."""
    check_positions(values.shape, mask, reduction)
    if reduction == "none":
        return values if mask is None else values.where(mask.bool(), 0.0)
    return reduced(values.reshape(-1)[counted_rows(values.shape, mask)], reduction)


def _check_tokens(logits: Tensor, *tokens: Tensor) -> None:
    for one in tokens:
        if one.shape != logits.shape[:-1]:
            wanted = tuple(logits.shape[:-1])
            raise UserError(f"Logits {tuple(logits.shape)} need tokens of the shape {wanted}, not {tuple(one.shape)}.")


def _check_same(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        shapes = f"{tuple(ours.shape)} and {tuple(theirs.shape)}"
        raise UserError(f"Student and teacher are compared number by number: they need one shape, not {shapes}.")


def _check_layers(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    if len(ours) != len(theirs) or not ours:
        raise UserError(f"The student gives {len(ours)} layers and the teacher {len(theirs)}: give one for one.")
