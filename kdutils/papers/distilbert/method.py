"""Training by the triple loss; fine-tuning with a fine-tuned teacher, the second distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdutils.core.errors import UserError
from kdutils.losses.distillation import check_temperature, cosine_loss, soft_target_loss
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.losses.projection import projected_losses
from kdutils.models.forward import counted_logits, features_at
from kdutils.papers.distilbert.objective import _checked_weights
from kdutils.training.method import Method, Step


class TripleLoss(Method):
    """Pre-training by the triple loss; the teacher sees the same masked text as the student."""

    name = "distilbert"

    def __init__(
        self,
        weights: Sequence[float] = (5.0, 2.0, 1.0),
        temperature: float = 2.0,
        restrict_to_mask: bool = False,
        passes: float = 2.0,
    ) -> None:
        super().__init__()
        self.weights = _checked_weights(weights)
        if not any(self.weights):
            raise UserError("All three weights are 0: nothing would be learnt.")
        check_temperature(temperature)
        self.temperature, self.restrict_to_mask, self.passes = temperature, restrict_to_mask, passes

    def count(self, batch: dict[str, Tensor]) -> dict[str, int]:
        return {"targets": batch["targets"].numel(), "tokens": batch["tokens"].numel()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        alpha_ce, alpha_mlm, alpha_cos = self.weights
        tokens = batch["tokens"]
        narrow = self.restrict_to_mask or not alpha_ce  # then only the masked positions are projected
        projected, asked = (batch["positions"], range(len(batch["positions"]))) if narrow else (tokens, batch["asked"])
        features, hidden = features_at(model, batch, projected, tokens)
        theirs = self._teach(batch, projected, tokens)
        head = model.module if hasattr(model, "module") else model
        total, soft, hard = projected_losses(
            features, head.get_output_embeddings(), theirs[0], theirs[2], batch["labels"].flatten()[projected],
            soft=alpha_ce / counts["targets" if narrow else "tokens"], hard=alpha_mlm / counts["targets"],
            temperature=self.temperature, asked=asked,
        )  # fmt: skip
        terms = {"loss": total}
        if step.logged:
            terms["soft"] = soft / counts["targets" if narrow else "tokens"]
            terms["mlm"] = hard / counts["targets"]
        if alpha_cos:
            cosine = cosine_loss(hidden, theirs[1], reduction="sum") / counts["tokens"]
            terms["loss"] = total + alpha_cos * cosine
            terms |= {"cosine": cosine} if step.logged else {}
        return terms

    @torch.no_grad()
    def _teach(self, batch: dict[str, Tensor], projected: Tensor, tokens: Tensor) -> tuple:
        """(features, hidden states, output projection) of the teacher; nothing where no term asks for it."""
        if not self.weights[0] and not self.weights[2]:
            return None, None, None
        teacher = given(self.teacher)
        return *features_at(teacher, batch, projected, tokens), teacher.get_output_embeddings()


class SecondDistillation(Method):
    """Fine-tuning with a fine-tuned teacher: alpha_ce T^2 KL(teacher || student) + alpha_task cross-entropy.

    The step that the paper adds on SQuAD, where start and end positions are the classes (`AnswerDistillation`); here
    the classes of the task. A score, as that of STS-B, is no distribution and has no temperature: squared errors take
    the place of both terms, to the teacher's score and to the right one.
    """

    name = "second_distillation"
    passes = 5 / 3
    logits = staticmethod(counted_logits)  # (..., V) of a model for a batch whose targets are (...)

    def __init__(self, alpha_ce: float = 0.5, alpha_task: float = 0.5, temperature: float = 2.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.alpha_ce, self.alpha_task, _ = _checked_weights((alpha_ce, alpha_task, 0.0))
        self.temperature = temperature

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        logits, targets = self.logits(model, batch), batch["targets"]
        scored = targets.is_floating_point()
        hard = squared_error(logits, targets) if scored else label_smoothed_nll(logits, targets, reduction="sum")
        hard = hard / counts["targets"]
        if not self.alpha_ce:
            return {"loss": self.alpha_task * hard, "nll": hard}
        with torch.no_grad():
            theirs = self.logits(given(self.teacher), batch)
        if scored:
            soft = squared_error(logits, theirs[:, 0].to(targets.dtype))
        else:
            soft = soft_target_loss(logits, theirs, self.temperature, reduction="sum")
        soft = soft / counts["targets"]
        return {"loss": self.alpha_ce * soft + self.alpha_task * hard, "soft": soft, "nll": hard}


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over the rows of (y - right)^2; logits (N, 1), targets (N,)."""
    return (logits[:, 0] - targets).square().sum()


def given(teacher: nn.Module | None) -> nn.Module:
    """The teacher. Raises UserError when a method was made without one."""
    if teacher is None:
        raise UserError("Distillation needs a teacher: set Method.teacher before training.")
    return teacher
