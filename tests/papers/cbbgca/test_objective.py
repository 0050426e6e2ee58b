"""CBBGCA's objectives against plain float64 oracles: both losses, what is hidden, which words are distilled."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.papers.cbbgca.objective import (
    PARTS,
    SELECTIONS,
    cbbgca_loss,
    cmlm_inputs,
    joint_loss,
    kd_weight,
    select_unconfident,
    selected_parts,
    uniform_mask,
)
from tests import crafted, oracles
from tests.oracles import REFUSED, Objective, ObjectiveBattery, Oracle, assert_near, evaluate, example, run
from tests.tiny import one_sentence

SMOOTHINGS = [(0.0, "uniform"), (0.1, "uniform"), (0.1, "others")]
MASK, EOS, PAD = 4, 2, 0


def equation_13(alpha: float, epsilon: float = 0.0, convention: str = "uniform", mix: str = "selected") -> Oracle:
    """z (2, V) of translator and teacher; in these tests the words of even number are the selected ones."""
    nll = oracles.smoothed_nll(epsilon, convention)

    def loss(z: np.ndarray, target: int) -> Any:
        if target % 2:
            return nll(z[:1], target) * (1.0 if mix == "selected" else 1.0 - alpha)
        log_q, log_p = oracles.log_softmax(z[1].real), oracles.log_softmax(z[0])
        return alpha * oracles.kl_of_logs(log_q, log_p) + (1.0 - alpha) * nll(z[:1], target)

    return loss


def even(targets: Tensor) -> Tensor:
    return targets % 2 == 0


def distilled(z: Tensor, targets: Tensor, alpha: float = 0.25, mask: Tensor | None = None, **options) -> Tensor:
    """The loss as a function of both logits; the teacher's are picked out at the selected words."""
    chosen = even(targets)
    here = chosen & mask.bool() if mask is not None and mask.shape == targets.shape else chosen
    return cbbgca_loss(z[0], targets, z[1][here], chosen, alpha, mask=mask, **options)


def weighted(alpha: float, epsilon: float = 0.0, convention: str = "uniform", mix: str = "selected") -> Objective:
    options = {"epsilon": epsilon, "convention": convention, "mix": mix}

    def call(z, targets, **more):
        return distilled(z, targets, alpha, **options, **more)

    name = f"alpha{alpha}_{convention}{epsilon}_{mix}"
    return Objective(name, 2, call, equation_13(alpha, epsilon, convention, mix), moved=0)


