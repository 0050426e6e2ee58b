"""The divergences against plain float64 oracles, against torch's own losses and against their identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from kdutils.losses.divergences import (
    CELLS_AT_ONCE,
    Formula,
    js_divergence,
    kl_divergence,
    label_smoothed_nll,
    nll_formula,
    rowwise,
    soft_cross_entropy,
    symmetric_kl,
    weighted_sum,
    x_divergence,
    x_formula,
)
from tests.oracles import (
    REFUSED,
    Objective,
    ObjectiveBattery,
    assert_near,
    complex_step,
    cross_entropy,
    entropy,
    evaluate,
    example,
    js,
    kl,
    log_softmax,
    run,
    smoothed_nll,
    symmetric,
    x_of_covariances,
    x_of_pairs,
    x_to_the_mean,
)

PAIRWISE = {
    "kl_divergence": (kl_divergence, kl),
    "soft_cross_entropy": (soft_cross_entropy, cross_entropy),
    "symmetric_kl": (symmetric_kl, symmetric),
}
STACKED = {"x_divergence": (x_divergence, x_to_the_mean), "js_divergence": (js_divergence, js)}


def pairwise(name: str) -> Objective:
    function, oracle = PAIRWISE[name]
    return Objective(name, 2, lambda z, targets, **options: function(z[0], z[1], **options), oracle)


def stacked(name: str, passes: int) -> Objective:
    function, oracle = STACKED[name]
    return Objective(f"{name}_K{passes}", passes, lambda z, targets, **options: function(z, **options), oracle)


def smoothed(epsilon: float, convention: str) -> Objective:
    def call(z, targets, **options):
        return label_smoothed_nll(z[0], targets, epsilon=epsilon, convention=convention, **options)

    return Objective(f"nll_{convention}_{epsilon}", 1, call, smoothed_nll(epsilon, convention))


OBJECTIVES = [
    *(pairwise(name) for name in PAIRWISE),
    *(stacked(name, passes) for name in STACKED for passes in (2, 3)),
    stacked("x_divergence", 5),
    smoothed(0.0, "uniform"),
    smoothed(0.1, "uniform"),
    smoothed(0.1, "others"),
]
DIVERGENCES = [
    pairwise("kl_divergence"),
    pairwise("symmetric_kl"),
    *(stacked(name, passes) for name in STACKED for passes in (2, 3)),
]
each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES, ids=str)


class Hellinger(Formula):
    """The squared distance 1 - sum_v sqrt(p(v) q(v)): a formula of two passes that states nothing but its value."""

    def value(self, rows, logp):
        return 1 - (logp.sum(0) / 2).exp().sum(-1)


class Focal(Formula):
    """-(1 - p(y))^2 log p(y), with targets that are looked up by the rows of a slice."""

    def __init__(self, targets):
        self.targets = targets.reshape(-1)

    def value(self, rows, logp):
        at_target = logp[0].gather(-1, self.targets[rows, None])[:, 0]
        return -((1 - at_target.exp()) ** 2) * at_target


def hellinger(z, target=-1):
    log_p, log_q = (log_softmax(row) for row in z)
    return 1 - np.exp((log_p + log_q) / 2).sum()


def focal(z, target):
    log_p = log_softmax(z[0])[target]
    return -((1 - np.exp(log_p)) ** 2) * log_p


VALUE_ONLY = [
    Objective("focal", 1, lambda z, targets, **o: rowwise(Focal(targets), (z,), **o), focal),
    Objective(
        "hellinger_and_nll",
        2,
        lambda z, targets, **o: weighted_sum([(0.5, Hellinger()), (1.0, nll_formula(targets, z.shape[-1]))], z, **o),
        lambda z, target: 0.5 * hellinger(z) + sum(smoothed_nll(0.0)(z[k : k + 1], target) for k in (0, 1)),
    ),
]


class TestBattery(ObjectiveBattery):
    @pytest.fixture(params=OBJECTIVES, ids=str)
    def objective(self, request):
        return request.param


class TestAFormulaThatStatesItsValueOnly(ObjectiveBattery):
    """Its gradient is autograd's, slice by slice, and everything else holds as for closed forms."""

    @pytest.fixture(params=VALUE_ONLY, ids=str)
    def objective(self, request):
        return request.param


