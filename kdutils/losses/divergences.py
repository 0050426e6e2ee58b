"""Masked divergences between categorical distributions: logits in, one number out.

>>> z = torch.randn(2, 8, 100, requires_grad=True)        # two passes, 8 positions, 100 words
>>> symmetric_kl(z[0], z[1]).backward()

Every objective of the suite is a sum over positions of a `Formula` in log-probabilities. A formula states its value
at a position, and its slope, the derivative by the logits, where a closed form is faster than autograd.
`weighted_sum` adds formulas, and one engine (`rowwise`) does the rest: it reads the logits once, in slices of rows,
in float32 at least, and makes the gradient while their log-softmax is at hand, so that this buffer is all that is
kept of the logits' size. Positions that the mask excludes are never touched, so even NaN there changes nothing.

Shapes: logits (..., V), targets and mask (...); K passes are stacked in front, (K, ..., V). `mask` is boolean,
True where a position counts. `reduction` is "mean" (over the counted positions), "sum" or "none" (zeros at the
positions that do not count). With an empty mask the value is 0 and so is the gradient. Logits up to 1e30 in
magnitude give finite values and gradients. Values are in nats. Second derivatives are not provided.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from kdutils.core.errors import UserError

CELLS_AT_ONCE = {"cpu": 2**18, "cuda": 2**25}  # logits read at a time: a slice fits the cache, or fills the GPU


def kl_divergence(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """KL(p || q) = sum_v p(v) [log p(v) - log q(v)]; for a fixed teacher pass `p_logits.detach()`.

    Gradients flow into both arguments. Raises UserError on shapes that do not match.
    """
    return rowwise(_Kl(), (p_logits[None], q_logits[None]), mask, reduction)


def soft_cross_entropy(
    p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """H(p, q) = -sum_v p(v) log q(v): the cross-entropy of a student q under a teacher's soft targets p.

    It is KL(p || q) plus the entropy of p. Gradients flow into both arguments.
    """
    return rowwise(_Kl(entropy=False), (p_logits[None], q_logits[None]), mask, reduction)


def symmetric_kl(p_logits: Tensor, q_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Half of both directions, [KL(p || q) + KL(q || p)] / 2 = <p - q, log p - log q> / 2 (R-Drop, Eq. 2)."""
    _same_shape(p_logits, q_logits)
    return 2.0 * x_divergence(torch.stack([p_logits, q_logits]), mask, reduction)