class TestBattery(ObjectiveBattery):
    """The equation in value and gradient for every reduction; padding; extremes; autocast; refusals."""

    @pytest.fixture(
        params=[
            weighted(0.0, 0.1),
            weighted(0.25),
            weighted(0.5, 0.1),
            weighted(0.5, 0.2, "others"),
            weighted(1.0, 0.1),
            weighted(0.5, 0.1, mix="all"),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param


# ---------------------------------------------------------------- one cross-entropy, and what it reduces to


def selection(alpha: float = 0.25, **options):
    """Logits of both, targets, mask, and which of them are selected."""
    z, targets, mask = example(2, (3, 4), 6)
    assert (even(targets) & mask).any() and (~even(targets) & mask).any()
    return z, targets, mask, even(targets)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_it_is_one_cross_entropy_against_labels_and_teacher_mixed(alpha):
    """Up to the teacher's entropy; the slope is p - alpha q - (1 - alpha) onehot, and p - onehot elsewhere."""
    z, targets, _, chosen = selection()
    p, log_p, q, labels = z[0].softmax(-1), z[0].log_softmax(-1), z[1].softmax(-1), F.one_hot(targets, 6)
    share = alpha * chosen[..., None]
    wanted = share * q + (1 - share) * labels
    value, gradient = run(distilled, z, targets, alpha=alpha, reduction="none")
    entropy = -(q * q.log()).sum(-1)
    torch.testing.assert_close(value, -(wanted * log_p).sum(-1) - share[..., 0] * entropy, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient[0], p - wanted, rtol=1e-12, atol=1e-14)
    assert not gradient[1].any()


def test_a_word_weighs_the_same_whatever_alpha_and_whatever_is_selected():
    """p less the slope is what the word is asked for: a distribution, which sums to 1."""
    z, targets, _ = example(2, (3, 4), 6)
    for epsilon in (0.0, 0.2, 0.6, 1.0):
        chosen = select_unconfident(z[0], targets, epsilon)
        for alpha in (0.0, 0.3, 1.0):
            leaf = z[0].clone().requires_grad_()
            cbbgca_loss(leaf, targets, z[1][chosen], chosen, alpha, epsilon=0.1, reduction="sum").backward()
            asked = z[0].softmax(-1) - leaf.grad
            torch.testing.assert_close(asked.sum(-1), torch.ones(3, 4, dtype=torch.float64), rtol=1e-12, atol=0)
            assert (asked > -1e-12).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("epsilon", "convention"), SMOOTHINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_with_alpha_0_or_nothing_selected_it_is_the_plain_loss_to_the_last_bit(dtype, epsilon, convention, reduction):
    z, targets, mask, chosen = selection()
    z, nothing = z.to(dtype), torch.zeros_like(chosen)
    smoothing = {"epsilon": epsilon, "convention": convention, "reduction": reduction}
    for counted in (None, mask):
        plain = run(label_smoothed_nll, z[0], targets, mask=counted, **smoothing)
        for share in (0.0, 0.2, 1.0):  # whatever the threshold
            some = select_unconfident(z[0], targets, share, counted)
            ours = run(cbbgca_loss, z[0], targets, teacher_logits=z[1][some], selected=some, alpha=0.0,
                       mask=counted, **smoothing)  # fmt: skip
            assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
        for alpha in (0.25, 1.0):
            ours = run(cbbgca_loss, z[0], targets, teacher_logits=z[1, 0, :0], selected=nothing, alpha=alpha,
                       mask=counted, **smoothing)  # fmt: skip
            assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


@pytest.mark.parametrize("size", [2.0, 300.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_with_a_threshold_of_0_it_is_the_plain_loss_and_with_1_all_is_distilled(dtype, size):
    """Also where the probability of a right word is 0 in every precision."""
    z, targets, mask = example(2, (3, 4), 6, scale=min(size, 6e4 if dtype == torch.float16 else size))
    z = z.clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else z.to(dtype)
    assert size == 2.0 or (z[0].float().softmax(-1).gather(-1, targets[..., None]) == 0).any()
    nothing, everything = (select_unconfident(z[0], targets, epsilon, mask) for epsilon in (0.0, 1.0))
    assert not nothing.any() and torch.equal(everything, mask)
    with torch.autocast("cpu", torch.bfloat16):
        plain = run(label_smoothed_nll, z[0], targets, mask=mask)
        ours = run(cbbgca_loss, z[0], targets, teacher_logits=z[1][nothing], selected=nothing, alpha=0.5, mask=mask)
        whole = run(cbbgca_loss, z[0], targets, teacher_logits=z[1][mask], selected=everything, alpha=1.0, mask=mask)
        divergence = kl_divergence(z[1], z[0], mask)
    assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))
    torch.testing.assert_close(whole[0], divergence, rtol=1e-5, atol=1e-6)
    assert all(one.isfinite().all() for one in (*ours, *whole))


@pytest.mark.parametrize(("epsilon", "convention"), SMOOTHINGS)
def test_with_alpha_1_the_selected_words_have_no_labels_and_the_others_all_of_theirs(epsilon, convention):
    z, targets, mask, chosen = selection()
    smoothing = {"epsilon": epsilon, "convention": convention, "reduction": "sum"}
    value, gradient = run(distilled, z, targets, alpha=1.0, mask=mask, **smoothing)
    rest, slope = run(label_smoothed_nll, z[0], targets, mask=mask & ~chosen, **smoothing)
    apart = kl_divergence(z[1], z[0], mask & chosen, "sum")
    torch.testing.assert_close(value, rest + apart, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[0, ~chosen], slope[~chosen], rtol=1e-12, atol=0)
    other, moved = targets.clone(), chosen & mask
    other[moved] = (other[moved] + 2) % 6  # other labels, which are selected too
    again = run(distilled, z, other, alpha=1.0, mask=mask, **smoothing)
    assert torch.equal(again[0], value) and torch.equal(again[1], gradient)


@pytest.mark.parametrize(("epsilon", "convention"), SMOOTHINGS)
@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_a_teacher_that_says_what_the_student_says_teaches_nothing(alpha, epsilon, convention):
    z, targets, mask, chosen = selection()
    z[1] = z[0]
    smoothing = {"epsilon": epsilon, "convention": convention, "reduction": "none"}
    value, (gradient, _) = run(distilled, z, targets, alpha=alpha, mask=mask, **smoothing)
    plain, slope = run(label_smoothed_nll, z[0], targets, mask=mask, **smoothing)
    labels = torch.where(chosen, 1.0 - alpha, 1.0).double()
    assert torch.equal(value, labels * plain)
    assert torch.equal(gradient, labels[..., None] * slope)


@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_smoothing_touches_the_labels_and_never_the_teacher(convention):
    z, targets, _, chosen = selection()
    smoothed, exact = (
        run(distilled, z, targets, alpha=1.0, epsilon=epsilon, convention=convention, reduction="none")
        for epsilon in (0.3, 0.0)
    )
    assert torch.equal(smoothed[0][chosen], exact[0][chosen])
    assert torch.equal(smoothed[1][0, chosen], exact[1][0, chosen])
    assert (smoothed[0] - exact[0])[~chosen].abs().min() > 1e-3


def test_a_mix_over_all_words_is_another_loss_that_starves_the_unselected():
    """At alpha 1 a summary's form leaves them without any loss; the paper's keeps their labels in full."""
    z, targets, _, chosen = selection()
    value, (gradient, _) = run(distilled, z, targets, alpha=1.0, mix="all", reduction="none")
    assert not value[~chosen].any() and not gradient[~chosen].any()
    kept, (slope, _) = run(distilled, z, targets, alpha=1.0, reduction="none")
    assert kept[~chosen].min() > 0 and slope[~chosen].abs().amax(-1).min() > 1e-3
    assert torch.equal(value[chosen], kept[chosen]) and torch.equal(gradient[chosen], slope[chosen])
    for one, other in zip(
        *(run(distilled, z, targets, alpha=0.0, mix=mix) for mix in ("all", "selected")), strict=True
    ):
        assert torch.equal(one, other)


# ---------------------------------------------------------------- the teacher


def test_the_student_reacts_to_its_teacher_where_a_word_is_selected_and_the_teacher_to_nobody():
    z, targets, _, chosen = selection()
    other = z.clone()
    other[1] += torch.linspace(-1, 1, 6, dtype=torch.float64)
    for alpha in (0.0, 0.25, 1.0):
        before, after = (run(distilled, one, targets, alpha=alpha, reduction="none")[1] for one in (z, other))
        changed = (before[0] - after[0]).abs().amax(-1)
        assert torch.equal(changed > 1e-3, chosen & (alpha > 0)) and not changed[~chosen].any()
        assert not before[1].any()
    leaf, teacher = z[0].clone().requires_grad_(), z[1][chosen].clone().requires_grad_()
    cbbgca_loss(leaf, targets, teacher, chosen, 0.5).backward()
    assert teacher.grad is None and leaf.grad.any()


def test_the_teachers_rows_are_those_of_the_selected_words_in_their_order():
    z, targets, mask, chosen = selection()
    here = chosen & mask
    rows = z[1][here]
    expected = distilled(z, targets, 0.5, mask)
    given = {"alpha": 0.5, "mask": mask}
    torch.testing.assert_close(cbbgca_loss(z[0], targets, rows, chosen, **given), expected, rtol=1e-14, atol=0)
    assert (cbbgca_loss(z[0], targets, rows.flip(0), chosen, **given) - expected).abs() > 1e-3
    as_numbers = cbbgca_loss(z[0], targets, rows, chosen.long(), 0.5, mask.long())
    assert torch.equal(as_numbers, expected)
    flat = cbbgca_loss(z[0].flatten(0, 1)[mask.flatten()], targets[mask], rows, chosen[mask], 0.5)
    torch.testing.assert_close(flat, expected, rtol=1e-14, atol=0)


def test_a_teacher_in_double_is_not_rounded():
    z, targets, _, chosen = selection()
    exact = distilled(z, targets, 1.0)
    leaf = z[0].float().requires_grad_()
    mixed = cbbgca_loss(leaf, targets, z[1][chosen], chosen, 1.0)
    mixed.backward()
    assert mixed.dtype == torch.float64 and leaf.grad.dtype == torch.float32
    torch.testing.assert_close(mixed.detach(), exact, rtol=1e-6, atol=0)


def test_descent_on_distillation_moves_the_student_to_the_teacher():
    z, targets, _, chosen = selection()
    teacher, apart = z[1].clone(), []
    for _ in range(300):
        apart.append(float(kl_divergence(z[1], z[0], chosen, "sum")))
        z = z - run(distilled, z, targets, alpha=1.0, reduction="sum")[1]
    assert all(later < earlier for earlier, later in zip(apart, apart[1:], strict=False))
    assert apart[-1] < 0.01 * apart[0] and torch.equal(z[1], teacher)


# ---------------------------------------------------------------- wrong versions are told apart


def nll(z: Tensor, targets: Tensor, epsilon: float = 0.1) -> Tensor:
    log_p = z.log_softmax(-1)
    return -(1 - epsilon) * log_p.gather(-1, targets[..., None])[..., 0] - epsilon / z.shape[-1] * log_p.sum(-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)


def combined(z, t, m, kd=lambda z: kl(z[1].detach(), z[0]), alpha=0.25, labels=0.75, rest=1.0, ce=nll) -> Tensor:
    """The objective with something else in the place of the distillation, the weights or the cross-entropy."""
    chosen = even(t)
    each = torch.where(chosen, alpha * kd(z) + labels * ce(z[0], t), rest * ce(z[0], t))
    return each[m].sum() / m.sum()


def smoothed_teacher(z: Tensor) -> Tensor:
    q = 0.9 * z[1].detach().softmax(-1) + 0.1 / z.shape[-1]
    return (q * (q.log() - z[0].log_softmax(-1))).sum(-1)


def apart_means(z: Tensor, t: Tensor, m: Tensor) -> Tensor:
    """Distillation averaged over the selected words, the labels over all."""
    chosen = even(t) & m
    soft = (0.25 * kl(z[1].detach(), z[0]) + 0.75 * nll(z[0], t))[chosen].sum() / chosen.sum()
    return soft + nll(z[0], t)[m & ~chosen].sum() / m.sum()


WRONG = {  # arguments of `combined`, or a function
    "teacher not detached": {"kd": lambda z: kl(z[1], z[0])},
    "student detached": {"kd": lambda z: kl(z[1].detach(), z[0].detach())},
    "reversed": {"kd": lambda z: kl(z[0], z[1].detach())},
    "student teaches": {"kd": lambda z: kl(z[0].detach(), z[1])},
    "soft cross-entropy": {"kd": lambda z: -(z[1].detach().softmax(-1) * z[0].log_softmax(-1)).sum(-1)},
    "teacher smoothed": {"kd": smoothed_teacher},
    "teacher one word late": {"kd": lambda z: kl(z[1].detach().roll(1, dims=1), z[0])},
    "mean over the vocabulary": {"kd": lambda z: kl(z[1].detach(), z[0]) / z.shape[-1]},
    "alpha and 1 - alpha swapped": {"alpha": 0.75, "labels": 0.25},
    "labels in full": {"labels": 1.0},
    "labels left out": {"labels": 0.0},
    "labels fade everywhere": {"rest": 0.75},
    "the unselected left out": {"rest": 0.0},
    "smoothing left out": {"ce": lambda z, t: nll(z, t, 0.0)},
    "the others are distilled": lambda z, t, m: combined(z, t, m, alpha=0.0, labels=1.0, rest=0.75) + (
        0.25 * kl(z[1].detach(), z[0]) * ~even(t))[m].sum() / m.sum(),
    "means apart": apart_means,
    "mean over the selected": lambda z, t, m: combined(z, t, m) * m.sum() / (m & even(t)).sum(),
    "mean over padding too": lambda z, t, m: combined(z, t, m) * m.sum() / m.numel(),
}  # fmt: skip


def matches(function) -> bool:
    """Whether value and gradient of function(z, targets, mask) are those of the equation on one crafted batch."""
    return crafted.matches(function, equation_13(0.25, 0.1))


def test_ours_is_the_equation_on_the_batch_that_tells_wrong_ones():
    assert matches(lambda z, t, m: distilled(z, t, 0.25, m, epsilon=0.1))
    assert matches(combined)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_told_apart(name):
    wrong = WRONG[name]
    assert not matches(wrong if callable(wrong) else lambda z, t, m: combined(z, t, m, **wrong))


# ---------------------------------------------------------------- pieces, edges, refusals


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (5,)])
def test_one_batch_is_its_accumulated_pieces(cuts):
    """Sums over unequal pieces, one of them all padding, over the count of the whole."""
    z, targets, _ = example(2, (6, 7), 5)
    mask = torch.arange(7)[None] < torch.tensor([7, 1, 4, 0, 6, 2])[:, None]
    whole, expected = run(distilled, z, targets, mask=mask)
    edges, value, gradient = [0, *cuts, 6], 0.0, torch.zeros_like(z)
    for rows in (slice(*pair) for pair in zip(edges, edges[1:], strict=False)):
        part, slope = run(distilled, z[:, rows], targets[rows], mask=mask[rows], reduction="sum")
        value, gradient[:, rows] = value + part / mask.sum(), slope / mask.sum()
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_a_sentence_without_a_selected_word_has_its_cross_entropy_and_nothing_else():
    """The mean is over the words that count, not over the selected ones: no 0/0."""
    z, targets, _ = example(2, (3, 4), 6)
    targets[1] = targets[1] // 2 * 2 + 1  # none of the second sentence is even
    each = distilled(z, targets, 0.5, reduction="none")
    assert torch.equal(each[1], label_smoothed_nll(z[0, 1], targets[1], reduction="none"))
    alone = torch.zeros(3, 4, dtype=torch.bool).index_fill(0, torch.tensor(1), True)
    value = distilled(z, targets, 0.5, alone)
    torch.testing.assert_close(value, label_smoothed_nll(z[0, 1], targets[1]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_one_class_leaves_nothing_to_learn(convention):
    z, targets, _ = example(2, (3, 4), 1)
    value, gradient = run(distilled, z, targets, convention=convention, epsilon=0.1)
    assert abs(value) < 1e-15 and gradient.abs().max() < 1e-15
    assert not select_unconfident(z[0], targets, 0.99).any() and select_unconfident(z[0], targets, 1.0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mix": "convex"}, "There is no mix of labels and teacher 'convex'. Known: selected, all"),
        *(({"alpha": alpha}, "needs an alpha from 0 to 1.*not " + str(alpha)) for alpha in (-0.1, 1.5, math.nan)),
        ({"selected": torch.ones(4, 3, dtype=torch.bool)}, r"need targets and selected \(3, 4\).*\(4, 3\)"),
        ({"targets": torch.zeros(3, 5, dtype=torch.long)}, r"need targets and selected \(3, 4\), not \(3, 5\)"),
        ({"teacher_logits": torch.zeros(3, 6)}, "5 words are selected, but the teacher has logits for 3"),
        ({"teacher_logits": torch.zeros(5, 7)}, r"\(M, 6\), not \(5, 7\)"),
        ({"teacher_logits": torch.zeros(3, 4, 6)}, r"\(M, 6\), not \(3, 4, 6\)"),
        ({"reduction": "batchmean"}, "no reduction 'batchmean'. Known: mean, sum, none"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, "The mask has shape"),
        ({"epsilon": 1.0}, r"Label smoothing epsilon must be in \[0, 1\)"),
        ({"convention": "fairseq"}, "no label-smoothing convention 'fairseq'"),
        ({"targets": torch.full((3, 4), 9)}, r"Counted targets must be in 0..5, found 9..9"),
    ],
)
def test_what_means_nothing_is_one_sentence(change, words):
    """Also at alpha 0, where the teacher would not be asked."""
    chosen = torch.zeros(3, 4, dtype=torch.bool)
    chosen.view(-1)[:5] = True
    given = {"logits": torch.zeros(3, 4, 6), "targets": torch.zeros(3, 4, dtype=torch.long), "selected": chosen}
    given |= {"teacher_logits": torch.zeros(5, 6), "alpha": 0.5}
    for alpha in (0.5, 0.0):
        with pytest.raises(UserError, match=words) as caught:
            cbbgca_loss(**{**given, "alpha": alpha, **change})
        one_sentence(caught.value)


# ---------------------------------------------------------------- stage 1: the joint loss (Eq. 8 to 10)


@pytest.mark.parametrize(("epsilon", "convention"), SMOOTHINGS)
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.7, 1.0])
def test_the_joint_loss_is_two_weighted_sums(weight, epsilon, convention):
    (z, targets, _), (c, hidden, _) = example(1, (3, 4), 6), example(1, (5,), 6, seed=1)
    oracle = oracles.smoothed_nll(epsilon, convention)
    ours, theirs = (evaluate(oracle, one, right, reduction="sum") for one, right in ((z, targets), (c, hidden)))
    leaves = [one[0].clone().requires_grad_() for one in (z, c)]
    value = joint_loss(leaves[0], targets, leaves[1], hidden, weight, epsilon, convention)
    value.backward()
    assert_near(value.detach(), weight * ours[0] + (1 - weight) * theirs[0], 1e-9)
    assert_near(leaves[0].grad, weight * ours[1][0], 1e-9)
    assert_near(leaves[1].grad, (1 - weight) * theirs[1][0], 1e-9)


