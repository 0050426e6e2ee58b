"""Intra-Distillation's objective against a plain float64 oracle, what it reduces to, its wrong versions, its traps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kdutils.losses.divergences import js_divergence, symmetric_kl, x_divergence
from kdutils.papers.intra_distillation.objective import (
    adaptive_alpha,
    fair_alpha,
    intra_distillation_loss,
    intra_distillation_regression,
)
from kdutils.papers.r_drop.objective import r_drop_loss
from tests.oracles import (
    REFUSED,
    Objective,
    ObjectiveBattery,
    assert_near,
    evaluate,
    example,
    js,
    run,
    smoothed_nll,
    x_of_covariances,
    x_of_pairs,
    x_to_the_mean,
)
from tests.tiny import one_sentence

MEASURES = {"x": x_to_the_mean, "js": js, "pairs": lambda z, target: x_of_pairs(z)}


def total(alpha: float, epsilon: float = 0.0, convention: str = "uniform", divergence: str = "x"):
    """The paper's total at one position: the mean over the passes of their cross-entropies, plus alpha times L_id."""
    nll, apart = smoothed_nll(epsilon, convention), MEASURES[divergence]

    def loss(z: np.ndarray, target: int):
        return sum(nll(z[k : k + 1], target) for k in range(len(z))) / len(z) + alpha * apart(z, target)

    return loss


def weighted(alpha: float, passes: int, epsilon: float = 0.0, convention: str = "uniform", divergence: str = "x"):
    options = {"alpha": alpha, "epsilon": epsilon, "convention": convention, "divergence": divergence}
    return Objective(
        f"{divergence}_alpha{alpha}_{convention}{epsilon}_K{passes}",
        passes,
        lambda z, targets, **more: intra_distillation_loss(z, targets, **options, **more),
        total(**options),
    )


