"""Tutor-KD's rewards and losses against plain float64 oracles: which pass feeds what, what has a gradient, padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.papers.tutor_kd.objective import (
    WEIGHTS,
    attention_loss,
    hidden_loss,
    layer_map,
    modified_logit_loss,
    modified_teacher_logit,
    policy_gradient_loss,
    probabilities,
    student_reward,
    teacher_reward,
    total_loss,
    tutor_loss,
)
from tests import oracles
from tests.oracles import Objective, ObjectiveBattery, assert_near, complex_step, example, run
from tests.tiny import one_sentence

REDUCTIONS = ("mean", "sum", "none")
LOW = [torch.bfloat16, torch.float16]

# ---------------------------------------------------------------- the equations, at one position


def probability(z: np.ndarray, token: int):
    return np.exp(oracles.log_softmax(z)[token])


def ratio(z: np.ndarray, original: int, replaced: int) -> float:
    """a^T = min(1, p_T(x') / p_T(x))."""
    return min(1.0, probability(z, replaced) / probability(z, original))


def seen_through(z: np.ndarray, original: int, replaced: int) -> float:
    """R_T = p_T(x) - p_T(x')."""
    return probability(z, original) - probability(z, replaced)


def paid(tokens: Tensor) -> Tensor:
    """Some reward of a written token, with either sign."""
    return 2.0 * tokens.double().cos()


def policy_at(baseline: float):
    """-log G(x') (R - b)."""
    return lambda z, token: -oracles.log_softmax(z[0])[token] * (2.0 * np.cos(token) - baseline)


def policy(baseline: float) -> Objective:
    def call(z, tokens, **options):
        rewards = paid(tokens).to(torch.promote_types(z.dtype, torch.float32))
        return policy_gradient_loss(z[0], tokens, rewards, baseline=baseline, **options)

    return Objective(f"policy_{baseline}", 1, call, policy_at(baseline))


def judged_at(z: np.ndarray, token: int):
    """-a log sigmoid(o) - (1 - a) log(1 - sigmoid(o)), with o = z_0 - z_1 as a softmax of two and some a of a token."""
    right, (yes, no) = 0.5 + 0.5 * np.sin(token), oracles.log_softmax(z[0, :2])
    return -right * yes - (1 - right) * no


def judged(z: Tensor, tokens: Tensor, **options) -> Tensor:
    z = z.to(torch.promote_types(z.dtype, torch.float32))  # or the difference of two float16 has no room
    return modified_logit_loss(z[0, ..., 0] - z[0, ..., 1], 0.5 + 0.5 * tokens.double().sin(), **options)


def plausible_at(z: np.ndarray, _token: int):
    """KL(p_T || G): teacher, then tutor; no complex step goes through the teacher."""
    return oracles.kl(np.stack([z[0].real, z[1]]))


OBJECTIVES = [
    policy(0.0),
    policy(0.7),
    Objective("tutor", 2, lambda z, _tokens, **o: tutor_loss(z[1], z[0], **o), plausible_at, moved=1),
    Objective("modified_logit", 1, judged, judged_at),
]


class TestBattery(ObjectiveBattery):
    """The equation in value and gradient for every reduction; padding; extremes; autocast; refusals."""

    @pytest.fixture(params=OBJECTIVES, ids=str)
    def objective(self, request):
        return request.param


@pytest.mark.parametrize("one", OBJECTIVES, ids=str)
def test_one_batch_is_its_accumulated_pieces(one):
    """Sums over unequal pieces, one of them all padding, over the count of the whole."""
    z, tokens, _ = example(one.passes, (6, 7), 5)
    mask = torch.arange(7)[None] < torch.tensor([7, 1, 4, 0, 6, 2])[:, None]
    whole, expected = run(one.call, z, tokens, mask=mask)
    value, gradient = 0.0, torch.zeros_like(z)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 6)):
        part, slope = run(one.call, z[:, rows], tokens[rows], mask=mask[rows], reduction="sum")
        value, gradient[:, rows] = value + part / mask.sum(), slope / mask.sum()
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------- a^T, R_T and R_S: numbers without gradient


def chosen(places=(3, 4), classes: int = 6, seed: int = 0):
    """Logits of the teacher on the masked and on the written text, the original and the written tokens; a few equal."""
    z, original, _ = example(2, places, classes, seed)
    replaced = torch.randint(classes, places, generator=torch.Generator().manual_seed(seed + 1))
    replaced.view(-1)[0] = original.view(-1)[0]
    return z[0], z[1], original, replaced


def each(formula, z: Tensor, *tokens: Tensor) -> Tensor:
    """A formula position by position."""
    found = np.zeros(z.shape[:-1])
    for place in np.ndindex(*found.shape):
        found[place] = formula(z[place].double().numpy(), *(int(one[place]) for one in tokens))
    return torch.as_tensor(found)


