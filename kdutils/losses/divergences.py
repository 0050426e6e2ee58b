"""Masked divergences between categorical distributions: logits in, one number out.

>>> z = torch.randn(2, 8, 100, requires_grad=True)        # two passes, 8 positions, 100 words
>>> symmetric_kl(z[0], z[1]).backward()

Every objective of the suite is a sum over positions of a formula in log-probabilities. A formula (`_Nll`,
`_XDivergence`, ...) states its value at a position and its slope, the derivative by the logits, in closed form;
`weighted_sum` adds formulas, and one engine (`_Rowwise`) does the rest: it reads the logits in slices of rows, in
float32 at least, keeps nothing of the vocabulary's size but the logits themselves, and writes one gradient
buffer. Positions that the mask excludes are never touched, so even NaN there changes nothing.

Shapes: logits (..., V), targets and mask (...); K passes are stacked in front, (K, ..., V). `mask` is boolean,
True where a position counts. `reduction` is "mean" (over the counted positions), "sum" or "none" (zeros at the
positions that do not count). With an empty mask the value is 0 and so is the gradient. Logits up to 1e30 in
magnitude give finite values and gradients. Values are in nats. Second derivatives are not provided.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kdutils.core.errors import UserError

CELLS_AT_ONCE = {"cpu": 2**18, "cuda": 2**25}  # logits read at a time: a slice fits the cache, or fills the GPU


def kl_divergence(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """KL(p || q) = sum_v p(v) [log p(v) - log q(v)]; for a fixed teacher pass `p_logits.detach()`.

    Gradients flow into both arguments. Raises UserError on shapes that do not match.
    """
    return _apply(_Kl(), (p_logits[None], q_logits[None]), mask, reduction)


def soft_cross_entropy(
    p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """H(p, q) = -sum_v p(v) log q(v): the cross-entropy of a student q under a teacher's soft targets p.

    It is KL(p || q) plus the entropy of p. Gradients flow into both arguments.
    """
    return _apply(_Kl(entropy=False), (p_logits[None], q_logits[None]), mask, reduction)


def symmetric_kl(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Half of both directions, [KL(p || q) + KL(q || p)] / 2 = <p - q, log p - log q> / 2 (R-Drop, Eq. 2)."""
    _same_shape(p_logits, q_logits)
    return 2.0 * x_divergence(torch.stack([p_logits, q_logits]), mask, reduction)


