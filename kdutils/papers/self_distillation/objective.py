"""Self-distillation's objectives and its ensembles: Eq. (2) to (7) of Xu et al. (2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from kdutils.core.errors import UserError
from kdutils.losses.divergences import check_positions, counted_rows, label_smoothed_nll, precision, reduced


def vote(logits: Tensor) -> Tensor:
    """Eq. (2): the mean probabilities (..., C) of K models with logits (K, ..., C); the highest wins.

    The paper's equation sums the models; its text says that the probabilities are summed. A K-th of that sum has the
    same winner.
    """
    exact = precision(logits)
    # p_k = softmax(z_k): (K, ..., C);  1/K sum_k p_k: (..., C)
    return logits.to(exact).softmax(-1).mean(0)


def average_parameters(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Eq. (3): the mean of every parameter of K models, as `load_state_dict` takes it.

    All of them, the classifier too. The sum is taken in float64 on the CPU (Apple's GPU has none); what is no
    floating-point number is the first model's. Raises UserError for no model, or for models of other shapes.
    """
    if not states:
        raise UserError("There is no model to average: give at least one.")
    shapes = [{name: one.shape for name, one in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise UserError("Models of other shapes have no average: give models of one architecture.")

    def mean(name: str, first: Tensor) -> Tensor:
        # 1/K sum_k theta_k
        return sum(state[name].cpu().double() for state in states).div(len(states)).to(first)

    return {name: mean(name, one) if one.is_floating_point() else one for name, one in states[0].items()}


def squared_error(
    logits: Tensor, teacher_logits: Tensor, mask: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """MSE between logits (..., C), a mean over the C classes at every position; mask (...).

    The paper says "MSE" of the logits (Figure 2) and not what it is a mean of: here, as in the community's code, of
    the classes too, so that with 14 classes lambda = 1 pulls each logit a seventh as hard as with two. It is sensitive
    to a shift of all logits of a position, which the probabilities are not. No gradient reaches the teacher.
    """
    if logits.shape != teacher_logits.shape:
        raise UserError(
            f"The logits have shape {tuple(logits.shape)}, but the teacher's {tuple(teacher_logits.shape)}: they must "
            "be alike."
        )
    check_positions(logits.shape[:-1], mask, reduction)
    exact, rows = precision(logits, teacher_logits), counted_rows(logits.shape, mask)
    student, teacher = (z.reshape(-1, z.shape[-1])[rows].to(exact) for z in (logits, teacher_logits.detach()))
    # 1/C sum_c (o_c - o~_c)^2: (counted,)
    values = (student - teacher).square().mean(-1)
    if reduction != "none":
        return reduced(values, reduction)
    whole = values.new_zeros(logits.shape[:-1].numel())
    whole[rows] = values
    return whole.reshape(logits.shape[:-1])


def sda_loss(
    logits: Tensor,
    teacher_logits: Tensor | None,
    targets: Tensor,
    weight: float = 1.0,
    mask: Tensor | None = None,
    *,
    epsilon: float = 0.0,
    convention: str = "uniform",
    reduction: str = "mean",
) -> Tensor:
    """Eq. (5): CE(o, y) + lambda MSE(o, o~), a position. Logits (..., C), targets and mask (...).

    teacher_logits: of the averaged earlier selves, Eq. (6); None where there is none yet, as at the first update: the
    cross-entropy alone. weight: lambda, beside the cross-entropy in nats. epsilon smooths its labels, which the
    paper does not. No gradient reaches the teacher. Raises UserError for a weight that is negative or no number.
    """
    if not 0 <= weight < math.inf:  # so that NaN is refused too
        raise UserError(f"lambda is {weight}: it must be finite and not negative.")
    # CE(o, y)
    loss = label_smoothed_nll(logits, targets, epsilon, convention, mask, reduction)
    if teacher_logits is None or weight == 0:
        return loss
    # + lambda MSE(o, o~)
    return loss + weight * squared_error(logits, teacher_logits, mask, reduction)


def sdv_loss(
    logits: Tensor,
    teacher_logits: Tensor | None,
    targets: Tensor,
    weight: float = 1.0,
    mask: Tensor | None = None,
    **options: str | float,
) -> Tensor:
    """Eq. (7): as `sda_loss`, against the mean logits of K earlier selves, (K, ..., C)."""
    if teacher_logits is not None:
        # 1/K sum_k o_k: (..., C)
        teacher_logits = teacher_logits.to(precision(teacher_logits)).mean(0)
    return sda_loss(logits, teacher_logits, targets, weight, mask, **options)
