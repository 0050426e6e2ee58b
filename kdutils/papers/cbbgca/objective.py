"""CBBGCA's losses of both stages, and what stands between them: which words are distilled, and how strongly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdutils.core.errors import UserError, unknown
from kdutils.losses.divergences import (
    Formula,
    check_positions,
    label_smoothed_nll,
    log_and_probabilities,
    nll_formula,
    precision,
    rowwise,
)

SELECTIONS = ("unconfident", "random", "parts", "wrong", "confident", "all")  # Table 4
SCHEDULES = ("linear", "constant")
MIXES = ("selected", "all")
PARTS = 5  # intervals of probability of "parts", one teacher pass each


def joint_loss(
    logits: Tensor,
    targets: Tensor,
    cmlm_logits: Tensor,
    cmlm_targets: Tensor,
    joint_weight: float = 0.7,
    epsilon: float = 0.0,
    convention: str = "uniform",
) -> Tensor:
    """Eq. 8: lambda L_nmt + (1 - lambda) L_cmlm, both sums over their words (Eq. 9 and 10): a number.

    logits (..., V) and targets (...) of all words of the translation and its end; cmlm_logits (M, V) and cmlm_targets
    (M,) of the hidden words. lambda is `joint_weight`. Label smoothing (`epsilon`) touches both; the paper does not say
    whether it touches the second. Divide by the target tokens of the batch for a mean: then a sentence of which more is
    hidden counts more, as in the printed sums. Raises UserError for a lambda outside 0 to 1.
    """
    if not 0.0 <= joint_weight <= 1.0:
        raise UserError(f"lambda weighs two losses: choose joint_weight from 0 to 1, not {joint_weight}.")
    smoothing = {"epsilon": epsilon, "convention": convention, "reduction": "sum"}
    # L_nmt = -sum_t log p(y_t | y_<t, x), and L_cmlm = -sum_{t in y_m} log p(y_t | y_o, x): numbers
    nmt = label_smoothed_nll(logits, targets, **smoothing)
    cmlm = label_smoothed_nll(cmlm_logits, cmlm_targets, **smoothing)
    # lambda L_nmt + (1 - lambda) L_cmlm: a number
    return joint_weight * nmt + (1.0 - joint_weight) * cmlm


def uniform_mask(words: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Which words stage 1 hides: n ~ uniform(1, |y|) of each sentence, chosen at random; boolean (B, T).

    words, boolean (B, T): True at the words of each sentence, False at its end and at padding. A sentence without words
    has nothing to hide.
    """
    shape = {"device": words.device, "generator": generator}
    # |y|: (B, 1), and n ~ uniform(1, |y|): (B, 1)
    length = words.sum(1, keepdim=True)
    n = 1 + (torch.rand(len(words), 1, **shape) * length).long().clamp(max=(length - 1).clamp(min=0))
    # a random order of the words, others last: (B, T)
    order = torch.rand(words.shape, **shape).masked_fill(~words, 2.0).argsort(1).argsort(1)
    # the first n of it: (B, T)
    return words & (order < n)


def cmlm_inputs(labels: Tensor, hidden: Tensor, mask_token: int, eos: int, pad: int = 0) -> tuple[Tensor, Tensor]:
    """(inputs, words), both (B, T): what the masked language model reads at slot t, and whether that is a word.

    labels (B, T): y_1 ... y_n, the end, then -100, as the translator is asked for them; hidden, boolean (B, T): words
    that become [M]. Not shifted: slot t holds y_t or [M], and what the model says at slot t is compared with the
    translator's output t, whose input is y_{t-1}. Its end is no word: no slot of the input holds it.
    """
    # slots that hold a word: (B, T)
    words = (labels >= 0) & (labels != eos)
    # y_t, or [M] where it is hidden, or padding: (B, T)
    return labels.masked_fill(hidden, mask_token).masked_fill(~words, pad), words


def select_unconfident(logits: Tensor, targets: Tensor, epsilon: float = 0.2, mask: Tensor | None = None) -> Tensor:
    """Eq. 11: y_m, the words to which the translator itself gives at most epsilon, p(y_t) <= epsilon; boolean (...).

    logits (..., V) of a teacher-forced pass; targets (...); mask (...): True at words, False at a sentence's end and at
    padding, which are never selected. Compared as logarithms, so that epsilon = 0 selects nothing, whatever underflows,
    and epsilon = 1 everything. Without gradient. Raises UserError for an epsilon outside 0 to 1.
    """
    check_threshold(epsilon)
    with torch.no_grad():
        # -log p(y_t), at least 0: (...)
        surprise = label_smoothed_nll(logits, targets, mask=mask, reduction="none").clamp(min=0.0)
    # p(y_t) <= epsilon, where a word counts: (...)
    chosen = surprise >= (-math.log(epsilon) if epsilon else math.inf)
    return chosen if mask is None else chosen & mask.bool()


