"""LSSD's gates by hand, sentences and their pieces in the objective, precision, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from kdutils.core.errors import UserError
from kdutils.papers.lssd.objective import FORMS, GATES, LEVELS, gate, lssd_loss
from tests.lssd_equations import Equation, corpus, distilled
from tests.oracles import REFUSED, assert_near, evaluate, example, run
from tests.tiny import one_sentence

GATED = list(itertools.product(GATES, LEVELS))

# ---------------------------------------------------------------- the gate alone


def logs(*probabilities: float) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


STUDENT, TEACHER = logs(0.5, 0.25, 0.8, 0.1), logs(0.25, 0.5, 0.8, 0.3)
BY_HAND = [  # two sentences, of 0.75 against 0.75 (a tie) and of 0.9 against 1.1
    ("whole", "token", (0.2, 1.0), (1, 1, 1, 1)),
    ("whole", "sentence", (0.2, 1.0), (1, 1, 1, 1)),
    ("selective", "token", (0.2, 1.0), (0.2, 1, 1, 1)),
    ("selective", "sentence", (0.2, 1.0), (1, 1, 1, 1)),
    ("selective", "token", (0.0, 1.0), (0, 1, 1, 1)),
    ("adaptive", "token", (0.2, 1.0), (0.5, 1, 1, 1)),
    ("adaptive", "token", (0.2, 2.0), (0.5, 2, 1, 2)),
    ("adaptive", "token", (0.2, 10.0), (0.5, 2, 1, 3)),
    ("adaptive", "sentence", (0.2, 2.0), (1, 1, 11 / 9, 11 / 9)),
    ("adaptive", "sentence", (0.2, 0.7), (0.7, 0.7, 0.7, 0.7)),
]


@pytest.mark.parametrize("kind, level, limits, right", BY_HAND)
def test_gates_of_four_words_by_hand(kind, level, limits, right):
    """Floors and caps; a tie, of the third word and of the first sentence, counts for the teacher."""
    found = gate(STUDENT, TEACHER, kind, level, torch.tensor([0, 0, 1, 1]), *limits)
    torch.testing.assert_close(found, torch.tensor(right, dtype=torch.float64), rtol=1e-13, atol=0)


def test_the_gates_own_defaults_are_the_papers():
    """Three sentences, 0.75 against 0.75 in all, 0.8 against 0.6, 0.1 against 0.3: 0 or 1, a tie 1; at most 2."""
    student, teacher, sentences = logs(0.5, 0.25, 0.8, 0.1), logs(0.25, 0.5, 0.6, 0.3), torch.tensor([0, 0, 1, 2])
    assert gate(student, teacher).tolist() == [1, 1, 1, 1]
    assert gate(student, teacher, "selective", sentences=sentences).tolist() == [1, 1, 0, 1]
    right = torch.tensor([1, 1, 0.75, 2], dtype=torch.float64)
    torch.testing.assert_close(gate(student, teacher, "adaptive", sentences=sentences), right, rtol=1e-13, atol=0)


def test_the_gates_of_the_released_code():
    """Trap 3: a floor of 0.2, a cap of 1; a tie counts for the student."""
    limits = {name: value for name, value in FORMS["released"].items() if name != "combine"}
    sentences = torch.tensor([0, 0, 1, 1])
    assert gate(STUDENT, TEACHER, "selective", "token", **limits).tolist() == pytest.approx([0.2, 1, 0.2, 1])
    whole = gate(STUDENT, TEACHER, "selective", "sentence", sentences, **limits)
    assert whole.tolist() == pytest.approx([0.2, 0.2, 1, 1])
    assert gate(STUDENT, TEACHER, "adaptive", "token", **limits).tolist() == pytest.approx([0.5, 1, 1, 1])


@pytest.mark.parametrize("kind", GATES)
def test_a_sentence_of_one_word_is_a_token(kind):
    alone = gate(STUDENT, TEACHER, kind, "sentence", torch.tensor([3, 1, 0, 2]), cap=2.0)
    torch.testing.assert_close(alone, gate(STUDENT, TEACHER, kind, "token", cap=2.0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kind", GATES[1:])
def test_sentence_numbers_are_only_names(kind):
    """Any integers, of any type, in any order, with gaps."""
    (student, teacher), _, _ = example(2, (), 7, seed=1)
    plain = torch.tensor([0, 1, 1, 2, 0, 2, 2])
    right = gate(student, teacher, kind, "sentence", plain)
    for names in ((5, 3, 9), (-1, 0, 1), (2**62, -(2**62), 7), (2, 1, 0)):
        again = gate(student, teacher, kind, "sentence", torch.tensor(names)[plain])
        assert torch.equal(again, right)
    assert torch.equal(gate(student, teacher, kind, "sentence", plain.int()), right)


@pytest.mark.parametrize("kind, level", GATED)
def test_the_gate_has_no_gradient_and_keeps_shape_and_precision(kind, level):
    for dtype in (torch.float32, torch.float64):
        student, teacher = (one.to(dtype).requires_grad_() for one in (STUDENT, TEACHER))
        g = gate(student, teacher, kind, level, torch.tensor([0, 0, 1, 1]))
        assert not g.requires_grad and g.dtype == dtype and g.shape == (4,)
        assert gate(student[:0], teacher[:0], kind, level, torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("student, teacher", [(-2e30, -1.5e30), (-200.0, -150.0), (-1e4, 0.0), (-math.inf, -1.0)])
def test_probabilities_that_underflow_still_have_a_better_one(student, teacher, level):
    """1e-30 is above 1e-40, as a sum of a sentence too."""
    one, other = (torch.tensor([value, value]) for value in (student, teacher))
    pair = torch.tensor([4, 4])
    assert gate(one, other, "selective", level, pair).tolist() == [1, 1]
    assert gate(other, one, "selective", level, pair, floor=0.5).tolist() == [0.5, 0.5]
    assert gate(one, other, "adaptive", level, pair, cap=1.0).tolist() == [1, 1]
    assert gate(other, one, "adaptive", level, pair).max() < 1e-20


@pytest.mark.parametrize("level", LEVELS)
def test_two_that_exclude_the_right_word_are_a_tie(level):
    nothing, pair = torch.full((2,), -math.inf), torch.tensor([0, 0])
    assert gate(nothing, nothing, "adaptive", level, pair).tolist() == [1, 1]
    assert gate(nothing, nothing, "selective", level, pair).tolist() == [1, 1]
    assert gate(nothing, nothing, "selective", level, pair, floor=0.5, strict=True).tolist() == [0.5, 0.5]


# ---------------------------------------------------------------- sentences in the objective


def flat(data) -> tuple[Tensor, ...]:
    """The counted words of a corpus, one after another, as the method has them: z (2, N, V), targets, sentences."""
    z, targets, mask, sentences = data
    return z[:, mask], targets[mask], sentences[mask]


def both(z: Tensor, targets: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Value and gradient by the student's logits."""
    leaf = z[0].clone().requires_grad_()
    value = lssd_loss(leaf, targets, z[1], alpha=2.5, **options)
    return value.detach(), *torch.autograd.grad(value.sum(), leaf)


