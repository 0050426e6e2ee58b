"""R-Drop's objective, Eq. 4, against a plain float64 oracle, its limits, its wrong versions and its traps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdutils.papers.r_drop.objective import k_step, r_drop_loss
from tests.crafted import matches
from tests.oracles import (
    REFUSED,
    Objective,
    ObjectiveBattery,
    assert_near,
    evaluate,
    example,
    r_drop,
    run,
    smoothed_nll,
    symmetric,
)


def weighted(alpha: float, epsilon: float = 0.0, convention: str = "uniform", passes: int = 2) -> Objective:
    def call(z, targets, **options):
        return r_drop_loss(z, targets, alpha=alpha, epsilon=epsilon, convention=convention, **options)

    return Objective(f"alpha{alpha}_{convention}{epsilon}_M{passes}", passes, call, r_drop(alpha, epsilon, convention))


class TestBattery(ObjectiveBattery):
    """Eq. 4 in value and gradient for every reduction; padding; extremes; autocast; refusals."""

    @pytest.fixture(
        params=[
            weighted(5.0),
            weighted(0.0),
            weighted(0.7, 0.1),
            weighted(5.0, 0.2, "others"),
            weighted(3.0, 0.1, passes=3),
        ],
        ids=str,
    )
    def objective(self, request):
        return request.param


def kl_part(z: Tensor, targets: Tensor, **options) -> Tensor:
    """What alpha multiplies."""
    return r_drop_loss(z, targets, alpha=1.0, **options) - r_drop_loss(z, targets, alpha=0.0, **options)


# ---------------------------------------------------------------- the equation and what it reduces to


def test_equation_4_written_out_with_torch():
    z, targets, mask = example(2, (3, 4), 6)
    log_p, log_q = z.log_softmax(-1)
    nll = sum(F.nll_loss(part[mask], targets[mask], reduction="sum") for part in (log_p, log_q))
    there = F.kl_div(log_q[mask], log_p[mask], log_target=True, reduction="sum")
    back = F.kl_div(log_p[mask], log_q[mask], log_target=True, reduction="sum")
    for alpha in (0.0, 0.7, 5.0):
        expected = nll + alpha / 2 * (there + back)
        ours = r_drop_loss(z, targets, alpha=alpha, mask=mask, reduction="sum")
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def test_the_papers_weight_is_the_default():
    z, targets, _ = example(2, (3, 4), 6)
    expected, gradient = evaluate(r_drop(5.0), z, targets)
    for actual, right in zip(run(r_drop_loss, z, targets), (expected, gradient), strict=True):
        assert_near(actual, right, 1e-9)


def test_the_closed_form_of_the_gradient():
    z, targets, _ = example(2, (3, 4), 6)
    _, gradient = run(kl_part, z, targets, reduction="sum")
    p1, p2 = z.softmax(-1)
    d = z[0] - z[1]
    by_hand = [
        0.5 * ((p1 - p2) + p1 * (d - (p1 * d).sum(-1, keepdim=True))),
        0.5 * ((p2 - p1) + p2 * (-d - (p2 * -d).sum(-1, keepdim=True))),
    ]
    torch.testing.assert_close(gradient, torch.stack(by_hand), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("epsilon, convention", [(0.0, "uniform"), (0.1, "uniform"), (0.1, "others")])
def test_without_alpha_it_is_the_sum_of_two_nlls(epsilon, convention):
    z, targets, mask = example(2, (3, 4), 6)
    nll = smoothed_nll(epsilon, convention)
    ours = run(r_drop_loss, z, targets, alpha=0.0, mask=mask, epsilon=epsilon, convention=convention)
    parts = [evaluate(nll, z[k : k + 1], targets, mask) for k in (0, 1)]
    assert_near(ours[0], parts[0][0] + parts[1][0], 1e-9)
    assert_near(ours[1], torch.cat([parts[0][1], parts[1][1]]), 1e-9)


@pytest.mark.parametrize("alpha", [0.0, 5.0, 1000.0])
def test_identical_passes_are_exactly_doubled_cross_entropy(alpha):
    """Claim R12: with dropout 0 nothing is left but 2 CE, its gradient split evenly over the passes."""
    (one,), targets, mask = example(1, (3, 4), 6)
    ignored = targets.masked_fill(~mask, -100)
    leaf = one.clone().requires_grad_()
    doubled = 2 * F.cross_entropy(leaf.flatten(0, 1), ignored.flatten())
    doubled.backward()
    value, gradient = run(r_drop_loss, torch.stack([one, one]), ignored, alpha=alpha, mask=mask)
    torch.testing.assert_close(value, doubled.detach(), rtol=1e-11, atol=0)
    for part in gradient:
        torch.testing.assert_close(part, leaf.grad / 2, rtol=1e-10, atol=1e-13)


def test_smoothing_touches_the_cross_entropy_only():
    z, targets, mask = example(2, (3, 4), 6)
    expected, gradient = evaluate(symmetric, z, targets, mask)
    for epsilon, convention in ((0.0, "uniform"), (0.3, "uniform"), (0.3, "others")):
        value, ours = run(kl_part, z, targets, mask=mask, epsilon=epsilon, convention=convention)
        assert_near(value, expected, 1e-9)
        assert_near(ours, gradient, 1e-9)
    plain, smooth = (r_drop_loss(z, targets, mask=mask, epsilon=epsilon) for epsilon in (0.0, 0.3))
    assert abs(plain - smooth) > 0.01


@pytest.mark.parametrize("passes", [3, 4, 5])
def test_alpha_keeps_its_strength_with_more_passes(passes):
    """M passes are Eq. 4 averaged over the pairs, M/2 times, so that every NLL counts once."""
    z, targets, mask = example(passes, (3, 4), 6)
    value, gradient = run(r_drop_loss, z, targets, alpha=3.0, mask=mask)
    pairs = [(i, j) for i in range(passes) for j in range(i)]
    of_pairs = [run(r_drop_loss, z[[i, j]], targets, alpha=3.0, mask=mask) for i, j in pairs]
    share = passes / 2 / len(pairs)
    torch.testing.assert_close(value, share * sum(pair[0] for pair in of_pairs), rtol=1e-12, atol=0)
    expected = torch.zeros_like(z)
    for (i, j), (_, slope) in zip(pairs, of_pairs, strict=True):
        expected[[i, j]] += share * slope
    torch.testing.assert_close(gradient, expected, rtol=1e-11, atol=1e-14)


def test_the_two_passes_may_change_places():
    z, targets, mask = example(2, (3, 4), 6)
    value, gradient = run(r_drop_loss, z, targets, mask=mask)
    swapped, turned = run(r_drop_loss, z.flip(0), targets, mask=mask)
    torch.testing.assert_close(swapped, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(turned.flip(0), gradient, rtol=1e-11, atol=1e-14)


# ---------------------------------------------------------------- it must distil, both ways


def test_each_pass_reacts_to_the_other():
    z, targets, _ = example(2, (3, 4), 6)
    for moved in (0, 1):
        other = z.clone()
        other[moved] += torch.linspace(-1, 1, 6, dtype=torch.float64)
        still = 1 - moved
        for alpha in (0.0, 5.0):
            before, after = (run(r_drop_loss, x, targets, alpha=alpha)[1][still] for x in (z, other))
            reacted = (before - after).abs().max() > 1e-3
            assert reacted == (alpha > 0)


def test_the_kl_part_vanishes_exactly_where_the_passes_agree():
    z, targets, _ = example(2, (3, 4), 6)
    z[1, 1] = z[0, 1] + 3.0  # a constant on a row's logits is no disagreement
    value, gradient = run(kl_part, z, targets, reduction="none")
    assert value[1].abs().max() < 1e-12 and gradient[:, 1].abs().max() < 1e-12
    assert (value[[0, 2]] > 1e-3).all() and (gradient[:, [0, 2]].abs().amax(-1) > 1e-4).all()


def test_descent_on_the_kl_part_brings_both_passes_together():
    start, targets, _ = example(2, (3, 4), 6)
    z, apart = start.clone(), []
    for _ in range(40):
        value, gradient = run(kl_part, z, targets, reduction="sum")
        apart.append(value.item())
        z = z - 0.5 * gradient
    assert all(later < earlier for earlier, later in zip(apart, apart[1:], strict=False))
    assert apart[-1] < 0.05 * apart[0]
    moved = (z - start).abs().amax(-1)
    assert (moved > 1e-3).all()  # both passes, at every position


# ---------------------------------------------------------------- wrong versions are told apart


def both_ways(z: Tensor) -> Tensor:
    """KL(P_1 || P_2) + KL(P_2 || P_1), one number a position."""
    log_p, log_q = z.log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def nlls(z: Tensor, targets: Tensor) -> Tensor:
    return sum(-part.gather(-1, targets[..., None])[..., 0] for part in z.log_softmax(-1))


def mean(each: Tensor, mask: Tensor) -> Tensor:
    return each[mask].sum() / mask.sum()


def smoothed_both_ways(z: Tensor, epsilon: float = 0.1) -> Tensor:
    p, q = (1 - epsilon) * z.softmax(-1) + epsilon / z.shape[-1]
    return ((p - q) * (p.log() - q.log())).sum(-1)


def first_detached(z: Tensor) -> Tensor:
    return torch.stack([z[0].detach(), z[1]])


def one_way(z: Tensor) -> Tensor:
    log_p, log_q = z.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


WRONG = {  # (z, targets, mask) with alpha 5, reduction "mean"
    "half the cross-entropy": lambda z, t, m: mean(0.5 * nlls(z, t) + 2.5 * both_ways(z), m),
    "cross-entropy of one pass": lambda z, t, m: mean(nlls(z[:1], t) + 2.5 * both_ways(z), m),
    "KL not halved": lambda z, t, m: mean(nlls(z, t) + 5 * both_ways(z), m),
    "KL halved twice": lambda z, t, m: mean(nlls(z, t) + 1.25 * both_ways(z), m),
    "one direction": lambda z, t, m: mean(nlls(z, t) + 5 * one_way(z), m),
    "first pass detached": lambda z, t, m: mean(nlls(z, t) + 2.5 * both_ways(first_detached(z)), m),
    "KL summed, CE averaged": lambda z, t, m: mean(nlls(z, t), m) + 2.5 * both_ways(z)[m].sum(),
    "batchmean": lambda z, t, m: mean(nlls(z, t), m) + 2.5 * both_ways(z)[m].sum() / len(m),
    "mean over the vocabulary": lambda z, t, m: mean(nlls(z, t) + 2.5 * both_ways(z) / z.shape[-1], m),
    "KL of padding": lambda z, t, m: mean(nlls(z, t), m) + 2.5 * both_ways(z).sum() / m.sum(),
    "mean over padding too": lambda z, t, m: ((nlls(z, t) + 2.5 * both_ways(z)) * m).mean(),
    "divided by both copies": lambda z, t, m: mean(nlls(z, t) + 2.5 * both_ways(z), m) / 2,
    "KL of smoothed": lambda z, t, m: mean(nlls(z, t) + 2.5 * smoothed_both_ways(z), m),
    "KL subtracted": lambda z, t, m: mean(nlls(z, t) - 2.5 * both_ways(z), m),
}


def matches_equation_4(function) -> bool:
    """Whether value and gradient of function(z, targets, mask) are Eq. 4's on one crafted batch."""
    return matches(function, r_drop(5.0))