def test_the_default_of_the_joint_loss_is_seven_tenths():
    (z, targets, _), (c, hidden, _) = example(1, (3, 4), 6), example(1, (5,), 6, seed=1)
    parts = [label_smoothed_nll(one[0], right, reduction="sum") for one, right in ((z, targets), (c, hidden))]
    torch.testing.assert_close(joint_loss(z[0], targets, c[0], hidden), 0.7 * parts[0] + 0.3 * parts[1])


def test_with_nothing_hidden_the_translators_loss_remains():
    z, targets, _ = example(1, (3, 4), 6)
    nothing = torch.zeros(0, 6, dtype=torch.float64, requires_grad=True)
    value = joint_loss(z[0], targets, nothing, targets.flatten()[:0], 0.7)
    torch.testing.assert_close(value.detach(), 0.7 * label_smoothed_nll(z[0], targets, reduction="sum"))
    value.backward()
    assert nothing.grad.shape == (0, 6)


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 1e30), (torch.float16, 6e4), (torch.float32, 1e30)])
def test_the_joint_loss_of_extreme_logits_is_finite_under_autocast(dtype, size):
    z, targets, _ = example(1, (3, 4), 6)
    leaf = (size * z[0].sign()).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16 if dtype == torch.float32 else dtype):
        value = joint_loss(leaf, targets, leaf.flatten(0, 1), targets.flatten())
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and leaf.grad.isfinite().all() and leaf.grad.any()


