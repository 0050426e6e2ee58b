"""A fixed teacher's words and largest probabilities, and labels beside distillation that is gated word by word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kdutils.core.errors import UserError
from kdutils.losses.distillation import FixedTeacher, gated_distillation
from kdutils.losses.divergences import CELLS_AT_ONCE, nll_formula
from tests.lssd_equations import Equation, language
from tests.oracles import assert_near, evaluate, example, run
from tests.tiny import one_sentence

# ---------------------------------------------------------------- the teacher


def probabilities(teacher: FixedTeacher, rows=slice(None), dtype=torch.float64) -> Tensor:
    return teacher.probabilities(rows, dtype)


def test_without_words_and_top_k_it_is_the_softmax():
    z, _, _ = example(1, (3, 4), 6)
    torch.testing.assert_close(probabilities(FixedTeacher(z)), z.reshape(12, 6).softmax(-1), rtol=1e-13, atol=0)


def test_words_share_all_of_the_probability():
    z, words = example(1, (3, 4), 6)[0], torch.as_tensor(language(6))
    q = probabilities(FixedTeacher(z, words))
    assert q[:, ~words].abs().max() == 0
    torch.testing.assert_close(q[:, words], z.reshape(12, 6)[:, words].softmax(-1), rtol=1e-13, atol=0)
    assert torch.equal(probabilities(FixedTeacher(z, words.long())), q)  # zeros and ones are understood


@pytest.mark.parametrize("top_k", [1, 3, 6, 7])
def test_the_largest_stay_as_they_are_and_the_others_go(top_k):
    z, _, _ = example(1, (5,), 6)
    q, kept = z[0].softmax(-1), probabilities(FixedTeacher(z, top_k=top_k))
    order = q.argsort(-1, descending=True)
    torch.testing.assert_close(kept.gather(-1, order[:, :top_k]), q.gather(-1, order[:, :top_k]), rtol=1e-13, atol=0)
    assert kept.gather(-1, order[:, top_k:]).abs().sum() == 0


def test_more_of_the_largest_than_a_language_has_words_adds_none():
    z, words = example(1, (5,), 6)[0], torch.arange(6) < 2
    assert torch.equal(probabilities(FixedTeacher(z, words, 4)), probabilities(FixedTeacher(z, words)))


@pytest.mark.parametrize("rows", [slice(2, 7), torch.tensor([11, 0, 3])], ids=str)
def test_positions_are_read_one_by_one(rows):
    """Whatever their shape and strides; none but those that are asked for."""
    z = example(1, (3, 4), 6)[0][0]
    right = probabilities(FixedTeacher(z, top_k=2))[rows]
    strided = z.movedim(-1, 0).contiguous().movedim(0, -1).clone(memory_format=torch.preserve_format)
    asked = torch.zeros(12, dtype=torch.bool).index_fill(0, torch.arange(12)[rows], True)
    strided[~asked.reshape(3, 4)] = float("nan")
    torch.testing.assert_close(probabilities(FixedTeacher(strided, top_k=2), rows), right, rtol=1e-13, atol=0)


def test_a_teacher_has_no_gradient_and_the_precision_that_is_asked_for():
    z = example(1, (5,), 6)[0].half().requires_grad_()
    teacher = FixedTeacher(z, top_k=2)
    for dtype in (torch.float32, torch.float64):
        q = probabilities(teacher, dtype=dtype)
        assert q.dtype == dtype and not q.requires_grad
        torch.testing.assert_close(q.sum(-1), z[0].to(dtype).softmax(-1).topk(2).values.sum(-1))


@pytest.mark.parametrize("words", [torch.ones(5), torch.ones(7), torch.ones(1), torch.ones(4, 6), torch.zeros(6)])
def test_words_that_no_teacher_can_use_are_one_sentence(words):
    with pytest.raises(UserError, match=r"\(6,\)") as caught:
        FixedTeacher(torch.randn(4, 6), words.bool())
    one_sentence(caught.value)


# ---------------------------------------------------------------- gates that anybody may choose


GATES = torch.linspace(0.0, 2.0, 12, dtype=torch.float64).reshape(3, 4)


def given(p: Tensor, q: Tensor, rows: Tensor) -> Tensor:
    return GATES.reshape(-1)[rows].to(p.dtype)


def distilled(z, targets: Tensor, gates=given, weights=(0.5, 1.0), words=None, top_k=0, **options) -> Tensor:
    """gated_distillation of student z[0] and teacher z[1]."""
    nll = nll_formula(targets, z[0].shape[-1], 0.1, "others")
    return gated_distillation(nll, z[0], targets, FixedTeacher(z[1], words, top_k), gates, weights, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("words, top_k", [(None, 0), ("some", 0), (None, 3), ("some", 2)])
def test_free_gates_give_the_equation(words, top_k, reduction):
    z, targets, mask = example(2, (3, 4), 6)
    known = None if words is None else torch.as_tensor(language(6))
    third = GATES[None, ..., None].expand(1, 3, 4, 6)
    equation = Equation(2.0, combine="halved", top_k=top_k, words=words is not None)  # 0.5 and 2 / 2
    for counted in (None, mask):
        found = run(distilled, z, targets, words=known, top_k=top_k, mask=counted, reduction=reduction)
        value, gradient = evaluate(equation, torch.cat([z, third]), targets, counted, reduction)
        assert_near(found[0], value, 1e-10)
        assert_near(found[1], gradient[:2], 1e-10)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 4.0)])
def test_the_weights_count_their_terms(weights):
    z, targets, mask = example(2, (3, 4), 6)
    found = run(distilled, z, targets, weights=weights, mask=mask)
    parts = [run(distilled, z, targets, weights=one, mask=mask) for one in ((1.0, 0.0), (0.0, 1.0))]
    for actual, labels, teacher in zip(found, *parts, strict=True):
        torch.testing.assert_close(actual, weights[0] * labels + weights[1] * teacher, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cells", [2**18, 40, 1])
def test_the_gates_are_asked_once_for_all_counted_words(cells, monkeypatch):
    """Sentences have words in more than one slice. What is asked is fixed: log-probabilities without a gradient."""
    monkeypatch.setitem(CELLS_AT_ONCE, "cpu", cells)
    z, targets, mask = example(2, (3, 4), 6)
    asked = []
    run(distilled, z, targets, gates=lambda *all_of: asked.append(all_of) or given(*all_of), mask=mask)
    ((p, q, rows),) = asked
    right = z.log_softmax(-1).gather(-1, targets.expand(2, 3, 4)[..., None])[..., 0]
    assert torch.equal(rows, mask.reshape(-1).nonzero()[:, 0])
    torch.testing.assert_close(torch.stack([p, q]), right[:, mask], rtol=1e-13, atol=0)
    assert not p.requires_grad and not q.requires_grad


@pytest.mark.parametrize("cells", [1, 30, 100])
def test_slices_do_not_matter(cells, monkeypatch):
    z, targets, mask = example(2, (3, 4), 6)
    words = torch.as_tensor(language(6))
    for counted in (None, mask):
        options = {"words": words, "top_k": 2, "mask": counted, "reduction": "none"}
        monkeypatch.undo()
        right = run(distilled, z, targets, **options)
        monkeypatch.setitem(CELLS_AT_ONCE, "cpu", cells)
        for actual, expected in zip(run(distilled, z, targets, **options), right, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


def test_only_the_student_has_a_gradient():
    z, targets, mask = example(2, (3, 4), 6)
    student, teacher, gates = (one.clone().requires_grad_() for one in (z[0], z[1], GATES.reshape(-1)))
    nll = nll_formula(targets, 6)
    loss = gated_distillation(
        nll, student, targets, FixedTeacher(teacher), lambda p, q, rows: gates[rows], (1.0, 1.0), mask
    )
    loss.backward(retain_graph=True)
    once = student.grad.clone()
    assert once.abs().max() > 0 and teacher.grad is None and gates.grad is None
    loss.backward()
    torch.testing.assert_close(student.grad, 2 * once, rtol=0, atol=0)


def test_the_gradient_of_single_words_is_weighed_from_outside():
    z, targets, _ = example(2, (3, 4), 6)
    outer = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    each = run(distilled, z, targets, reduction="none")[1]
    weighed = run(lambda z, t: outer * distilled(z, t, reduction="none"), z, targets)[1]
    torch.testing.assert_close(weighed, outer[..., None] * each, rtol=1e-13, atol=0)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_buffer_of_the_logits_size_is_kept_and_none_where_nothing_is_learned(dtype, learns):
    z, targets, mask = example(2, (3, 4), 50)
    student, teacher = z[0].to(dtype).requires_grad_(learns), z[1].to(dtype)
    kept = []
    with saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        distilled((student, teacher), targets, mask=mask)
    large = [one for one in kept if one.numel() >= student.numel()]
    assert len(large) == learns and all(one.dtype == dtype for one in large)


def test_a_teacher_in_double_is_read_in_double():
    z, targets, mask = example(2, (3, 4), 6)
    student = z[0].float().requires_grad_()
    value = distilled((student, z[1]), targets, mask=mask)
    right = distilled((student.detach().double(), z[1]), targets, mask=mask)
    value.backward()
    torch.testing.assert_close(value.detach(), right, rtol=1e-13, atol=0)
    assert student.grad.dtype == torch.float32


def test_no_slope_is_computed_where_nothing_is_learned(monkeypatch):
    z, targets, mask = example(2, (3, 4), 6)
    nll = nll_formula(targets, 6)
    monkeypatch.setattr(nll, "value_and_slope", None)
    value = gated_distillation(nll, z[0], targets, FixedTeacher(z[1]), given, (1.0, 1.0), mask)
    assert value > 0
    with pytest.raises(TypeError):
        gated_distillation(nll, z[0].requires_grad_(), targets, FixedTeacher(z[1]), given, (1.0, 1.0), mask)


def test_a_value_needs_no_gradient():
    z, targets, mask = example(2, (3, 4), 6)
    with torch.no_grad():
        value = distilled(z.clone().requires_grad_(), targets, mask=mask)
    assert not value.requires_grad
    assert torch.equal(value, run(distilled, z, targets, mask=mask)[0])


def test_masks_and_reductions_that_mean_nothing_are_one_sentence():
    z, targets, mask = example(2, (3, 4), 6)
    for options in ({"mask": mask.T}, {"mask": mask[:2]}, {"mask": mask[0]}, {"reduction": "batchmean"}):
        with pytest.raises(UserError) as caught:
            distilled(z, targets, **options)
        one_sentence(caught.value)
