"""R-Drop: two passes with different dropout must agree (Wu et al., NeurIPS 2021, arXiv:2106.14448).

>>> loss = r_drop_loss(torch.stack([logits_1, logits_2]), targets, alpha=5.0)      # Eq. 4
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdutils.divergences import label_smoothed_nll, nll_formula, symmetric_kl, weighted_sum, x_formula
from kdutils.errors import UserError
from kdutils.models import counted_logits
from kdutils.training import Method, Moment


def r_drop_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 5.0,
    mask: Tensor | None = None,
    epsilon: float = 0.0,
    convention: str = "uniform",
    reduction: str = "mean",
) -> Tensor:
    """Eq. 4: -log P_1(y) - log P_2(y) + alpha/2 [KL(P_1 || P_2) + KL(P_2 || P_1)], a position.

    logits (2, ..., V): two passes with independent dropout; targets and mask (...). Both cross-entropies count
    in full and the KL is halved once, so alpha weighs the KL of a position against the *sum* of its two
    cross-entropies; "mean" divides by the counted positions of one pass. Label smoothing (`epsilon`) touches the
    cross-entropies only. Gradients flow through both passes, nothing is detached. This is the form of the
    paper and of the official translation code; the released classification codes weigh the terms differently.
    Raises UserError unless exactly two passes are given.
    """
    if logits.shape[0] != 2:
        raise UserError(f"R-Drop compares two passes: logits must be (2, ..., V), not {tuple(logits.shape)}.")
    if logits.shape[1:-1] != targets.shape:
        raise UserError(f"Logits {tuple(logits.shape)} need targets {tuple(logits.shape[1:-1])}.")
    cross_entropies = nll_formula(targets, logits.shape[-1], epsilon, convention)
    agreement = x_formula()  # X of two passes is half of the symmetric KL, hence 2 alpha
    return weighted_sum([(1.0, cross_entropies), (2.0 * alpha, agreement)], logits, mask, reduction)


class RDrop(Method):
    """R-Drop as a training method: the batch is passed twice in one go, and the two halves must agree.

    With k > 1 only every k-th update takes the second pass; the others are plain updates.
    """

    name = "r_drop"
    passes = 2.0

    def __init__(self, alpha: float = 5.0, k: int = 1, epsilon: float = 0.0, convention: str = "uniform") -> None:
        super().__init__(epsilon, convention)
        self.alpha, self.k = alpha, k

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], moment: Moment
    ) -> dict[str, Tensor]:
        if not k_step(moment.update, self.k):
            return super().loss(model, batch, counts, moment)
        logits, targets = counted_logits(model, batch, copies=2), batch["targets"]
        total = r_drop_loss(
            logits, targets, self.alpha, epsilon=self.epsilon, convention=self.convention, reduction="sum"
        )
        terms = {"loss": total / counts["targets"]}
        if moment.logged:  # the two parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits[0], targets, reduction="sum") / counts["targets"]
                terms["kl"] = symmetric_kl(logits[0], logits[1], reduction="sum") / counts["targets"]
        return terms


def k_step(update: int, k: int) -> bool:
    """k-step R-Drop: whether this update, counted from 1, is one of every k that take the second pass."""
    return update % k == 0