class TestBattery(ObjectiveBattery):
    """The total in value and gradient for every reduction; padding; extremes; autocast; refusals."""

    @pytest.fixture(
        params=[
            weighted(5.0, 3),
            weighted(0.0, 3),
            weighted(0.7, 2, 0.1, "others"),
            weighted(5.0, 4, 0.1, "others"),
            weighted(5.0, 3, divergence="js"),
            weighted(5.0, 3, 0.1, "others", "pairs"),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param


def apart(z: Tensor, targets: Tensor, divergence: str = "x", **options) -> Tensor:
    """What alpha multiplies."""
    with_it, without = (
        intra_distillation_loss(z, targets, alpha=alpha, divergence=divergence, **options) for alpha in (1.0, 0.0)
    )
    return with_it - without


# ---------------------------------------------------------------- the equation and what it reduces to


def official(z: Tensor, targets: Tensor, mask: Tensor, alpha: float) -> Tensor:
    """The sum over tokens as the paper's equation has it, from probabilities: bidirectional, to their mean."""
    p = z.softmax(-1)
    mean = p.mean(0)
    l_id = sum(((one - mean) * (one.log() - mean.log()))[mask].sum() for one in p) / len(p)
    nll = sum(F.nll_loss(one.log_softmax(-1)[mask], targets[mask], reduction="sum") for one in z) / len(z)
    return nll + alpha * l_id


@pytest.mark.parametrize("passes", [2, 3, 5])
def test_the_total_written_out_with_torch(passes):
    z, targets, mask = example(passes, (3, 4), 6)
    for alpha in (0.0, 0.5, 5.0):
        leaf = z.clone().requires_grad_()
        expected = official(leaf, targets, mask, alpha)
        expected.backward()
        value, gradient = run(intra_distillation_loss, z, targets, alpha=alpha, mask=mask, reduction="sum")
        torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-10, atol=1e-13)


def test_the_papers_weight_is_the_default():
    z, targets, _ = example(3, (3, 4), 6)
    for actual, right in zip(run(intra_distillation_loss, z, targets), evaluate(total(5.0), z, targets), strict=True):
        assert_near(actual, right, 1e-9)


@pytest.mark.parametrize("passes", [2, 3, 4])
def test_the_closed_form_of_value_and_gradient(passes):
    """X = sum_v Cov_k(p_k(v), z_k(v)) on raw logits, and (1/K) [(p_k - mean) + p_k (d_k - <p_k, d_k>)]."""
    z, targets, _ = example(passes, (3, 4), 6)
    value, gradient = run(apart, z, targets, reduction="none")
    p, d = z.softmax(-1), z - z.mean(0)
    torch.testing.assert_close(value, ((p - p.mean(0)) * d).mean(0).sum(-1), rtol=1e-10, atol=1e-13)
    by_hand = ((p - p.mean(0)) + p * (d - (p * d).sum(-1, keepdim=True))) / passes
    torch.testing.assert_close(gradient, by_hand, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("passes", [2, 3, 4, 5])
def test_x_is_all_pairs_over_k_squared_and_the_covariance(passes):
    z, targets, _ = example(passes, (2, 3), 5, seed=passes)
    value, gradient = run(apart, z, targets, reduction="none")
    explicit, its_gradient = run(apart, z, targets, divergence="pairs", reduction="none")
    torch.testing.assert_close(value, explicit, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-9, atol=1e-13)
    pairs = [(i, j) for i in range(passes) for j in range(i)]
    both = sum(2 * symmetric_kl(z[i], z[j], reduction="none") for i, j in pairs)
    torch.testing.assert_close(value, both / passes**2, rtol=1e-11, atol=1e-13)
    for place in np.ndindex(2, 3):
        here = z[(slice(None), *place)].numpy()
        for oracle in (x_of_covariances, x_of_pairs, x_to_the_mean):
            assert float(value[place]) == pytest.approx(oracle(here), rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("epsilon, convention", [(0.0, "uniform"), (0.1, "uniform"), (0.1, "others")])
def test_two_passes_are_half_of_r_drop_to_the_last_bit(epsilon, convention, dtype):
    z, targets, mask = example(2, (3, 4), 6)
    options = {"epsilon": epsilon, "convention": convention, "mask": mask}
    for alpha in (0.0, 0.7, 5.0):
        for reduction in ("mean", "sum", "none"):
            ours, theirs = (
                run(loss, z.to(dtype), targets, alpha=alpha, reduction=reduction, **options)
                for loss in (intra_distillation_loss, r_drop_loss)
            )
            for half, whole in zip(ours, theirs, strict=True):
                assert torch.equal(2 * half, whole)


@pytest.mark.parametrize("passes", [2, 3, 5])
@pytest.mark.parametrize("divergence", MEASURES)
def test_identical_passes_are_the_plain_cross_entropy(divergence, passes):
    (one,), targets, mask = example(1, (3, 4), 6)
    stacked = torch.stack([one] * passes)
    alone = run(intra_distillation_loss, stacked, targets, alpha=0.0, mask=mask)
    together = run(intra_distillation_loss, stacked, targets, alpha=1000.0, mask=mask, divergence=divergence)
    exact = {"rtol": 0, "atol": 0} if divergence != "js" else {"rtol": 1e-10, "atol": 1e-12}  # js sums logarithms
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, **exact)
    torch.testing.assert_close(
        alone[0], F.cross_entropy(one[mask], targets[mask]), rtol=1e-12, atol=0
    )  # the mean over the passes, not their sum


def test_alpha_zero_is_the_mean_of_the_cross_entropies():
    z, targets, mask = example(3, (3, 4), 6)
    value, gradient = run(intra_distillation_loss, z, targets, alpha=0.0, mask=mask, epsilon=0.1, convention="others")
    parts = [evaluate(smoothed_nll(0.1, "others"), z[k : k + 1], targets, mask) for k in range(3)]
    assert_near(value, sum(part[0] for part in parts) / 3, 1e-9)
    assert_near(gradient, torch.cat([part[1] for part in parts]) / 3, 1e-9)


def test_smoothing_touches_the_cross_entropy_only():
    z, targets, mask = example(3, (3, 4), 6)
    expected = evaluate(x_to_the_mean, z, targets, mask)
    for epsilon, convention in ((0.0, "uniform"), (0.3, "uniform"), (0.3, "others")):
        ours = run(apart, z, targets, mask=mask, epsilon=epsilon, convention=convention)
        for actual, right in zip(ours, expected, strict=True):
            assert_near(actual, right, 1e-9)


def test_x_is_larger_than_js_and_twice_it_where_the_passes_hardly_differ():
    z, targets, _ = example(3, (40,), 6)
    assert (x_divergence(z, reduction="none") > js_divergence(z, reduction="none")).all()
    close = z[:1] + 1e-3 * (z - z[:1])
    ratio = apart(close, targets, reduction="sum") / apart(close, targets, divergence="js", reduction="sum")
    assert ratio.item() == pytest.approx(2.0, abs=0.01)


def test_fair_alpha_holds_any_number_of_passes_as_strongly_as_two():
    """Over independent passes X grows as (K - 1)/K: measured on draws, and divided out by fair_alpha."""
    draw = torch.Generator().manual_seed(5)
    strengths = []
    for passes in (2, 3, 4, 8):
        z = torch.randn(passes, 20_000, 4, generator=draw, dtype=torch.float64)
        strengths.append(fair_alpha(5.0, passes) * x_divergence(z).item())
    assert strengths == pytest.approx([strengths[0]] * 4, rel=0.02)
    assert [fair_alpha(5.0, k) for k in (2, 3, 4)] == pytest.approx([5.0, 3.75, 10 / 3])
    with pytest.raises(REFUSED):
        fair_alpha(5.0, 1)


# ---------------------------------------------------------------- every pass learns from every other


@pytest.mark.parametrize("divergence", MEASURES)
def test_each_pass_reacts_to_the_others(divergence):
    z, targets, _ = example(3, (3, 4), 6)
    for moved in range(3):
        other = z.clone()
        other[moved] += torch.linspace(-1, 1, 6, dtype=torch.float64)
        for still in {0, 1, 2} - {moved}:
            for alpha in (0.0, 5.0):
                before, after = (
                    run(intra_distillation_loss, x, targets, alpha=alpha, divergence=divergence)[1][still]
                    for x in (z, other)
                )
                assert ((before - after).abs().max() > 1e-4) == (alpha > 0)


def test_descent_on_the_divergence_brings_all_passes_together():
    start, targets, _ = example(3, (3, 4), 6)
    z, distances = start.clone(), []
    for _ in range(60):
        value, gradient = run(apart, z, targets, reduction="sum")
        distances.append(value.item())
        z = z - 0.5 * gradient
    assert all(later < earlier for earlier, later in zip(distances, distances[1:], strict=False))
    assert distances[-1] < 0.05 * distances[0]
    assert ((z - start).abs().amax(-1) > 1e-3).all()  # every pass, at every position


# ---------------------------------------------------------------- finite where the official code is not


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_a_probability_that_underflows_is_no_trap(kind):
    """The official form takes the logarithm of float32 probabilities: NaN; ours is right, under autocast too."""
    z = torch.zeros(3, 2, 4)
    z[:, :, 0] = torch.tensor([150.0, 130.0, 120.0])[:, None]
    z, targets, mask = z.to(kind), torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.bool)
    assert official(z.float(), targets, mask, 5.0).isnan()
    expected, _ = evaluate(total(5.0), z, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = run(intra_distillation_loss, z, targets)
    assert value.isfinite() and gradient.isfinite().all() and gradient.dtype == kind
    assert_near(value, expected, 1e-5)
    apart_by_far = torch.tensor([[[400.0, 0.0]], [[0.0, 400.0]], [[0.0, 0.0]]]).to(kind)
    value, gradient = run(intra_distillation_loss, apart_by_far, torch.zeros(1, dtype=torch.long))
    expected, slopes = evaluate(total(5.0), apart_by_far, torch.zeros(1, dtype=torch.long))
    assert_near(value, expected, 1e-5)
    assert_near(gradient, slopes, 2e-2 if kind is torch.bfloat16 else 2e-3)


# ---------------------------------------------------------------- wrong versions are told apart


def mean(each: Tensor, mask: Tensor) -> Tensor:
    return each[mask].sum() / mask.sum()


def nlls(z: Tensor, targets: Tensor) -> Tensor:
    """-log p_k(y) of every pass, (K, ...)."""
    index = targets.expand(len(z), *targets.shape)[..., None]
    return -z.log_softmax(-1).gather(-1, index)[..., 0]


def to_mean(z: Tensor, middle=lambda p: p.mean(0)) -> Tensor:
    """KL(p_k || m) + KL(m || p_k) of every pass, (K, ...)."""
    p = z.softmax(-1)
    m = middle(p)
    return ((p - m) * (p.log() - m.log())).sum(-1)


def one_way(z: Tensor) -> Tensor:
    p = z.softmax(-1)
    return (p * (p.log() - p.mean(0).log())).sum(-1)


def smoothed(z: Tensor, epsilon: float = 0.1) -> Tensor:
    return ((1 - epsilon) * z.softmax(-1) + epsilon / z.shape[-1]).log()


WRONG = {  # (z, targets, mask) with alpha 5, reduction "mean"
    "cross-entropies added up": lambda z, t, m: mean(nlls(z, t).sum(0) + 5 * to_mean(z).mean(0), m),
    "divergences added up": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(z).sum(0), m),
    "cross-entropy of one pass": lambda z, t, m: mean(nlls(z, t)[0] + 5 * to_mean(z).mean(0), m),
    "one direction": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * one_way(z).mean(0), m),
    "halved": lambda z, t, m: mean(nlls(z, t).mean(0) + 2.5 * to_mean(z).mean(0), m),
    "mean detached": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(z, lambda p: p.mean(0).detach()).mean(0), m),
    "divergence summed over the batch": lambda z, t, m: mean(nlls(z, t).mean(0), m) + 5 * to_mean(z).mean(0)[m].sum(),
    "divergence of padding": lambda z, t, m: mean(nlls(z, t).mean(0), m) + 5 * to_mean(z).mean(0).sum() / m.sum(),
    "mean over padding too": lambda z, t, m: ((nlls(z, t).mean(0) + 5 * to_mean(z).mean(0)) * m).mean(),
    "divided by all passes": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(z).mean(0), m) / 3,
    "of smoothed": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(smoothed(z)).mean(0), m),
    "mean over the vocabulary": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(z).mean(0) / z.shape[-1], m),
    "pairs averaged": lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * 1.5 * to_mean(z).mean(0), m),
    "subtracted": lambda z, t, m: mean(nlls(z, t).mean(0) - 5 * to_mean(z).mean(0), m),
}


