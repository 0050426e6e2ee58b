"""One crafted batch on which a wrong version of an objective differs from its equation.

>>> assert matches(lambda z, t, m: r_drop_loss(z, t, alpha=5.0, mask=m), oracles.r_drop(5.0))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tests.oracles import Oracle, evaluate, example


def matches(function: Callable[[Tensor, Tensor, Tensor], Tensor], oracle: Oracle) -> bool:
    """Whether value and gradient of function(z, targets, mask), z of two passes, are the oracle's on the batch."""
    z, targets, mask = example(2, (3, 4), 6, seed=21)
    expected = evaluate(oracle, z, targets, mask)
    leaf = z.clone().requires_grad_()
    value = function(leaf, targets, mask)
    value.backward()
    return all(
        torch.allclose(actual, right, rtol=1e-9, atol=1e-12)
        for actual, right in zip((value.detach(), leaf.grad), expected, strict=True)
    )
