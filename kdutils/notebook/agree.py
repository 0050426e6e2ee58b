"""The proof that two forms of one objective agree, in value and in gradient.

>>> agree("Eq. (4)", by_hand, fast, logits, targets)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kdutils.core.errors import UserError


def agree(
    name: str, transparent: Callable, fast: Callable, *inputs: Any, rtol: float = 1e-12, atol: float = 1e-14
) -> None:
    """Asserts that two forms of one objective have the same value and the same gradient, and prints so.

    Both are called with copies of `inputs`. Floating-point tensors become float64 leaves whose gradients are
    compared (none at all counts as zero); everything else, such as integer targets and masks, is passed as it
    is. Results of any shape are compared entry by entry, and their gradients through a fixed weighted sum.
    Two numbers agree when they differ by at most `atol` plus `rtol` times the largest entry of the two.
    Raises AssertionError with both numbers where they do not, UserError when no input has a gradient.
    """
    if not any(_differentiable(value) for value in inputs):
        raise UserError(f"{name} has no floating-point tensor among its inputs: give the logits as a tensor.")
    value, gradients = _value_and_gradients(transparent, inputs)
    fast_value, fast_gradients = _value_and_gradients(fast, inputs)
    apart = _difference(f"{name}: the value", value, fast_value, rtol, atol)
    furthest = 0.0
    for number, (ours, theirs) in enumerate(zip(gradients, fast_gradients, strict=True), start=1):
        where = f"{name}: the gradient of floating-point input {number}"
        furthest = max(furthest, _difference(where, ours, theirs, rtol, atol))
    shown = f"{value.item():.4f}" if value.numel() == 1 else f"of shape {tuple(value.shape)}"
    print(f"{name}: value {shown} agrees (difference {apart:.1e}), gradient agrees (largest difference {furthest:.1e})")


def _differentiable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _value_and_gradients(function: Callable, inputs: Sequence) -> tuple[Tensor, list[Tensor]]:
    """The value on copies of the inputs, and one gradient for each floating-point input."""
    copies = [value.detach().clone() if isinstance(value, Tensor) else value for value in inputs]
    copies = [value.double().requires_grad_() if _differentiable(value) else value for value in copies]
    value = torch.as_tensor(function(*copies))
    leaves = [copy for copy in copies if _differentiable(copy)]
    if value.requires_grad:
        weights = torch.linspace(1.0, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
        (value * weights.to(value.device)).sum().backward()
    return value.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def _difference(what: str, ours: Tensor, theirs: Tensor, rtol: float, atol: float) -> float:
    """The largest difference of two tensors; AssertionError when it is more than rounding or not a number."""
    if ours.shape != theirs.shape:
        raise AssertionError(f"{what} has shape {tuple(ours.shape)} by hand and {tuple(theirs.shape)} in the module")
    if ours.numel() == 0:
        return 0.0
    apart = (ours - theirs).abs()
    allowed = atol + rtol * float(torch.maximum(ours.abs().max(), theirs.abs().max()))
    worst = int(apart.nan_to_num(nan=math.inf).argmax())
    furthest = float(apart.flatten()[worst])
    if not furthest <= allowed:  # written so that NaN fails
        one, other = float(ours.flatten()[worst]), float(theirs.flatten()[worst])
        raise AssertionError(
            f"{what} is {one!r} by hand and {other!r} in the module: "
            f"they differ by {furthest:.1e}, more than rounding ({allowed:.1e})"
        )
    return furthest