@pytest.mark.parametrize("weight", [-0.1, 1.01, math.nan])
def test_a_lambda_that_is_no_share_is_one_sentence(weight):
    z, targets, _ = example(1, (5,), 6)
    with pytest.raises(UserError, match=f"choose joint_weight from 0 to 1, not {weight}") as caught:
        joint_loss(z[0], targets, z[0], targets, weight)
    one_sentence(caught.value)


# ---------------------------------------------------------------- stage 1: what is hidden


def chi_square(counts: list[int], shares: list[float]) -> float:
    expected = [sum(counts) * share for share in shares]
    return sum((seen - right) ** 2 / right for seen, right in zip(counts, expected, strict=True))


def test_the_number_of_hidden_words_is_uniform():
    """99.9 % of chi-squares with five degrees of freedom are below 20.5."""
    hidden = uniform_mask(torch.ones(6000, 6, dtype=torch.bool), torch.Generator().manual_seed(0))
    counts = torch.bincount(hidden.sum(1), minlength=7).tolist()
    assert counts[0] == 0 and chi_square(counts[1:], [1 / 6] * 6) < 20.5


def test_of_three_words_every_choice_is_as_likely_as_it_should_be():
    hidden = uniform_mask(torch.ones(6000, 3, dtype=torch.bool), torch.Generator().manual_seed(1))
    counts = torch.bincount(hidden.long() @ torch.tensor([1, 2, 4]), minlength=8).tolist()
    # n is 1, 2 or 3, and there are 3, 3 and 1 choices of so many: 0.999 of chi-squares with 6 degrees are below 22.5
    shares = [1 / 3 if choice == 7 else 1 / 9 for choice in range(1, 8)]
    assert counts[0] == 0 and chi_square(counts[1:], shares) < 22.5


