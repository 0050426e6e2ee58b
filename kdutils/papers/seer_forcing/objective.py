"""The loss of Seer Forcing, and the two alternatives that it was compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.losses.divergences import Formula, nll_formula, reduced, rowwise


class _Forcing(Formula):
    """a CE(p_c) + b CE(p_s) + c H(p_s, p_c) at a position; p_s teaches only."""

    def __init__(self, nll: Formula, weights: Sequence[float]) -> None:
        self.nll, self.weights, self.check = nll, weights, nll.check

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        return self._value(rows, logp, logp[1].exp())

    def _value(self, rows: Tensor | slice, logp: Tensor, p_s: Tensor) -> Tensor:
        a, b, c = self.weights
        # H(p_s, p_c) = -sum_v p_s(v) log p_c(v): (n,)
        soft = -(p_s * logp[0]).sum(-1) if c else 0.0
        # a CE(p_c) + b CE(p_s) + c H: (n,)
        return a * self.nll.value(rows, logp[:1]) + b * self.nll.value(rows, logp[1:]) + c * soft

    def value_and_slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = self.weights
        # d CE(p_c), d CE(p_s): (2, n, V); of the sum over the passes, so each pass has its own
        _, slope = self.nll.value_and_slope(rows, logp, p)
        # a d CE(p_c) + c (p_c - p_s), and b d CE(p_s): (n, V) each
        slope[0].mul_(a)
        if c:
            slope[0].add_(p[0], alpha=c).sub_(p[1], alpha=c)
        if b != 1.0:
            slope[1].mul_(b)
        return self._value(rows, logp, p[1]), slope


def seer_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 0.5,
    mask: Tensor | None = None,
    epsilon: float = 0.1,
    convention: str = "uniform",
    reduction: str = "mean",
    weights: Sequence[float] | None = None,
) -> Tensor:
    """alpha CE(p_c, y) + CE(p_s, y) + (1 - alpha) H(sg p_s, p_c), a position (label_smoothed_cross_entropy.py, 84).

    logits (2, ..., V): the conventional decoder's, then the seer's; targets and mask (...). H is the cross-entropy
    under the seer's distribution at temperature 1: its gradient is that of KL(p_s || p_c), its value includes the
    seer's entropy. Label smoothing touches the two CE only. sg: no gradient of H reaches the seer. With alpha = 1
    two decoders are trained side by side and neither teaches. `weights`: of the three terms, instead of
    (alpha, 1, 1 - alpha). The released code divides the sum by the target tokens of the batch: "mean".
    Raises UserError for logits that are not two sets, an alpha outside 0 to 1 or a negative weight.
    """
    if logits.ndim < 2 or logits.shape[0] != 2 or logits.shape[1:-1] != targets.shape:
        wanted = f"(2, {', '.join(map(str, [*targets.shape, 'V']))})"
        raise UserError(f"Seer forcing compares two decoders: logits must be {wanted}, not {tuple(logits.shape)}.")
    # CE, smoothed, of each decoder at each position: (n,)
    nll = nll_formula(targets, logits.shape[-1], epsilon, convention)
    # alpha CE(p_c) + CE(p_s) + (1 - alpha) H(sg p_s, p_c): (n,)
    formula = _Forcing(nll, checked_weights(alpha) if weights is None else _not_negative(weights))
    # reduced: a number, or (...) for "none"
    return rowwise(formula, (logits,), mask, reduction)


def l2_loss(student_hidden: Tensor, seer_hidden: Tensor, reduction: str = "mean") -> Tensor:
    """mean_d (h_c - sg h_s)^2, a position: the states that the output projection is given, (..., d).

    The paper compares distillation with an L2 term; its text was not at hand, so what is matched is our choice. In
    float32 at least. No gradient reaches the seer. Raises UserError for shapes that differ.
    """
    if student_hidden.shape != seer_hidden.shape:
        shapes = f"{tuple(student_hidden.shape)} and {tuple(seer_hidden.shape)}"
        raise UserError(f"Hidden states can be compared when their shapes are equal, not {shapes}.")
    exact = torch.promote_types(student_hidden.dtype, torch.float32)
    # mean_d (h_c - sg h_s)^2: (...)
    apart = (student_hidden.to(exact) - seer_hidden.detach().to(exact)).square().mean(-1)
    return reduced(apart, reduction)


def adversarial_losses(
    discriminator: nn.Module, student_hidden: Tensor, seer_hidden: Tensor, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """(fooling, telling): the student wants its states taken for the seer's, the discriminator to tell them apart.

    fooling = -log D(h_c), with a gradient into h_c only; telling = -log D(h_s) - log(1 - D(h_c)), with a gradient
    into the discriminator only, which gives one logit a position. The paper compares distillation with adversarial
    learning; its text was not at hand, so states, network and this non-saturating form are our choice.
    """
    # D with weights that have no gradient: fooling must not teach it
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    exact = torch.promote_types(student_hidden.dtype, torch.float32)
    # D(h_c) as a logit, its gradient into h_c: (...)
    judged = torch.func.functional_call(discriminator, frozen, (student_hidden,))[..., 0].to(exact)
    # D(sg h_s) and D(sg h_c) as logits, their gradients into D: (...)
    real, fake = (discriminator(hidden.detach())[..., 0].to(exact) for hidden in (seer_hidden, student_hidden))
    # -log D(h_c), and -log D(h_s) - log(1 - D(h_c)), by -log sigmoid(x) = softplus(-x), reduced: numbers, or (...)
    return reduced(F.softplus(-judged), reduction), reduced(F.softplus(-real) + F.softplus(fake), reduction)


def checked_weights(alpha: float) -> tuple[float, float, float]:
    """(alpha, 1, 1 - alpha). Raises UserError for an alpha outside 0 to 1."""
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"alpha weighs labels against the seer: choose it from 0 to 1, not {alpha}.")
    return alpha, 1.0, 1.0 - alpha


def _not_negative(weights: Sequence[float]) -> Sequence[float]:
    if len(weights) != 3 or not all(0.0 <= weight < math.inf for weight in weights):
        raise UserError(f"Seer forcing has three weights of at least 0, not {tuple(weights)}.")
    return weights
