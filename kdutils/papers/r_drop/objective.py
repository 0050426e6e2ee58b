"""R-Drop's loss (Eq. 4), and k-step R-Drop."""

from __future__ import annotations

from torch import Tensor

from kdutils.core.errors import UserError
from kdutils.losses.divergences import nll_formula, weighted_sum, x_formula


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
    in full and the KL is halved once; "mean" divides by the counted positions of one pass, so alpha weighs the
    KL of a position against the sum of its two cross-entropies. Label smoothing (`epsilon`) touches the
    cross-entropies only. Gradients flow through both passes; nothing is detached. This is the form of the paper
    and of the official translation code; the released classification codes weigh the terms differently.

    With M > 2 passes, (M, ..., V), the cross-entropies of all are added and the KL is averaged over the pairs
    and scaled by M/2, so that alpha keeps its strength beside the cross-entropies. The paper tried M = 3;
    its weighting is not known to us, this one is ours. Raises UserError for fewer than two passes.
    """
    passes = logits.shape[0]
    if passes < 2:
        raise UserError(f"R-Drop compares two passes: logits must be (2, ..., V), not {tuple(logits.shape)}.")
    if logits.shape[1:-1] != targets.shape:
        raise UserError(f"Logits {tuple(logits.shape)} need targets {tuple(logits.shape[1:-1])}.")
    # -log P_1(y) - log P_2(y), smoothed, at each position: (n,)
    cross_entropies = nll_formula(targets, logits.shape[-1], epsilon, convention)
    # alpha M/2 M/(M-1), the weight of X = (1/M^2) sum over pairs of both directions: a number. The mean over pairs of
    # the symmetric KL is X M/(M-1); for two passes the weight is 2 alpha, because X is half of the symmetric KL
    weight = alpha * passes / 2 * passes / (passes - 1)
    # the sum of both, reduced: a number, or (...) for "none"
    return weighted_sum([(1.0, cross_entropies), (weight, x_formula())], logits, mask, reduction)


def k_step(update: int, k: int) -> bool:
    """k-step R-Drop: whether this update, counted from 1, is one of every k that take the second pass.

    Raises UserError for k below 1.
    """
    if k < 1:
        raise UserError(f"k-step R-Drop takes the second pass at every k-th update: k must be 1 or more, not {k}.")
    return update % k == 0