def test_ends_and_padding_are_never_hidden_and_every_sentence_with_a_word_has_one_hidden():
    rows = [[7, 8, 9, EOS], [7, EOS], [EOS], [], [5, 6, EOS]]
    labels = torch.tensor([row + [-100] * (4 - len(row)) for row in rows])
    words = (labels >= 0) & (labels != EOS)
    draw, seen = torch.Generator().manual_seed(0), torch.zeros_like(words)
    for _ in range(200):
        hidden = uniform_mask(words, draw)
        assert hidden.dtype == torch.bool and not (hidden & ~words).any()
        assert hidden.any(1).tolist() == [True, True, False, False, True]
        seen |= hidden
    assert torch.equal(seen, words)


def test_words_need_not_come_first_nor_be_any():
    words = torch.tensor([[False, True, False, True], [True, False, False, True]])
    draw = torch.Generator().manual_seed(0)
    numbers = {tuple(uniform_mask(words, draw).sum(1).tolist()) for _ in range(100)}
    assert numbers == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert uniform_mask(words[:0]).shape == (0, 4) and uniform_mask(words[:, :0]).shape == (2, 0)


def test_the_generator_decides_what_is_hidden():
    words = torch.ones(20, 9, dtype=torch.bool)
    one, same, other = (uniform_mask(words, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_masked_language_model_reads_the_words_unshifted_without_their_end():
    labels = torch.tensor([[7, 8, 9, EOS], [5, EOS, -100, -100], [EOS, -100, -100, -100]])
    hidden = torch.tensor([[True, False, True, False], [False] * 4, [False] * 4])
    before = labels.clone()
    inputs, words = cmlm_inputs(labels, hidden, MASK, EOS, PAD)
    assert inputs.tolist() == [[MASK, 8, MASK, PAD], [5, PAD, PAD, PAD], [PAD] * 4]
    assert words.tolist() == [[True, True, True, False], [True, False, False, False], [False] * 4]
    assert torch.equal(labels, before)
    everywhere = torch.ones_like(hidden)  # ends and padding cannot be hidden
    assert cmlm_inputs(labels, everywhere, MASK, EOS, 0)[0].tolist() == [[MASK] * 3 + [0], [MASK, 0, 0, 0], [0] * 4]
    assert cmlm_inputs(labels, hidden, 99, EOS, 11)[0][:2].tolist() == [[99, 8, 99, 11], [5, 11, 11, 11]]


# ---------------------------------------------------------------- stage 2: which words (Eq. 11 and Table 4)


def probabilities(*each: float) -> tuple[Tensor, Tensor]:
    """Logits (N, 3), float64, that give the target, word 0, so much; the rest is word 1's, but for a little."""
    p = torch.tensor(each, dtype=torch.float64)
    return torch.stack([p, (1 - p) * 0.99, (1 - p) * 0.01], -1).log(), torch.zeros(len(each), dtype=torch.long)


def chosen_by_hand(logits: Tensor, targets: Tensor, epsilon: float, mask: Tensor) -> list[bool]:
    """p(y) <= epsilon, position by position, in numpy."""
    found = []
    for z, y, counts in zip(logits.double().numpy(), targets.tolist(), mask.tolist(), strict=True):
        found.append(bool(counts) and bool(np.exp(oracles.log_softmax(z)[y]) <= epsilon))
    return found


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unconfident_words_are_those_with_at_most_epsilon(dtype, epsilon):
    z, targets, mask = example(1, (60,), 5, scale=4.0)
    z = z[0].to(dtype)
    for counted in (None, mask):
        chosen = select_unconfident(z, targets, epsilon, counted)
        everywhere = torch.ones_like(mask) if counted is None else counted
        assert chosen.dtype == torch.bool and chosen.tolist() == chosen_by_hand(z, targets, epsilon, everywhere)
        assert chosen.any() and not chosen.all()
    shaped = select_unconfident(z.view(5, 12, 5), targets.view(5, 12), epsilon, mask.view(5, 12))
    assert torch.equal(shaped.flatten(), select_unconfident(z, targets, epsilon, mask))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_probability_of_exactly_epsilon_is_unconfident(dtype):
    assert select_unconfident(torch.zeros(3, 5, dtype=dtype), torch.arange(3), 0.2).all()
    assert select_unconfident(torch.zeros(3, 2, dtype=dtype), torch.zeros(3, dtype=torch.long), 0.5).all()
    assert not select_unconfident(torch.zeros(3, 5, dtype=dtype), torch.arange(3), 0.199).any()


def test_the_selection_knows_no_gradient_and_sees_no_padding():
    z, targets, mask = example(1, (3, 4), 5)
    leaf = z[0].clone().requires_grad_()
    expected = select_unconfident(leaf, targets, 0.4, mask)
    assert not expected.requires_grad
    for garbage in (math.nan, math.inf, 1e300):
        dirty, other = z[0].clone(), targets.masked_fill(~mask, -100)
        dirty[~mask] = garbage
        assert torch.equal(select_unconfident(dirty, other, 0.4, mask), expected)
    for kind in (torch.int64, torch.float32):
        assert torch.equal(select_unconfident(z[0], targets, 0.4, mask.to(kind)), expected)
    nowhere = select_unconfident(z[0], targets, 1.0, torch.zeros_like(mask))
    assert nowhere.shape == (3, 4) and not nowhere.any()


@pytest.mark.parametrize("epsilon", [-0.01, 1.01, math.nan, math.inf])
@pytest.mark.parametrize("which", [None, *SELECTIONS])
def test_a_threshold_that_is_no_probability_is_one_sentence(which, epsilon):
    z, targets = probabilities(0.3, 0.6)
    with pytest.raises(UserError, match=f"choose a threshold from 0 to 1, not {epsilon}") as caught:
        if which is None:
            select_unconfident(z, targets, epsilon)
        else:
            selected_parts(z, targets, targets, targets == 0, which, epsilon)
    one_sentence(caught.value)


def test_an_unknown_selection_is_one_sentence():
    z, targets = probabilities(0.3, 0.6)
    with pytest.raises(UserError, match="There is no selection of words 'unconfidant'. Did you mean 'unconfident'"):
        selected_parts(z, targets, targets, targets == 0, "unconfidant")


GIVEN = [0.05, 0.15, 0.25, 0.45, 0.65, 0.79, 0.81, 0.95]
BY_HAND = {
    "unconfident": [{0, 1}],
    "wrong": [{0, 1, 2, 3}],  # more than half is the likeliest here
    "confident": [{6, 7}],
    "all": [set(range(8))],
    "parts": [{0, 1}, {2}, {3}, {4, 5}, {6, 7}],
}


@pytest.mark.parametrize("which", BY_HAND)
def test_what_is_selected_by_hand(which):
    z, targets = probabilities(*GIVEN)
    sentences = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    found = selected_parts(z, targets, sentences, torch.ones(8, dtype=torch.bool), which, 0.2)
    assert [set(one.nonzero()[:, 0].tolist()) for one in found] == BY_HAND[which]
    words = torch.ones(8, dtype=torch.bool).index_fill(0, torch.tensor([0, 3, 7]), False)
    found = selected_parts(z, targets, sentences, words, which, 0.2)
    assert [set(one.nonzero()[:, 0].tolist()) for one in found] == [part - {0, 3, 7} for part in BY_HAND[which]]
    assert all(one.dtype == torch.bool and one.shape == (8,) for one in found)


def crowd(seed: int = 0) -> tuple[Tensor, ...]:
    """Logits of 40 sentences of 0 to 6 words and an end each: z (N, 5), targets, sentences, words (N,)."""
    lengths = torch.arange(40) % 7
    sentences = torch.arange(40).repeat_interleave(lengths + 1)
    z, targets, _ = example(1, (len(sentences),), 5, seed)
    return z[0], targets, sentences * 3, torch.cat([sentences[1:] == sentences[:-1], torch.tensor([False])])


@pytest.mark.parametrize("which", SELECTIONS)
@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.0])
def test_no_selection_takes_an_end_or_a_word_twice(which, epsilon):
    z, targets, sentences, words = crowd()
    leaf = z.clone().requires_grad_()
    parts = selected_parts(leaf, targets, sentences, words, which, epsilon, torch.Generator().manual_seed(0))
    assert len(parts) == (PARTS if which == "parts" else 1) and not any(one.requires_grad for one in parts)
    assert not any((one & ~words).any() for one in parts)
    taken = torch.stack(parts).sum(0)
    assert taken.max() <= 1
    if which in ("parts", "all") or (which in ("unconfident", "random") and epsilon == 1.0):
        assert torch.equal(taken == 1, words)
    if epsilon == 0.0 and which in ("unconfident", "random", "confident"):
        assert not taken.any()