NUMBERS = [(modified_teacher_logit, ratio), (teacher_reward, seen_through)]


@pytest.mark.parametrize(("function", "formula"), NUMBERS)
@pytest.mark.parametrize("places", [(), (5,), (3, 4), (2, 2, 3)])
def test_numbers_of_the_teacher_are_the_equations(function, formula, places):
    for seed in range(3):
        masked, _, original, replaced = chosen(places, 7, seed)
        for z, rtol in ((masked, 1e-12), (masked.float(), 1e-5)):
            found = function(z, original, replaced)
            assert found.dtype == z.dtype and found.shape == original.shape
            torch.testing.assert_close(found.double(), each(formula, z, original, replaced), rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("function", "formula"), NUMBERS)
@pytest.mark.parametrize("dtype", LOW)
def test_numbers_of_a_teacher_in_low_precision_are_computed_in_float32(function, formula, dtype):
    masked, _, original, replaced = chosen((40,), 9)
    z = masked.to(dtype)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype, enabled=autocast):
            found = function(z, original, replaced)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), each(formula, z, original, replaced), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_of_a_teacher_who_is_sure_are_zeros_and_ones(size, dtype):
    z = torch.tensor([[size, 0.0, -size], [size, size, -size], [-size, -size, -size]], dtype=dtype)
    first, second, third = (torch.full((3,), token) for token in range(3))
    assert modified_teacher_logit(z, first, second).tolist() == [0.0, 1.0, 1.0]
    assert modified_teacher_logit(z, first, third).tolist() == [0.0, 0.0, 1.0]
    assert modified_teacher_logit(z, third, first).tolist() == [1.0, 1.0, 1.0]
    for original, replaced, right in ((first, second, [1, 0, 0]), (second, third, [0, 0.5, 0]),
                                      (third, first, [-1, -0.5, 0])):  # fmt: skip
        torch.testing.assert_close(teacher_reward(z, original, replaced), torch.tensor(right).float())


def test_a_word_that_stayed_is_right_and_earns_nothing_exactly():
    for dtype in (torch.float64, torch.float32, *LOW):
        z = (20 * chosen((50,), 30)[0]).to(dtype)
        for token in torch.randint(30, (5, 50), generator=torch.Generator().manual_seed(2)):
            assert (modified_teacher_logit(z, token, token) == 1).all()
            assert (teacher_reward(z, token, token) == 0).all()