def assert_same(found, right) -> None:
    for actual, expected in zip(found, right, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind, level", GATED)
def test_a_padded_batch_is_its_words_with_sentence_numbers(kind, level):
    """Rows of a (B, T) batch are sentences; padding enters neither sum; numbers may be told as well."""
    z, targets, mask, sentences = corpus()
    options = {"kind": kind, "level": level}
    value, slope = both(z, targets, mask=mask, **options)
    words, right, numbers = flat((z, targets, mask, sentences))
    alone = both(words, right, sentences=numbers, **options)
    assert_same((value, slope[mask]), alone)
    assert_same(both(z, targets, mask=mask, sentences=sentences, **options), (value, slope))


@pytest.mark.parametrize("kind", GATES[1:])
def test_sentences_may_run_across_the_rows(kind):
    """Numbers that are told come before rows."""
    z, targets, mask, sentences = corpus()
    options = {"kind": kind, "level": "sentence", "mask": mask}
    rows = both(z, targets, **options)[0]
    turned = both(z.transpose(1, 2), targets.T, kind=kind, level="sentence", mask=mask.T, sentences=sentences.T)
    torch.testing.assert_close(turned[0], rows, rtol=1e-12, atol=0)
    other = both(z, targets, sentences=torch.arange(5).expand(4, 5), **options)[0]
    assert (other - rows).abs() > 1e-3


@pytest.mark.parametrize("kind, level", GATED)
def test_the_order_of_the_words_does_not_matter_nor_do_their_sentences_names(kind, level):
    z, targets, sentences = flat(corpus(seed=1))
    options = {"kind": kind, "level": level, "reduction": "none"}
    value, slope = both(z, targets, sentences=sentences, **options)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(3))
    names = torch.tensor([-7, 2**40, 0, 3])
    again = both(z[:, order], targets[order], sentences=names[sentences][order], **options)
    assert_same(again, (value[order], slope[order]))