def matches(function) -> bool:
    """Whether value and gradient of function(z, targets, mask) are the oracle's on a batch of three passes."""
    z, targets, mask = example(3, (3, 4), 6, seed=21)
    expected = evaluate(total(5.0), z, targets, mask)
    leaf = z.clone().requires_grad_()
    value = function(leaf, targets, mask)
    value.backward()
    return all(
        torch.allclose(actual, right, rtol=1e-9, atol=1e-12)
        for actual, right in zip((value.detach(), leaf.grad), expected, strict=True)
    )


def test_ours_is_the_equation_on_the_batch_that_tells_wrong_ones():
    assert matches(lambda z, t, m: intra_distillation_loss(z, t, alpha=5.0, mask=m))
    assert matches(lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(z).mean(0), m))


def test_any_mean_has_the_same_value_when_the_gradient_flows_through_it():
    """The logarithm of the mean cancels: the normalised geometric mean is as good; a detached one is not."""
    geometric = lambda p: p.log().mean(0).softmax(-1)  # noqa: E731
    assert matches(lambda z, t, m: mean(nlls(z, t).mean(0) + 5 * to_mean(z, geometric).mean(0), m))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_told_apart(name):
    assert not matches(WRONG[name])


# ---------------------------------------------------------------- pieces, refusals


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (3, 4)])
def test_one_batch_is_its_accumulated_pieces(cuts):
    """Sums over unequal pieces, one of them all padding, over the count of the whole: alpha is unchanged."""
    z, targets, mask = example(3, (6, 7), 5, seed=3)
    mask[3] = False
    options = {"alpha": 5.0, "epsilon": 0.1, "convention": "others"}
    value, gradient = run(intra_distillation_loss, z, targets, mask=mask, **options)
    edges = [0, *cuts, 6]
    pieces = [
        run(intra_distillation_loss, z[:, a:b], targets[a:b], mask=mask[a:b], reduction="sum", **options)
        for a, b in zip(edges, edges[1:], strict=False)
    ]
    torch.testing.assert_close(sum(piece[0] for piece in pieces) / mask.sum(), value, rtol=1e-12, atol=0)
    together = torch.cat([piece[1] for piece in pieces], dim=1) / mask.sum()
    torch.testing.assert_close(together, gradient, rtol=1e-10, atol=1e-14)


