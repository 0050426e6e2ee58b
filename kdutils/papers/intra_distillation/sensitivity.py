"""How much each parameter contributes to the loss, how evenly they do, and what a model is without the least of them.

>>> sensitivity = parameter_sensitivity(model, task.fixed_batches("validation", 100))
>>> balance(sensitivity)["cv"]                    # the spread over the mean: what can be compared between models
2.1
>>> pruning_curve(model, sensitivity, (0.0, 0.2, 0.4), lambda net: mean_loss(net, batches))
{0.0: 3.41, 0.2: 3.43, 0.4: 3.60}

The paper's measure is the standard deviation of the sensitivities. It grows with the loss itself, so that a model of
lower loss looks better balanced whatever its parameters do: `balance` gives it raw, and over the mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.losses.divergences import label_smoothed_nll, precision
from kdutils.models.forward import counted_logits, mode

Batch = dict[str, Tensor]


def parameter_sensitivity(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """I_j = |theta_j dL/dtheta_j| of every trained parameter, by name, in its shape, in nats.

    To first order the change of the loss when the parameter is set to zero, |L(theta) - L(theta without j)|; see
    `exact_sensitivity`. L is the mean negative log-likelihood of a batch, dropout off, no smoothing; the I_j of
    the batches are averaged, each by its targets, and every batch starts from gradients of zero. Parameters that the
    model shares between layers are one, under their first name. The model and its gradients stay as they are. Raises
    UserError where no target counts.
    """
    named = _trained(model)
    total, count = {name: torch.zeros_like(one, dtype=precision(one)) for name, one in named.items()}, 0
    with torch.enable_grad(), _full_precision(model):  # for the backward pass as well
        for loss, n in _losses(model, batches):
            # dL/dtheta: one tensor a parameter
            gradients = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
            for (name, theta), gradient in zip(named.items(), gradients, strict=True):
                # n |theta_j dL/dtheta_j|: the parameter's shape
                total[name] += n * (theta.detach() * gradient).abs()
            count += n
    return {name: one / _some(count) for name, one in total.items()}


@torch.no_grad()
def exact_sensitivity(
    model: nn.Module, batches: Iterable[Batch], places: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """|L(theta) - L(theta without j)| itself, of a few parameters: each takes a forward pass over all batches.

    places: flat numbers of entries by the parameter's name; returned is one tensor (n,) for each name. Averaged over
    the batches as in `parameter_sensitivity`. The model stays as it is. Raises UserError for an unknown name.
    """
    named, batches, found = _trained(model), list(batches), {}
    whole = list(_losses(model, batches))
    count = _some(sum(n for _, n in whole))
    for name, numbers in places.items():
        if name not in named:
            raise UserError(f"The model has no trained parameter '{name}': take the names of parameter_sensitivity.")
        theta, changes = named[name].data.view(-1), []
        for number in numbers:
            kept = theta[number].clone()
            theta[number] = 0.0
            # |L - L without j|, over the batches
            pairs = zip(whole, _losses(model, batches), strict=True)
            changes.append(sum(n * (loss - without).abs() for (loss, n), (without, _) in pairs) / count)
            theta[number] = kept
        found[name] = torch.stack(changes) if changes else theta.new_zeros(0)
    return found


def balance(sensitivity: Mapping[str, Tensor]) -> dict[str, float]:
    """How evenly the parameters contribute, in one number each over all of them.

    mean and std (nats): the raw ones, std being the paper's measure, which scales with the loss. cv: std over mean,
    free of that scale; 0 where all contribute alike. low_half: the share of the sum that the less sensitive half holds,
    0.5 where all contribute alike. Parameters without any sensitivity at all leave cv and low_half at 0.
    """
    each = _flat(sensitivity).double()
    mean, std = float(each.mean()), float(each.std(correction=0))
    total, lowest = float(each.sum()), float(each[_least(each, len(each) // 2)].sum())
    return {"mean": mean, "std": std, "cv": std / mean if mean else 0.0, "low_half": lowest / total if total else 0.0}


@contextlib.contextmanager
def pruned(model: nn.Module, sensitivity: Mapping[str, Tensor], share: float) -> Iterator[nn.Module]:
    """While active, the `share` of all trained parameters with the lowest sensitivity is zero; then they are back.

    Exactly round(share n) of them: of equal ones those that come first. Raises UserError for a share outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise UserError(f"The share of the parameters to prune must be from 0 to 1, not {share}.")
    named, each = _trained(model), _flat(sensitivity)
    lost = _least(each, round(share * len(each)))
    parts = lost.split([one.numel() for one in sensitivity.values()])
    kept = {name: named[name].data.clone() for name in sensitivity}
    try:
        for name, part in zip(sensitivity, parts, strict=True):
            named[name].data[part.view_as(named[name])] = 0.0
        yield model
    finally:
        for name, values in kept.items():
            named[name].data.copy_(values)


def pruning_curve(
    model: nn.Module,
    sensitivity: Mapping[str, Tensor],
    shares: Iterable[float],
    score: Callable[[nn.Module], float],
) -> dict[float, float]:
    """The score of the model without its `share` of least sensitive parameters, for each share; it stays as it is."""
    curve = {}
    for share in shares:
        with pruned(model, sensitivity, share):
            curve[share] = float(score(model))
    return curve


def _least(each: Tensor, count: int) -> Tensor:
    """Which of the numbers (n,) are the `count` least, (n,) bool: of equal ones those that come first.

    Nothing is sorted: a large model has a hundred million of them.
    """
    if not count:
        return torch.zeros_like(each, dtype=torch.bool)
    last = each.kthvalue(count).values
    least = each < last
    equal = (each == last).nonzero()[:, 0]
    least[equal[: count - int(least.sum())]] = True
    return least


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[Batch]) -> float:
    """The mean negative log-likelihood of the counted targets, dropout off, in nats: what sensitivities are about."""
    pairs = [(float(loss), n) for loss, n in _losses(model, batches)]
    return sum(loss * n for loss, n in pairs) / _some(sum(n for _, n in pairs))


def _losses(model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[Tensor, int]]:
    """The loss and the number of targets of each batch that has any, in the full precision of the parameters."""
    device = next(model.parameters()).device
    for batch in batches:
        batch = {name: one.to(device) if isinstance(one, Tensor) else one for name, one in batch.items()}
        if n := len(batch["targets"]):
            with mode(model, training=False), _full_precision(model):
                loss = label_smoothed_nll(counted_logits(model, batch), batch["targets"])
            yield loss, n


def _full_precision(model: nn.Module) -> torch.autocast:
    return torch.autocast(next(model.parameters()).device.type, enabled=False)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def _flat(sensitivity: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in sensitivity.values()])


def _some(count: int) -> int:
    if not count:
        raise UserError("No target of these batches counts: check the data set and the masking.")
    return count
