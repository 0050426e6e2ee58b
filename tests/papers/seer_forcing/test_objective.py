"""Seer Forcing's objective against a plain float64 oracle, its gradient routes, its wrong versions; L2, adversarial."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.papers.seer_forcing.objective import adversarial_losses, checked_weights, l2_loss, seer_loss
from tests import crafted
from tests.oracles import (
    REFUSED,
    Objective,
    ObjectiveBattery,
    assert_near,
    complex_step,
    entropy,
    evaluate,
    example,
    kl,
    run,
    seer_forcing,
)
from tests.tiny import one_sentence


def weighted(alpha: float, epsilon: float = 0.1, convention: str = "uniform") -> Objective:
    def call(z, targets, **options):
        return seer_loss(z, targets, alpha=alpha, epsilon=epsilon, convention=convention, **options)

    oracle = seer_forcing((alpha, 1.0, 1.0 - alpha), epsilon, convention)
    return Objective(f"alpha{alpha}_{convention}{epsilon}", 2, call, oracle, moved=0)


def free(*weights: float, epsilon: float = 0.1) -> Objective:
    def call(z, targets, **options):
        return seer_loss(z, targets, epsilon=epsilon, weights=weights, **options)

    return Objective(f"weights{weights}_{epsilon}", 2, call, seer_forcing(weights, epsilon), moved=0)


class TestBattery(ObjectiveBattery):
    """The equation in value and gradient for every reduction; padding; extremes; autocast; refusals."""

    @pytest.fixture(
        params=[
            weighted(0.0),
            weighted(0.25),
            weighted(0.5, 0.2, "others"),
            weighted(0.5, 0.0),
            weighted(1.0),
            free(1.0, 1.0, 0.5),
            free(0.3, 0.0, 2.0, epsilon=0.0),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param


def soft_part(z: Tensor, targets: Tensor, **options) -> Tensor:
    """What 1 - alpha multiplies."""
    return seer_loss(z, targets, weights=(0.0, 0.0, 1.0), **options)


# ---------------------------------------------------------------- the equation and what it reduces to


def test_half_the_labels_smoothed_by_a_tenth_is_the_default():
    z, targets, _ = example(2, (3, 4), 6)
    expected = evaluate(seer_forcing((0.5, 1.0, 0.5), 0.1), z, targets)
    for actual, right in zip(run(seer_loss, z, targets), expected, strict=True):
        assert_near(actual, right, 1e-9)


def test_the_closed_form_of_the_gradient():
    """A student's slope is p_c minus what it is asked for, the seer's p_s minus its labels: no T, no T^2."""
    z, targets, _ = example(2, (3, 4), 6)
    (p_c, p_s), labels = z.softmax(-1), F.one_hot(targets, 6)
    for alpha in (0.0, 0.25, 1.0):
        _, gradient = run(seer_loss, z, targets, alpha=alpha, epsilon=0.0, reduction="sum")
        student = p_c - alpha * labels - (1 - alpha) * p_s
        torch.testing.assert_close(gradient, torch.stack([student, p_s - labels]), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("epsilon, convention", [(0.0, "uniform"), (0.1, "uniform"), (0.1, "others")])
def test_with_alpha_1_it_is_exactly_two_cross_entropies(epsilon, convention):
    z, targets, mask = example(2, (3, 4), 6)
    smoothing = {"epsilon": epsilon, "convention": convention}
    value, gradient = run(seer_loss, z, targets, alpha=1.0, mask=mask, **smoothing)
    parts = [run(label_smoothed_nll, one, targets, mask=mask, **smoothing) for one in z]
    torch.testing.assert_close(value, parts[0][0] + parts[1][0], rtol=1e-14, atol=0)
    assert torch.equal(gradient, torch.stack([parts[0][1], parts[1][1]]))


def test_alpha_is_short_for_three_weights():
    z, targets, mask = example(2, (3, 4), 6)
    assert checked_weights(0.25) == (0.25, 1.0, 0.75)
    for alpha in (0.0, 0.25, 0.5, 1.0):
        named = run(seer_loss, z, targets, alpha=alpha, mask=mask)
        listed = run(seer_loss, z, targets, alpha=0.9, mask=mask, weights=[alpha, 1.0, 1.0 - alpha])
        assert all(torch.equal(one, other) for one, other in zip(named, listed, strict=True))


# ---------------------------------------------------------------- gradient routes


def test_no_term_reaches_the_decoder_that_it_does_not_train():
    z, targets, mask = example(2, (3, 4), 6)
    for weights, reached in (((1, 0, 0), [True, False]), ((0, 1, 0), [False, True]), ((0, 0, 1), [True, False])):
        for reduction in ("mean", "sum", "none"):
            _, gradient = run(seer_loss, z, targets, mask=mask, weights=weights, reduction=reduction)
            assert [bool(part.abs().max() > 1e-3) for part in gradient] == reached
            assert gradient[1 - reached.index(True)].abs().max() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_distillation_has_the_gradient_of_kl_to_a_fixed_seer(reduction):
    z, targets, mask = example(2, (3, 4), 6)
    value, (student, seer) = run(soft_part, z, targets, mask=mask, reduction=reduction)
    leaf = z[0].clone().requires_grad_()
    divergence = kl_divergence(z[1].detach(), leaf, mask=mask, reduction=reduction)
    divergence.backward()
    torch.testing.assert_close(student, leaf.grad, rtol=1e-12, atol=1e-15)
    assert seer.abs().max() == 0
    own = evaluate(lambda rows, _: entropy(rows[1]), z, mask=mask, reduction=reduction)[0]
    assert_near(value, divergence.detach() + own, 1e-9)  # the value has the seer's entropy in it
    right = evaluate(lambda rows, _: kl(rows[::-1]), z, mask=mask, reduction=reduction)[0]
    assert_near(divergence.detach(), right, 1e-9)


def test_distillation_knows_no_labels():
    z, targets, mask = example(2, (3, 4), 6)
    value, gradient = run(soft_part, z, targets, mask=mask)
    for options in ({"epsilon": 0.0}, {"epsilon": 0.5}, {"epsilon": 0.3, "convention": "others"}):
        again = run(soft_part, z, (targets + 1) % 6, mask=mask, **options)
        assert torch.equal(again[0], value) and torch.equal(again[1], gradient)


# ---------------------------------------------------------------- it must distil, one way


def test_where_the_decoders_agree_nothing_is_taught():
    z, targets, _ = example(2, (3, 4), 6)
    z[1, 1] = z[0, 1] + 3.0  # a constant on a row's logits is no disagreement
    value, gradient = run(soft_part, z, targets, reduction="none")
    assert gradient[:, 1].abs().max() < 1e-15 and (gradient[0, [0, 2]].abs().amax(-1) > 1e-3).all()
    assert (value[1] > 0.1).all()  # the seer's entropy


def test_the_student_reacts_to_the_seer_and_the_seer_not_to_the_student():
    z, targets, _ = example(2, (3, 4), 6)
    for moved in (0, 1):
        other = z.clone()
        other[moved] += torch.linspace(-1, 1, 6, dtype=torch.float64)
        for alpha in (0.0, 0.5, 1.0):
            before, after = (run(seer_loss, x, targets, alpha=alpha)[1][1 - moved] for x in (z, other))
            assert bool((before - after).abs().max() > 1e-3) == (moved == 1 and alpha < 1)


def test_descent_on_distillation_moves_the_student_to_the_seer():
    z, targets, _ = example(2, (3, 4), 6)
    seer, apart = z[1].clone(), []
    for _ in range(400):
        apart.append(float(kl_divergence(z[1], z[0], reduction="sum")))
        z = z - 1.0 * run(soft_part, z, targets, reduction="sum")[1]
    assert all(later < earlier for earlier, later in zip(apart, apart[1:], strict=False))
    assert apart[-1] < 0.01 * apart[0] and torch.equal(z[1], seer)


# ---------------------------------------------------------------- wrong versions are told apart


def nll(z: Tensor, targets: Tensor, epsilon: float = 0.1) -> Tensor:
    log_p = z.log_softmax(-1)
    return -(1 - epsilon) * log_p.gather(-1, targets[..., None])[..., 0] - epsilon / z.shape[-1] * log_p.sum(-1)


def soft(p: Tensor, q: Tensor, temperature: float = 1.0) -> Tensor:
    return -((p / temperature).softmax(-1) * (q / temperature).log_softmax(-1)).sum(-1)


def mean(each: Tensor, mask: Tensor) -> Tensor:
    return each[mask].sum() / mask.sum()


def combined(z, t, m, kd=lambda z: soft(z[1].detach(), z[0]), weights=(0.25, 1.0, 0.75), ce=nll) -> Tensor:
    """The objective at alpha 0.25, with something else in the place of the distillation, the weights or the CE."""
    a, b, c = weights
    return mean(a * ce(z[0], t) + b * ce(z[1], t) + c * kd(z), m)


def others_smoothed(z: Tensor, t: Tensor) -> Tensor:
    wrong, log_p = 0.1 / (z.shape[-1] - 1), z.log_softmax(-1)
    return -(0.9 - wrong) * log_p.gather(-1, t[..., None])[..., 0] - wrong * log_p.sum(-1)


def smoothed_seer(z: Tensor) -> Tensor:
    return -((0.9 * z[1].detach().softmax(-1) + 0.1 / z.shape[-1]) * z[0].log_softmax(-1)).sum(-1)


WRONG = {  # arguments of `combined`, or a function
    "seer not detached": {"kd": lambda z: soft(z[1], z[0])},
    "student detached": {"kd": lambda z: soft(z[1], z[0].detach())},
    "student teaches": {"kd": lambda z: soft(z[0].detach(), z[1])},
    "reversed": {"kd": lambda z: soft(z[0], z[1].detach())},
    "KL, not cross-entropy": {"kd": lambda z: soft(z[1].detach(), z[0]) - soft(z[1], z[1]).detach()},
    "temperature 2": {"kd": lambda z: soft(z[1].detach(), z[0], 2.0)},
    "temperature 2, squared": {"kd": lambda z: 4 * soft(z[1].detach(), z[0], 2.0)},
    "mean over the vocabulary": {"kd": lambda z: soft(z[1].detach(), z[0]) / z.shape[-1]},
    "soft targets smoothed": {"kd": smoothed_seer},
    "smoothing left out": {"ce": lambda z, t: nll(z, t, 0.0)},
    "the other smoothing": {"ce": others_smoothed},
    "alpha and 1 - alpha swapped": {"weights": (0.75, 1.0, 0.25)},
    "alpha on the seer's labels": {"weights": (1.0, 0.25, 0.75)},
    "alpha on both labels": {"weights": (0.25, 0.25, 0.75)},
    "labels in full": {"weights": (1.0, 1.0, 0.75)},
    "seer's labels left out": {"weights": (0.25, 0.0, 0.75)},
    "distillation in full": {"weights": (0.25, 1.0, 1.0)},
    "distillation subtracted": {"weights": (0.25, 1.0, -0.75)},
    "decoders swapped": lambda z, t, m: combined(z.flip(0), t, m),
    "mean over padding too": lambda z, t, m: combined(z, t, m) * m.sum() / m.numel(),
    "mean over both decoders": lambda z, t, m: combined(z, t, m) / 2,
    "distillation of padding": lambda z, t, m: (
        combined(z, t, m, weights=(0.25, 1.0, 0.0)) + 0.75 * soft(z[1].detach(), z[0]).sum() / m.sum()
    ),
}


def matches(function) -> bool:
    """Whether value and gradient of function(z, targets, mask) are those of the equation on one crafted batch."""
    return crafted.matches(function, seer_forcing((0.25, 1.0, 0.75), 0.1))


def test_ours_is_the_equation_on_the_batch_that_tells_wrong_ones():
    assert matches(lambda z, t, m: seer_loss(z, t, alpha=0.25, mask=m))
    assert matches(combined)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_told_apart(name):
    wrong = WRONG[name]
    assert not matches(wrong if callable(wrong) else lambda z, t, m: combined(z, t, m, **wrong))


# ---------------------------------------------------------------- pieces, precision, edges


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (3, 4), (5,)])
def test_one_batch_is_its_accumulated_pieces(cuts):
    """Sums over unequal pieces, one of them all padding, over the count of the whole."""
    z, targets, _ = example(2, (6, 7), 5)
    mask = torch.arange(7)[None] < torch.tensor([7, 1, 4, 0, 6, 2])[:, None]
    whole, expected = run(seer_loss, z, targets, alpha=0.25, mask=mask)
    edges, value, gradient = [0, *cuts, 6], 0.0, torch.zeros_like(z)
    for rows in (slice(*pair) for pair in zip(edges, edges[1:], strict=False)):
        part, slope = run(seer_loss, z[:, rows], targets[rows], alpha=0.25, mask=mask[rows], reduction="sum")
        value, gradient[:, rows] = value + part / mask.sum(), slope / mask.sum()
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)


def test_a_probability_that_underflows_is_no_infinity():
    """The released code takes log(softmax) of the seer, which is -inf here."""
    z = torch.tensor([[[0.0, -300.0, 5.0]], [[-200.0, 0.0, -400.0]]])
    value, gradient = run(seer_loss, z, torch.tensor([2]), alpha=0.5)
    expected, right = evaluate(seer_forcing((0.5, 1.0, 0.5), 0.1), z, torch.tensor([2]))
    assert_near(value, expected, 1e-5)
    assert_near(gradient, right, 1e-5)


@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_one_class_leaves_nothing_to_learn(convention):
    z, targets, _ = example(2, (3, 4), 1)
    value, gradient = run(seer_loss, z, targets, convention=convention)
    assert abs(value) < 1e-15 and gradient.abs().max() < 1e-15


@pytest.mark.parametrize("shape", [(1, 3, 4, 6), (3, 3, 4, 6), (3, 4, 6), (2, 4, 3, 6), (2, 12, 6), (2, 3, 4, 1, 6)])
def test_logits_that_are_not_two_sets_are_refused(shape):
    with pytest.raises(UserError, match="two decoders") as caught:
        seer_loss(torch.randn(shape), torch.zeros(3, 4, dtype=torch.long))
    assert str(shape) in one_sentence(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"alpha": alpha} for alpha in (-0.1, 1.1, float("nan"), float("inf"))),
        *({"weights": weights} for weights in ((1, 1), (1, 1, 1, 1), (-1, 1, 1), (1, 1, -0.5), (1, float("nan"), 1))),
        *({"epsilon": epsilon} for epsilon in (-0.1, 1.0, 1.5)),
        {"convention": "fairseq"},
    ],
    ids=str,
)
def test_weights_and_smoothing_that_mean_nothing_are_one_sentence(options):
    z, targets, _ = example(2, (3, 4), 6)
    with pytest.raises(UserError) as caught:
        seer_loss(z, targets, **options)
    one_sentence(caught.value)


def test_targets_outside_the_vocabulary_are_refused_where_they_count():
    z, targets, mask = example(2, (3, 4), 6)
    for wrong in (-100, 6):
        targets[0, 0], mask[0, 0] = wrong, True
        for alpha in (0.0, 0.5):
            with pytest.raises(REFUSED):
                seer_loss(z, targets, alpha=alpha, mask=mask)


# ---------------------------------------------------------------- the alternatives: L2


def states(*places: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*places, width, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2))


def reduced(each: np.ndarray, reduction: str) -> Tensor:
    return torch.as_tensor({"none": each, "sum": each.sum(), "mean": each.sum() / max(each.size, 1)}[reduction])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("places", [(5,), (2, 3), (), (0,)])
def test_l2_is_the_mean_square_over_the_width_and_moves_the_student_only(places, reduction):
    student, seer = states(*places)
    h_c, h_s = student.detach().numpy(), seer.detach().numpy()
    value = l2_loss(student, seer, reduction=reduction)
    torch.testing.assert_close(value.detach(), reduced(((h_c - h_s) ** 2).sum(-1) / 8, reduction), rtol=1e-12, atol=0)
    value.sum().backward()
    share = 1 / max(h_c[..., 0].size, 1) if reduction == "mean" else 1.0
    torch.testing.assert_close(student.grad, torch.as_tensor(2 * (h_c - h_s) / 8 * share), rtol=1e-12, atol=1e-16)
    assert seer.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_l2_of_half_precision_is_computed_in_float32(dtype):
    student, seer = (300 * hidden.detach().to(dtype) for hidden in states(4))  # squares that float16 cannot hold
    leaf = student.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        value = l2_loss(leaf, seer)
    torch.testing.assert_close(value, l2_loss(student.float(), seer.float()))
    assert value.dtype == torch.float32 and value.isfinite()
    value.backward()
    assert leaf.grad.dtype == dtype and leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0


# ---------------------------------------------------------------- the alternatives: adversarial


def judge(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def judged(network: nn.Module, hidden: np.ndarray) -> np.ndarray:
    (first, bias), (second, last) = (
        [tensor.detach().numpy() for tensor in layer.parameters()] for layer in (network[0], network[2])
    )
    return (np.tanh(hidden @ first.T + bias) @ second.T + last)[..., 0]


def minus_log_d(logit: np.ndarray) -> np.ndarray:
    return np.log(1 + np.exp(-logit))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("places", [(5,), (2, 3), (0,)])
def test_fooling_and_telling_are_the_non_saturating_game(places, reduction):
    network, (student, seer) = judge(), states(*places)
    d_c, d_s = (judged(network, hidden.detach().numpy()) for hidden in (student, seer))
    fooling, telling = adversarial_losses(network, student, seer, reduction=reduction)
    right = (minus_log_d(d_c), minus_log_d(d_s) + minus_log_d(-d_c))  # 1 - D(h) = sigmoid(-logit)
    for actual, each in zip((fooling, telling), right, strict=True):
        torch.testing.assert_close(actual.detach(), reduced(each, reduction), rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_game_is_played_in_half_precision(dtype):
    network, (student, seer) = judge().float(), (hidden.detach().to(dtype) for hidden in states(5))
    leaf = student.clone().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        losses = adversarial_losses(network, leaf, seer)
    for loss, exact in zip(losses, adversarial_losses(network, student.float(), seer.float()), strict=True):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    sum(losses).backward()
    assert leaf.grad.dtype == dtype and leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0
    with torch.no_grad():
        network[2].bias += 1e4  # sure of itself: log(1 - D) must not become log 0
    assert all(loss.isfinite() for loss in adversarial_losses(network, student.float(), seer.float()))


def test_an_unknown_reduction_is_one_sentence():
    for call in (
        lambda: l2_loss(*states(3), reduction="batchmean"),
        lambda: adversarial_losses(judge(), *states(3), reduction=None),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "mean, sum, none" in one_sentence(caught.value)


def test_fooling_moves_the_student_only_and_telling_the_discriminator_only():
    network, (student, seer) = judge(), states(5)
    before, weights = copy.deepcopy(network.state_dict()), list(network.parameters())
    fooling, telling = adversarial_losses(network, student, seer)
    fooling.backward(retain_graph=True)
    assert seer.grad is None and all(weight.grad is None for weight in weights)

    def fooled(hidden: np.ndarray):
        return minus_log_d(judged(network, hidden)).mean()

    right = torch.as_tensor(complex_step(fooled, student.detach().numpy()))
    torch.testing.assert_close(student.grad, right, rtol=1e-10, atol=1e-13)
    kept = student.grad.clone()
    telling.backward()
    assert torch.equal(student.grad, kept) and seer.grad is None
    by_hand = F.softplus(-network(seer.detach())) + F.softplus(network(student.detach()))
    for weight, slope in zip(weights, torch.autograd.grad(by_hand.mean(), weights), strict=True):
        assert slope.abs().max() > 1e-3
        torch.testing.assert_close(weight.grad, slope, rtol=1e-10, atol=1e-13)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
