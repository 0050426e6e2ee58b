"""Intra-Distillation as a training method: K passes, all at once or one after another with recomputed graphs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdutils.core.errors import UserError, unknown
from kdutils.losses.divergences import label_smoothed_nll, x_divergence
from kdutils.models.forward import counted_logits
from kdutils.papers.intra_distillation.objective import (
    adaptive_alpha,
    divergence_formula,
    intra_distillation_loss,
    intra_distillation_regression,
)
from kdutils.training.method import Method, Step


def recomputed_logits(model: nn.Module, batch: dict[str, Tensor], copies: int) -> Tensor:
    """Logits (K, N, V) of K passes one after another, of which only one is held in memory at any time.

    Each pass keeps its logits and the random state it began with. In the backward pass, which comes to the last of them
    first, it is computed again from that state, so with the same dropout, and differentiated; then its activations go.
    So K passes cost K times two forward passes and one backward pass, 4/3 of those that are remembered, and the
    numbers are the same to the last bit as those of K remembered passes from the same random states. (One batch of K
    copies, `counted_logits`, draws its dropout in another order.)
    """
    return torch.stack([checkpoint(counted_logits, model, batch, use_reentrant=False) for _ in range(copies)])


FORMS = {"together": counted_logits, "recomputed": recomputed_logits}


class IntraDistillation(Method):
    """K passes over the batch with independent dropout, which must agree.

    adaptive: the weight of the divergence grows as `adaptive_alpha` says, by the updates that lie behind of the whole
    run; else it is alpha throughout. form: "together" passes one batch of K copies; "recomputed" passes one after
    another and holds the activations of one, for 4/3 of the time. scale multiplies the loss: with 2 passes, a constant
    alpha and scale 2 it is R-Drop's Eq. 4. Adam does not see a constant factor, but its epsilon and clipping do.
    """

    name = "intra_distillation"

    def __init__(
        self,
        alpha: float = 5.0,
        passes: int = 3,
        p: float = 5.0,
        q: float = 10.0,
        adaptive: bool = True,
        divergence: str = "x",
        form: str = "together",
        scale: float = 1.0,
        epsilon: float = 0.0,
        convention: str = "uniform",
    ) -> None:
        if passes < 2 or not 0 < scale < math.inf:  # so that NaN is refused too
            raise UserError(f"Intra-Distillation needs passes >= 2 and a scale above 0, not {passes} and {scale}.")
        if form not in FORMS:
            raise unknown("form of the passes", form, FORMS)
        adaptive_alpha(0, 1, alpha, p, q)  # these two refuse what they cannot compute
        divergence_formula(divergence)
        super().__init__(epsilon, convention)
        self.alpha, self.p, self.q, self.adaptive = alpha, p, q, adaptive
        self.copies, self.divergence, self.form, self.scale = passes, divergence, form, scale
        self.passes = passes * (4 / 3 if form == "recomputed" else 1.0)

    def weight(self, step: Step) -> float:
        """alpha', the weight of the divergence at an update."""
        behind = step.update - 1  # updates are counted from 1
        return adaptive_alpha(behind, step.updates, self.alpha, self.p, self.q) if self.adaptive else self.alpha

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        logits, targets, alpha = self._logits(model, batch), batch["targets"], self.weight(step)
        total = intra_distillation_loss(
            logits, targets, alpha, epsilon=self.epsilon, convention=self.convention, reduction="sum",
            divergence=self.divergence,
        )  # fmt: skip
        terms = {"loss": self.scale * total / counts["targets"]}
        if step.logged:  # the parts apart, for the history; they cost another reading of the logits
            share = targets.numel() / counts["targets"]  # of the update: what its batches log is added up
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits[0], targets, reduction="sum") / counts["targets"]
                terms["x"] = x_divergence(logits, reduction="sum") / counts["targets"]
                terms["alpha"] = torch.tensor(alpha * share)
        return terms

    def _logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        try:
            return FORMS[self.form](model, batch, self.copies)
        except torch.OutOfMemoryError as error:
            if self.form == "recomputed":
                raise
            raise UserError(
                f"The GPU's memory is too small for {self.copies} passes at once: set passes_form to recomputed, which "
                "holds one of them, for a third more time."
            ) from error


class IntraDistillationRegression(IntraDistillation):
    """The same for a model with one output: squared errors, and the variance of the K scores in place of X."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        # y_k: (K, N), y: (N,)
        scores, targets, alpha = self._logits(model, batch)[..., 0], batch["targets"], self.weight(step)
        total = intra_distillation_regression(scores, targets, alpha, reduction="sum")
        terms = {"loss": self.scale * total / counts["targets"]}
        if step.logged:
            with torch.no_grad():
                terms["mse"] = (scores[0] - targets).square().sum() / counts["targets"]
                terms["variance"] = scores.float().var(0, correction=0).sum() / counts["targets"]
                terms["alpha"] = torch.tensor(alpha * targets.numel() / counts["targets"])
        return terms
