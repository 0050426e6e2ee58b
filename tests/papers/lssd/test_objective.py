"""LSSD's objective against a plain float64 oracle: every switch, words, top-K, gradient routes, wrong versions."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.papers.lssd.objective import COMBINATIONS, FORMS, GATES, LEVELS, checked_weights, lssd_loss
from tests.lssd_equations import Equation, corpus, distilled, language
from tests.oracles import EXTREMES, Objective, ObjectiveBattery, assert_near, evaluate, example, run

GATED = list(itertools.product(GATES, LEVELS))


def objective(equation: Equation) -> Objective:
    """A position has a sentence of its own: then the levels are one, and the oracle needs no other positions."""

    def call(z: Tensor, targets: Tensor, **options) -> Tensor:
        alone = torch.arange(targets.numel()).reshape(targets.shape)
        return distilled(z, targets, sentences=alone, **asdict(equation), **options)

    changed = {name: value for name, value in asdict(equation).items() if value != getattr(Equation, name)}
    return Objective("_".join(f"{name}={value}" for name, value in changed.items()) or "default", 2, call, equation)


class TestBattery(ObjectiveBattery):
    """The equation in value and gradient for every reduction; padding; extremes; autocast; refusals."""

    @pytest.fixture(
        params=[
            objective(Equation()),
            objective(Equation(teacher=False)),
            objective(Equation(2.5, "selective", combine="sum", floor=0.5, epsilon=0.0)),
            objective(Equation(1.0, "selective", "sentence", convention="uniform")),
            objective(Equation(0.6, "selective", combine="sum", words=True)),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_gradcheck(self, objective, reduction):
        """By the student alone, where it is so much worse than the teacher that moving it does not move the gate."""
        (student, teacher), targets, mask = example(2, (3, 2), 4, seed=1)
        student, teacher = student - 4.0 * F.one_hot(targets, 4), teacher + 20.0 * F.one_hot(targets, 4)
        for counted in (None, mask):

            def loss(z: Tensor, m=counted) -> Tensor:
                return objective.call(torch.stack([z, teacher]), targets, mask=m, reduction=reduction)

            assert torch.autograd.gradcheck(loss, (student.clone().requires_grad_(),))


class TestAdaptive(TestBattery):
    @pytest.fixture(
        params=[
            objective(Equation(2.5, "adaptive")),
            objective(Equation(0.6, "adaptive", "sentence", combine="convex", cap=2.0)),
            objective(Equation(0.0, "adaptive", convention="uniform")),
            objective(Equation(0.6, "adaptive", words=True)),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param

    @pytest.mark.parametrize("dtype, size", [one for one in EXTREMES if one[1] > 1e29])
    def test_extreme_logits_stay_finite_and_right(self, objective, dtype, size):
        """Probabilities of about exp(-1e4) are known to 1e-4 only, and so is the ratio of two of them."""
        super().test_extreme_logits_stay_finite_and_right(objective, dtype, size)


class TestTopK(TestBattery):
    @pytest.fixture(
        params=[
            objective(Equation(top_k=1)),
            objective(Equation(2.5, "adaptive", top_k=2, words=True)),
            objective(Equation(0.6, "selective", combine="convex", top_k=3)),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param

    @pytest.mark.parametrize("dtype, size", [(torch.float16, 6e4), (torch.bfloat16, 1e30), (torch.float32, 1e30)])
    def test_extreme_logits_stay_finite_and_right(self, objective, dtype, size):
        """Without ties of the teacher, of which either word may be among the K."""
        z, targets, _ = example(2, (12,), 4, seed=6)
        z = (size / 4 * z.argsort(-1)).to(dtype)
        (value, gradient), (expected, truth) = run(objective.call, z, targets), evaluate(objective.oracle, z, targets)
        assert_near(value, expected, 1e-5)
        assert_near(gradient, truth, 2e-2 if dtype == torch.bfloat16 else 2e-3)


# ---------------------------------------------------------------- the equation, with sentences


def assert_is(equation: Equation, data, reduction: str = "mean", **options) -> None:
    """Value and gradient of lssd_loss are the equation's."""
    z, targets, mask, sentences = data
    options = {**asdict(equation), "mask": mask, "reduction": reduction, **options}
    found = run(distilled, z, targets, **options)
    for actual, right in zip(found, equation.of(z, targets, mask, sentences, reduction), strict=True):
        assert_near(actual, right, 1e-9)