def test_the_ratio_is_clipped_from_above_only():
    z = torch.tensor([0.0, 3.0, -40.0], dtype=torch.float64).expand(9, 3)
    original, replaced = (one.flatten() for one in torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"))
    found = modified_teacher_logit(z, original, replaced).view(3, 3)
    right = torch.tensor([[1, 1, math.exp(-40)], [math.exp(-3), 1, math.exp(-43)], [1, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(found, right, rtol=1e-12, atol=0)


def test_numbers_follow_the_teacher_and_the_pass_that_they_are_taken_from():
    masked, replaced_logits, original, replaced = chosen()
    moved = original != replaced
    for function, formula in NUMBERS:
        one, other = (function(z, original, replaced) for z in (masked, replaced_logits))
        assert (one - other)[moved].abs().max() > 0.1
        torch.testing.assert_close(other, each(formula, replaced_logits, original, replaced))
        swapped = function(masked, replaced, original)
        assert (one - swapped)[moved].abs().max() > 0.1
        assert torch.equal(function(masked + 3.0, original, replaced) > 0.5, one > 0.5)
    less = masked.scatter_add(-1, replaced[..., None], torch.full_like(masked, -1.0)[..., :1])
    assert (
        modified_teacher_logit(less, original, replaced) <= modified_teacher_logit(masked, original, replaced)
    ).all()
    assert (teacher_reward(less, original, replaced) > teacher_reward(masked, original, replaced))[moved].all()


def test_probabilities_are_those_of_some_tokens():
    z, _, original, replaced = chosen()
    found = probabilities(z.requires_grad_(), original, replaced)
    for ours, tokens in zip(found, (original, replaced), strict=True):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, each(probability, z.detach(), tokens))
    sure = torch.full((4,), 1e30)
    for token in range(4):
        assert probabilities(sure, torch.tensor(token))[0].item() == 0.25


def test_the_students_reward_is_how_far_it_is_off():
    o, right = 3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double(), torch.rand(4, 5).double()
    found = student_reward(right, o)
    expected = np.abs(right.numpy() - 1 / (1 + np.exp(-o.numpy())))
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-12, atol=1e-15)
    assert torch.equal(student_reward(right[:0], o[:0]), o[:0])
    extreme = torch.tensor([1e30, -1e30, 0.0])
    assert student_reward(torch.tensor([0.25, 0.25, 0.25]), extreme).tolist() == [0.75, 0.25, 0.25]
    for dtype in LOW:
        with torch.autocast("cpu", dtype):
            found = student_reward(right.float(), o.to(dtype))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, student_reward(right, o.to(dtype).double()).float(), rtol=1e-5, atol=1e-6)


def test_nothing_chosen_is_no_number():
    nothing, none = torch.zeros(0, 6), torch.zeros(0, dtype=torch.long)
    for function, _ in NUMBERS:
        assert function(nothing, none, none).shape == (0,)
    assert student_reward(nothing[:, 0], nothing[:, 0]).shape == (0,)
    for value in (policy_gradient_loss(nothing, none, nothing[:, 0]), tutor_loss(nothing, nothing)):
        assert value.item() == 0


# ---------------------------------------------------------------- who has a gradient


def test_no_gradient_reaches_the_teacher_and_none_leaves_the_rewards():
    masked, after, original, replaced = (x.requires_grad_(x.is_floating_point()) for x in chosen())
    o = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    writing = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    right, teachers = modified_teacher_logit(masked, original, replaced), teacher_reward(after, original, replaced)
    students = student_reward(right, o)
    assert not any(one.requires_grad for one in (right, teachers, students))
    rewards = (teachers + students).requires_grad_()
    wanted = right.clone().requires_grad_()
    loss = policy_gradient_loss(writing, replaced, rewards) + tutor_loss(writing, masked)
    (loss + modified_logit_loss(o, wanted) + student_reward(wanted, o).sum()).backward()
    assert masked.grad is after.grad is rewards.grad is wanted.grad is None
    assert writing.grad.abs().min() > 0 and o.grad.abs().min() > 0
    torch.testing.assert_close(o.grad, (o.detach().sigmoid() - right) / 12)  # of the logit loss alone


def test_the_policy_gradient_is_minus_the_gradient_of_the_expected_reward():
    """Summed over all tokens with their probabilities, whatever is subtracted; one draw alone is another thing."""
    draw = torch.Generator().manual_seed(0)
    z, rewards = torch.randn(3, 5, generator=draw).double(), torch.randn(3, 5, generator=draw).double()
    leaf = z.clone().requires_grad_()
    (-(leaf.softmax(-1) * rewards).sum()).backward()
    for baseline in (0.0, 0.8, -3.0, torch.tensor(0.4), rewards.mean(-1)):
        expected, single = torch.zeros_like(z), []
        for token in range(5):
            tokens = torch.full((3,), token)
            other = z.clone().requires_grad_()
            policy_gradient_loss(other, tokens, rewards[:, token], reduction="sum", baseline=baseline).backward()
            expected += z.softmax(-1)[:, token : token + 1] * other.grad
            single.append(other.grad)
        torch.testing.assert_close(expected, leaf.grad, rtol=1e-12, atol=1e-14)
        assert (torch.stack(single) - leaf.grad).abs().max() > 0.1


def test_the_mean_reward_taken_off_makes_the_gradient_vary_less():
    """Exactly, over all tokens: the mean of the squared gradient, whose mean is the same."""
    z, rewards = (
        torch.linspace(-1, 1, 6).double().requires_grad_(),
        torch.tensor([0.9, 0.7, 1.1, 0.8, 1.0, 0.6]).double(),
    )
    p, squares = z.detach().softmax(-1), {}
    for baseline in (0.0, float(p @ rewards)):
        slopes = [
            torch.autograd.grad(policy_gradient_loss(z, torch.tensor(v), rewards[v], baseline=baseline), z)[0]
            for v in range(6)
        ]
        squares[baseline] = sum(share * slope.square().sum() for share, slope in zip(p, slopes, strict=True))
    plain, less = squares.values()
    assert less < 0.1 * plain


def test_a_word_that_earned_is_written_more_often_and_one_that_cost_less_often():
    z, tokens = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True), torch.tensor([1, 1])
    policy_gradient_loss(z, tokens, torch.tensor([0.5, -0.5]).double(), reduction="sum").backward()
    torch.testing.assert_close(z.grad[0], 0.5 * (torch.full((4,), 0.25) - F.one_hot(tokens[0], 4)).double())
    assert torch.equal(z.grad[1], -z.grad[0])
    again = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    policy_gradient_loss(again, tokens, torch.tensor([0.5, 0.5]).double(), baseline=0.5).backward()
    assert not again.grad.any()