def test_nonsense_is_refused_in_one_sentence():
    z, targets, mask = example(3, (3, 4), 6)
    for call in (
        lambda: intra_distillation_loss(z[:1], targets),
        lambda: intra_distillation_loss(z, targets, divergence="kl"),
        lambda: intra_distillation_loss(z, targets.T),
        lambda: intra_distillation_loss(z, targets, epsilon=1.5),
        lambda: intra_distillation_loss(z, targets, convention="fairseq"),
        lambda: intra_distillation_loss(z, targets.index_fill(0, torch.tensor([0]), -100)),
        lambda: intra_distillation_regression(z[:1, ..., 0], targets),
        lambda: intra_distillation_regression(z, targets),
        lambda: intra_distillation_regression(z[..., 0], targets, mask=mask.T),
        lambda: intra_distillation_regression(z[..., 0], targets, reduction="batchmean"),
    ):
        with pytest.raises(REFUSED) as caught:
            call()
        one_sentence(caught.value)


# ---------------------------------------------------------------- regression


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("passes", [2, 3])
def test_regression_is_its_equation(passes, reduction):
    z, _, mask = example(passes, (3, 4), 6)
    predictions, targets = z[..., 0], z[0, ..., 1]
    for counted in (None, mask):
        value, gradient = run(
            intra_distillation_regression, predictions, targets, alpha=0.7, mask=counted, reduction=reduction
        )
        y, kept = predictions.numpy(), np.ones((3, 4), bool) if counted is None else mask.numpy()
        each = ((y - targets.numpy()) ** 2).mean(0) + 0.7 * y.var(axis=0)
        slopes = 2 * ((y - targets.numpy()) + 0.7 * (y - y.mean(0))) / passes * kept
        share = 1 / kept.sum() if reduction == "mean" else 1.0
        right = each * kept if reduction == "none" else (each * kept).sum() * share
        assert_near(value, torch.as_tensor(right), 1e-10)
        assert_near(gradient, torch.as_tensor(slopes * share), 1e-10)