# ---------------------------------------------------------------- the engine


@pytest.mark.parametrize("cells", [1, 14, 2**18])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_autograd_in_slices_is_autograd_of_the_whole(cells, reduction, monkeypatch):
    monkeypatch.setitem(CELLS_AT_ONCE, "cpu", cells)
    z, targets, mask = example(2, (3, 4), 7)
    outer = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4) if reduction == "none" else 0.3
    for formula, parts in ((Hellinger(), z), (Focal(targets), z[:1])):
        for counted in (None, mask):
            leaf = parts.clone().requires_grad_()
            each = formula.value(slice(0, 12), leaf.flatten(1, 2).log_softmax(-1)).reshape(3, 4)
            chosen = each if counted is None else each * counted
            number = 12 if counted is None else int(mask.sum())
            whole = {"none": chosen, "sum": chosen.sum(), "mean": chosen.sum() / number}[reduction]
            (outer * whole).sum().backward()
            ours = run(lambda x, t: outer * rowwise(formula, (x,), counted, reduction), parts, targets)  # noqa: B023
            torch.testing.assert_close(ours[0], (outer * whole).detach(), rtol=1e-12, atol=0)
            torch.testing.assert_close(ours[1], leaf.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_closed_forms_are_autograd_of_the_value(objective, monkeypatch):
    """To the precision of float64: what is fast must be what is stated."""
    z, targets, mask = example(objective.passes, (3, 4), 7)
    fast = run(objective.call, z, targets, mask=mask)
    for one in Formula.__subclasses__():
        if "Sum" not in one.__name__:
            monkeypatch.setattr(one, "value_and_slope", Formula.value_and_slope)
    for actual, expected in zip(fast, run(objective.call, z, targets, mask=mask), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-15)


def r_drop_like(z, targets, **options):
    return weighted_sum([(1.0, nll_formula(targets, z.shape[-1], 0.1)), (3.0, x_formula())], z, **options)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("first, second", [(1.0, 1.0), (0.0, 3.0), (0.1, 7.0)])
def test_another_backward_pass_through_the_same_graph_is_right(first, second, reduction):
    z, targets, mask = example(2, (3, 4), 6)
    once = run(r_drop_like, z, targets, mask=mask, reduction="sum")[1]
    z.requires_grad_()
    total = r_drop_like(z, targets, mask=mask, reduction=reduction).sum()
    (early,) = torch.autograd.grad(first * total, z, retain_graph=True)
    (late,) = torch.autograd.grad(second * total, z, retain_graph=True)
    (last,) = torch.autograd.grad(total, z)
    for actual, factor in ((early, first), (late, second), (last, 1.0)):
        torch.testing.assert_close(actual, factor * once, rtol=1e-14, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(total, z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outer", [1.0, 0.25])
def test_one_buffer_of_the_logits_size_is_made_and_a_backward_pass_makes_none(dtype, outer):
    z, targets, mask = example(2, (30, 4), 50)
    z = z.to(dtype).requires_grad_()
    for counted in (None, mask):
        kept = []
        with saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):  # noqa: B023
            total = outer * r_drop_like(z, targets, mask=counted, reduction="sum")
        (buffer,) = (one for one in kept if one.numel() >= z.numel())
        (grad,) = torch.autograd.grad(total, z)
        assert buffer.dtype == dtype and grad.data_ptr() == buffer.data_ptr()


@pytest.mark.parametrize("where", ["no_grad", "constant"])
def test_no_slope_is_made_where_nothing_is_learned(where):
    class OnlyItsValue(Formula):
        value_and_slope = None

        def value(self, rows, logp):
            return logp[0, :, 0]

    z, _, mask = example(1, (3, 4), 5)
    with torch.set_grad_enabled(where != "no_grad"):
        value = rowwise(OnlyItsValue(), (z.requires_grad_(where == "no_grad"),), mask)
    assert not value.requires_grad
    assert_near(value, z[0].detach().log_softmax(-1)[mask][:, 0].mean(), 1e-12)


def test_a_slope_in_float16_survives_until_the_loss_scale_enlarges_it():
    """Probabilities of 1e-8 have no room in float16, but 2^16 times as much has."""
    z = torch.zeros(1, 4, 50, dtype=torch.float16)
    z[..., 0] = 14.0  # leaves about 8e-7 for each other word, and a fourth of it in the mean
    targets = torch.zeros(4, dtype=torch.long)
    scaled = run(lambda x, t: 2.0**16 * label_smoothed_nll(x[0], t) / 1000, z, targets)[1]
    right = run(lambda x, t: 2.0**16 * label_smoothed_nll(x[0], t) / 1000, z.double(), targets)[1]
    plain = run(lambda x, t: label_smoothed_nll(x[0], t) / 1000, z, targets)[1]
    assert plain.abs().max() < 1e-6 and scaled.dtype == torch.float16
    torch.testing.assert_close(scaled.double(), right, rtol=2e-3, atol=0)


def test_factors_of_rows_that_do_not_count_may_be_anything():
    z, targets, mask = example(2, (3, 4), 6)
    outer = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)

    def gradient(factors):
        leaf = z.clone().requires_grad_()
        r_drop_like(leaf, targets, mask=mask, reduction="none").backward(factors)
        return leaf.grad

    assert torch.equal(gradient(outer.masked_fill(~mask, float("nan"))), gradient(outer))


# ---------------------------------------------------------------- the oracles themselves


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_oracles_on_numbers_worked_by_hand():
    z = torch.stack([logs(1 / 2, 1 / 2), logs(1 / 4, 3 / 4)]).numpy()
    forward, backward = 0.5 * math.log(4 / 3), 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert kl(z) == pytest.approx(forward, rel=1e-14)
    assert kl(z[::-1]) == pytest.approx(backward, rel=1e-14)
    assert symmetric(z) == pytest.approx((forward + backward) / 2, rel=1e-14)
    assert x_to_the_mean(z) == pytest.approx((forward + backward) / 4, rel=1e-14)
    assert cross_entropy(z) == pytest.approx(forward + math.log(2), rel=1e-14)
    mean = (3 / 8, 5 / 8)
    by_hand = [sum(p * math.log(p / m) for p, m in zip(row, mean, strict=True)) for row in ([0.5] * 2, [0.25, 0.75])]
    assert js(z) == pytest.approx(sum(by_hand) / 2, rel=1e-14)
    assert smoothed_nll(0.2, "uniform")(z[1:], 0) == pytest.approx(-0.9 * math.log(1 / 4) - 0.1 * math.log(3 / 4))
    assert smoothed_nll(0.2, "others")(z[1:], 0) == pytest.approx(-0.8 * math.log(1 / 4) - 0.2 * math.log(3 / 4))


def test_the_complex_step_is_the_derivative():
    z = example(2, (), 4)[0].numpy()
    gradient = complex_step(kl, z)
    for index in [(0, 0), (0, 3), (1, 2)]:
        above, below = z.copy(), z.copy()
        above[index] += 1e-5
        below[index] -= 1e-5
        assert gradient[index] == pytest.approx((kl(above) - kl(below)) / 2e-5, rel=1e-7)


# ---------------------------------------------------------------- the library as an oracle


def test_kl_is_the_librarys_with_p_first():
    (p, q), _, _ = example(2, (7,), 9)
    # torch's kl_div(input, target) is KL(target || input): the arguments stand the other way round.
    library = F.kl_div(q.log_softmax(-1), p.log_softmax(-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(kl_divergence(p, q), library, rtol=1e-12, atol=0)


def test_soft_cross_entropy_is_the_librarys_with_probabilities_as_targets():
    (p, q), _, _ = example(2, (7,), 9)
    torch.testing.assert_close(soft_cross_entropy(p, q), F.cross_entropy(q, p.softmax(-1)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 0.9])
def test_uniform_smoothing_is_the_librarys(epsilon):
    (z,), targets, mask = example(1, (4, 5), 6)
    ignored = targets.masked_fill(~mask, -100)
    library = F.cross_entropy(z.flatten(0, 1), ignored.flatten(), label_smoothing=epsilon)
    ours = label_smoothed_nll(z, ignored, epsilon=epsilon, convention="uniform", mask=mask)
    torch.testing.assert_close(ours, library, rtol=1e-12, atol=0)


# ---------------------------------------------------------------- which way round, and who gets a gradient


def test_kl_is_not_symmetric_and_p_comes_first():
    p, q = logs(1 / 2, 1 / 2), logs(1 / 4, 3 / 4)
    assert kl_divergence(p, q).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-12)
    assert kl_divergence(q, p).item() == pytest.approx(0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2), rel=1e-12)
    assert soft_cross_entropy(p, q).item() == pytest.approx(-0.5 * math.log(3 / 16), rel=1e-12)


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_detached_teacher_gets_no_gradient_and_changes_none(name):
    function = PAIRWISE[name][0]
    logits, _, mask = example(2, (3, 4), 5)
    p, q = (part.clone().requires_grad_() for part in logits)
    function(p, q, mask=mask).backward()
    assert p.grad.abs().max() > 1e-3 and q.grad.abs().max() > 1e-3
    for fixed in (0, 1):
        pair = [part.clone().requires_grad_() for part in logits]
        arguments = [part.detach() if side == fixed else part for side, part in enumerate(pair)]
        function(*arguments, mask=mask).backward()
        assert pair[fixed].grad is None
        torch.testing.assert_close(pair[1 - fixed].grad, (p, q)[1 - fixed].grad, rtol=1e-12, atol=1e-15)


def test_a_half_precision_teacher_beside_a_float32_student():
    (p, q), _, mask = example(2, (3, 4), 5)
    p, q = p.bfloat16().requires_grad_(), q.float().requires_grad_()
    value = kl_divergence(p, q, mask=mask)
    value.backward()
    expected, gradient = evaluate(kl, torch.stack([p.detach().double(), q.detach().double()]), None, mask)
    assert value.dtype == torch.float32 and p.grad.dtype == torch.bfloat16 and q.grad.dtype == torch.float32
    assert_near(value.detach(), expected, 1e-5)
    assert_near(q.grad, gradient[1], 1e-5)
    assert_near(p.grad, gradient[0], 2e-2)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("fixed", [0, 1])
def test_float64_stays_float64_beside_float32(name, fixed):
    function, oracle = PAIRWISE[name]
    pair, _, mask = example(2, (3, 4), 5)
    pair[fixed] = pair[fixed].float()  # rounded, still stored in float64
    mixed = [part.float() if side == fixed else part for side, part in enumerate(pair)]
    value = function(*mixed, mask=mask)
    assert value.dtype == torch.float64
    assert_near(value, evaluate(oracle, pair, None, mask)[0], 1e-6)


def test_one_teacher_row_expanded_over_many_positions():
    (p, q), _, _ = example(2, (1, 4), 5)
    students = torch.cat([q, 2 * q, -q]).requires_grad_()
    teacher = p.clone().requires_grad_()
    kl_divergence(teacher.expand(3, 4, 5), students).backward()
    full = teacher.detach().repeat(3, 1, 1)
    _, gradient = evaluate(kl, torch.stack([full, students.detach()]))
    assert_near(teacher.grad, gradient[0].sum(0, keepdim=True), 1e-9)
    assert_near(students.grad, gradient[1], 1e-9)


# ---------------------------------------------------------------- identities between them


def test_cross_entropy_less_entropy_is_kl():
    (p, q), _, mask = example(2, (3, 4), 5)
    both = soft_cross_entropy(p, q, mask=mask, reduction="none") - kl_divergence(p, q, mask=mask, reduction="none")
    for place in mask.nonzero():
        assert both[tuple(place)].item() == pytest.approx(entropy(p[tuple(place)].numpy()), rel=1e-12)
    torch.testing.assert_close(soft_cross_entropy(p, p) - kl_divergence(p, p), soft_cross_entropy(p, p))
    # The entropy of p does not depend on q, so the student cannot tell the two losses apart.
    by_kl = run(lambda z, _, **options: kl_divergence(p, z, **options), q, None, mask=mask)[1]
    by_ce = run(lambda z, _, **options: soft_cross_entropy(p, z, **options), q, None, mask=mask)[1]
    torch.testing.assert_close(by_kl, by_ce, rtol=1e-12, atol=1e-15)


def test_symmetric_kl_is_symmetric_and_half_of_both_directions():
    (p, q), _, mask = example(2, (3, 4), 5)
    for options in ({}, {"mask": mask}, {"mask": mask, "reduction": "none"}):
        here = symmetric_kl(p, q, **options)
        torch.testing.assert_close(here, symmetric_kl(q, p, **options), rtol=1e-13, atol=1e-15)
        both = kl_divergence(p, q, **options) + kl_divergence(q, p, **options)
        torch.testing.assert_close(here, both / 2, rtol=1e-12, atol=1e-15)


def test_x_divergence_of_two_passes_is_half_of_symmetric_kl():
    z, targets, mask = example(2, (3, 4), 5)
    ours = run(lambda z, _, **o: x_divergence(z, **o), z, targets, mask=mask)
    half = run(lambda z, _, **o: symmetric_kl(z[0], z[1], **o) / 2, z, targets, mask=mask)
    for actual, expected in zip(ours, half, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("passes", [2, 3, 4, 5])
@pytest.mark.parametrize("form", [x_of_pairs, x_of_covariances])
def test_x_divergence_equals_its_other_forms(form, passes):
    z, _, mask = example(passes, (2, 3), 5, seed=passes)
    expected, gradient = evaluate(lambda row, _: form(row), z, None, mask)
    value, ours = run(lambda z, _, **o: x_divergence(z, **o), z, None, mask=mask)
    assert_near(value, expected, 1e-9)
    assert_near(ours, gradient, 1e-9)


@pytest.mark.parametrize("name", STACKED)
def test_one_pass_has_nothing_to_disagree_with(name):
    z, _, mask = example(1, (3, 4), 5)
    for dtype in (torch.float64, torch.float32):
        value, gradient = run(lambda z, _, **o: STACKED[name][0](z, **o), z.to(dtype), None, mask=mask)
        assert abs(value.item()) <= 1e-6 and gradient.abs().max() <= 1e-6


@pytest.mark.parametrize("passes", [2, 3, 5])
def test_js_lies_between_zero_and_log_k(passes):
    z, _, _ = example(passes, (4, 5), 6, scale=5.0)
    value = js_divergence(z, reduction="none")
    assert (value >= 0).all() and (value <= math.log(passes)).all()
    disjoint = 200.0 * torch.eye(passes, dtype=torch.float64)[:, None, :]
    assert js_divergence(disjoint).item() == pytest.approx(math.log(passes), rel=1e-12)
    assert js_divergence(disjoint.float() * 1e4).item() == pytest.approx(math.log(passes), rel=1e-6)


@each_divergence
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_passes_that_agree_do_not_diverge(divergence, dtype):
    one, targets, mask = example(1, (3, 4), 9, scale=4.0)
    same = one.repeat(divergence.passes, 1, 1, 1).to(dtype)
    value, gradient = run(divergence.call, same, targets, mask=mask, reduction="none")
    rounding = 1e-14 if dtype == torch.float64 else 1e-6
    assert value.abs().max() <= rounding and gradient.abs().max() <= rounding


@each_divergence
def test_a_divergence_is_positive_where_passes_differ(divergence):
    logits, targets, _ = example(divergence.passes, (6, 7), 5, scale=0.5)
    assert (divergence.call(logits, targets, reduction="none") > 0).all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_one_class_leaves_nothing_to_choose(objective):
    logits, targets, mask = example(objective.passes, (3, 4), 1)
    try:
        value, gradient = run(objective.call, logits.float(), targets, mask=mask)
    except REFUSED:
        assert "others" in objective.name, "only the share of the other classes is undefined here"
        return
    assert value.item() == 0 and gradient.abs().max() <= 1e-7


# ---------------------------------------------------------------- label smoothing


def test_the_two_conventions_by_their_formulas():
    (z,), targets, mask = example(1, (4, 5), 6)
    log_p = z.log_softmax(-1)
    nll, everything = -log_p.gather(-1, targets[..., None])[..., 0], -log_p.sum(-1)
    epsilon, classes = 0.3, 6
    uniform = (1 - epsilon) * nll + epsilon / classes * everything
    others = (1 - epsilon) * nll + epsilon / (classes - 1) * (everything - nll)
    for convention, expected in (("uniform", uniform), ("others", others)):
        ours = label_smoothed_nll(z, targets, epsilon, convention, mask=mask)
        torch.testing.assert_close(ours, expected[mask].mean(), rtol=1e-12, atol=0)
    assert (uniform - others).abs().min() > 1e-3
    # The same smoothing under two names: eps/V on every class is eps (V-1)/V shared by the others.
    renamed = label_smoothed_nll(z, targets, epsilon * (classes - 1) / classes, "others")
    torch.testing.assert_close(renamed, uniform.mean(), rtol=1e-12, atol=0)


def test_uniform_is_the_default_and_no_smoothing_is_plain_nll():
    (z,), targets, _ = example(1, (4, 5), 6)
    plain = F.cross_entropy(z.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(label_smoothed_nll(z, targets), plain, rtol=1e-12, atol=0)
    for convention in ("uniform", "others"):
        torch.testing.assert_close(label_smoothed_nll(z, targets, 0.0, convention), plain, rtol=1e-12, atol=0)
    default = label_smoothed_nll(z, targets, epsilon=0.2)
    torch.testing.assert_close(default, label_smoothed_nll(z, targets, 0.2, "uniform"), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"convention": "fairseq"}, {"convention": None}, {"epsilon": -0.1}])
def test_smoothing_that_means_nothing_is_refused(options):
    (z,), targets, mask = example(1, (4, 5), 6)
    with pytest.raises(REFUSED):
        label_smoothed_nll(z, targets, **{"epsilon": 0.1, **options}, mask=mask)


@pytest.mark.parametrize("epsilon", [1.5, float("nan"), float("inf")])
@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_an_epsilon_outside_zero_to_one_is_refused(epsilon, convention):
    (z,), targets, _ = example(1, (4, 5), 6)
    with pytest.raises(REFUSED):
        label_smoothed_nll(z, targets, epsilon, convention)


@pytest.mark.parametrize("wrong", [-100, -1, 6, 10**6])
def test_a_counted_target_that_is_no_class_is_refused(wrong):
    (z,), targets, mask = example(1, (4, 5), 6)
    targets[0, 0] = wrong
    mask[0, 0] = False
    assert label_smoothed_nll(z, targets, mask=mask).isfinite()
    with pytest.raises(REFUSED):
        label_smoothed_nll(z, targets)
    mask[0, 0] = True
    with pytest.raises(REFUSED):
        label_smoothed_nll(z, targets, 0.1, mask=mask)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (4, 5, 1), (4, 5, 6), (1, 5), ()])
def test_targets_of_another_shape_are_refused(shape):
    (z,), _, _ = example(1, (4, 5), 6)
    with pytest.raises(REFUSED):
        label_smoothed_nll(z, torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("shape", [(4, 5, 7), (5, 4, 6), (4, 5, 1), (1, 5, 6), (5, 6)])
def test_logits_of_two_shapes_are_refused(name, shape):
    (p,), _, _ = example(1, (4, 5), 6)
    with pytest.raises(REFUSED):
        PAIRWISE[name][0](p, torch.zeros(shape, dtype=torch.float64))
