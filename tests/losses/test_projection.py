"""Losses behind a vocabulary projection, in slices: against a plain float64 oracle and against finished logits."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kdutils.core.errors import UserError
from kdutils.losses import projection
from kdutils.losses.projection import projected_losses
from kdutils.papers.distilbert.objective import triple_loss
from tests.oracles import assert_near, complex_step, kl, log_softmax
from tests.tiny import one_sentence

WIDTH, WORDS = 3, 5


@dataclass(frozen=True)
class Pair:
    """What the heads of a student and of a wider teacher are given at the same positions."""

    hidden: Tensor
    head: nn.Linear
    theirs: Tensor
    their_head: nn.Linear
    targets: Tensor

    def to(self, dtype: torch.dtype) -> Pair:
        heads = [copy.deepcopy(head).to(dtype) for head in (self.head, self.their_head)]
        return Pair(self.hidden.to(dtype), heads[0], self.theirs.to(dtype), heads[1], self.targets)


def pair(rows: int = 7, words: int = WORDS, biases: tuple[bool, bool] = (True, True), seed: int = 0) -> Pair:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head, their_head = nn.Linear(WIDTH, words, biases[0]), nn.Linear(4, words, biases[1])
        hidden, theirs = 2 * torch.randn(rows, WIDTH), 2 * torch.randn(rows, 4)
        targets = torch.randint(words, (rows,)).masked_fill(torch.rand(rows) < 0.5, -100)
    if rows > 4:
        targets[:5] = torch.tensor([1, -100, -100, -100, 0])  # slices of 1 and of 3 rows with no target in them
    return Pair(hidden, head, theirs, their_head, targets).to(torch.float64)


def ours(p: Pair, outer: float = 1.0, **options) -> tuple[list[Tensor], list[Tensor | None]]:
    """[total, soft_sum, hard_sum], and the gradients of outer * total by hidden, weight and bias."""
    hidden = p.hidden.detach().clone().requires_grad_()
    p.head.zero_grad()
    total, *sums = projected_losses(hidden, p.head, p.theirs, p.their_head, p.targets, **options)
    (outer * total).backward()
    return [one.detach() for one in (total, *sums)], [hidden.grad, *(one.grad.clone() for one in p.head.parameters())]


def finished(p: Pair, soft: float, hard: float, temperature: float) -> tuple[Tensor, list[Tensor]]:
    """The same from all logits at once, with the library's own losses."""
    hidden = p.hidden.detach().clone().requires_grad_()
    logits, theirs = p.head(hidden), p.their_head(p.theirs).detach()
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (logits, theirs))
    total = soft * temperature**2 * F.kl_div(log_q, log_p, log_target=True, reduction="sum")
    total = total + hard * F.cross_entropy(logits, p.targets, ignore_index=-100, reduction="sum")
    return total.detach(), list(torch.autograd.grad(total, [hidden, *p.head.parameters()]))


def equation(p: Pair, soft: float, hard: float, temperature: float) -> tuple[list[float], list[np.ndarray]]:
    """Position by position: T^2 KL(softmax(z' / T) || softmax(z / T)) and -log softmax(z) at the target."""
    parts = [p.hidden.numpy(), *(one.detach().numpy() for one in p.head.parameters())]
    theirs = p.their_head(p.theirs).detach().numpy()

    def sums(hidden: np.ndarray, weight: np.ndarray, bias: np.ndarray | float = 0.0):
        logits = hidden @ weight.T + bias
        softs = [temperature**2 * kl(np.stack(both) / temperature) for both in zip(theirs, logits, strict=True)]
        hards = [-log_softmax(z)[y] for z, y in zip(logits, p.targets.tolist(), strict=True) if y != -100]
        return sum(softs) * bool(soft), sum(hards) * bool(hard)

    def total(*moved: np.ndarray):
        return np.dot((soft, hard), sums(*moved))

    def moving(index: int):
        return lambda moved: total(*parts[:index], moved, *parts[index + 1 :])

    gradients = [complex_step(moving(index), part) for index, part in enumerate(parts)]
    return [total(*parts), *sums(*parts)], gradients


def rows_at_once(monkeypatch, rows: int, words: int = WORDS) -> None:
    monkeypatch.setitem(projection.CELLS_AT_ONCE, "cpu", rows * words)