def test_regression_gradients_by_finite_differences():
    predictions = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randn(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda y: intra_distillation_regression(y, targets, 0.5), (predictions,))


def test_regression_padding_emptiness_agreement_and_precision():
    z, _, mask = example(3, (3, 4), 6)
    predictions, targets = z[..., 0].float(), z[0, ..., 1].float()
    clean = run(intra_distillation_regression, predictions, targets, mask=mask)
    for garbage in (float("nan"), float("inf")):
        dirty = predictions.masked_fill(~mask, garbage)
        for actual, right in zip(
            run(intra_distillation_regression, dirty, targets.masked_fill(~mask, garbage), mask=mask),
            clean,
            strict=True,
        ):
            assert torch.equal(actual, right)
    for reduction in ("mean", "sum", "none"):
        nothing = run(
            intra_distillation_regression, predictions * float("nan"), targets, mask=mask & False, reduction=reduction
        )
        assert not any(one.any() for one in nothing) and not any(one.isnan().any() for one in nothing)
    same = predictions[:1].expand(3, -1, -1)
    plain, taught = (run(intra_distillation_regression, same, targets, alpha=alpha) for alpha in (0.0, 1000.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, taught, strict=True))
    torch.testing.assert_close(plain[0], F.mse_loss(same[0], targets))
    for kind in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=kind):
            value, gradient = run(intra_distillation_regression, predictions.to(kind), targets)
        assert value.dtype == torch.float32 and gradient.dtype == kind
        exact = intra_distillation_regression(predictions.to(kind).double(), targets.double())
        assert_near(value, exact, 1e-5)
    assert intra_distillation_regression(torch.tensor([1.0, 3.0]), torch.tensor(2.0), alpha=2.0) == 3.0