def selected_parts(
    logits: Tensor,
    targets: Tensor,
    sentences: Tensor,
    words: Tensor,
    which: str = "unconfident",
    epsilon: float = 0.2,
    generator: torch.Generator | None = None,
) -> list[Tensor]:
    """The words that are distilled, in any of the ways of Table 4: boolean (N,), one for each pass of the teacher.

    logits (N, V), targets (N,); sentences (N,): the number of each word's sentence; words, boolean (N,): no sentence's
    end. which: "unconfident" is the paper's; "random" draws as many of each sentence; "wrong" are those where another
    word is likelier; "confident" those above 1 - epsilon; "all" hides everything at once; "parts" all words by the
    interval of probability they lie in, in five passes, of which each hides one. Raises UserError for other names.
    """
    check_threshold(epsilon)
    if which not in SELECTIONS:
        raise unknown("selection of words", which, SELECTIONS)
    if which == "all":
        return [words]
    if which == "wrong":
        return [words & (logits.argmax(-1) != targets)]
    if which in ("unconfident", "random"):
        # Eq. 11 without a mask, which would have a GPU waited for: every position here has a target
        chosen = words & select_unconfident(logits, targets, epsilon)
        return [chosen if which == "unconfident" else _as_many(chosen, sentences, words, generator)]
    # p(y_t) = exp(-NLL): (N,)
    with torch.no_grad():
        p = label_smoothed_nll(logits, targets, reduction="none").neg().exp()
    if which == "confident":
        return [words & (p > 1.0 - epsilon)]
    # [0, 1/5], (1/5, 2/5], ..., (4/5, 1]: one boolean (N,) each
    part = (p * PARTS).ceil().clamp(1, PARTS)
    return [words & (part == number) for number in range(1, PARTS + 1)]


def _as_many(chosen: Tensor, sentences: Tensor, words: Tensor, generator: torch.Generator | None) -> Tensor:
    """As many words of each sentence as were chosen of it, but any: boolean (N,)."""
    place = torch.rand(len(words), device=words.device, generator=generator).masked_fill(~words, 2.0)
    # each word's rank in its sentence, in a random order with the words first: (N,)
    order = place.argsort()
    order = order[sentences[order].argsort(stable=True)]
    count = torch.bincount(sentences)
    first = count.cumsum(0) - count
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank -= first[sentences]
    # below the number that was chosen of the sentence: (N,)
    return words & (rank < torch.zeros_like(count).index_add_(0, sentences, chosen.long())[sentences])


def kd_weight(update: int, total: int, schedule: str = "linear", alpha: float = 1.0) -> float:
    """The weight of the teacher at update k of K: alpha (1 - k/K), or alpha throughout ("constant").

    update: k, the updates of stage 2 that lie behind, so 0 at the first; total: K, its updates (Section 3.2: 100,000).
    Raises UserError for another schedule, and for an alpha outside 0 to 1.
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule of alpha", schedule, SCHEDULES)
    if not 0.0 <= alpha <= 1.0 or not 0 <= update <= total or total < 1:
        raise UserError(
            f"The teacher's weight needs an alpha from 0 to 1, and an update from 0 to the total: not {alpha}, "
            f"{update} and {total}."
        )
    return alpha if schedule == "constant" else alpha * (1.0 - update / total)


class _Confidence(Formula):
    """w_t CE(p, y) + a_t KL(q || p); `teacher` (M, V): the logits of q at the M selected positions, in their order."""

    def __init__(
        self, nll: Formula, teacher: Tensor, selected: Tensor, alpha: float, elsewhere: float, exact: torch.dtype
    ) -> None:
        self.nll, self.teacher, self.alpha, self.check = nll, teacher, alpha, nll.check
        # w_t, the weight of the labels, on the selected words and elsewhere: (N,)
        weights = torch.full(selected.shape, elsewhere, dtype=exact, device=selected.device)
        self.labels = weights.masked_fill_(selected, 1.0 - alpha)
        # the row of the teacher at each selected position, -1 elsewhere: (N,)
        self.row = torch.where(selected, selected.cumsum(0) - 1, -1)

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        return self._parts(rows, logp, self.nll.value(rows, logp))[0]

    def value_and_slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        nll, slope = self.nll.value_and_slope(rows, logp, p)
        value, at, q = self._parts(rows, logp, nll)
        # w_t (slope of CE): (1, n, V)
        slope.mul_(self.labels[rows, None])
        # ... + alpha (p - q) at the selected words
        return value, slope.index_add_(1, at, (p[:, at] - q), alpha=self.alpha)

    def _parts(self, rows: Tensor | slice, logp: Tensor, nll: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss (n,), which of the n are selected (m,), and q there (m, V)."""
        row = self.row[rows]
        at = (row >= 0).nonzero()[:, 0]
        # log q and q: (m, V)
        logq, q = log_and_probabilities(self.teacher[row[at]].to(logp.dtype))
        # KL(q || p) = sum_v q(v) [log q(v) - log p(v)]: (m,)
        apart = (q * (logq - logp[0, at])).sum(-1)
        # w_t CE + alpha KL: (n,)
        return (self.labels[rows] * nll).index_add(0, at, apart, alpha=self.alpha), at, q