def assert_same(actual: list, expected: list, rtol: float = 1e-11, atol: float = 1e-13) -> None:
    for one, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=rtol, atol=atol)


BOTH = {"soft": 0.7, "hard": 0.4, "temperature": 2.0}
WEIGHTS = [(0.7, 0.4), (0.7, 0.0), (0.0, 0.4), (0.0, 0.0), (0.3, 9.0)]
each_slice = pytest.mark.parametrize("rows", [0, 1, 3, 10**6])  # 0: not even the cells of one row are allowed

# ---------------------------------------------------------------- the equation


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("soft, hard", WEIGHTS)
@pytest.mark.parametrize("biases", [(True, True), (False, True), (True, False)])
def test_value_and_gradients_are_the_equation(soft, hard, temperature, biases, monkeypatch):
    rows_at_once(monkeypatch, 2)
    p = pair(biases=biases)
    numbers, gradients = ours(p, soft=soft, hard=hard, temperature=temperature)
    expected, slopes = equation(p, soft, hard, temperature)
    for actual, right in zip([*numbers, *gradients], [*expected, *slopes], strict=True):
        assert_near(actual, torch.as_tensor(right), 1e-10)


@each_slice
@pytest.mark.parametrize("soft, hard", WEIGHTS)
def test_equal_to_the_triple_loss_of_finished_logits(rows, soft, hard, monkeypatch):
    rows_at_once(monkeypatch, rows)
    p = pair(11, seed=1)
    (total, *_), gradients = ours(p, soft=soft / 11, hard=hard / int((p.targets >= 0).sum()), temperature=2.0)
    hidden = p.hidden.clone().requires_grad_()
    loss = triple_loss(
        p.head(hidden), p.their_head(p.theirs), p.targets, hidden, hidden, weights=(soft, hard, 0.0), temperature=2.0
    )
    slopes = torch.autograd.grad(loss, [hidden, *p.head.parameters()])
    assert_same([total, *gradients], [loss.detach(), *slopes])


@each_slice
def test_torchs_own_losses_of_finished_logits(rows, monkeypatch):
    rows_at_once(monkeypatch, rows)
    p = pair(8, seed=2)
    (total, *_), gradients = ours(p, **BOTH)
    loss, slopes = finished(p, **BOTH)
    assert_same([total, *gradients], [loss, *slopes])


def test_the_temperature_is_1_unless_given_and_never_the_targets():
    p = pair()
    assert torch.equal(ours(p, soft=1.0)[0][0], ours(p, soft=1.0, temperature=1.0)[0][0])
    assert torch.equal(ours(p, hard=1.0)[0][0], ours(p, hard=1.0, temperature=7.0)[0][0])


# ---------------------------------------------------------------- what may be missing


@pytest.mark.parametrize("soft, hard", WEIGHTS)
def test_no_positions_at_all_give_zero_and_gradients_of_zero(soft, hard):
    p = pair(0)
    numbers, gradients = ours(p, soft=soft, hard=hard, temperature=2.0)
    assert [float(number) for number in numbers] == [0.0, 0.0, 0.0]
    assert_same(gradients, [torch.zeros_like(one) for one in (p.hidden, *p.head.parameters())], 0, 0)


@each_slice
def test_without_any_target_only_the_soft_part_is_left(rows, monkeypatch):
    rows_at_once(monkeypatch, rows)
    p = replace(pair(), targets=torch.full((7,), -100))
    numbers, gradients = ours(p, **BOTH)
    alone, slopes = ours(p, **{**BOTH, "hard": 0.0})
    assert float(numbers[2]) == 0.0
    assert_same([numbers[0], *gradients], [alone[0], *slopes])


class Untouchable:
    """Whoever looks at it fails."""

    def __getattribute__(self, name: str):
        raise AssertionError(f"{name} was asked for")

    def __len__(self):
        raise AssertionError("its length was asked for")


@pytest.mark.parametrize("teacher", ["none", "untouchable"])
def test_without_soft_targets_the_teacher_is_not_touched(teacher):
    p, nobody = pair(), None if teacher == "none" else Untouchable()
    alone = ours(replace(p, theirs=nobody, their_head=nobody), hard=0.4)
    assert_same(sum(alone, []), sum(ours(p, hard=0.4), []), 0, 0)


