"""Self-distillation's objectives and ensembles against plain float64 oracles, what they reduce to, their traps."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.losses.distillation import soft_target_loss
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.papers.self_distillation.objective import average_parameters, sda_loss, sdv_loss, squared_error, vote
from tests.oracles import Objective, ObjectiveBattery, assert_near, evaluate, example, log_softmax, run, smoothed_nll
from tests.tiny import one_sentence

# ---------------------------------------------------------------- the equations: the student first, then its teachers


def mse(z: np.ndarray, _target: int = -1):
    """1/C sum_c (o_c - o~_c)^2, where o~ is the mean of the teachers' logits; a complex step reaches no teacher."""
    return ((z[0] - z[1:].real.mean(0)) ** 2).sum() / z.shape[-1]


def total(weight: float, epsilon: float = 0.0, convention: str = "uniform"):
    """Eq. (5) with one teacher, Eq. (7) with K of them."""
    nll = smoothed_nll(epsilon, convention)
    return lambda z, target: nll(z[:1], target) + weight * mse(z)


@dataclass(frozen=True)
class Weighted(Objective):
    weight: float = 1.0  # of the MSE in it

    __str__ = Objective.__str__


def sda(weight: float, epsilon: float = 0.0, convention: str = "uniform") -> Weighted:
    def call(z, targets, **options):
        return sda_loss(z[0], z[1], targets, weight, epsilon=epsilon, convention=convention, **options)

    return Weighted(f"sda_{weight}_{convention}{epsilon}", 2, call, total(weight, epsilon, convention), 0, weight)


def sdv(weight: float, size: int) -> Weighted:
    def call(z, targets, **options):
        return sdv_loss(z[0], z[1:], targets, weight, **options)

    return Weighted(f"sdv_{weight}_K{size}", 1 + size, call, total(weight), 0, weight)


ALONE = Weighted("mse", 2, lambda z, _targets, **options: squared_error(*z, **options), mse, 0)


class TestBattery(ObjectiveBattery):
    """Value and gradient for every reduction; padding; nothing counted; extremes; autocast; refusals."""

    @pytest.fixture(params=[ALONE, sda(1.0), sda(0.0), sda(1.5, 0.1, "others"), sdv(1.0, 1), sdv(2.0, 3)], ids=str)
    def objective(self, request):
        return request.param

    @pytest.mark.parametrize(
        "dtype, size", [(torch.float16, 6e4), (torch.bfloat16, 1e18), (torch.float32, 1e18), (torch.float64, 1e150)]
    )
    def test_extreme_logits_stay_finite_and_right(self, objective, dtype, size):
        """As far as their squares are numbers."""
        super().test_extreme_logits_stay_finite_and_right(objective, dtype, size)

    def test_a_constant_on_a_row_of_logits_changes_nothing(self, objective):
        """Here: one on student and teachers alike; on the student alone it is an error as any other."""
        z, targets, mask = example(objective.passes, (3, 4), 5, seed=10)
        c, d = torch.linspace(-9, 9, 12, dtype=z.dtype).reshape(3, 4), z[0] - z[1:].mean(0)
        found = run(objective.call, z, targets, mask=mask, reduction="none")
        for moved, right in zip(
            run(objective.call, z + c[..., None], targets, mask=mask, reduction="none"), found, strict=True
        ):
            assert_near(moved, right, 1e-9)
        alone = objective.call(torch.cat([z[:1] + c[..., None], z[1:]]), targets, mask=mask, reduction="none")
        assert_near(alone, found[0] + objective.weight * mask * (c**2 + 2 * c * d.mean(-1)), 1e-9)

    def test_a_gradient_row_sums_to_zero(self, objective):
        """Here: the student's to 2 lambda times the mean difference; the teachers have none at all."""
        z, targets, mask = example(objective.passes, (3, 4), 20, seed=12)
        _, gradient = run(objective.call, z, targets, mask=mask, reduction="sum")
        right = 2 * objective.weight * mask * (z[0] - z[1:].mean(0)).mean(-1)
        torch.testing.assert_close(gradient[0].sum(-1), right, rtol=1e-10, atol=1e-13)
        assert not gradient[1:].any()