def test_the_tutors_loss_is_nothing_where_it_says_what_the_teacher_says_and_only_there():
    masked, other, *_ = chosen()
    leaf = (masked + torch.linspace(-2, 2, 12).view(3, 4, 1)).requires_grad_()
    loss = tutor_loss(leaf, masked)
    loss.backward()
    assert loss.abs() < 1e-14 and leaf.grad.abs().max() < 1e-15
    leaf = other.clone().requires_grad_()
    tutor_loss(leaf, masked, reduction="sum").backward()
    torch.testing.assert_close(leaf.grad, other.softmax(-1) - masked.softmax(-1))
    assert tutor_loss(other, masked) > 0.1
    assert (tutor_loss(other, masked) - tutor_loss(masked, other)).abs() > 0.01  # the teacher is the first
    batchmean = F.kl_div(other.flatten(0, 1).log_softmax(-1), masked.flatten(0, 1).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(tutor_loss(other, masked), batchmean)


def test_the_modified_logit_is_learnt_where_the_student_says_what_the_teacher_says():
    right = torch.tensor([0.1, 0.25, 0.5, 0.9], dtype=torch.float64)
    entropy = -(right * right.log() + (1 - right) * (1 - right).log())
    best = right.logit().requires_grad_()
    loss = modified_logit_loss(best, right, reduction="none")
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), entropy, rtol=1e-12, atol=0)
    assert best.grad.abs().max() < 1e-15
    for off in (-1.0, -0.01, 0.01, 1.0):
        assert (modified_logit_loss(best.detach() + off, right, reduction="none") > entropy).all()
    trivial = modified_logit_loss(torch.tensor([9.0, 30.0]).double(), torch.ones(2), reduction="none")
    torch.testing.assert_close(trivial, torch.tensor([math.log1p(math.exp(-9.0)), math.exp(-30.0)]).double())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scores_of_the_scalar_head_may_be_as_large_as_they_like(dtype, autocast):
    size = 6e4 if dtype == torch.float16 else 1e30
    o = torch.tensor([size, -size, size, -size], dtype=dtype, requires_grad=True)
    right = torch.tensor([1.0, 0.0, 0.25, 0.25])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = modified_logit_loss(o, right, reduction="none")
    loss.sum().backward()
    exact = o[0].item()
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, 0.0, 0.75 * exact, 0.25 * exact]))
    assert loss.dtype == torch.float32 and o.grad.tolist() == [0.0, 0.0, 0.75, -0.25]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rewards_and_right_answers_where_nothing_counts_are_never_seen(reduction):
    masked, other, original, replaced = chosen()
    rewards, right = torch.rand(3, 4).double(), torch.rand(3, 4).double()
    mask = torch.arange(4)[None] < torch.tensor([3, 0, 2])[:, None]
    for garbage in (math.nan, math.inf, 1e30):
        for loss, given in (
            (lambda z, given, m: policy_gradient_loss(z, replaced, given, m, reduction), rewards),
            (lambda z, given, m: modified_logit_loss(z[..., 0], given, m, reduction), right),
            (lambda z, given, m: tutor_loss(z, given, m, reduction), masked),
        ):
            found = []
            for one in (given, given.masked_fill(~mask.view(3, 4, *[1] * (given.ndim - 2)), garbage)):
                leaf = other.clone().requires_grad_()
                value = loss(leaf, one, mask)
                value.sum().backward()
                found.append((value.detach(), leaf.grad))
            assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
            assert found[0][1][mask].any() and not found[0][1][~mask].any()


# ---------------------------------------------------------------- hidden states and attention scores


def states(places=(2, 3), layers: int = 3, ours: int = 3, theirs: int = 4, seed: int = 0):
    """Hidden states of a student and a teacher, a projection between them, and a mask that keeps some positions."""
    draw = torch.Generator().manual_seed(seed)
    h = torch.randn(layers, *places, ours, generator=draw).double()
    other = torch.randn(layers, *places, theirs, generator=draw).double()
    projection = nn.Linear(ours, theirs).double()
    with torch.no_grad():
        for parameter in projection.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    mask = torch.rand(places, generator=draw) < 0.6
    mask.view(-1)[0], mask.view(-1)[-1] = True, False
    return h, other, projection, mask


def hidden_equation(h, other, weight, bias, place):
    """sum_i (1/d) |W h_i + c - h'_i|^2 at one place."""
    total = 0.0
    for i in range(len(h)):
        apart = weight @ h[(i, *place)] + bias - other[(i, *place)]
        total = total + (apart * apart).sum() / other.shape[-1]
    return total


def reduce(values: dict, places: tuple, mask: np.ndarray, reduction: str):
    """Values by place, one number of them, or an array."""
    if reduction == "none":
        found = np.zeros(places, np.result_type(*values.values(), float))
        for place, value in values.items():
            found[place] = value
        return found
    return sum(values.values()) / (mask.sum() if reduction == "mean" else 1)