def test_without_hard_targets_the_targets_are_not_read():
    p = pair()
    wild = replace(p, targets=torch.full((7,), 10**6))
    assert_same(sum(ours(wild, soft=0.7), []), sum(ours(p, soft=0.7), []), 0, 0)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_told_which_rows_have_a_target_it_does_the_same(at_once, monkeypatch):
    rows_at_once(monkeypatch, at_once)
    p = pair(11)
    asked = [number for number, target in enumerate(p.targets.tolist()) if target >= 0]
    for one, told in ((p, asked), (replace(p, targets=p.targets.clamp(min=0)), range(11))):
        found, right = (sum(ours(one, **BOTH, **options), []) for options in ({"asked": told}, {}))
        assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("frozen", ["weight", "bias", "head", "hidden"])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen):
    p = pair()
    right = dict(zip(("hidden", "weight", "bias"), ours(p, **BOTH)[1], strict=True))
    hidden = p.hidden.clone().requires_grad_(frozen != "hidden")
    p.head.zero_grad()
    for name, one in p.head.named_parameters():
        one.requires_grad_(frozen not in (name, "head"))
    projected_losses(hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)[0].backward()
    for name, one in {"hidden": hidden, **dict(p.head.named_parameters())}.items():
        assert torch.equal(one.grad, right[name]) if one.requires_grad else one.grad is None


def test_nothing_to_train_and_no_grad_give_the_value_alone():
    p = pair()
    right = ours(p, **BOTH)[0]
    with torch.no_grad():
        quiet = projected_losses(p.hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)
    p.head.requires_grad_(False)
    frozen = projected_losses(p.hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)
    for numbers in (quiet, frozen):
        assert not numbers[0].requires_grad
        assert_same(list(numbers), right, 0, 0)


def test_strides_do_not_matter_and_arguments_are_left_alone():
    p, kept = pair(), pair()
    turned = replace(p, hidden=p.hidden.T.contiguous().T, theirs=p.theirs.T.contiguous().T)
    assert not turned.hidden.is_contiguous()
    assert_same(sum(ours(turned, **BOTH), []), sum(ours(p, **BOTH), []))
    assert_same([p.hidden, p.theirs, p.targets], [kept.hidden, kept.theirs, kept.targets], rtol=0, atol=0)


# ---------------------------------------------------------------- where the gradient goes


def test_the_gradient_never_reaches_the_teacher():
    p = pair()
    p.theirs.requires_grad_()
    ours(p, **BOTH)
    assert p.theirs.grad is None and all(one.grad is None for one in p.their_head.parameters())


def test_one_head_for_both_learns_as_the_student_only():
    p = pair()
    shared = replace(p, theirs=p.hidden.flip(0), their_head=p.head)
    apart = replace(shared, their_head=pair().head)
    assert all(torch.equal(a, b) for a, b in zip(p.head.parameters(), apart.their_head.parameters(), strict=True))
    assert_same(ours(shared, **BOTH)[1], ours(apart, **BOTH)[1], 0, 0)


def test_another_teacher_changes_value_and_gradients():
    p = pair()
    (total, *_), gradients = ours(p, **BOTH)
    (moved, *_), slopes = ours(replace(p, theirs=-p.theirs), **BOTH)
    assert abs(total - moved) > 1e-3
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(gradients, slopes, strict=True))


def test_a_student_that_agrees_with_its_teacher_has_nothing_to_learn():
    p = pair()
    same = replace(p, theirs=p.hidden, their_head=p.head)
    numbers, gradients = ours(same, soft=1.0, temperature=2.0)
    assert all(number.abs() < 1e-14 for number in numbers) and all(one.abs().max() < 1e-14 for one in gradients)


@pytest.mark.parametrize("outer", [2.0**16, 2.0**-9, -1.0, 0.0])
def test_scaling_the_loss_scales_the_gradients_exactly(outer):
    p = pair().to(torch.float32)
    assert_same(ours(p, outer, **BOTH)[1], [outer * one for one in ours(p, **BOTH)[1]], 0, 0)