def test_ours_is_equation_4_on_the_batch_that_tells_wrong_ones():
    assert matches_equation_4(lambda z, t, m: r_drop_loss(z, t, alpha=5.0, mask=m))
    assert matches_equation_4(lambda z, t, m: mean(nlls(z, t) + 2.5 * both_ways(z), m))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_versions_are_told_apart(name):
    assert not matches_equation_4(WRONG[name])


# ---------------------------------------------------------------- in a model


class Toy(nn.Module):
    """A position-wise classifier with dropout; input (B, T, 6), logits (B, T, 5)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 5)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def gradient(self, loss: Tensor) -> Tensor:
        self.zero_grad()
        loss.backward()
        return torch.cat([weight.grad.flatten() for weight in self.parameters()])


def batch(rows: int = 6):
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 7, 6, generator=draw, dtype=torch.float64)
    targets = torch.randint(5, (rows, 7), generator=draw)
    lengths = torch.tensor([7, 1, 4, 0, 6, 2])[:rows]
    mask = torch.arange(7)[None] < lengths[:, None]
    return x, targets.masked_fill(~mask, -100), mask


def concatenated(model: Toy, x: Tensor) -> Tensor:
    return model(torch.cat([x, x])).unflatten(0, (2, len(x)))


def test_concatenation_is_two_forwards_when_nothing_is_dropped():
    model, (x, targets, mask) = Toy(0.0).train(), batch()
    one_go = r_drop_loss(concatenated(model, x), targets, mask=mask)
    gradient = model.gradient(one_go)
    two_goes = r_drop_loss(torch.stack([model(x), model(x)]), targets, mask=mask)
    torch.testing.assert_close(one_go, two_goes, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, model.gradient(two_goes), rtol=1e-10, atol=1e-13)
    doubled = 2 * F.cross_entropy(model(x).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(gradient, model.gradient(doubled), rtol=1e-10, atol=1e-13)


def test_dropout_makes_the_passes_disagree_and_evaluation_does_not():
    model, (x, targets, mask) = Toy(0.3), batch()
    torch.manual_seed(1)
    assert kl_part(concatenated(model.train(), x), targets, mask=mask) > 1e-3
    assert abs(kl_part(concatenated(model.eval(), x), targets, mask=mask)) < 1e-12


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (3, 4), (5,)])
def test_one_batch_is_its_accumulated_pieces(cuts):
    """Sums over unequal pieces, one of them all padding, over the count of the whole: alpha is unchanged."""
    model, (x, targets, mask) = Toy(0.0).train(), batch()
    noise = 0.3 * torch.randn(6, 2, 7, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss(rows: slice, reduction: str) -> Tensor:
        z = concatenated(model, x[rows]) + noise[rows].transpose(0, 1)
        return r_drop_loss(z, targets[rows], mask=mask[rows], epsilon=0.1, reduction=reduction)

    whole = loss(slice(None), "mean")
    edges = [0, *cuts, 6]
    pieces = [loss(slice(*pair), "sum") / mask.sum() for pair in zip(edges, edges[1:], strict=False)]
    torch.testing.assert_close(sum(pieces), whole, rtol=1e-12, atol=0)
    gradient = sum(model.gradient(piece) for piece in pieces)
    torch.testing.assert_close(gradient, model.gradient(loss(slice(None), "mean")), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_through_a_model_with_padding(dtype):
    model, (x, targets, mask) = Toy(0.3).float().train(), batch()
    x = x.float()
    with torch.autocast("cpu", dtype=dtype):
        torch.manual_seed(2)
        z = concatenated(model, x)
        assert z.dtype == dtype
        dirty = z.masked_fill(~mask[..., None], float("inf"))
        loss = r_drop_loss(dirty, targets, mask=mask)
    assert loss.dtype == torch.float32
    expected, _ = evaluate(r_drop(5.0), z, targets, mask)
    assert_near(loss.detach(), expected, 1e-5)
    gradient = model.gradient(loss)
    assert gradient.isfinite().all() and gradient.abs().max() > 1e-3


# ---------------------------------------------------------------- refusals, and the k-step schedule


def test_one_pass_is_refused():
    z, targets, _ = example(1, (3, 4), 6)
    with pytest.raises(REFUSED):
        r_drop_loss(z, targets)


@pytest.mark.parametrize("options", [{"epsilon": -0.1}, {"epsilon": 1.5}, {"convention": "fairseq"}])
def test_smoothing_that_means_nothing_is_refused(options):
    z, targets, _ = example(2, (3, 4), 6)
    with pytest.raises(REFUSED):
        r_drop_loss(z, targets, **{"epsilon": 0.1, **options})


def test_targets_that_do_not_fit_are_refused():
    z, targets, mask = example(2, (3, 4), 6)
    for wrong in (targets[:, :3], targets.T, torch.stack([targets, targets])):
        with pytest.raises(REFUSED):
            r_drop_loss(z, wrong)
    targets[0, 0], mask[0, 0] = -100, True
    with pytest.raises(REFUSED):
        r_drop_loss(z, targets, mask=mask)


def test_k_step_is_true_on_every_kth_update():
    assert [update for update in range(1, 13) if k_step(update, 5)] == [5, 10]
    assert [update for update in range(1, 7) if k_step(update, 2)] == [2, 4, 6]
    assert all(k_step(update, 1) for update in range(1, 50))
    assert k_step(3, 3) is True and k_step(4, 3) is False


@pytest.mark.parametrize("k", [0, -1])
def test_a_k_below_one_is_refused(k):
    with pytest.raises(REFUSED):
        k_step(1, k)
