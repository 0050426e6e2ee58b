"""Intra-Distillation's loss over K passes, its weight over the updates, and the form for regression."""

from __future__ import annotations

import itertools
import math

from torch import Tensor

from kdutils.core.errors import UserError, unknown
from kdutils.losses.divergences import (
    Formula,
    check_positions,
    counted_rows,
    js_formula,
    nll_formula,
    precision,
    reduced,
    weighted_sum,
    x_formula,
)


def intra_distillation_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 5.0,
    mask: Tensor | None = None,
    epsilon: float = 0.0,
    convention: str = "uniform",
    reduction: str = "mean",
    divergence: str = "x",
) -> Tensor:
    """The total of the paper, (1/K) sum_k CE_k + alpha' L_id, a position.

    logits (K, ..., V): K passes with independent dropout; targets and mask (...). L_id is the X-divergence,
    (1/K) sum_k [KL(p_k || m) + KL(m || p_k)] with m = (1/K) sum_k p_k, computed as sum_v Cov_k(p_k(v), z_k(v)) with the
    gradient (1/K) [(p_k - m) + p_k (d_k - <p_k, d_k>)], d_k = z_k - mean_k z_k: no probability's logarithm is taken, so
    it is finite where the official code, which takes them, gives NaN. Both terms are means over the passes; "mean"
    divides by the counted positions of one pass. `alpha` is the weight of this update, from `adaptive_alpha`. Label
    smoothing (`epsilon`) touches the cross-entropies only; the official code has the convention "others". Gradients
    flow through all passes, and through m.

    For K = 2 it is half of R-Drop's Eq. 4 with the same alpha, value and gradient.

    divergence: "x"; "js", mean_k KL(p_k || m), the other choice of the official code; or "pairs", the same number as
    "x", computed as (1/K^2) times the sum over all pairs of both directions, which costs K (K - 1) / 2 comparisons.
    The paper's weights are relative to the mean cross-entropy of a token. The released classification code adds a sum
    over the batch to a mean: there alpha times the batch size is the alpha meant here. Raises UserError for fewer than
    two passes, another divergence, and shapes that do not match.
    """
    passes = logits.shape[0]
    if passes < 2:
        raise UserError(f"Intra-Distillation compares passes: logits must be (K, ..., V), K >= 2, not {passes}.")
    if logits.shape[1:-1] != targets.shape:
        raise UserError(f"Logits {tuple(logits.shape)} need targets {tuple(logits.shape[1:-1])}.")
    # sum_k CE_k, smoothed, at each position: (n,)
    cross_entropies = nll_formula(targets, logits.shape[-1], epsilon, convention)
    # L_id at each position: (n,)
    apart = divergence_formula(divergence)
    # (1/K) sum_k CE_k + alpha' L_id, reduced: a number, or (...) for "none"
    return weighted_sum([(1.0 / passes, cross_entropies), (alpha, apart)], logits, mask, reduction)


class AllPairs(Formula):
    """(1/K^2) sum_{i<j} [KL(p_i || p_j) + KL(p_j || p_i)], pair by pair."""

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        # p_k: (K, n, V)
        p = logp.exp()
        # <p_i - p_j, log p_i - log p_j>, both directions of a pair: (n,)
        pairs = (((p[i] - p[j]) * (logp[i] - logp[j])).sum(-1) for i, j in itertools.combinations(range(len(logp)), 2))
        # (1/K^2) of their sum: (n,)
        return sum(pairs) / len(logp) ** 2


DIVERGENCES = {"x": x_formula, "js": js_formula, "pairs": AllPairs}


def divergence_formula(name: str) -> Formula:
    """How K passes are compared, for `weighted_sum`: "x", "js" or "pairs". Raises UserError for another name."""
    if name not in DIVERGENCES:
        raise unknown("divergence", name, DIVERGENCES)
    return DIVERGENCES[name]()


def intra_distillation_regression(
    predictions: Tensor, targets: Tensor, alpha: float = 1.0, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The form for regression (STS-B): (1/K) sum_k (y_k - y)^2 + alpha' (1/K) sum_k (y_k - mean_k y_k)^2, a position.

    predictions (K, ...), targets and mask (...). Means over the passes and, for "mean", over the counted positions, as
    in the official code; here both terms have the same units, so the batch size is no part of alpha. Computed in
    float32 at least; gradients flow through all passes and through their mean. Raises UserError as above.
    """
    if len(predictions) < 2 or predictions.shape[1:] != targets.shape:
        raise UserError(
            f"Intra-Distillation compares passes: predictions {tuple(predictions.shape)} must be (K, ...) with K >= 2 "
            f"and targets {tuple(predictions.shape[1:])}, which are {tuple(targets.shape)}."
        )
    check_positions(targets.shape, mask, reduction)
    rows, exact = counted_rows(targets.shape, mask), precision(predictions)
    # y_k and y where they count: (K, n) and (n,)
    each, right = predictions.reshape(len(predictions), -1)[:, rows].to(exact), targets.reshape(-1)[rows].to(exact)
    # (1/K) sum_k (y_k - y)^2: (n,)
    error = (each - right).square().mean(0)
    # (1/K) sum_k (y_k - mean_k y_k)^2, of differences to the first pass: identical passes give exactly 0: (n,)
    moved = each - each[:1]
    apart = (moved - moved.mean(0)).square().mean(0)
    # error + alpha' apart: (n,)
    total = error + alpha * apart
    if reduction != "none":
        return reduced(total, reduction)
    everywhere = total.new_zeros(targets.numel())
    everywhere[rows] = total
    return everywhere.reshape(targets.shape)


def adaptive_alpha(
    update: int, total: int, alpha: float = 5.0, p: float = 5.0, q: float = 10.0, gamma: float | None = None
) -> float:
    """The weight of the divergence at update x of N: alpha (p x / N)^gamma while x < N/p, from there on alpha.

    update: x, the updates that lie behind, so 0 at the first; total: N, of the whole run (optimiser steps, not
    batches). gamma = ln(1/alpha) / ln(p/q), by which the weight is 0 at the start, 1 at N/q and alpha at N/p, unless it
    is given. p and q are no probabilities: p = 5 means that the full weight is reached after a fifth of the run. An
    alpha of at most 1 is constant, as in the official code. Raises UserError unless 0 < p < q: for p > q the weight
    would start at infinity.
    """
    if not 0 <= update < math.inf or not 1 <= total < math.inf or not 0 <= alpha < math.inf:
        raise UserError(
            f"The weight needs an update >= 0, a total >= 1 and a finite alpha >= 0, not {update}, {total} and {alpha}."
        )
    if not 0 < p < q < math.inf or (gamma is not None and not 0 <= gamma < math.inf):
        raise UserError(
            "The weight is 1 after 1/q of the updates and alpha after 1/p, so p must be above 0 and below q, and gamma "
            f"not negative: choose others than p = {p}, q = {q} and gamma = {gamma}."
        )
    if alpha <= 1 or update >= total / p:
        return alpha
    if gamma is None:
        gamma = math.log(1 / alpha) / math.log(p / q)
    return alpha * (p * update / total) ** gamma


def fair_alpha(alpha: float, passes: int) -> float:
    """The alpha that is as strong with K passes as `alpha` is with two: alpha K / (2 (K - 1)).

    Over independent passes the X-divergence grows in expectation as (K - 1) / K, so that at one alpha three passes
    are held together 4/3 times as strongly as two. Raises UserError for fewer than two passes.
    """
    if passes < 2:
        raise UserError(f"Intra-Distillation compares passes: there must be at least 2, not {passes}.")
    return alpha * passes / (2 * (passes - 1))