def test_the_parts_are_a_partition_by_fifths_of_probability():
    z, targets, sentences, words = crowd()
    p = z.softmax(-1).gather(-1, targets[:, None])[:, 0]
    for number, part in enumerate(selected_parts(z, targets, sentences, words, "parts")):
        assert part.any() and ((p[part] > number / 5) & (p[part] <= (number + 1) / 5)).all()
    extreme = torch.tensor([[1e30, -1e30], [-1e30, 1e30]])  # 1 and 0 belong to a part too
    parts = selected_parts(extreme, torch.zeros(2).long(), torch.zeros(2).long(), torch.ones(2).bool(), "parts")
    assert torch.stack(parts).nonzero().tolist() == [[0, 1], [4, 0]]


def test_random_takes_as_many_of_each_sentence_as_are_unconfident_and_any():
    z, targets, sentences, words = crowd()
    unconfident = select_unconfident(z, targets, 0.3, words)
    count = torch.bincount(sentences, unconfident)
    assert 0 < unconfident.sum() < words.sum()
    draw, taken = torch.Generator().manual_seed(0), torch.zeros(len(words))
    for _ in range(400):
        (chosen,) = selected_parts(z, targets, sentences, words, "random", 0.3, draw)
        assert torch.equal(torch.bincount(sentences, chosen), count)
        taken += chosen
    # every word of a sentence is as likely as another
    share = (count / torch.bincount(sentences, words).clamp(min=1))[sentences] * words
    assert (taken / 400 - share).abs().max() < 0.1
    shuffled = torch.randperm(len(words), generator=draw)  # whatever the order of the positions
    (chosen,) = selected_parts(z[shuffled], targets[shuffled], sentences[shuffled], words[shuffled], "random", 0.3)
    assert torch.equal(torch.bincount(sentences[shuffled], chosen), count)