def x_divergence(logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """How far K passes are from agreeing: mean_k [KL(p_k || m) + KL(m || p_k)] with m = mean_k p_k.

    Equal to sum_v Cov_k(p_k(v), z_k(v)) and to (1/K^2) sum_{i<j} [KL(p_i || p_j) + KL(p_j || p_i)]: the divergence
    between all pairs, at the cost of one pass over the K logits. For K = 2 it is half of `symmetric_kl`.
    """
    return rowwise(_XDivergence(), (logits,), mask, reduction)


def js_divergence(logits: Tensor, mask: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Jensen-Shannon divergence of K passes, mean_k KL(p_k || mean_k p_k); between 0 and log K."""
    return rowwise(_JensenShannon(), (logits,), mask, reduction)


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
    return rowwise(formula, (logits[None],), mask, reduction)


# --- formulas ----------------------------------------------------------------------------------------------------


class Formula:
    """An objective at single positions; a new one needs its `value` only.

    >>> class Hellinger(Formula):                              # squared: 1 - sum_v sqrt(p(v) q(v))
    ...     def value(self, rows, logp, logq):
    ...         return 1 - ((logp + logq) / 2).exp().sum(-1)[0]
    >>> rowwise(Hellinger(), (p_logits[None], q_logits[None])).backward()

    `rows` says which of the flat positions a slice holds, as a slice or as numbers (n,): whoever has targets looks
    them up. What it is given must not be changed.
    """

    def value(self, rows: Tensor | slice, *logs: Tensor) -> Tensor:
        """The loss (n,) from log-probabilities (K, n, V), one tensor for each tensor of logits."""
        raise NotImplementedError

    def value_and_slope(self, rows: Tensor | slice, *logs_and_probabilities: Tensor) -> tuple[Tensor, ...]:
        """The loss (n,) and, for each tensor of logits, its derivative (K, n, V), a new tensor; here by autograd.

        The log-probabilities of the slice are followed by their exponentials.
        """
        half = len(logs_and_probabilities) // 2
        with torch.enable_grad():
            # log p: (K, n, V)
            logs = [log.detach().requires_grad_() for log in logs_and_probabilities[:half]]
            # the loss: (n,)
            value = self.value(rows, *logs)
            # g = d loss / d log p: (K, n, V)
            by_logs = torch.autograd.grad(value.sum(), logs, materialize_grads=True)
        # d loss / dz = g - p sum_v g(v): (K, n, V)
        ps = logs_and_probabilities[half:]
        slopes = (g - p * g.sum(-1, keepdim=True) for g, p in zip(by_logs, ps, strict=True))
        return value.detach(), *slopes

    def check(self, rows: Tensor | slice, classes: int) -> None:
        """Raises UserError for what cannot be computed at these positions, before anything is."""


class _Nll(Formula):
    """sum_k of -a log p_k(y) - s sum_v log p_k(v): label smoothing puts s on every class, a more on the target y."""

    def __init__(self, targets: Tensor, a: float, s: float) -> None:
        self.targets, self.a, self.s = targets.reshape(-1), a, s

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        # -a log p_k(y): (K, n)
        loss = -self.a * logp.gather(-1, self._index(rows, logp))[..., 0]
        # ... - s sum_v log p_k(v), of all passes: (n,)
        return (loss - self.s * logp.sum(-1) if self.s else loss).sum(0)

    def value_and_slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        # (a + s V) p_k - s: (K, n, V)
        slope = torch.add(p.new_full((), -self.s), p, alpha=self.a + self.s * p.shape[-1])
        # ... - a at v = y
        index = self._index(rows, logp)
        slope.scatter_add_(-1, index, slope.new_full(index.shape, -self.a))
        return self.value(rows, logp), slope

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


class _XDivergence(Formula):
    """(1/K) sum_k <p_k, d_k> with d_k = log p_k - mean_k log p_k."""

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        # d_k over its share: (K, n, V), or (n, V) for two passes
        apart, share = _centred(logp)
        # (1/K) sum_k <p_k, d_k>: (n,)
        return (share * (logp.exp() * apart).sum(-1, keepdim=True)).mean(0)[..., 0]

    def value_and_slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        # d_k and p_k - mean_k p_k, both over the same share_k: (K, n, V), or (n, V) for two passes
        (d, share), (c, _) = _centred(logp), _centred(p)
        # <p_k, d_k>: (K, n, 1)
        expected = (p * d).sum(-1, keepdim=True)
        # [(p_k - mean_k p_k) + p_k (d_k - <p_k, d_k>)] / K: (K, n, V)
        slope = torch.addcmul(c, p, d - expected).mul_(share / len(p))
        return (share * expected).mean(0)[..., 0], slope


class _JensenShannon(Formula):
    """(1/K) sum_k <p_k, f_k> with f_k = log p_k - log mean_k p_k."""

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        # f_k: (K, n, V)
        f = logp - (logp.logsumexp(0) - math.log(len(logp)))
        # (1/K) sum_k <p_k, f_k>: (n,)
        return (logp.exp() * f).sum(-1).mean(0)


class _Kl(Formula):
    """<p, f> with f = log p - log q, or f = -log q for the cross-entropy (entropy=False)."""

    def __init__(self, entropy: bool = True) -> None:
        self.entropy = entropy

    def value(self, rows: Tensor | slice, logp: Tensor, logq: Tensor) -> Tensor:
        # <p, f>: (n,)
        return (logp.exp() * self._f(logp, logq)).sum(-1)[0]

    def value_and_slope(
        self, rows: Tensor | slice, logp: Tensor, logq: Tensor, p: Tensor, q: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # f: (1, n, V), and <p, f>: (1, n, 1)
        f = self._f(logp, logq)
        expected = (p * f).sum(-1, keepdim=True)
        # by the logits of p, p (f - <p, f>), and by those of q, q - p: (1, n, V)
        return expected[0, :, 0], f.sub_(expected).mul_(p), q - p

    def _f(self, logp: Tensor, logq: Tensor) -> Tensor:
        return logp - logq if self.entropy else -logq


class _WeightedSum(Formula):
    """sum_i w_i formula_i at a position."""

    def __init__(self, terms: Sequence[tuple[float, Formula]]) -> None:
        self.terms = terms

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        # sum_i w_i formula_i: (n,)
        return sum(weight * term.value(rows, logp) for weight, term in self.terms)

    def value_and_slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        # sum_i w_i formula_i: (n,), and its slope, in the buffer of the first term: (K, n, V)
        value, slope = 0.0, None
        for weight, term in self.terms:
            one, its_slope = term.value_and_slope(rows, logp, p)
            value = value + weight * one
            if slope is None:
                slope = its_slope if weight == 1.0 else its_slope.mul_(weight)
            else:
                slope.add_(its_slope, alpha=weight)
        return value, slope

    def check(self, rows: Tensor | slice, classes: int) -> None:
        for _, term in self.terms:
            term.check(rows, classes)


def weighted_sum(
    terms: Sequence[tuple[float, Formula]], logits: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """sum_i w_i formula_i(logits), logits (K, ..., V), in one reading and with one gradient buffer.

    Terms are (weight, formula) pairs; a term of weight 0 is not computed. Formulas: `nll_formula(...)`,
    `x_formula()`, `js_formula()` and whatever is a `Formula` of one tensor of logits.
    """
    kept = [(weight, term) for weight, term in terms if weight != 0.0]
    return rowwise(_WeightedSum(kept or [(0.0, term) for _, term in terms[:1]]), (logits,), mask, reduction)


def x_formula() -> _XDivergence:
    """The X-divergence of the stacked passes as a formula, for `weighted_sum`."""
    return _XDivergence()


def js_formula() -> _JensenShannon:
    """The Jensen-Shannon divergence of the stacked passes as a formula, for `weighted_sum`."""
    return _JensenShannon()


# --- the engine ------------------------------------------------------------------------------------------------


def rowwise(
    formula: Formula, logits: tuple[Tensor, ...], mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """A formula at all positions that count, reduced; logits: tensors (K, ..., V) of one shape, mask (...).

    Raises UserError for shapes that do not match, an unknown reduction, and what the formula itself refuses.
    """
    shape = logits[0].shape[1:-1]
    for other in logits[1:]:
        _same_shape(logits[0], other)
    check_positions(shape, mask, reduction)
    # where nothing can be learned, nothing has a slope
    flat = [(z if torch.is_grad_enabled() else z.detach()).reshape(len(z), -1, z.shape[-1]) for z in logits]
    rows = counted_rows(shape, mask)
    formula.check(rows, flat[0].shape[-1])
    values = _Rowwise.apply(formula, rows, reduction != "none", *flat)
    if reduction == "none":
        return values.reshape(shape)
    counted = shape.numel() if mask is None else len(rows)
    return values / (max(counted, 1) if reduction == "mean" else 1)


class _Rowwise(torch.autograd.Function):
    """Reads logits in slices of rows, once: a slice's value and its part of the gradient are made together."""

    @staticmethod
    def forward(ctx, formula: Formula, rows: Tensor | slice, summed: bool, *logits: Tensor) -> Tensor:
        exact, wanted = precision(*logits), ctx.needs_input_grad[3:]
        values = logits[0].new_zeros(logits[0].shape[1], dtype=exact)
        new = torch.empty_like if isinstance(rows, slice) else torch.zeros_like  # all rows are written, or some
        # float16 has no room for a slope that a loss scale has not yet enlarged
        kinds = [exact if z.dtype == torch.float16 else z.dtype for z in logits]
        grads = [new(z, dtype=kind) if want else None for z, kind, want in zip(logits, kinds, wanted, strict=True)]
        with torch.autocast(values.device.type, enabled=False):
            for some in slices(rows, sum(z.shape[0] * z.shape[-1] for z in logits), values.device):
                logs, ps = zip(*(log_and_probabilities(z[:, some].to(exact)) for z in logits), strict=True)
                if not any(wanted):
                    values[some] = formula.value(some, *logs)
                    continue
                values[some], *slopes = formula.value_and_slope(some, *logs, *ps)
                for grad, slope in zip(grads, slopes, strict=True):
                    if grad is not None:
                        grad[:, some] = slope.to(grad.dtype)
        ctx.save_for_backward(*grads)
        ctx.rows, ctx.kinds = rows, [z.dtype for z in logits]
        return values.sum() if summed else values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor | None, ...]:
        if outer.ndim and isinstance(ctx.rows, Tensor):  # factors of rows that do not count may be anything
            outer = torch.zeros_like(outer).index_copy(0, ctx.rows, outer[ctx.rows])
        return (None, None, None, *scaled(ctx.saved_tensors, outer[:, None] if outer.ndim else outer, ctx.kinds))


def log_and_probabilities(z: Tensor) -> tuple[Tensor, Tensor]:
    """log p and p of rows of logits (..., V), by one exponential; what all of a row have in common goes exactly."""
    # p = softmax(z): (..., V)
    p = z.softmax(-1)
    # log p(v) = (z(v) - max z) + log max p: (..., V)
    return (z - z.amax(-1, keepdim=True)).add_(p.amax(-1, keepdim=True).log_()), p


def scaled(grads: Iterable[Tensor | None], outer: Tensor, kinds: Sequence[torch.dtype]) -> list[Tensor | None]:
    """Gradients that a forward pass made, times the factor that a backward pass brings, in their final precision.

    They are scaled in place, unless the graph is retained: then another backward pass may ask for them.
    """
    # of torch's own, as its checkpointing asks; where a release has it no more, the gradient is copied
    retained = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    if retained():
        return [None if grad is None else (grad * outer).to(kind) for grad, kind in zip(grads, kinds, strict=True)]
    one = outer.numel() == 1 and not outer.is_cuda and bool(outer == 1)  # on a GPU the question would stop the queue
    return [
        None if grad is None else (grad if one else grad.mul_(outer)).to(kind)
        for grad, kind in zip(grads, kinds, strict=True)
    ]


def slices(
    rows: Tensor | slice, cells: int, device: torch.device, at_once: Mapping[str, int] = CELLS_AT_ONCE
) -> Iterator[Tensor | slice]:
    """Cuts rows of so many cells into pieces that are read at a time; rows is slice(0, N), or numbers (n,)."""
    step = max(1, at_once.get(device.type, 2**25) // max(1, cells))
    if isinstance(rows, slice):
        return (slice(start, min(start + step, rows.stop)) for start in range(0, rows.stop, step))
    return iter(rows.split(step) if len(rows) else ())


def check_positions(shape: tuple[int, ...], mask: Tensor | None, reduction: str) -> None:
    """Raises UserError for a mask that is not of the positions' shape, and for an unknown reduction."""
    if reduction not in ("mean", "sum", "none"):
        raise UserError(f"There is no reduction '{reduction}'. Known: mean, sum, none.")
    if mask is not None and mask.shape != shape:
        raise UserError(f"The mask has shape {tuple(mask.shape)}, the positions have {tuple(shape)}.")


def counted_rows(shape: torch.Size, mask: Tensor | None) -> Tensor | slice:
    """Which of the flat positions count: all, slice(0, N), or their numbers (n,)."""
    return slice(0, shape.numel()) if mask is None else mask.reshape(-1).bool().nonzero()[:, 0]


def reduced(values: Tensor, reduction: str) -> Tensor:
    """Losses of single positions as their "mean" or "sum" (0 for no position), or as they are ("none").

    Raises UserError for another reduction.
    """
    check_positions(values.shape, None, reduction)
    if reduction == "none":
        return values
    return values.sum() / (max(values.numel(), 1) if reduction == "mean" else 1)


def precision(*given: Tensor) -> torch.dtype:
    """The precision in which a loss of these is computed: float32 at least."""
    return functools.reduce(torch.promote_types, (one.dtype for one in given), torch.float32)


def _centred(x: Tensor) -> tuple[Tensor, Tensor | float]:
    """(y, share) with share_k y_k = x_k - mean_k x_k, exactly 0 when all passes are identical."""
    if len(x) == 2:  # one half of their difference each, so a single y is enough: half of the memory traffic
        return x[0] - x[1], 0.5 - torch.arange(2, dtype=x.dtype, device=x.device)[:, None, None]
    x = x - x[:1]  # or else identical passes would differ from their mean by its rounding
    return x - x.mean(0), 1.0


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise UserError(f"Both logits must have the same shape, not {tuple(a.shape)} and {tuple(b.shape)}.")