@pytest.mark.parametrize("kind, level", GATED)
@pytest.mark.parametrize("cuts", [(1,), (1, 2, 3), (3,)])
def test_one_batch_is_its_accumulated_pieces(kind, level, cuts):
    """Sums over pieces of whole sentences, one of them all padding, over the count of the whole."""
    z, targets, mask, _ = corpus(seed=2)
    options = {"kind": kind, "level": level}
    whole, expected = both(z, targets, mask=mask, **options)
    pieces = [slice(*pair) for pair in itertools.pairwise((0, *cuts, 4))]
    parts = [both(z[:, one], targets[one], mask=mask[one], reduction="sum", **options) for one in pieces]
    value, slope = sum(part[0] for part in parts), torch.cat([part[1] for part in parts])
    assert_same((value / mask.sum(), slope / mask.sum()), (whole, expected))


def test_half_a_sentence_has_a_gate_of_its_own():
    """Why a batch is never cut within one."""
    z, targets, sentences = flat(corpus(seed=2))
    options = {"kind": "adaptive", "level": "sentence", "reduction": "none"}
    whole = both(z, targets, sentences=sentences, **options)[0]
    half = both(z[:, :3], targets[:3], sentences=sentences[:3], **options)[0]
    assert (half - whole[:3]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", GATES[1:])
def test_a_sentences_gate_needs_to_know_the_sentences(kind):
    z, targets, sentences = flat(corpus())
    for shape in ((11,), (11, 1, 1)):
        given = z.reshape(2, *shape, 5), targets.reshape(shape)
        with pytest.raises(UserError, match="sentences") as caught:
            both(*given, kind=kind, level="sentence")
        one_sentence(caught.value)
        both(*given, kind=kind, level="sentence", sentences=sentences.reshape(shape))
    with pytest.raises(UserError, match="sentences"):
        gate(STUDENT, TEACHER, kind, "sentence")


@pytest.mark.parametrize("shape", [(5, 4), (20,), (4,), (4, 1), (21,), (40,)])
def test_sentences_of_another_shape_are_refused(shape):
    z, targets, mask, _ = corpus()
    with pytest.raises(UserError):
        both(z, targets, mask=mask, kind="adaptive", level="sentence", sentences=torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("options", [{"kind": "hard"}, {"level": "batch"}, {"floor": -1.0}, {"cap": 0.0}], ids=str)
def test_a_gate_that_does_not_exist_is_one_sentence(options):
    with pytest.raises(UserError) as caught:
        gate(STUDENT, TEACHER, **options)
    assert str(*options.values()) in one_sentence(caught.value)


@pytest.mark.parametrize("sizes", [(4, 1, 4), (1, 4, 4), (4, 4, 1), (4, 4, 5), (4, 4, 0)])
def test_a_gate_needs_one_number_a_word(sizes):
    student, teacher = STUDENT[: sizes[0]], TEACHER[: sizes[1]]
    with pytest.raises(UserError) as caught:
        gate(student, teacher, "adaptive", "sentence", torch.zeros(sizes[2], dtype=torch.long))
    one_sentence(caught.value)


# ---------------------------------------------------------------- precision, edges

PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float16, 6e4)])
@pytest.mark.parametrize("kind, level", GATED)
def test_extreme_logits_of_sentences_stay_finite_and_right(kind, level, dtype, size):
    z, targets, mask, sentences = corpus(seed=7)
    z = (size * (z / 2).round().clamp(-1, 1)).to(dtype)
    equation = Equation(2.5, kind, level, words=True)
    with torch.autocast("cpu", dtype=torch.bfloat16 if dtype == torch.float32 else dtype):
        value, gradient = run(distilled, z, targets, mask=mask, **asdict(equation))
    expected, right = equation.of(z, targets, mask, sentences)
    assert_near(value, expected, 1e-2 if (kind, size) == ("adaptive", 6e4) else 1e-5)
    assert gradient.isfinite().all()
    assert_near(gradient, right, 2e-2)


@pytest.mark.parametrize("student, teacher", list(itertools.permutations(PRECISIONS, 2)))
@pytest.mark.parametrize("kind", GATES)
def test_student_and_teacher_may_differ_in_precision(kind, student, teacher):
    """The copies are kept in half precision, and the student is trained under autocast."""
    z, targets, mask, _ = corpus()
    ours, theirs = z[0].to(student).requires_grad_(), z[1].to(teacher)
    value = lssd_loss(ours, targets, theirs, kind=kind, mask=mask)
    right = lssd_loss(ours.float(), targets, theirs.float(), kind=kind, mask=mask)
    value.backward()
    assert value.dtype == torch.float32 and ours.grad.dtype == student
    torch.testing.assert_close(value, right, rtol=1e-6, atol=0)