def test_random_of_no_words_is_none():
    nothing = torch.zeros(0, 5)
    for which in SELECTIONS:
        parts = selected_parts(nothing, nothing[:, 0].long(), nothing[:, 0].long(), nothing[:, 0].bool(), which)
        assert all(one.shape == (0,) for one in parts)


# ---------------------------------------------------------------- stage 2: alpha


def test_alpha_falls_from_1_by_one_over_k():
    assert [kd_weight(k, 4) for k in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [kd_weight(k, 4, "linear", 0.4) for k in (0, 2, 4)] == pytest.approx([0.4, 0.2, 0.0])
    assert [kd_weight(k, 4, "constant", 0.5) for k in (0, 3, 4)] == [0.5] * 3
    assert kd_weight(50_000, 100_000) == 0.5 and kd_weight(0, 1) == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"update": 0, "total": 4, "schedule": "cosine"}, "no schedule of alpha 'cosine'"),
        *(({"update": 0, "total": 4, "alpha": alpha}, "alpha from 0 to 1") for alpha in (-0.1, 1.1, math.nan)),
        *(({"update": k, "total": total}, "an update from 0 to the total") for k, total in ((5, 4), (-1, 4), (0, 0))),
    ],
)
def test_a_weight_of_the_teacher_that_is_none_is_one_sentence(options, words):
    with pytest.raises(UserError, match=words) as caught:
        kd_weight(**options)
    one_sentence(caught.value)


def test_targets_outside_the_vocabulary_are_refused_where_they_count():
    z, targets, mask = example(2, (3, 4), 6)
    for wrong in (-100, 6):
        targets[0, 0], mask[0, 0] = wrong, True
        for alpha in (0.0, 0.5):
            with pytest.raises(REFUSED):
                distilled(z, targets, alpha, mask)
        with pytest.raises(REFUSED):
            select_unconfident(z[0], targets, 0.2, mask)