def slopes(loss, *leaves: Tensor) -> list[Tensor]:
    """A loss, and the gradients of its sum by some tensors."""
    value = loss()
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("places", [(4,), (2, 3)])
def test_the_hidden_loss_is_the_equation_in_value_and_gradient(places, reduction):
    h, other, projection, some = states(places)
    h.requires_grad_()
    for mask in (None, some):
        counted = np.ones(places, bool) if mask is None else mask.numpy()
        arrays = [one.detach().numpy() for one in (h, projection.weight, projection.bias)]

        def equation(h, weight, bias, counted=counted, how=reduction):
            chosen = [place for place in np.ndindex(*places) if counted[place]]
            values = {place: hidden_equation(h, other.numpy(), weight, bias, place) for place in chosen}
            return reduce(values, places, counted, how)

        found = slopes(
            lambda mask=mask: hidden_loss(list(h), list(other), projection, mask, reduction),
            h, projection.weight, projection.bias,
        )  # fmt: skip
        torch.testing.assert_close(found[0], torch.as_tensor(equation(*arrays)), rtol=1e-12, atol=0)
        how = "sum" if reduction == "none" else reduction
        for number, actual in enumerate(found[1:]):

            def moved(x, number=number, equation=equation, arrays=arrays, how=how):
                return equation(*(x if n == number else one for n, one in enumerate(arrays)), how=how)

            assert_near(actual, torch.as_tensor(complex_step(moved, arrays[number])), 1e-10)


def scores(rows: int = 2, heads: int = 3, length: int = 4, layers: int = 2, seed: int = 0):
    """Attention scores of a student and a teacher, and a mask whose rows have paddings of their own."""
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, layers, rows, heads, length, length, generator=draw).double()
    return a, b, torch.arange(length)[None] < torch.arange(length, length - rows, -1)[:, None]


def attention_equation(a, other, mask, row, query):
    """sum_i mean_h mean_k (A - A')^2 of one query, over the keys that count."""
    total = 0.0
    for i in range(len(a)):
        for head in range(a.shape[2]):
            for key in np.flatnonzero(mask[row]):
                apart = a[i, row, head, query, key] - other[i, row, head, query, key]
                total = total + apart * apart / (a.shape[2] * mask[row].sum())
    return total


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_attention_loss_is_the_equation_in_value_and_gradient(reduction):
    a, other, some = scores()
    a.requires_grad_()
    for mask in (None, some):
        counted = np.ones((2, 4), bool) if mask is None else mask.numpy()

        def equation(a, counted=counted, how=reduction):
            chosen = [place for place in np.ndindex(2, 4) if counted[place]]
            values = {place: attention_equation(a, other.numpy(), counted, *place) for place in chosen}
            return reduce(values, (2, 4), counted, how)

        value, gradient = slopes(lambda mask=mask: attention_loss(list(a), list(other), mask, reduction), a)
        torch.testing.assert_close(value, torch.as_tensor(equation(a.detach().numpy())), rtol=1e-12, atol=0)
        how = "sum" if reduction == "none" else reduction
        right = complex_step(lambda x, equation=equation, how=how: equation(x, how=how), a.detach().numpy())
        assert_near(gradient, torch.as_tensor(right), 1e-10)


def test_without_a_mask_they_are_the_released_means():
    """Means over rows, tokens, heads, keys and width, padding included; sums over the layers."""
    h, theirs, projection, _ = states((3, 5), layers=3)
    released = sum(F.mse_loss(projection(ours), one) for ours, one in zip(h, theirs, strict=True))
    torch.testing.assert_close(hidden_loss(list(h), list(theirs), projection), released)
    a, other, _ = scores(3)
    released = sum(F.mse_loss(ours, one) for ours, one in zip(a, other, strict=True))
    torch.testing.assert_close(attention_loss(list(a), list(other)), released)
    o, right = torch.randn(3, 5).double(), torch.rand(3, 5).double()
    torch.testing.assert_close(modified_logit_loss(o, right), F.binary_cross_entropy(o.sigmoid(), right))


def test_every_layer_counts_the_embeddings_too_and_all_share_one_projection():
    h, theirs, projection, mask = states()
    whole = hidden_loss(list(h), list(theirs), projection, mask, "sum")
    alone = [hidden_loss([ours], [one], projection, mask, "sum") for ours, one in zip(h, theirs, strict=True)]
    torch.testing.assert_close(whole, sum(alone))
    assert min(alone) > 0.1
    a, other, mask = scores()
    alone = [attention_loss([ours], [one], mask, "sum") for ours, one in zip(a, other, strict=True)]
    torch.testing.assert_close(attention_loss(list(a), list(other), mask, "sum"), sum(alone))