# ---------------------------------------------------------------- closed forms, and what they reduce to


@pytest.mark.parametrize("classes", [2, 5, 14])
def test_it_is_torchs_own_losses_and_a_pull_of_two_lambda_over_c_times_the_difference(classes):
    """And so a logit is pulled a seventh as hard with 14 classes as with two. The paper's lambda is the default."""
    z, targets, mask = example(2, (3, 4), classes)
    right = F.cross_entropy(z[0][mask], targets[mask]) + F.mse_loss(z[0][mask], z[1][mask])
    torch.testing.assert_close(sda_loss(z[0], z[1], targets, mask=mask), right, rtol=1e-12, atol=0)
    torch.testing.assert_close(sdv_loss(z[0], z[1:], targets, mask=mask), right, rtol=1e-12, atol=0)
    none, once, twice = (run(sda(w).call, z, targets, mask=mask, reduction="sum") for w in (0.0, 0.7, 1.4))
    by_hand = 2 * 0.7 / classes * (z[0] - z[1]) * mask[..., None]
    torch.testing.assert_close((once[1] - none[1])[0], by_hand, rtol=1e-10, atol=1e-13)
    for a, b, c in zip(none, once, twice, strict=True):  # a doubled weight doubles it
        torch.testing.assert_close(c - a, 2 * (b - a), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", [sda_loss, sdv_loss])
def test_without_a_teacher_or_a_weight_it_is_the_cross_entropy_bit_for_bit(loss, reduction, dtype):
    z, targets, mask = example(2, (3, 4), 6)
    z, options = z.to(dtype), {"epsilon": 0.1, "convention": "others", "reduction": reduction}
    expected = run(label_smoothed_nll, z[0], targets, mask=mask, **options)
    senseless = torch.full_like(z[1:] if loss is sdv_loss else z[1], math.nan)  # with no weight nobody looks at it
    for teacher, weight in ((None, 1.0), (None, 0.0), (senseless, 0.0)):
        found = run(lambda o, t, **o_: loss(o, teacher, t, weight, mask, **o_), z[0], targets, **options)  # noqa: B023
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sdv_is_sda_against_the_mean_logits_and_with_one_teacher_sda(dtype):
    z, targets, mask = example(4, (3, 4), 6)
    z = z.to(dtype)
    for size in (1, 3):
        teachers = z[1 : 1 + size]
        mean = teachers.to(torch.promote_types(dtype, torch.float32)).mean(0)  # not rounded to the logits' precision
        for reduction in ("mean", "sum", "none"):
            voted, averaged = (
                run(lambda o, t, f=f, g=g, r=reduction: f(o, g, t, 2.0, mask, reduction=r), z[0], targets)
                for f, g in ((sdv_loss, teachers), (sda_loss, teachers[0] if size == 1 else mean))
            )
            assert all(torch.equal(a, b) for a, b in zip(voted, averaged, strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_of_linear_models_the_mean_logits_are_those_of_the_mean_parameters(size):
    """logits = W h + b: SDA and SDV are then one loss at every K; one more layer parts them."""
    draw = torch.Generator().manual_seed(size)
    h = torch.randn(7, 6, generator=draw, dtype=torch.float64)
    z, targets, mask = example(1, (7,), 4)
    for net, same in ((nn.Linear(6, 4), True), (nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 4)), False)):
        nets = [copy.deepcopy(net).double() for _ in range(size)]
        for parameter in (p for one in nets for p in one.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        logits = torch.stack([one(h) for one in nets])
        net.double().load_state_dict(average_parameters([one.state_dict() for one in nets]))
        voted = run(lambda o, t, k=logits: sdv_loss(o, k, t, 1.5, mask), z[0], targets)
        mean = net(h)
        averaged = run(lambda o, t, k=mean: sda_loss(o, k, t, 1.5, mask), z[0], targets)
        for a, b in zip(voted, averaged, strict=True):
            if same or size == 1:
                torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
            else:
                assert (a - b).abs().max() > 1e-3


def test_the_mse_is_twice_the_limit_of_soft_targets_and_the_shift_that_they_do_not_see():
    """T^2 KL -> 1/(2C) sum (d - mean d)^2 as T grows, so MSE = 2 lim T^2 KL + (mean d)^2."""
    z, _, _ = example(2, (3, 4), 6)
    d = z[0] - z[1]
    limit = (d - d.mean(-1, keepdim=True)).square().sum(-1) / (2 * 6)
    torch.testing.assert_close(squared_error(*z, reduction="none"), 2 * limit + d.mean(-1) ** 2, rtol=1e-12, atol=1e-14)
    for temperature in (1e2, 1e3, 1e4):  # the next term of the series falls as 1/T
        warm = soft_target_loss(*z, temperature=temperature, reduction="none")
        torch.testing.assert_close(warm, limit, rtol=30 / temperature, atol=0)
    assert (soft_target_loss(*z, temperature=1.0, reduction="none") / limit - 1).abs().max() > 0.3


# ---------------------------------------------------------------- it must distil


@pytest.mark.parametrize("objective", [sda(1.0), sdv(1.0, 3), sda(0.0)], ids=str)
def test_the_student_reacts_to_every_teacher(objective):
    z, targets, mask = example(objective.passes, (3, 4), 6)
    before = run(objective.call, z, targets, mask=mask)
    for moved in range(1, objective.passes):
        other = z.clone()
        other[moved] += torch.linspace(-1, 2, 6, dtype=torch.float64)
        after = run(objective.call, other, targets, mask=mask)
        assert all(((a - b).abs().max() > 1e-3) == (objective.weight > 0) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("size", [1, 3])
def test_descent_on_what_lambda_multiplies_brings_the_student_to_its_teacher(size):
    start, targets, _ = example(1 + size, (3, 4), 6)

    def apart(z: Tensor, t: Tensor) -> Tensor:
        return sdv_loss(z[0], z[1:], t, 1.0, reduction="sum") - sdv_loss(z[0], None, t, 1.0, reduction="sum")

    z, distances = start.clone(), []
    for _ in range(40):
        value, gradient = run(apart, z, targets)
        distances.append(value.item())
        z = z - 0.5 * gradient
    assert all(later < earlier for earlier, later in zip(distances, distances[1:], strict=False))
    assert (z[0] - z[1:].mean(0)).abs().max() < 1e-2 * (start[0] - start[1:].mean(0)).abs().max()
    assert torch.equal(z[1:], start[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_vanishes_exactly_where_the_student_is_its_teacher(dtype):
    z, targets, mask = example(1, (3, 4), 6)
    same = z.to(dtype).expand(2, -1, -1, -1)
    plain, taught = (run(sda(weight).call, same, targets, mask=mask) for weight in (0.0, 1000.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, taught, strict=True))


# ---------------------------------------------------------------- the vote and the average of several models


@pytest.mark.parametrize("places, classes", [((), 6), ((5,), 2), ((2, 3), 7)])
@pytest.mark.parametrize("models", [1, 3])
def test_the_vote_is_the_mean_of_the_probabilities(models, places, classes):
    z, _, _ = example(models, places, classes)
    for c in range(classes):
        right = evaluate(lambda z, _, c=c: sum(np.exp(log_softmax(one)[c]) for one in z) / len(z), z, reduction="none")
        for found, expected in zip(run(lambda z, _, c=c: vote(z)[..., c], z, None), right, strict=True):
            assert_near(found, expected, 1e-10)
    for low in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(vote(z.to(low)), vote(z.to(low).double()).float(), rtol=1e-5, atol=1e-7)
    extreme = vote(torch.tensor([[[6e4, -6e4, 0.0]], [[-6e4, -6e4, 6e4]]], dtype=torch.float16))
    assert torch.equal(extreme, torch.tensor([[0.5, 0.0, 0.5]]))


def test_a_vote_sums_probabilities_whereas_sdv_averages_logits():
    """One model is very sure of the first class, two are fairly sure of the second: each mean has its own winner."""
    z = torch.tensor([[10.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
    p = 1 / (1 + math.exp(2))
    torch.testing.assert_close(vote(z), torch.tensor([(1 + 2 * p) / 3, (2 - 2 * p) / 3]), rtol=1e-4, atol=0)
    assert vote(z).argmax() == 1 and z.mean(0).argmax() == 0
    student, targets = torch.tensor([3.0, 1.0]), torch.tensor(0)
    right = F.cross_entropy(student, targets) + ((3 - 10 / 3) ** 2 + (1 - 4 / 3) ** 2) / 2
    torch.testing.assert_close(sdv_loss(student, z, targets), right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_average_is_the_mean_of_every_parameter_rounded_once(dtype):
    """The classifier's too, and what is learned through it reaches all alike; a counter is the first model's."""
    draw = torch.Generator().manual_seed(0)
    for count in (1, 2, 5):
        w = [torch.randn(4, 3, generator=draw).to(dtype).requires_grad_() for _ in range(count)]
        states = [{"w": one, "classifier.bias": one[0] - 1e4 * k, "n": torch.tensor(k)} for k, one in enumerate(w)]
        found = average_parameters(states)
        assert list(found) == list(states[0]) and found["n"] == 0
        for name in ("w", "classifier.bias"):
            exact = np.mean([state[name].detach().double().numpy() for state in states], axis=0)
            assert found[name].dtype == dtype and torch.equal(found[name], torch.as_tensor(exact).to(dtype))
        found["w"].sum().backward()
        assert all(torch.equal(one.grad, torch.full((4, 3), 1 / count, dtype=dtype)) for one in w)


def test_models_of_any_device_have_an_average_on_that_of_the_first(gpu):
    """Summed on the CPU: not every GPU has float64."""
    gpu()
    one, other = torch.randn(3), torch.randn(3)
    found = average_parameters([{"w": one.cuda()}, {"w": other}])["w"]
    assert found.is_cuda and torch.equal(found.cpu(), ((one.double() + other.double()) / 2).float())


# ---------------------------------------------------------------- refusals


def test_nonsense_is_refused_in_one_sentence():
    z, targets, mask = example(3, (3, 4), 6)
    for call in (
        lambda: squared_error(z[0], z[1, ..., :5]),
        lambda: squared_error(z[0], z[1:]),
        lambda: squared_error(z[0], z[1], mask.T),
        lambda: squared_error(z[0], z[1], reduction="batchmean"),
        lambda: sda_loss(z[0], z[1:], targets),  # several teachers are SDV's
        lambda: sdv_loss(z[0], z[1], targets),  # which would average over the batch
        lambda: sda_loss(z[0], z[1], targets.T),
        lambda: sda_loss(z[0], z[1], targets, mask=mask.T),
        lambda: sda_loss(z[0], z[1], targets, epsilon=1.5),
        lambda: sda_loss(z[0], z[1], targets, convention="fairseq"),
        lambda: sda_loss(z[0], z[1], targets.index_fill(0, torch.tensor([0]), -100)),
        *(lambda w=w: sda_loss(z[0], z[1], targets, w) for w in (-0.1, math.nan, math.inf)),
        *(lambda w=w: sdv_loss(z[0], None, targets, w) for w in (-0.1, math.nan, math.inf)),
        lambda: average_parameters([]),
        lambda: average_parameters([{"w": torch.ones(2)}, {"w": torch.ones(3)}]),
        lambda: average_parameters([{"w": torch.ones(2)}, {"v": torch.ones(2)}]),
    ):
        with pytest.raises(UserError) as caught:
            call()
        one_sentence(caught.value)
