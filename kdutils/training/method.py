"""What a paper may change about training: the loss of a batch, and teachers, averages and schedules around it.

>>> class Halved(Method):
...     def loss(self, model, batch, counts, step):
...         terms = super().loss(model, batch, counts, step)
...         return {**terms, "loss": terms["loss"] / 2}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdutils.losses.divergences import label_smoothed_nll, nll_formula
from kdutils.models.forward import counted_logits


@dataclass(frozen=True)
class Step:
    """Where in the training a loss is computed."""

    update: int  # the update under way, counted from 1
    updates: int  # of the whole run
    epoch: int  # counted from 0
    logged: bool  # whether this update's terms are written to the history


class Method:
    """Plain training, and what a paper may change about it.

    The loss is a sum over this batch divided by the counts of the whole update, so that accumulating four small
    batches and taking one large one are the same update. Subclasses override `loss`, and the hooks they need.
    """

    name = "baseline"
    passes = 1.0  # forward-and-backward passes over a batch, with the plain step as 1: the floor of the cost
    # a fixed network to learn from, set before training, which puts it on the device, in evaluation mode and without
    # gradients; not saved with the run
    teacher: nn.Module | None = None

    def __init__(self, epsilon: float = 0.0, convention: str = "uniform") -> None:
        nll_formula(torch.zeros(0, dtype=torch.long), 2, epsilon, convention)  # refuses what it cannot compute
        self.epsilon, self.convention = epsilon, convention

    def attach(self, model: nn.Module) -> None:
        """Called once before training with the model on its device: the place to build teachers."""

    def modules(self) -> dict[str, nn.Module]:
        """Networks trained beside the model, by name (not "model"); optimised, checkpointed and exported apart."""
        return {}

    def count(self, batch: dict[str, Tensor]) -> dict[str, int]:
        """What the terms of the loss are averaged over, known before any forward pass."""
        return {"targets": batch["targets"].numel()}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        """The terms of the loss; "loss" is differentiated, the others are logged. counts: of the whole update."""
        logits = counted_logits(model, batch)
        total = label_smoothed_nll(logits, batch["targets"], self.epsilon, self.convention, reduction="sum")
        return {"loss": total / counts["targets"]}

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """Scores of the networks beside the model on held-out batches, with dropout off; {} where there are none.

        They join the validation scores at every evaluation, and those of the test with "test_" before their names.
        """
        return {}

    def after_update(self, model: nn.Module, step: Step) -> None:
        """Called after every update: averages of weights are renewed here."""

    def after_evaluation(self, model: nn.Module, scores: dict[str, float], step: Step) -> None:
        """Called after every evaluation: teachers are replaced here."""

    def held_bytes(self) -> int:
        """What the method holds on the device besides the networks that are trained and its `teacher`."""
        return 0

    def state(self) -> dict[str, Any]:
        """What must be restored when a run goes on: nested containers of tensors and numbers."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Puts back what `state` returned."""


class SquaredError(Method):
    """Plain training of a model with one output: the mean squared error of its scores."""

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        # y - the right score, in the targets' float32 also under autocast: (N,)
        off = counted_logits(model, batch)[:, 0] - batch["targets"]
        return {"loss": off.square().sum() / counts["targets"]}


class BatchPlan(Protocol):
    """What the loop needs of its data; `kdutils.data.batches.Batches` is one."""

    def plan(self, epoch: int) -> list[list[int]]: ...

    def batch(self, epoch: int, index: int) -> dict[str, Tensor]: ...