def test_a_student_that_computes_what_its_teacher_does_has_nothing_to_learn():
    h, _, projection, mask = states()
    same = [projection(one).detach() for one in h]
    h.requires_grad_()
    assert all(not one.any() for one in slopes(lambda: hidden_loss(list(h), same, projection, mask), h))
    a, _, mask = scores()
    a.requires_grad_()
    assert all(not one.any() for one in slopes(lambda: attention_loss(list(a), list(a), mask), a))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("garbage", [math.nan, math.inf, 1e30])
def test_padding_is_never_seen_by_hidden_states_or_scores(garbage, reduction):
    h, theirs, projection, mask = states((3, 4))
    mask[1] = False  # a row of padding only
    h.requires_grad_()

    def learnt(ours, one):
        loss = lambda: hidden_loss(list(ours), list(one), projection, mask, reduction)  # noqa: E731
        return slopes(loss, ours, *projection.parameters())

    right = learnt(h, theirs)
    dirty = [one.detach().masked_fill(~mask[..., None], garbage) for one in (h, theirs)]
    for ours, one in ((dirty[0].requires_grad_(), theirs), (h, dirty[1]), dirty):
        assert all(torch.equal(x, y) for x, y in zip(learnt(ours, one), right, strict=True))
    assert not right[1][:, ~mask].any() and right[1][:, mask].all()

    a, other, mask = scores(3)
    mask[1] = False
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(a[0])
    right = slopes(lambda: attention_loss(list(a), list(other), mask, reduction), a.requires_grad_())
    for ours, one in ((True, False), (False, True), (True, True)):
        x = a.detach().masked_fill(~pairs & ours, garbage).requires_grad_()
        y = other.masked_fill(~pairs & one, garbage)
        found = slopes(lambda x=x, y=y: attention_loss(list(x), list(y), mask, reduction), x)
        assert all(torch.equal(f, r) for f, r in zip(found, right, strict=True))
    assert torch.equal(right[1] != 0, pairs.expand_as(a))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_counted_is_zero_also_for_hidden_states_and_scores(reduction):
    h, theirs, projection, mask = states()
    shape = mask.shape if reduction == "none" else ()
    for one in (h.requires_grad_(), (h.detach() * math.nan).requires_grad_()):
        loss = lambda one=one: hidden_loss(list(one), list(theirs), projection, mask & False, reduction)  # noqa: E731
        found = slopes(loss, one, *projection.parameters())
        assert found[0].shape == shape and not any(x.any() for x in found)
    a, other, mask = scores()
    shape = mask.shape if reduction == "none" else ()
    for one in (a.requires_grad_(), (a.detach() * math.nan).requires_grad_()):
        found = slopes(lambda one=one: attention_loss(list(one), list(other), mask & False, reduction), one)
        assert found[0].shape == shape and not any(x.any() for x in found)
    assert hidden_loss(list(h[:, :0]), list(theirs[:, :0]), projection).item() == 0
    assert attention_loss(list(a[:, :0]), list(other[:, :0])).item() == 0


def test_rows_with_more_padding_and_pieces_of_a_batch_are_the_same_loss():
    h, theirs, projection, mask = states((4, 5))
    longer = [F.pad(one, (0, 0, 0, 3), value=7.0) for one in (h, theirs)]
    wide = F.pad(mask, (0, 3))
    whole = hidden_loss(list(h), list(theirs), projection, mask)
    torch.testing.assert_close(hidden_loss(*map(list, longer), projection, wide), whole)
    a, other, some = scores(4)
    padded = [F.pad(one, (0, 3, 0, 3), value=7.0) for one in (a, other)]
    scored = attention_loss(list(a), list(other), some)
    torch.testing.assert_close(attention_loss(*map(list, padded), F.pad(some, (0, 3))), scored)
    parts = [slice(0, 1), slice(1, 4)]
    hidden = sum(hidden_loss(list(h[:, p]), list(theirs[:, p]), projection, mask[p], "sum") for p in parts)
    attention = sum(attention_loss(list(a[:, p]), list(other[:, p]), some[p], "sum") for p in parts)
    torch.testing.assert_close(hidden / mask.sum(), whole)
    torch.testing.assert_close(attention / some.sum(), scored)


@pytest.mark.parametrize("dtype", LOW)
def test_hidden_states_and_scores_of_low_precision_are_compared_in_float32(dtype):
    h, theirs, projection, mask = states((3, 4))
    h, theirs = 30 * h.to(dtype), 30 * theirs.to(dtype)
    wide = nn.Identity()
    exact = hidden_loss([one.double() for one in theirs], [one.double() for one in theirs * 0.5], wide, mask)
    a, other, some = (x if x.dtype == torch.bool else (300 * x).to(dtype) for x in scores())
    right = attention_loss([one.double() for one in a], [one.double() for one in other], some)
    for autocast in (False, True):
        with torch.autocast("cpu", dtype, enabled=autocast):
            hidden = hidden_loss(list(theirs), list(theirs * 0.5), wide, mask)
            scored = attention_loss(list(a), list(other), some)
            projected = hidden_loss(list(h.float()), list(theirs), projection.float(), mask)
        assert hidden.dtype == scored.dtype == projected.dtype == torch.float32
        torch.testing.assert_close(hidden.double(), exact, rtol=1e-5, atol=0)
        torch.testing.assert_close(scored.double(), right, rtol=1e-5, atol=0)