def test_a_scaled_loss_keeps_the_gradients_that_float16_cannot_hold():
    z = torch.tensor([[[0.0, -20.0, 4.0]], [[0.0, -30.0, 3.0]]], dtype=torch.float16)
    targets = torch.tensor([2])
    gradient = run(lambda z, t: 2.0**16 * distilled(z, t, epsilon=0.0), z, targets)[1]
    right = 2.0**16 * evaluate(Equation(epsilon=0.0), z, targets)[1]
    assert right[0, 0, 1] / 2.0**16 < 2.0**-25  # rounds to 0 without the scale
    assert_near(gradient[0], right[0], 2e-3, scale=1e-3)


def test_a_probability_that_underflows_is_no_infinity():
    """The released code takes log(softmax)."""
    z = torch.tensor([[[0.0, -300.0, 5.0]], [[-200.0, 0.0, -400.0]]])
    for kind, level in GATED:
        equation = Equation(kind=kind)
        found = run(distilled, z, torch.tensor([1]), kind=kind, level=level, sentences=torch.tensor([0]))
        for actual, right in zip(found, evaluate(equation, z, torch.tensor([1])), strict=True):
            assert_near(actual, right, 1e-5)


@pytest.mark.parametrize("convention", ["uniform", "others"])
@pytest.mark.parametrize("kind, level", GATED)
def test_one_class_leaves_nothing_to_learn(kind, level, convention):
    z, targets, _ = example(2, (3, 4), 1)
    value, gradient = run(distilled, z, targets, kind=kind, level=level, convention=convention, top_k=1, words=True)
    assert abs(value) < 1e-15 and gradient.abs().max() < 1e-15


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "options",
    [
        *({"kind": kind} for kind in ("hard", "none", None)),
        {"level": "word"},
        *({"combine": combine} for combine in ("half", None)),
        *({"alpha": alpha} for alpha in (-0.1, math.nan, math.inf)),
        *({"combine": "convex", "alpha": alpha} for alpha in (1.1, math.nan)),
        *({"floor": floor} for floor in (-0.1, math.nan, math.inf)),
        *({"cap": cap} for cap in (0.0, -1.0, math.nan, math.inf)),
        {"top_k": -1},
        *({"epsilon": epsilon} for epsilon in (-0.1, 1.0)),
        {"convention": "fairseq"},
    ],
    ids=str,
)
@pytest.mark.parametrize("teacher", [True, False])
def test_options_that_mean_nothing_are_one_sentence(options, teacher):
    """Whether there is a teacher yet or not: a typing error shows in the first epoch."""
    z, targets, _, _ = corpus()
    with pytest.raises(UserError) as caught:
        distilled(z, targets, teacher=teacher, **options)
    assert str(next(reversed(options.values()))) in one_sentence(caught.value)


SHAPES = [((4, 5, 6), (4, 5, 7)), ((4, 5, 6), (5, 4, 6)), ((4, 5, 6), (6,)), ((5, 4, 6), (5, 4, 6)), ((6,), (6,))]


@pytest.mark.parametrize("student, teacher", SHAPES)
def test_logits_of_another_shape_are_one_sentence(student, teacher):
    with pytest.raises(UserError, match=r"\(4, 5, V\)") as caught:
        lssd_loss(torch.randn(student), torch.zeros(4, 5, dtype=torch.long), torch.randn(teacher))
    assert str(student) in one_sentence(caught.value) and str(teacher) in str(caught.value)


@pytest.mark.parametrize("count", [1, 4, 6])
def test_words_of_another_vocabulary_are_refused(count):
    z, targets, _, _ = corpus()
    for words in (torch.ones(count, dtype=torch.bool), torch.ones(20, 5, dtype=torch.bool)):
        with pytest.raises(UserError):
            lssd_loss(z[0], targets, z[1], words=words)


@pytest.mark.parametrize("kind", GATES)
def test_a_language_without_words_is_refused(kind):
    z, targets, _, _ = corpus()
    with pytest.raises(UserError):
        lssd_loss(z[0], targets, z[1], words=torch.zeros(5, dtype=torch.bool), kind=kind)


def test_targets_outside_the_vocabulary_are_refused_where_they_count():
    z, targets, mask, _ = corpus()
    for wrong, kind in itertools.product((-100, -1, 5), GATES):
        targets[0, 0] = wrong
        with pytest.raises(REFUSED):
            distilled(z, targets, kind=kind, mask=mask)