def x_divergence(logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """How far K passes are from agreeing: mean_k [KL(p_k || m) + KL(m || p_k)] with m = mean_k p_k.

    Equal to sum_v Cov_k(p_k(v), z_k(v)) and to (1/K^2) sum_{i<j} [KL(p_i || p_j) + KL(p_j || p_i)]: the divergence
    between all pairs, at the cost of one pass over the K logits. For K = 2 it is half of `symmetric_kl`.
    """
    return _apply(_XDivergence(), (logits,), mask, reduction)


def js_divergence(logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Jensen-Shannon divergence of K passes, mean_k KL(p_k || mean_k p_k); between 0 and log K."""
    return _apply(_JensenShannon(), (logits,), mask, reduction)


def label_smoothed_nll(
    logits: Tensor,
    targets: Tensor,
    epsilon: float = 0.0,
    convention: str = "uniform",
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy with label smoothing, in either convention of the official codes.

    "uniform": the smoothed target is (1 - epsilon) on the right class plus epsilon / V on every class (R-Drop's
    criterion, torch's own); "others": (1 - epsilon) on the right class and epsilon / (V - 1) on each wrong one
    (fairseq's stock criterion). Raises UserError for an unknown convention, an epsilon outside [0, 1) or a
    target outside the vocabulary at a position that counts.
    """
    formula = nll_formula(targets, logits.shape[-1], epsilon, convention)
    wanted, given = tuple(logits.shape[:-1]), tuple(targets.shape)
    if wanted != given:
        raise UserError(f"Logits {tuple(logits.shape)} need targets of the shape {wanted}, not {given}.")
    return _apply(formula, (logits[None],), mask, reduction)


# --- formulas: value at a position from log-probabilities (K, n, V), slope from these and probabilities ---------


class _Nll:
    """sum_k of -a log p_k(target) - s sum_v log p_k(v): label smoothing puts s on every class, a more on the target."""

    def __init__(self, targets: Tensor, a: float, s: float) -> None:
        self.targets, self.a, self.s = targets.reshape(-1), a, s

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        at_target = logp.gather(-1, self._index(rows, logp))[..., 0]
        loss = -self.a * at_target
        return (loss - self.s * logp.sum(-1) if self.s else loss).sum(0)

    def slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor]:
        grad = p * (self.a + self.s * p.shape[-1])
        grad -= self.s
        index = self._index(rows, logp)
        return (grad.scatter_add_(-1, index, grad.new_full(index.shape, -self.a)),)

    def check(self, rows: Tensor | slice, classes: int) -> None:
        counted = self.targets[rows]
        if counted.device.type == "cpu" and counted.numel():  # on a GPU the check would stop the queue
            low, high = int(counted.min()), int(counted.max())
            if low < 0 or high >= classes:
                raise UserError(f"Counted targets must be in 0..{classes - 1}, found {low}..{high}: mask the others.")

    def _index(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        return self.targets[rows].expand(logp.shape[0], -1)[..., None]


def nll_formula(targets: Tensor, classes: int, epsilon: float = 0.0, convention: str = "uniform") -> _Nll:
    """The label-smoothed cross-entropy of every pass as a formula, for `weighted_sum`."""
    if not 0.0 <= epsilon < 1.0:
        raise UserError(f"Label smoothing epsilon must be in [0, 1), not {epsilon}.")
    if convention == "uniform":
        return _Nll(targets, a=1.0 - epsilon, s=epsilon / classes)
    if convention == "others":
        wrong = epsilon / max(classes - 1, 1)
        return _Nll(targets, a=1.0 - epsilon - wrong, s=wrong)
    raise UserError(f"There is no label-smoothing convention '{convention}'. Known: uniform, others.")


class _XDivergence:
    """(1/K) sum_k <p_k, d_k> with d_k = log p_k - mean_k log p_k."""

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        return (logp.exp() * _centred(logp)).sum(-1).mean(0)

    def slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor]:
        # d/dz_k = (1/K) [ (p_k - mean p) + p_k (d_k - <p_k, d_k>) ]
        grad, d = _centred(p), _centred(logp)
        grad += p * (d - (p * d).sum(-1, keepdim=True))
        grad /= len(p)
        return (grad,)


class _JensenShannon:
    """(1/K) sum_k <p_k, f_k> with f_k = log p_k - log mean_k p_k; the slope through the mean cancels."""

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        return (logp.exp() * self._ratio(logp)).sum(-1).mean(0)

    def slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor]:
        return (_score(p, self._ratio(logp)) / logp.shape[0],)

    @staticmethod
    def _ratio(logp: Tensor) -> Tensor:
        return logp - (logp.logsumexp(0) - math.log(logp.shape[0]))


class _Kl:
    """<p, f> with f = log p - log q, or f = -log q for the cross-entropy (entropy=False)."""

    def __init__(self, entropy: bool = True) -> None:
        self.entropy = entropy

    def value(self, rows: Tensor | slice, logp: Tensor, logq: Tensor) -> Tensor:
        return (logp.exp() * self._f(logp, logq)).sum(-1)[0]

    def slope(self, rows: Tensor | slice, logp: Tensor, logq: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        return _score(p, self._f(logp, logq)), q - p

    def _f(self, logp: Tensor, logq: Tensor) -> Tensor:
        return logp - logq if self.entropy else -logq


class _WeightedSum:
    def __init__(self, terms: Sequence[tuple[float, object]]) -> None:
        self.terms = terms

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        return sum(weight * term.value(rows, logp) for weight, term in self.terms)

    def slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor]:
        total = None
        for weight, term in self.terms:
            (one,) = term.slope(rows, logp, p)
            total = one.mul_(weight) if total is None else total.add_(one, alpha=weight)
        return (total,)

    def check(self, rows: Tensor | slice, classes: int) -> None:
        for _, term in self.terms:
            if hasattr(term, "check"):
                term.check(rows, classes)