# ---------------------------------------------------------------- the weight over the updates


def test_adaptive_alpha_by_hand():
    """alpha 4, p 2, q 4, N 400: gamma = ln(1/4) / ln(1/2) = 2, so 4 (x / 200)^2 up to x = 200."""
    found = [adaptive_alpha(x, 400, alpha=4.0, p=2.0, q=4.0) for x in (0, 1, 50, 100, 150, 199, 200, 300, 399, 400)]
    by_hand = [0.0, 0.0001, 0.25, 1.0, 2.25, 3.9601, 4.0, 4.0, 4.0, 4.0]
    assert found == pytest.approx(by_hand, rel=1e-12)


def test_adaptive_alpha_of_the_papers_translation():
    """It is 0 at the first update, 1 at N/q, alpha from N/p on; the last two exactly where the script has them."""
    assert adaptive_alpha(0, 50_000) == 0.0
    assert adaptive_alpha(5_000, 50_000) == pytest.approx(1.0, rel=1e-12)
    assert adaptive_alpha(10_000, 50_000) == adaptive_alpha(49_999, 50_000) == 5.0
    gamma = math.log(1 / 5) / math.log(5 / 10)
    for x in (1, 77, 2_500, 9_999):
        assert adaptive_alpha(x, 50_000) == pytest.approx(5.0**gamma * 5.0 * x**gamma / 50_000**gamma, rel=1e-12)
    rising = [adaptive_alpha(x, 50_000) for x in range(0, 10_001, 500)]
    assert all(a < b for a, b in zip(rising, rising[1:], strict=False))


def test_an_alpha_of_at_most_one_is_constant():
    for alpha in (0.0, 0.5, 1.0):
        assert [adaptive_alpha(x, 100, alpha, p=6.67, q=10.0) for x in (0, 1, 50, 100)] == [alpha] * 4
    assert adaptive_alpha(0, 100, 1.0001, p=6.67, q=10.0) == 0.0


def test_a_gamma_of_ones_own():
    assert [adaptive_alpha(x, 100, 5.0, 2.0, 3.0, gamma=1.0) for x in (0, 10, 25, 50)] == pytest.approx([0, 1, 2.5, 5])
    assert adaptive_alpha(0, 100, 5.0, gamma=0.0) == 5.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"p": 10.0, "q": 5.0},
        {"p": 5.0, "q": 5.0},
        {"p": 0.0},
        {"p": -1.0},
        {"q": math.inf},
        {"p": math.nan},
        {"gamma": -1.0},
        {"gamma": math.nan},
        {"alpha": -1.0},
        {"alpha": math.nan},
        {"alpha": math.inf},
        {"update": -1},
        {"total": 0},
    ],
)
def test_a_weight_that_means_nothing_is_refused(wrong):
    with pytest.raises(REFUSED) as caught:
        adaptive_alpha(**{"update": 1, "total": 10, **wrong})
    one_sentence(caught.value)