def test_hidden_states_and_scores_of_the_teacher_have_no_gradient_and_decide_that_of_the_student():
    h, theirs, projection, mask = states()
    a, other, some = scores()
    for x in (h, theirs, a, other):
        x.requires_grad_()
    (hidden_loss(list(h), list(theirs), projection, mask) + attention_loss(list(a), list(other), some)).backward()
    assert theirs.grad is other.grad is None
    moved = slopes(lambda: hidden_loss(list(h), list(theirs.flip(0)), projection, mask), h)[1]
    assert (moved - h.grad).abs().max() > 0.01
    moved = slopes(lambda: attention_loss(list(a), list(other.flip(0)), some), a)[1]
    assert (moved - a.grad).abs().max() > 0.01


# ---------------------------------------------------------------- the sum, the layers, refusals


def test_the_total_is_the_weighted_sum_and_each_part_keeps_to_its_own():
    parts = [torch.tensor(float(n + 2), requires_grad=True) for n in range(4)]
    assert WEIGHTS == (0.5, 25.0, 1.0, 1.0)
    assert total_loss(*parts).item() == 0.5 * 2 + 25 * 3 + 4 + 5
    total = total_loss(*parts, weights=(0.0, 3.0, 0.5, 7.0))
    total.backward()
    assert total.item() == 9 + 2 + 35 and [one.grad.item() for one in parts] == [0.0, 3.0, 0.5, 7.0]


def test_the_layers_of_the_teacher_are_every_so_many_th():
    assert layer_map(12, 6) == [2, 4, 6, 8, 10, 12]
    assert layer_map(12, 2) == [6, 12] and layer_map(12, 12) == list(range(1, 13))
    assert layer_map(3, 1) == [3] and layer_map(1, 1) == [1]
    for wrong in ((12, 5), (6, 12), (12, 0), (12, -6), (0, 0)):
        with pytest.raises(UserError, match="choose a number that divides it") as caught:
            layer_map(*wrong)
        one_sentence(caught.value)


def refused(words: str, function, *arguments, **options) -> None:
    with pytest.raises(UserError, match=words) as caught:
        function(*arguments, **options)
    one_sentence(caught.value)


def test_what_means_nothing_is_one_sentence():
    z, after, original, replaced = chosen()
    number, h, a = z[..., 0], list(states()[0]), list(scores()[0])
    identity = nn.Identity()
    for function in (modified_teacher_logit, teacher_reward):
        for wrong in (original[:2], original[..., None], original.flatten()):
            refused(r"need tokens of the shape \(3, 4\)", function, z, wrong, replaced)
            refused(r"need tokens of the shape \(3, 4\)", function, z, original, wrong)
    for wrong in (number[:1], number[..., None], number.flatten()):
        refused("shape", policy_gradient_loss, z, replaced, wrong)
        refused("shape", modified_logit_loss, number, wrong)
        refused("shape", student_reward, number, wrong)
    refused("shape", policy_gradient_loss, z, replaced[:1], number[:1])
    refused("shape", tutor_loss, z, after[..., :5])
    refused("shape", tutor_loss, z, after[:1])
    refused("2 layers and the teacher 3", hidden_loss, h[:2], h, identity)
    refused("0 layers and the teacher 0", hidden_loss, [], [], identity)
    refused("shape", hidden_loss, h, [one[:1] for one in h], identity)
    refused("shape", hidden_loss, h, [one[..., :1] for one in h], identity)
    refused("1 layers and the teacher 2", attention_loss, a[:1], a)
    refused("compared head by head", attention_loss, a, [one[:, :1] for one in a])
    calls = (
        lambda **o: policy_gradient_loss(z, replaced, number, **o),
        lambda **o: tutor_loss(z, after, **o),
        lambda **o: modified_logit_loss(number, number, **o),
        lambda **o: hidden_loss(h, h, identity, **o),
        lambda **o: attention_loss(a, a, **o),
    )
    for call in calls:
        for wrong in ("batchmean", None):
            refused("There is no reduction", call, reduction=wrong)
        for mask in (torch.ones(2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool), torch.ones(2, 3, 4).bool()):
            refused("The mask has shape", call, mask=mask)
    parts = [torch.ones(())] * 4
    for weights in ((1, 1, 1), (1, 1, 1, 1, 1), (1, -1, 1, 1), (1, math.nan, 1, 1), (1, 1, math.inf, 1)):
        refused("four weights of at least 0", total_loss, *parts, weights=weights)