def test_two_backward_passes_add_up():
    p = pair()
    _, once = ours(p, **BOTH)
    hidden = p.hidden.clone().requires_grad_()
    p.head.zero_grad()
    total, *_ = projected_losses(hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)
    total.backward(retain_graph=True)
    (3 * total).backward()
    assert_same([one.grad for one in (hidden, *p.head.parameters())], [4 * one for one in once])


def test_only_the_total_has_a_gradient():
    p = pair()
    total, soft, hard = projected_losses(p.hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)
    assert total.requires_grad and not soft.requires_grad and not hard.requires_grad


# ---------------------------------------------------------------- precision

ROUNDING = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
each_precision = pytest.mark.parametrize("dtype", ROUNDING)


def assert_about(actual: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    """Close as vectors, and finite."""
    for one, right in zip(actual, expected, strict=True):
        assert one.isfinite().all()
        assert (one.double() - right.double()).norm() <= rtol * right.double().norm()


@each_precision
@pytest.mark.parametrize("rows", [70, 10**6])
def test_autocast_over_4000_positions_is_close_and_nothing_vanishes(dtype, rows, monkeypatch):
    """Weights of 1 / 4000 have no room in float16 beside probabilities of 1 / 400."""
    rows_at_once(monkeypatch, rows, 400)
    p = pair(4000, 400)
    options = {"soft": 5 / 4000, "hard": 2 / 2000, "temperature": 2.0}
    right, slopes = ours(p, **options)
    with torch.autocast("cpu", dtype=dtype):
        numbers, gradients = ours(p.to(torch.float32), **options)
    assert all(one.dtype == torch.float32 for one in [*numbers, *gradients])
    assert_about(numbers, right, ROUNDING[dtype])
    assert_about(gradients, slopes, ROUNDING[dtype])


@each_precision
@pytest.mark.parametrize("size", [1e-9, 1e-3, 1e3, 1e9])
def test_no_size_of_the_weights_is_lost_in_low_precision(dtype, size):
    p = pair().to(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        _, plain = ours(p, **BOTH)
        _, scaled = ours(p, soft=0.7 * size, hard=0.4 * size, temperature=2.0)
    assert_about([one / size for one in scaled], plain, 1e-3)


@each_precision
def test_the_matrix_products_take_the_precision_of_autocast(dtype):
    p = pair().to(torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        (total, *_), _ = ours(p, **BOTH)
    exact = ours(p, **BOTH)[0][0]
    assert 1e-6 < (total - exact).abs() / exact < ROUNDING[dtype]


@each_precision
def test_a_model_in_low_precision_gets_sums_in_float32(dtype):
    p = pair(40, seed=3).to(dtype)
    numbers, gradients = ours(p, **BOTH)
    right, slopes = ours(p.to(torch.float64), **BOTH)
    assert all(one.dtype == torch.float32 for one in numbers) and all(one.dtype == dtype for one in gradients)
    assert_about(numbers, right, ROUNDING[dtype])
    assert_about(gradients, slopes, ROUNDING[dtype])


@each_precision
def test_logits_in_low_precision_are_compared_in_float32(dtype):
    p, eye = pair(9), nn.Linear(WIDTH, WIDTH, bias=False)
    nn.init.eye_(eye.weight)
    p = Pair(p.hidden, eye, -p.hidden.flip(0), eye, p.targets.clamp(max=WIDTH - 1)).to(dtype)
    assert_same(ours(p, **BOTH)[0], [one.float() for one in ours(p.to(torch.float64), **BOTH)[0]], 1e-6, 1e-6)


def test_a_teacher_in_another_precision_is_fitted_in():
    p = pair().to(torch.float32)
    wide = pair()
    mixed = replace(p, theirs=wide.theirs, their_head=wide.their_head)
    assert_same(sum(ours(mixed, **BOTH), []), sum(ours(p, **BOTH), []), 1e-5, 1e-6)


def test_the_sum_over_many_positions_has_room_in_float16():
    p = pair(20_000, 4).to(torch.float32)
    p = replace(p, hidden=p.hidden.abs() + 8, targets=torch.full((20_000,), 3))
    nowhere = replace(p, targets=torch.full((20_000,), -100))
    with torch.autocast("cpu", dtype=torch.float16):
        found, nothing = ours(p, hard=1 / 20_000)[1], ours(nowhere, hard=1 / 20_000)[1]
    assert_about(found, ours(p, hard=1 / 20_000)[1], ROUNDING[torch.float16])
    assert_same(nothing, [0 * one for one in found], 0, 0)


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_stay_finite_and_right(size, who, dtype):
    p = pair(9).to(dtype)
    hidden = p.hidden * (size if who != "teacher" else 1.0)
    theirs = p.theirs * (size if who != "student" else 1.0)
    p = replace(p, hidden=hidden, theirs=theirs)
    numbers, gradients = ours(p, **BOTH)
    right, slopes = ours(p.to(torch.float64), **BOTH)
    assert_about([*numbers, *gradients], [*right, *slopes], 1e-4 if dtype == torch.float32 else 3e-2)


# ---------------------------------------------------------------- memory


class Sizes(TorchDispatchMode):
    """Notes the number of elements of every tensor that an operation gives back."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        several = result if isinstance(result, (list, tuple)) else [result]
        self.seen += [one.numel() for one in several if isinstance(one, Tensor)]
        return result


@pytest.mark.parametrize("autocast", [False, True])
def test_no_tensor_of_all_logits_is_ever_made(autocast, monkeypatch):
    rows_at_once(monkeypatch, 2, 50)
    p = pair(60, 50).to(torch.float32)
    hidden = p.hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), Sizes() as forward:
        total = projected_losses(hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)[0]
    with Sizes() as backward:
        total.backward()
    largest_input = max(50 * 4, 60 * 4)  # a weight, or the hidden states
    assert 2 * 50 in forward.seen and max(forward.seen) <= largest_input < 60 * 50
    assert max(backward.seen) <= largest_input and 2 * 50 not in backward.seen  # nothing is projected again


# ---------------------------------------------------------------- refusals

REFUSED = {
    "three dimensions": lambda p: {"hidden": p.hidden[:, None]},
    "one dimension": lambda p: {"hidden": p.hidden[0], "targets": p.targets[0]},
    "too few targets": lambda p: {"targets": p.targets[:-1]},
    "targets in two dimensions": lambda p: {"targets": p.targets[:, None]},
    "too few positions of the teacher": lambda p: {"theirs": p.theirs[1:]},
    "no states of the teacher": lambda p: {"theirs": None},
    "no head of the teacher": lambda p: {"their_head": None},
    "another vocabulary": lambda p: {"their_head": pair(words=WORDS + 1).their_head},
    "another width": lambda p: {"hidden": p.hidden[:, 1:]},
    "another width of the teacher": lambda p: {"theirs": p.theirs[:, 1:]},
    "three dimensions of the teacher": lambda p: {"theirs": p.theirs[:, None]},
    "a target outside the vocabulary": lambda p: {"targets": p.targets.clamp(min=WORDS)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name):
    with pytest.raises(UserError) as caught:
        ours(replace(pair(), **REFUSED[name](pair())), **BOTH)
    one_sentence(caught.value)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("soft", [0.0, 1.0])
def test_a_temperature_that_is_not_above_0_is_refused(temperature, soft):
    with pytest.raises(UserError) as caught:
        ours(pair(), soft=soft, hard=1.0, temperature=temperature)
    assert "temperature" in one_sentence(caught.value)


def test_no_product_of_a_gradient_is_made_where_nothing_is_learned(monkeypatch):
    monkeypatch.setattr(projection, "_add_products", None)
    p = pair()
    with torch.no_grad():
        quiet = projected_losses(p.hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)
    assert not quiet[0].requires_grad and quiet[0] > 0
    with pytest.raises(TypeError):
        projected_losses(p.hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)


def test_what_a_retained_graph_handed_out_does_not_change_afterwards():
    p = pair()
    hidden = p.hidden.requires_grad_()
    total = projected_losses(hidden, p.head, p.theirs, p.their_head, p.targets, **BOTH)[0]
    (early,) = torch.autograd.grad(2 * total, hidden, retain_graph=True)
    kept = early.clone()
    (late,) = torch.autograd.grad(3 * total, hidden)
    torch.testing.assert_close(late, 1.5 * kept, rtol=1e-14, atol=0)
    assert torch.equal(early, kept)