def weighted_sum(
    terms: Sequence[tuple[float, object]], logits: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """sum_i w_i formula_i(logits), logits (K, ..., V), in one reading and with one gradient buffer.

    Terms are (weight, formula) pairs; a term of weight 0 is not computed. Formulas: `nll_formula(...)` and
    `x_formula()`.
    """
    kept = [(weight, term) for weight, term in terms if weight != 0.0]
    return _apply(_WeightedSum(kept or [(0.0, term) for _, term in terms[:1]]), (logits,), mask, reduction)


def x_formula() -> _XDivergence:
    """The X-divergence of the stacked passes as a formula, for `weighted_sum`."""
    return _XDivergence()


# --- the engine ------------------------------------------------------------------------------------------------


class _Rowwise(torch.autograd.Function):
    """Applies a formula row by row: logits are read in slices, twice, and nothing of their size is kept."""

    @staticmethod
    def forward(ctx, formula, rows: Tensor | slice, *logits: Tensor) -> Tensor:
        ctx.formula, ctx.rows = formula, rows
        ctx.save_for_backward(*logits)
        values = logits[0].new_zeros(logits[0].shape[1], dtype=_precision(*logits))
        for some in _slices(rows, logits):
            values[some] = formula.value(some, *_log_softmax(logits, some))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor | None, ...]:
        logits = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        grads = [torch.zeros_like(z) if want else None for z, want in zip(logits, wanted, strict=True)]
        for some in _slices(ctx.rows, logits):
            logs = _log_softmax(logits, some)
            slopes = ctx.formula.slope(some, *logs, *(log.exp() for log in logs))
            for grad, slope in zip(grads, slopes, strict=True):
                if grad is not None:
                    grad[:, some] = (slope * outer[some][:, None]).to(grad.dtype)
        return (None, None, *grads)


def _apply(formula, logits: tuple[Tensor, ...], mask: Tensor | None, reduction: str) -> Tensor:
    """Flattens the positions, runs the engine over those that count, reduces."""
    shape = logits[0].shape[1:-1]
    for other in logits[1:]:
        _same_shape(logits[0], other)
    if reduction not in ("mean", "sum", "none"):
        raise UserError(f"There is no reduction '{reduction}'. Known: mean, sum, none.")
    if mask is not None and mask.shape != shape:
        raise UserError(f"The mask has shape {tuple(mask.shape)}, the positions have {tuple(shape)}.")
    flat = [z.reshape(z.shape[0], -1, z.shape[-1]) for z in logits]
    rows = slice(0, flat[0].shape[1]) if mask is None else mask.reshape(-1).bool().nonzero()[:, 0]
    if hasattr(formula, "check"):
        formula.check(rows, flat[0].shape[-1])
    values = _Rowwise.apply(formula, rows, *flat)
    if reduction == "none":
        return values.reshape(shape)
    counted = flat[0].shape[1] if mask is None else len(rows)
    return values.sum() / (max(counted, 1) if reduction == "mean" else 1)


def _slices(rows: Tensor | slice, logits: tuple[Tensor, ...]) -> Iterator[Tensor | slice]:
    """Cuts the counted rows into pieces of about CELLS_AT_ONCE logits."""
    cells = CELLS_AT_ONCE.get(logits[0].device.type, 2**25)
    step = max(1, cells // max(1, sum(z.shape[0] * z.shape[-1] for z in logits)))
    if isinstance(rows, slice):
        for start in range(0, rows.stop, step):
            yield slice(start, min(start + step, rows.stop))
    else:
        yield from rows.split(step) if len(rows) else ()


def _log_softmax(logits: tuple[Tensor, ...], rows: Tensor | slice) -> list[Tensor]:
    return [z[:, rows].log_softmax(-1, dtype=_precision(*logits)) for z in logits]


def _precision(*logits: Tensor) -> torch.dtype:
    return functools.reduce(torch.promote_types, (z.dtype for z in logits), torch.float32)


def _centred(x: Tensor) -> Tensor:
    """x_k - mean_k x_k, exactly 0 when all passes are identical (hence the detour over the first pass)."""
    if len(x) == 2:  # the common case in a third of the memory traffic
        half = (x[0] - x[1]).mul_(0.5)
        return torch.stack([half, -half])
    x = x - x[:1]
    return x - x.mean(0)


def _score(p: Tensor, f: Tensor) -> Tensor:
    """The derivative of <p, f> by the logits of p for fixed f: p (f - <p, f>)."""
    return p * (f - (p * f).sum(-1, keepdim=True))


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise UserError(f"Both logits must have the same shape, not {tuple(a.shape)} and {tuple(b.shape)}.")
