"""Plain float64 oracles of the objectives, and the battery of checks that every objective has to pass.

An oracle is the printed equation at ONE position: logits (K, V) of K passes (or of teacher and student) and
the index of the right class in, one number out. `evaluate` loops over the positions and reduces; it never
looks at a position that does not count. No formula here comes from kdutils: an oracle shares no bug with it.

Gradients are complex steps: f(x + ih) = f(x) + ih f'(x) + O(h^2), so Im f(x + ih) / h is the derivative; with
h = 1e-30 nothing is subtracted and nothing is lost, unlike with a central difference.

A paper's test file gets the whole battery by

    class TestBattery(ObjectiveBattery):
        @pytest.fixture(params=[Objective(...), ...], ids=str)
        def objective(self, request): return request.param
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdutils.core.errors import UserError

Oracle = Callable[[np.ndarray, int], Any]  # logits (K, V) and the right class of one position -> a number
REFUSED = (UserError, ValueError)  # how a call may refuse what it cannot compute

# ---------------------------------------------------------------- the equations, at one position


def log_softmax(z: np.ndarray) -> np.ndarray:
    """log p_v = z_v - log sum_u exp z_u. The largest logit is taken off first, which changes nothing."""
    shifted = z - z.real.max()
    return shifted - np.log(np.exp(shifted).sum())


def log_mean(log_ps: list[np.ndarray]) -> np.ndarray:
    """log of the mean of K distributions, (1/K) sum_k p_k, taken from their logarithms."""
    top = np.stack(log_ps).real.max(axis=0)
    return top + np.log(sum(np.exp(log_p - top) for log_p in log_ps) / len(log_ps))


def kl_of_logs(log_p: np.ndarray, log_q: np.ndarray) -> Any:
    """KL(p || q) = sum_v p_v (log p_v - log q_v)."""
    return (np.exp(log_p) * (log_p - log_q)).sum()


def kl(z: np.ndarray, target: int = -1) -> Any:
    """KL(p || q) with p = softmax(z[0]) and q = softmax(z[1])."""
    return kl_of_logs(log_softmax(z[0]), log_softmax(z[1]))


def entropy(z: np.ndarray) -> Any:
    """H(p) = - sum_v p_v log p_v of one distribution, logits (V,)."""
    log_p = log_softmax(z)
    return -(np.exp(log_p) * log_p).sum()


def cross_entropy(z: np.ndarray, target: int = -1) -> Any:
    """H(p, q) = - sum_v p_v log q_v."""
    return -(np.exp(log_softmax(z[0])) * log_softmax(z[1])).sum()


def symmetric(z: np.ndarray, target: int = -1) -> Any:
    """Half of both directions: 1/2 (KL(p || q) + KL(q || p))."""
    return 0.5 * (kl(z) + kl(z[::-1]))


def x_to_the_mean(z: np.ndarray, target: int = -1) -> Any:
    """(1/K) sum_k [ KL(p_k || mean) + KL(mean || p_k) ]."""
    log_ps = [log_softmax(row) for row in z]
    mean = log_mean(log_ps)
    return sum(kl_of_logs(log_p, mean) + kl_of_logs(mean, log_p) for log_p in log_ps) / len(z)


def pairs_of(passes: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(passes) for j in range(i + 1, passes)]


def x_of_pairs(z: np.ndarray) -> Any:
    """(1/K^2) sum_{i<j} [ KL(p_i || p_j) + KL(p_j || p_i) ]."""
    return sum(kl(z[[i, j]]) + kl(z[[j, i]]) for i, j in pairs_of(len(z))) / len(z) ** 2


def x_of_covariances(z: np.ndarray) -> Any:
    """sum_v Cov_k(p_k(v), z_k(v)), the population covariance over the passes, on the raw logits."""
    p = np.stack([np.exp(log_softmax(row)) for row in z])
    return ((p - p.mean(axis=0)) * (z - z.mean(axis=0))).mean(axis=0).sum()


def js(z: np.ndarray, target: int = -1) -> Any:
    """(1/K) sum_k KL(p_k || mean)."""
    log_ps = [log_softmax(row) for row in z]
    mean = log_mean(log_ps)
    return sum(kl_of_logs(log_p, mean) for log_p in log_ps) / len(z)


def smoothed_targets(target: int, classes: int, epsilon: float, convention: str) -> np.ndarray:
    """The distribution that label smoothing puts in the place of the one-hot target."""
    if convention == "uniform":  # epsilon is shared by all classes, the right one included
        q = np.full(classes, epsilon / classes)
        q[target] += 1 - epsilon
    else:  # "others": epsilon is shared by the wrong classes only
        q = np.full(classes, epsilon / (classes - 1))
        q[target] = 1 - epsilon
    return q


def smoothed_nll(epsilon: float, convention: str = "uniform") -> Oracle:
    """- sum_v q_v log p_v with q the smoothed target."""

    def loss(z: np.ndarray, target: int) -> Any:
        if epsilon == 0:
            return -log_softmax(z[0])[target]
        q = smoothed_targets(target, z.shape[-1], epsilon, convention)
        return -(q * log_softmax(z[0])).sum()

    return loss


def r_drop(alpha: float, epsilon: float = 0.0, convention: str = "uniform") -> Callable[[np.ndarray, int], Any]:
    """Eq. 4 of R-Drop: - log P_1(y) - log P_2(y) + (alpha / 2) [ KL(P_1 || P_2) + KL(P_2 || P_1) ]."""
    nll = smoothed_nll(epsilon, convention)

    def equation_4(z: np.ndarray, target: int) -> Any:
        return nll(z[:1], target) + nll(z[1:], target) + alpha / 2 * (kl(z) + kl(z[::-1]))

    def loss(z: np.ndarray, target: int) -> Any:
        """For M > 2 passes Eq. 4 of every pair, averaged over the pairs, M/2 times: each NLL counts once."""
        pairs = pairs_of(len(z))
        return len(z) / 2 * sum(equation_4(z[[i, j]], target) for i, j in pairs) / len(pairs)

    return loss


def seer_forcing(weights: tuple[float, float, float], epsilon: float = 0.0, convention: str = "uniform") -> Oracle:
    """a CE(p_c, y) + b CE(p_s, y) - c sum_v sg[p_s(v)] log p_c(v); the conventional decoder first, then the seer."""
    nll, (a, b, c) = smoothed_nll(epsilon, convention), weights

    def loss(z: np.ndarray, target: int) -> Any:
        fixed = np.exp(log_softmax(z[1].real))  # a complex step does not reach what is behind the stop-gradient
        return a * nll(z[:1], target) + b * nll(z[1:], target) - c * (fixed * log_softmax(z[0])).sum()

    return loss


# ---------------------------------------------------------------- from one position to a batch


def complex_step(function: Callable[[np.ndarray], Any], z: np.ndarray) -> np.ndarray:
    """The gradient of a real function at z, to rounding."""
    step, gradient = 1e-30, np.zeros(z.shape)
    for index in np.ndindex(*z.shape):
        moved = z.astype(complex)
        moved[index] += 1j * step
        gradient[index] = function(moved).imag / step
    return gradient


def evaluate(
    oracle: Oracle,
    logits: Tensor,
    targets: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """Value and gradient of an oracle over a batch.

    logits (K, ..., V), targets and mask (...). With reduction "none" the gradient is that of the sum.
    """
    z = logits.detach().double().numpy()
    places = z.shape[1:-1]
    counts = np.ones(places, bool) if mask is None else mask.numpy().astype(bool)
    values, gradients = np.zeros(places), np.zeros(z.shape)
    for place in np.ndindex(*places):
        if not counts[place]:
            continue
        here = (slice(None), *place)
        target = -1 if targets is None else int(targets[place])
        values[place] = np.real(oracle(z[here], target))
        gradients[here] = complex_step(lambda moved, target=target: oracle(moved, target), z[here])
    if reduction == "none":
        return torch.as_tensor(values), torch.as_tensor(gradients)
    share = 1 / max(int(counts.sum()), 1) if reduction == "mean" else 1.0
    return torch.as_tensor(values.sum() * share), torch.as_tensor(gradients * share)


# ---------------------------------------------------------------- the battery


@dataclass(frozen=True)
class Objective:
    """A function under test beside its oracle.

    call(logits (K, ..., V), targets (...), mask=, reduction=) -> Tensor; oracle(z (K, V), target) -> number, in which
    what is behind a stop-gradient reads `z.real`, so that no complex step reaches it. moved: the only pass that finite
    differences may move, where a teacher among the K stands still.
    """

    name: str
    passes: int
    call: Callable[..., Tensor]
    oracle: Oracle
    moved: int | None = None

    def __str__(self) -> str:
        return self.name


def example(passes: int, places: tuple[int, ...], classes: int, seed: int = 0, scale: float = 2.0):
    """Random float64 logits (K, ..., V), targets (...) and a mask (...) that keeps some, but not all."""
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(passes, *places, classes, generator=draw, dtype=torch.float64)
    targets = torch.randint(classes, places, generator=draw)
    mask = torch.rand(places, generator=draw) < 0.6
    if mask.numel() > 1:
        mask.view(-1)[0], mask.view(-1)[-1] = True, False
    return logits, targets, mask


def run(call: Callable[..., Tensor], logits: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Value of a call and gradient of the value's sum with respect to the logits (strides are kept)."""
    leaf = logits.detach().clone().requires_grad_()
    value = call(leaf, targets, **options)
    value.sum().backward()
    return value.detach(), leaf.grad


