"""R-Drop as a training method: one doubled batch, two passes that must agree."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.losses.divergences import label_smoothed_nll, symmetric_kl
from kdutils.models.forward import counted_logits
from kdutils.papers.r_drop.objective import k_step, r_drop_loss
from kdutils.training.method import Method, Step


class RDrop(Method):
    """R-Drop as a training method: the batch is passed twice in one go, and the two halves must agree.

    With k > 1 only every k-th update takes the second pass; the others are plain updates.
    """

    name = "r_drop"
    passes = 2.0

    def __init__(
        self, alpha: float = 5.0, k: int = 1, m: int = 2, epsilon: float = 0.0, convention: str = "uniform"
    ) -> None:
        if not 0 <= alpha < math.inf or k < 1 or m < 2:  # so that NaN is refused too
            raise UserError(f"R-Drop needs a finite alpha >= 0, k >= 1 and m >= 2, not {alpha}, {k} and {m}.")
        super().__init__(epsilon, convention)
        self.alpha, self.k, self.m = alpha, k, m

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        if not k_step(step.update, self.k):
            return super().loss(model, batch, counts, step)
        logits, targets = counted_logits(model, batch, copies=self.m), batch["targets"]
        smoothing = {"epsilon": self.epsilon, "convention": self.convention}
        total = r_drop_loss(logits, targets, self.alpha, **smoothing, reduction="sum")
        terms = {"loss": total / counts["targets"]}
        if step.logged:  # the two parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits[0], targets, reduction="sum") / counts["targets"]
                terms["kl"] = symmetric_kl(logits[0], logits[1], reduction="sum") / counts["targets"]
        return terms