def cbbgca_loss(
    logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor,
    selected: Tensor,
    alpha: float,
    mask: Tensor | None = None,
    epsilon: float = 0.0,
    convention: str = "uniform",
    reduction: str = "mean",
    mix: str = "selected",
) -> Tensor:
    """Eq. 13 with Eq. 12: alpha KL(q_t || p_t) + (1 - alpha) CE_t at a selected word, CE_t in full at any other.

    logits (..., V) of the translator; targets, selected and mask (...); teacher_logits (M, V): those of the M selected
    words alone, in their order, for no other is needed. No gradient reaches the teacher. It is one cross-entropy
    against alpha q_t + (1 - alpha) onehot(y_t) at the selected words, less alpha times the entropies: the gradient
    there is p_t - alpha q_t - (1 - alpha) onehot(y_t). alpha, from `kd_weight`, does not change how much a word counts.

    Label smoothing (`epsilon`) touches the cross-entropies only. "mean" divides by the counted positions, not by the
    selected ones, so a sentence with nothing selected contributes its cross-entropy and nothing else; with alpha 0, or
    nothing selected, this is `label_smoothed_nll` to the last bit. mix: "selected" is the paper's; "all" multiplies
    every label by (1 - alpha), which a summary of the paper suggests: at alpha 1 all other words go without any loss.
    Raises UserError for shapes that do not match, another mix, and an alpha outside 0 to 1.
    """
    if mix not in MIXES:
        raise unknown("mix of labels and teacher", mix, MIXES)
    kd_weight(0, 1, "constant", alpha)  # refuses what is no weight
    check_positions(targets.shape, mask, reduction)
    if logits.shape[:-1] != targets.shape or selected.shape != targets.shape:
        raise UserError(
            f"Logits {tuple(logits.shape)} need targets and selected {tuple(logits.shape[:-1])}, not "
            f"{tuple(targets.shape)} and {tuple(selected.shape)}."
        )
    if teacher_logits.ndim != 2 or teacher_logits.shape[-1] != logits.shape[-1]:
        given = tuple(teacher_logits.shape)
        raise UserError(f"The teacher's logits are of the M selected words, (M, {logits.shape[-1]}), not {given}.")
    chosen = (selected.bool() if mask is None else selected.bool() & mask.bool()).reshape(-1)
    if not teacher_logits.is_cuda and len(teacher_logits) != int(chosen.sum()):  # on a GPU the question would stop it
        raise UserError(
            f"{int(chosen.sum())} words are selected, but the teacher has logits for {len(teacher_logits)}: "
            "give it one row for each, in their order."
        )
    # CE, smoothed, at each position: (n,)
    nll = nll_formula(targets, logits.shape[-1], epsilon, convention)
    if not alpha:
        return rowwise(nll, (logits[None],), mask, reduction)
    # (1 - alpha) CE + alpha KL at the selected words, CE elsewhere: (n,)
    elsewhere = 1.0 if mix == "selected" else 1.0 - alpha
    exact = precision(logits, teacher_logits)
    formula = _Confidence(nll, teacher_logits.detach(), chosen, alpha, elsewhere, exact)
    if exact == torch.float64:
        logits = logits.double()  # beside a teacher in double
    # reduced: a number, or (...) for "none"
    return rowwise(formula, (logits[None],), mask, reduction)


def check_threshold(epsilon: float) -> None:
    """Raises UserError unless epsilon is a probability."""
    if not 0.0 <= epsilon <= 1.0:
        raise UserError(f"epsilon is a probability: choose a threshold from 0 to 1, not {epsilon}.")