# ---------------------------------------------------------------- wrong versions are told apart


def crafted():
    """One batch of everything: the parts of the loss as they should be, and what they are made of."""
    masked, after, original, replaced = chosen((3, 4), 6, seed=4)
    draw = torch.Generator().manual_seed(8)
    writing, o = torch.randn(3, 4, 6, generator=draw).double(), torch.randn(3, 4, generator=draw).double()
    return masked, after, original, replaced, writing, o


def whole(masked, after, original, replaced, writing, o, **other) -> list[Tensor]:
    """Rewards, losses and the gradients by tutor and student; with something else in the place of a part."""
    p = lambda z, token: z.softmax(-1).gather(-1, token[..., None])[..., 0]  # noqa: E731
    part = {
        "right": lambda: (p(masked, replaced) / p(masked, original)).clamp(max=1.0),
        "teachers": lambda: p(after, original) - p(after, replaced),
        "students": lambda right: (right - o.sigmoid()).abs().detach(),
        "policy": lambda rewards: -(writing.log_softmax(-1).gather(-1, replaced[..., None])[..., 0] * rewards).mean(),
        "logit": lambda right: F.binary_cross_entropy(o.sigmoid(), right),
    } | other
    writing.requires_grad_(), o.requires_grad_()
    right = part["right"]()
    rewards = part["teachers"]() + part["students"](right)
    policy, logit = part["policy"](rewards), part["logit"](right)
    return [right, rewards.detach(), policy.detach(), logit.detach(),
            *torch.autograd.grad(policy + logit, (writing, o))]  # fmt: skip


def ours(masked, after, original, replaced, writing, o) -> list[Tensor]:
    return whole(
        masked, after, original, replaced, writing, o,
        right=lambda: modified_teacher_logit(masked, original, replaced),
        teachers=lambda: teacher_reward(after, original, replaced),
        students=lambda right: student_reward(right, o),
        policy=lambda rewards: policy_gradient_loss(writing, replaced, rewards),
        logit=lambda right: modified_logit_loss(o, right),
    )  # fmt: skip


WRONG = {
    "a^T from the second pass": lambda m, a, x, y, g, o: {"right": lambda: modified_teacher_logit(a, x, y)},
    "R_T from the first pass": lambda m, a, x, y, g, o: {"teachers": lambda: teacher_reward(m, x, y)},
    "the tokens swapped in a^T": lambda m, a, x, y, g, o: {"right": lambda: modified_teacher_logit(m, y, x)},
    "the tokens swapped in R_T": lambda m, a, x, y, g, o: {"teachers": lambda: teacher_reward(a, y, x)},
    "a^T not clipped": lambda m, a, x, y, g, o: {
        "right": lambda: (m.gather(-1, y[..., None]) - m.gather(-1, x[..., None]))[..., 0].exp()},
    "R_S not detached": lambda m, a, x, y, g, o: {"students": lambda right: (right - o.sigmoid()).abs()},
    "R_S as the cross-entropy": lambda m, a, x, y, g, o: {
        "students": lambda right: modified_logit_loss(o, right, reduction="none").detach()},
    "R_S signed": lambda m, a, x, y, g, o: {"students": lambda right: (right - o.sigmoid()).detach()},
    "R_S of the raw score": lambda m, a, x, y, g, o: {"students": lambda right: (right - o).abs().detach()},
    "the original word is rewarded": lambda m, a, x, y, g, o: {
        "policy": lambda rewards: policy_gradient_loss(g, x, rewards)},
    "the reward is a cost": lambda m, a, x, y, g, o: {
        "policy": lambda rewards: policy_gradient_loss(g, y, -rewards)},
    "the tutor detached": lambda m, a, x, y, g, o: {
        "policy": lambda rewards: policy_gradient_loss(g.detach(), y, rewards) + 0 * g.sum()},
    "the probability and not its logarithm": lambda m, a, x, y, g, o: {
        "policy": lambda rewards: -(g.softmax(-1).gather(-1, y[..., None])[..., 0] * rewards).mean()},
    "the logit as a squared error": lambda m, a, x, y, g, o: {
        "logit": lambda right: (o.sigmoid() - right).square().mean()},
}  # fmt: skip


def matches(found, right) -> bool:
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(found, right, strict=True))


def test_ours_is_the_whole_on_the_batch_that_tells_wrong_ones():
    assert matches(ours(*crafted()), whole(*crafted()))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_told_apart(name):
    data = crafted()
    try:
        found = whole(*data, **WRONG[name](*data))
    except RuntimeError:
        return  # a target above 1
    assert not matches(found, whole(*crafted()))