@pytest.mark.parametrize("combine", COMBINATIONS)
@pytest.mark.parametrize("kind, level", GATED)
def test_every_switch_with_every_other_is_the_equation(kind, level, combine):
    data = corpus(seed=1)
    for top_k, words, convention in itertools.product((0, 1, 3), (False, True), ("others", "uniform")):
        smoothing = {"epsilon": 0.2 if words else 0.1, "convention": convention}
        assert_is(Equation(0.7, kind, level, combine, top_k, words, **smoothing), data)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind, level", GATED)
def test_every_reduction_divides_by_the_counted_words(kind, level, reduction):
    assert_is(Equation(2.5, kind, level), corpus(seed=2), reduction)


@pytest.mark.parametrize("floor, cap", [(0.0, 2.0), (0.2, 0.5), (1.0, 1.0), (3.0, 100.0)])
@pytest.mark.parametrize("kind, level", GATED[2:])
def test_floor_and_cap_are_free(kind, level, floor, cap):
    assert_is(Equation(1.5, kind, level, floor=floor, cap=cap), corpus(seed=3))


def test_the_defaults_are_the_papers():
    """Alpha 1, whole, sentence, in full, all words; smoothing 0.1 on the wrong words; a tie is 1; cap 2."""
    z, targets, mask, sentences = corpus(seed=4)
    for options in ({}, {"kind": "selective"}, {"kind": "adaptive"}):
        value = lssd_loss(z[0], targets, z[1], mask=mask, **options)
        assert_near(value, Equation(**options).of(z, targets, mask, sentences)[0], 1e-12)
    assert (Equation().combine, Equation().level, Equation().floor, Equation().cap) == ("sum", "sentence", 0.0, 2.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind, level", GATED)
def test_both_forms_are_their_equations_in_value_and_gradient(kind, level, form):
    """The paper's (3) to (7), and the released code's: halved, a floor of 0.2, a cap of 1, a tie for the student."""
    for seed in range(3):
        assert_is(Equation(2.0, kind, level, **FORMS[form]), corpus(seed))
    assert FORMS["paper"] == {name: getattr(Equation(), name) for name in FORMS["paper"]}
    assert list(FORMS["released"].values()) == ["halved", 0.2, 1.0, True]


@pytest.mark.parametrize("kind, level", GATED)
def test_the_closed_form_of_the_gradient(kind, level):
    """(p - y) + alpha G (p - q): no T, no T^2, no way through the gate."""
    z, targets, mask, sentences = corpus(seed=5)
    g = torch.as_tensor(Equation(kind=kind, level=level).gates(z, targets, mask, sentences))[..., None]
    (p, q), y = z.softmax(-1), F.one_hot(targets, 5)
    options = {"alpha": 2.5, "kind": kind, "level": level, "epsilon": 0.0, "reduction": "sum"}
    value, (student, teacher) = run(distilled, z, targets, mask=mask, **options)
    right = ((p - y) + 2.5 * g * (p - q)) * mask[..., None]
    torch.testing.assert_close(student, right, rtol=1e-10, atol=1e-13)
    assert teacher.abs().max() == 0


@pytest.mark.parametrize("epsilon, convention", [(0.0, "others"), (0.1, "uniform"), (0.2, "others")])
def test_without_a_teacher_the_labels_count_in_full(epsilon, convention):
    """A batch that nobody teaches is the same whatever the switches of distillation are, the halving among them."""
    z, targets, mask, _ = corpus()
    smoothing = {"epsilon": epsilon, "convention": convention}
    right = run(label_smoothed_nll, z[0], targets, mask=mask, **smoothing)
    for options in ({}, {"alpha": 0.0, "top_k": 2}, {"kind": "adaptive", "level": "sentence", "combine": "convex"}):
        for actual, expected in zip(
            run(lssd_loss, z[0], targets, mask=mask, **smoothing, **options), right, strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("combine, share", [("halved", 0.5), ("sum", 1.0), ("convex", 1.0)])
@pytest.mark.parametrize("kind", GATES)
def test_a_teacher_of_alpha_0_halves_the_labels_in_the_released_form_alone(kind, combine, share):
    """Trap 1."""
    z, targets, mask, _ = corpus()
    found = run(distilled, z, targets, mask=mask, alpha=0.0, combine=combine, kind=kind)
    nll = run(label_smoothed_nll, z[0], targets, epsilon=0.1, convention="others", mask=mask)
    torch.testing.assert_close(found[0], share * nll[0], rtol=1e-14, atol=0)
    torch.testing.assert_close(found[1][0], share * nll[1], rtol=1e-14, atol=1e-17)


def test_the_weights_of_the_two_terms():
    assert checked_weights(2.5, "halved") == (0.5, 1.25) and checked_weights(0.0, "halved") == (0.5, 0.0)
    assert checked_weights(2.5, "sum") == (1.0, 2.5)
    assert checked_weights(0.25, "convex") == (0.75, 0.25) and checked_weights(1.0, "convex") == (0.0, 1.0)


def test_halved_is_half_of_sum():
    z, targets, mask, _ = corpus()
    halved, full = (distilled(z, targets, mask=mask, alpha=2.0, combine=name) for name in ("halved", "sum"))
    torch.testing.assert_close(2 * halved, full, rtol=1e-14, atol=0)


# ---------------------------------------------------------------- a student that equals its teacher


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_teacher_that_is_the_student_is_a_tie(dtype, level):
    """1 for selective, in the released form its floor; 1 for adaptive: exactly, for whatever logits."""
    z, targets, _ = example(1, (40, 5), 50, seed=1)
    z = (z.expand(2, 40, 5, 50) * torch.linspace(0.1, 9, 40, dtype=z.dtype)[:, None, None]).to(dtype)
    none = {"level": level, "combine": "convex", "alpha": 1.0, "reduction": "none"}  # nothing of the labels
    whole = distilled(z, targets, **none)
    selective, adaptive = (distilled(z, targets, kind=kind, floor=0.25, **none) for kind in GATES[1:])
    assert torch.equal(adaptive, whole) and torch.equal(selective, whole)
    strict = distilled(z, targets, kind="selective", floor=0.25, strict=True, **none)
    assert torch.equal(strict, 0.25 * whole)


@pytest.mark.parametrize("kind, level", GATED)
def test_where_they_agree_nothing_is_taught(kind, level):
    z, targets, mask, _ = corpus()
    z[1, 0] = z[0, 0] + 3.0  # a constant on a row's logits is no disagreement
    options = {
        "kind": kind,
        "level": level,
        "floor": 0.2,
        "combine": "convex",
        "alpha": 1.0,
        "mask": mask,
        "reduction": "none",
    }
    value, (student, _) = run(distilled, z, targets, **options)
    assert student[0].abs().max() < 1e-15 and (student[mask][5:].abs().amax(-1) > 1e-4).all()
    assert (value[0] > 0.01).all()  # the teacher's entropy


def test_top_k_is_not_renormalised():
    """So what is left out pulls on the student even where it agrees: its slope is (q's mass) p - q, of K words."""
    z, targets, _, _ = corpus()
    z[1] = z[0]
    _, (student, _) = run(distilled, z, targets, combine="convex", alpha=1.0, top_k=2, reduction="sum")
    q = z[0].softmax(-1)
    kept = q * (q >= q.topk(2).values[..., 1:])
    torch.testing.assert_close(student, kept.sum(-1, keepdim=True) * q - kept, rtol=1e-10, atol=1e-14)
    assert student.abs().amax(-1).min() > 1e-3 and kept.sum(-1).max() < 1 - 1e-3


def test_top_k_of_all_words_or_more_is_no_top_k():
    z, targets, mask, _ = corpus()
    value = distilled(z, targets, mask=mask, kind="adaptive")
    for top_k in (5, 6, 1000):
        again = distilled(z, targets, mask=mask, kind="adaptive", top_k=top_k)
        torch.testing.assert_close(again, value, rtol=1e-14, atol=0)


# ---------------------------------------------------------------- the words of a language


def test_a_language_aware_teacher_is_one_whose_other_logits_are_low():
    """Trap 8: renormalised before top-K and before the gate; the student keeps all its words."""
    z, targets, mask, _ = corpus(seed=6)
    masked = z.clone()
    masked[1, ..., ~torch.as_tensor(language(5))] = -1e4
    for (kind, level), top_k in itertools.product(GATED, (0, 2)):
        options = {"alpha": 2.0, "kind": kind, "level": level, "top_k": top_k, "mask": mask}
        aware, right = run(distilled, z, targets, words=True, **options), run(distilled, masked, targets, **options)
        for actual, expected in zip(aware, right, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)
        assert aware[1][0, mask].abs().min() > 1e-6  # the student is told to forget the other words
    assert not torch.allclose(aware[0], distilled(z, targets, **options))


def test_what_the_teacher_says_of_other_words_does_not_count():
    z, targets, mask, _ = corpus(seed=6)
    right = distilled(z, targets, words=True, kind="adaptive", mask=mask)
    for garbage in (math.nan, math.inf, 1e30, -1e30):
        z[1, ..., ~torch.as_tensor(language(5))] = garbage
        assert torch.equal(distilled(z, targets, words=True, kind="adaptive", mask=mask), right)


@pytest.mark.parametrize("kind, g", [("whole", 1.0), ("selective", 0.0), ("adaptive", 0.0)])
def test_a_right_word_outside_of_the_language_is_worth_nothing_to_the_gate(kind, g):
    z, targets, _, _ = corpus()
    outside = torch.full_like(targets, 1)
    options = {"combine": "convex", "alpha": 1.0, "words": True, "reduction": "none"}
    whole, found = (run(distilled, z, outside, kind=one, **options) for one in ("whole", kind))
    torch.testing.assert_close(found[0], g * whole[0], rtol=1e-13, atol=0)
    torch.testing.assert_close(found[1], g * whole[1], rtol=1e-13, atol=0)


def test_all_words_are_no_language():
    z, targets, mask, _ = corpus()
    every = torch.ones(5, dtype=torch.bool)
    for kind in GATES:
        aware = lssd_loss(z[0], targets, z[1], words=every, kind=kind, mask=mask)
        assert torch.equal(aware, distilled(z, targets, kind=kind, mask=mask))


# ---------------------------------------------------------------- gradient routes


@pytest.mark.parametrize("kind, level", GATED)
def test_the_student_reacts_to_the_teacher_and_the_teacher_to_nobody(kind, level):
    z, targets, mask, _ = corpus()
    other = z + torch.stack([torch.zeros(5), torch.linspace(-1, 1, 5)])[:, None, None]
    for alpha in (0.0, 1.0):
        options = {"alpha": alpha, "kind": kind, "level": level, "floor": 0.2, "mask": mask}
        before, after = (run(distilled, one, targets, **options)[1] for one in (z, other))
        assert bool((before[0] - after[0]).abs().max() > 1e-3) == (alpha > 0)
        assert before[1].abs().max() == 0


def test_a_network_that_is_both_learns_as_the_student_only():
    (theirs, ours), targets, mask, _ = corpus()
    shared = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    slopes = []
    for teacher in (theirs + 2 * shared, theirs):
        loss = lssd_loss(ours + shared, targets, teacher, kind="adaptive", mask=mask)
        slopes += torch.autograd.grad(loss, shared)
    assert torch.equal(*slopes) and slopes[0].abs().max() > 1e-3


@pytest.mark.parametrize("kind, level", GATED)
def test_descent_moves_the_student_to_the_teacher(kind, level):
    z, targets, _, _ = corpus()
    options = {"kind": kind, "level": level, "floor": 0.2, "combine": "convex", "alpha": 1.0, "reduction": "sum"}
    apart = []
    for _ in range(100):
        apart.append(float(kl_divergence(z[1], z[0], reduction="sum")))
        z = z - 0.5 * run(distilled, z, targets, **options)[1]
    assert all(later < earlier for earlier, later in itertools.pairwise(apart))
    assert apart[-1] < (0.02 if kind == "whole" else 0.9) * apart[0]


def test_a_step_on_the_default_brings_the_student_closer_than_labels_do():
    z, targets, mask, _ = corpus()
    taught, alone = (
        kl_divergence(z[1], (z - run(distilled, z, targets, mask=mask, teacher=teacher)[1])[0], mask=mask)
        for teacher in (True, False)
    )
    assert taught < min(alone, kl_divergence(z[1], z[0], mask=mask))


# ---------------------------------------------------------------- wrong versions are told apart


def nll(z: Tensor, t: Tensor, epsilon: float = 0.1, wrong: float = 0.1 / 4) -> Tensor:
    log_p = z.log_softmax(-1)
    return -(1 - epsilon - wrong) * log_p.gather(-1, t[..., None])[..., 0] - wrong * log_p.sum(-1)


def aware(z: Tensor) -> Tensor:
    return z.masked_fill(~torch.as_tensor(language(5)), -math.inf)


def largest(q: Tensor, by: Tensor | None = None, k: int = 2) -> Tensor:
    by = q if by is None else by
    return q * (by >= by.topk(k).values[..., -1:])


def theirs(z: Tensor) -> Tensor:
    return largest(aware(z[1]).softmax(-1)).detach()


def soft(q: Tensor, z: Tensor) -> Tensor:
    return -(q * z.log_softmax(-1).clamp_min(-1e9)).sum(-1)


def gold(p: Tensor, t: Tensor) -> Tensor:
    return p.gather(-1, t[..., None])[..., 0]


def ratio(z, t, m, q=lambda z: aware(z[1]).softmax(-1), p=lambda z: z[0].softmax(-1), over=(-1,), cap=1.0) -> Tensor:
    """The adaptive gate of sentences."""
    ours, teachers = ((gold(one(z), t) * m).sum(over, keepdim=True) for one in (p, q))
    return (teachers / ours).clamp(max=cap)


def combined(z, t, m, gate=ratio, kd=lambda z: soft(theirs(z), z[0]), weights=(0.5, 1.25), ce=nll) -> Tensor:
    """The objective with something else in the place of the gate, the distillation, the weights or the labels."""
    each = weights[0] * ce(z[0], t) + weights[1] * gate(z, t, m).detach() * kd(z)
    return each[m].sum() / m.sum()


def live_gate(z, t, m) -> Tensor:
    each = 0.5 * nll(z[0], t) + 1.25 * ratio(z, t, m) * soft(theirs(z), z[0])
    return each[m].sum() / m.sum()


WRONG = {  # arguments of `combined`, or a function
    "labels in full": {"weights": (1.0, 1.25)},
    "distillation in full": {"weights": (0.5, 2.5)},
    "neither halved": {"weights": (1.0, 2.5)},
    "convex": {"weights": (-1.5, 2.5)},
    "distillation subtracted": {"weights": (0.5, -1.25)},
    "no gate": {"gate": lambda z, t, m: torch.ones(())},
    "gate not detached": live_gate,
    "gate upside down": {"gate": lambda z, t, m: (1 / ratio(z, t, m, cap=math.inf)).clamp(max=1)},
    "gate without cap": {"gate": lambda z, t, m: ratio(z, t, m, cap=math.inf)},
    "gate of the later rewrite": {"gate": lambda z, t, m: ratio(z, t, m, cap=2.0)},
    "selective": {"gate": lambda z, t, m: torch.where(ratio(z, t, m, cap=math.inf) > 1, 1.0, 0.2)},
    "gate of a word": {"gate": lambda z, t, m: ratio(z, t, m, over=())},
    "gate of the batch": {"gate": lambda z, t, m: ratio(z, t, m, over=(-2, -1))},
    "gate of columns": {"gate": lambda z, t, m: ratio(z, t, m, over=(-2,))},
    "gate of padding too": {"gate": lambda z, t, m: ratio(z, t, torch.ones_like(m))},
    "gate blind to the language": {"gate": lambda z, t, m: ratio(z, t, m, q=lambda z: z[1].softmax(-1))},
    "gate of top-K": {"gate": lambda z, t, m: ratio(z, t, m, q=theirs)},
    "gate of a masked student": {"gate": lambda z, t, m: ratio(z, t, m, p=lambda z: aware(z[0]).softmax(-1))},
    "gate of surest words": {"gate": lambda z, t, m: ratio(z, aware(z[1]).argmax(-1), m)},
    "student masked": {"kd": lambda z: soft(theirs(z), aware(z[0]))},
    "all words": {"kd": lambda z: soft(largest(z[1].softmax(-1)).detach(), z[0])},
    "words not renormalised": {"kd": lambda z: soft(largest(aware(z[1]).exp() / z[1].exp().sum(-1, True)), z[0])},
    "no top-K": {"kd": lambda z: soft(aware(z[1]).softmax(-1).detach(), z[0])},
    "top-K renormalised": {"kd": lambda z: soft(theirs(z) / theirs(z).sum(-1, True), z[0])},
    "top-K before words": {"kd": lambda z: soft(largest(aware(z[1]).softmax(-1), z[1]).detach(), z[0])},
    "top-K of the student": {"kd": lambda z: soft(largest(aware(z[1]).softmax(-1), z[0]).detach(), z[0])},
    "teacher not detached": {"kd": lambda z: soft(largest(aware(z[1]).softmax(-1)), z[0])},
    "student detached": {"kd": lambda z: soft(theirs(z), z[0].detach())},
    "student teaches": {"kd": lambda z: soft(largest(z[0].softmax(-1)).detach(), z[1])},
    "KL, not cross-entropy": {"kd": lambda z: soft(theirs(z), z[0]) + torch.xlogy(theirs(z), theirs(z)).sum(-1)},
    "temperature 2": {"kd": lambda z: soft(largest(aware(z[1] / 2).softmax(-1)).detach(), z[0] / 2)},
    "mean over the vocabulary": {"kd": lambda z: soft(theirs(z), z[0]) / 5},
    "soft targets smoothed": {"kd": lambda z: soft(0.9 * theirs(z) + 0.1 / 5, z[0])},
    "smoothing left out": {"ce": lambda z, t: nll(z, t, 0.0, 0.0)},
    "the other smoothing": {"ce": lambda z, t: nll(z, t, 0.08, 0.02)},
    "mean over padding too": lambda z, t, m: combined(z, t, m) * m.sum() / m.numel(),
    "mean over sentences": lambda z, t, m: combined(z, t, m) * m.sum() / len(m),
}


def matches(function) -> bool:
    """Whether value and gradient of function(z, targets, mask) are those of the released form, on 5, 2 and 4 words."""
    data = corpus(seed=8)
    z, targets, mask, sentences = data[0][:, [0, 1, 3]], *(one[[0, 1, 3]] for one in data[1:])
    right = Equation(2.5, "adaptive", "sentence", "halved", top_k=2, words=True, cap=1.0).of(
        z, targets, mask, sentences
    )
    found = run(lambda z, t: function(z, t, mask), z, targets)
    return all(torch.allclose(one, other, rtol=1e-9, atol=1e-12) for one, other in zip(found, right, strict=True))


def test_ours_is_the_equation_on_the_batch_that_tells_wrong_ones():
    options = {"alpha": 2.5, "kind": "adaptive", "combine": "halved", "cap": 1.0, "top_k": 2, "words": True}
    assert matches(lambda z, t, m: distilled(z, t, mask=m, **options))
    assert matches(combined)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_told_apart(name):
    wrong = WRONG[name]
    assert not matches(wrong if callable(wrong) else lambda z, t, m: combined(z, t, m, **wrong))