def assert_near(actual: Tensor, expected: Tensor, rtol: float, scale: float | None = None) -> None:
    """Equal to rtol; entries near zero to rtol / 1000 (float64) or rtol / 10 (else) of the largest one."""
    if scale is None:
        scale = float(expected.abs().max()) if expected.numel() else 0.0
    share = 1e-3 if actual.dtype == torch.float64 else 0.1
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=share * rtol * max(scale, 1e-3))


SHAPES = [((), 6), ((5,), 7), ((2, 3), 4), ((2, 2, 3), 5), ((3,), 2), ((3,), 50)]
EXTREMES = [
    (torch.float16, 6e4),
    (torch.bfloat16, 1e30),
    (torch.float32, 1e4),
    (torch.float32, 1e30),
    (torch.float64, 1e300),
]
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5}


class ObjectiveBattery:
    """What holds for every objective. A subclass supplies the fixture `objective`."""

    @pytest.fixture(autouse=True)
    def one_thread(self):
        """The tensors are tiny: a pool of threads would only wait for work, at the cost of other processes."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @pytest.mark.parametrize("places, classes", SHAPES)
    def test_value_and_gradient_are_the_equation(self, objective, places, classes):
        logits, targets, mask = example(objective.passes, places, classes, seed=classes)
        logits = logits.float()  # the numbers both precisions get
        for counted in (None, mask):
            each, slopes = evaluate(objective.oracle, logits, targets, counted, "none")
            number = targets.numel() if counted is None else max(int(mask.sum()), 1)
            expected = {
                "none": (each, slopes),
                "sum": (each.sum(), slopes),
                "mean": (each.sum() / number, slopes / number),
            }
            for reduction, (right, right_gradient) in expected.items():
                for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
                    z = logits.to(dtype)
                    value, gradient = run(objective.call, z, targets, mask=counted, reduction=reduction)
                    assert value.dtype == gradient.dtype == dtype
                    assert value.shape == right.shape
                    assert_near(value, right, rtol)
                    assert_near(gradient, right_gradient, rtol)

    def test_a_large_vocabulary_is_its_positions_one_by_one(self, objective):
        logits, targets, mask = example(objective.passes, (6, 5), 20_001)  # too much for one go
        for counted in (None, mask):
            value, gradient = run(objective.call, logits.float(), targets, mask=counted, reduction="none")
            for place in [(0, 0), (2, 3), (5, 4)] if counted is None else mask.nonzero()[::5].tolist():
                here = (slice(None), *place)
                alone = run(objective.call, logits[here].float(), targets[tuple(place)])
                assert_near(value[tuple(place)], alone[0], 1e-5)
                assert_near(gradient[here], alone[1], 1e-5)
        assert torch.equal(gradient.abs().sum((0, -1)) > 0, mask)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_gradcheck(self, objective, reduction):
        logits, targets, mask = example(objective.passes, (3, 2), 4, seed=1)
        moved = list(range(objective.passes)) if objective.moved is None else [objective.moved]
        for counted in (None, mask):

            def loss(z: Tensor, m=counted) -> Tensor:
                whole = logits.index_copy(0, torch.tensor(moved), z)
                return objective.call(whole, targets, mask=m, reduction=reduction)

            assert torch.autograd.gradcheck(loss, (logits[moved].requires_grad_(),))

    def test_strides_do_not_matter(self, objective):
        logits, targets, mask = example(objective.passes, (2, 3), 5, seed=2)
        plain = run(objective.call, logits, targets, mask=mask)
        strided = logits.movedim(-1, 0).contiguous().movedim(0, -1)
        turned = mask.T.contiguous().T
        assert not strided.is_contiguous() and not turned.is_contiguous()
        for actual, expected in zip(
            run(objective.call, strided, targets.T.contiguous().T, mask=turned), plain, strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
    def test_padding_is_never_seen(self, objective, garbage, reduction):
        logits, targets, mask = example(objective.passes, (3, 4), 5, seed=3)
        mask[1] = False  # a row of padding only
        for dtype in (torch.float32, torch.bfloat16):
            clean = logits.to(dtype)
            value, gradient = run(objective.call, clean, targets, mask=mask, reduction=reduction)
            dirty = clean.clone()
            dirty[:, ~mask] = garbage
            dirty[:, ~mask, 1] = 3.0  # and rows that mix it with finite numbers
            for stand_in in (-100, -1, 10**9):
                other = targets.masked_fill(~mask, stand_in)
                again, gradient_again = run(objective.call, dirty, other, mask=mask, reduction=reduction)
                torch.testing.assert_close(again, value, rtol=0, atol=0)
                torch.testing.assert_close(gradient_again, gradient, rtol=0, atol=0)
            assert torch.equal(gradient[:, ~mask], torch.zeros_like(gradient[:, ~mask]))
            if reduction == "none":
                assert torch.equal(value[~mask], torch.zeros_like(value[~mask]))

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_nothing_counted_is_zero(self, objective, reduction):
        logits, targets, mask = example(objective.passes, (2, 3), 4, seed=4)
        nowhere = torch.zeros_like(mask)
        for z in (logits, logits.float(), logits.half(), torch.full_like(logits, float("nan"))):
            value, gradient = run(objective.call, z, torch.full_like(targets, -100), mask=nowhere, reduction=reduction)
            assert torch.equal(value, torch.zeros_like(value))
            assert torch.equal(gradient, torch.zeros_like(gradient))
            assert value.shape == (mask.shape if reduction == "none" else ())

    def test_no_positions_at_all_is_zero(self, objective):
        logits, targets, mask = example(objective.passes, (0,), 4)
        for counted in (None, mask):
            value, gradient = run(objective.call, logits.float(), targets, mask=counted)
            assert value.item() == 0 and gradient.shape == logits.shape

    def test_the_mean_is_over_counted_positions(self, objective):
        logits, targets, mask = example(objective.passes, (4, 5), 6, seed=5)
        each = objective.call(logits, targets, reduction="none")
        mean = objective.call(logits, targets, mask=mask)
        total = objective.call(logits, targets, mask=mask, reduction="sum")
        torch.testing.assert_close(mean, each[mask].mean(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(total, each[mask].sum(), rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("dtype, size", EXTREMES)
    def test_extreme_logits_stay_finite_and_right(self, objective, dtype, size):
        logits, targets, mask = example(objective.passes, (12,), 4, seed=6)
        draw = torch.Generator().manual_seed(7)
        signs = torch.randint(-1, 2, logits.shape, generator=draw)  # -1, 0 or 1: ties and opposed peaks
        turns = (-1.0) ** torch.arange(objective.passes, dtype=torch.float64)
        z = size * signs.double()
        z[:, 0], z[:, 1], z[:, 2] = size, -size, size * turns[:, None]  # rows without a difference in them
        z = z.to(dtype)
        value = run(objective.call, z, targets, reduction="none")[0]
        expected, expected_gradient = evaluate(objective.oracle, z, targets, reduction="none")
        rtol = 1e-5
        assert value.isfinite().all()
        for place in range(z.shape[1]):
            assert_near(value[place], expected[place], rtol, scale=max(1.0, float(expected[place].abs())))
        mean, gradient = run(objective.call, z, targets)
        assert mean.isfinite() and gradient.isfinite().all() and gradient.dtype == dtype
        expected_gradient /= z.shape[1]
        for place in range(z.shape[1]):
            truth = expected_gradient[:, place]
            scale = max(1.0, float(truth.abs().max()))
            assert_near(gradient[:, place], truth, ROUNDING.get(dtype, rtol), scale=scale)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_low_precision_logits_are_computed_in_float32(self, objective, dtype):
        logits, targets, mask = example(objective.passes, (4, 5), 9, seed=8)
        z = logits.to(dtype)
        expected, expected_gradient = run(objective.call, z.float(), targets, mask=mask, reduction="sum")
        value, gradient = run(objective.call, z, targets, mask=mask, reduction="sum")
        assert value.dtype == torch.float32 and gradient.dtype == dtype
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
        assert_near(gradient, expected_gradient, ROUNDING[dtype])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_changes_nothing(self, objective, dtype):
        logits, targets, mask = example(objective.passes, (4, 5), 9, seed=9)
        logits[:, ~mask] = float("nan")
        for z in (logits.to(dtype), logits.float()):
            expected, expected_gradient = run(objective.call, z.float(), targets, mask=mask)
            with torch.autocast("cpu", dtype=dtype):
                value, gradient = run(objective.call, z, targets, mask=mask)
            assert value.dtype == torch.float32 and gradient.dtype == z.dtype
            torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
            assert_near(gradient, expected_gradient, ROUNDING[z.dtype])

    def test_a_constant_on_a_row_of_logits_changes_nothing(self, objective):
        logits, targets, mask = example(objective.passes, (3, 4), 5, seed=10)
        z = (logits * 16).round() / 16  # a grid on which the shifts below are exact in float32
        shifts = torch.randint(-1000, 1001, (*z.shape[:-1], 1), generator=torch.Generator().manual_seed(11))
        for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            value, gradient = run(objective.call, z.to(dtype), targets, mask=mask)
            again, gradient_again = run(objective.call, (z + shifts).to(dtype), targets, mask=mask)
            assert_near(again, value, rtol)
            assert_near(gradient_again, gradient, rtol)

    def test_a_gradient_row_sums_to_zero(self, objective):
        logits, targets, mask = example(objective.passes, (3, 4), 20, seed=12)
        _, gradient = run(objective.call, logits, targets, mask=mask, reduction="sum")
        assert gradient.sum(-1).abs().max() < 1e-13

    def test_arguments_are_left_alone(self, objective):
        logits, targets, mask = example(objective.passes, (3, 4), 5, seed=13)
        targets[~mask] = -100
        kept = [logits.clone(), targets.clone(), mask.clone()]
        run(lambda z, t, **options: objective.call(logits + 0 * z, t, **options), logits, targets, mask=mask)
        objective.call(logits, targets, mask=mask)
        for now, before in zip([logits, targets, mask], kept, strict=True):
            assert torch.equal(now, before)

    def test_a_mask_of_zeros_and_ones_is_refused_or_understood(self, objective):
        logits, targets, mask = example(objective.passes, (4,), 5, seed=14)
        expected = objective.call(logits, targets, mask=mask)
        for dtype in (torch.int64, torch.float32):
            try:
                value = objective.call(logits, targets, mask=mask.to(dtype))
            except (*REFUSED, TypeError):
                continue
            torch.testing.assert_close(value, expected)

    def test_nonsense_is_refused(self, objective):
        logits, targets, mask = example(objective.passes, (2, 3), 4, seed=15)
        for options in (
            {"reduction": "batchmean"},
            {"reduction": None},
            {"mask": mask[:, :2]},
            {"mask": torch.ones(3, 2, dtype=torch.bool)},
            {"mask": torch.ones(2, 3, 4, dtype=torch.bool)},
        ):
            with pytest.raises(REFUSED):
                objective.call(logits, targets, **options)
