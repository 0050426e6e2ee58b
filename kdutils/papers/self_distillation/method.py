"""Self-distillation as training methods: the same loss, and four ways to make a teacher of one's earlier selves."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdutils.core.errors import UserError
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.forward import MODEL_INPUTS, counted_logits, mode
from kdutils.papers.self_distillation.objective import sda_loss, squared_error
from kdutils.papers.self_distillation.window import Flat, Mean, Window
from kdutils.tasks.scores import label_scores
from kdutils.training.method import Method, Step


def twin(model: nn.Module) -> tuple[nn.Module, Flat]:
    """A copy of a network in evaluation mode and without gradients, and the memory that its parameters lie in."""
    other, flat = copy.deepcopy(model).eval().requires_grad_(False), Flat(model)
    flat.take(model)
    for name, parameter in other.named_parameters():
        parameter.data = flat.views[name]
    return other, flat


def quality(model: nn.Module, batches: Iterable[dict[str, Tensor]], prefix: str) -> dict[str, float]:
    """Loss and accuracy of a network that is not the one in training, under names with a prefix."""
    scores = label_scores(model, batches, None)
    return {f"{prefix}_{name}": scores[name] for name in ("loss", "accuracy")}


class SelfEnsemble(Method):
    """Plain training with Eq. (4) beside it: the mean of the parameters after every update, theta_1 to theta_T.

    It is looked at and never influences the training: its scores stand beside the model's as `ensemble_...`. The
    starting point is not counted, as its classifier is random.
    """

    def attach(self, model: nn.Module) -> None:
        self.ensemble, self.flat = twin(model)
        self.latest = Flat(model)
        self.mean = Mean(self.flat.data.numel(), self.flat.data.device)

    @torch.no_grad()
    def after_update(self, model: nn.Module, step: Step) -> None:
        self.latest.take(model)
        self.mean.add(self.latest.data)

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        if self.mean.count:
            self.mean.write(self.flat.data)
        return quality(self.ensemble, batches, "ensemble")

    def held_bytes(self) -> int:
        return sum(one.nbytes for one in (self.flat.data, self.latest.data, self.mean.total))

    def state(self) -> dict[str, Any]:
        return {"total": self.mean.total, "count": self.mean.count}

    def restore(self, state: dict[str, Any]) -> None:
        self.mean.total.copy_(state["total"])
        self.mean.count = state["count"]


class SelfDistillation(Method):
    """The cross-entropy plus lambda times the MSE to the logits of a teacher; what the teacher is, a subclass says.

    A time step is an update, however many batches it takes. Where there is no teacher yet, the loss is the
    cross-entropy. The student is what is trained and kept; the scores of the teacher stand beside it as `teacher_...`.
    The history has the MSE (mse) and what it is made of: of dropout alone, between the student with and without it
    (mse_dropout), and of age, between the student without dropout and its teacher (mse_age).
    """

    def __init__(self, weight: float = 1.0, epsilon: float = 0.0, convention: str = "uniform") -> None:
        super().__init__(epsilon, convention)
        if not 0 <= weight < math.inf:
            raise UserError(f"lambda is {weight}: it must be finite and not negative.")
        self.weight = weight

    def teacher_logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor | None:
        """The teacher's logits (N, C) for a batch; None where there is no teacher yet."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        # o: (N, C), y: (N,)
        logits, targets = counted_logits(model, batch), batch["targets"]
        with torch.no_grad():
            # o~: (N, C)
            theirs = self.teacher_logits(model, batch) if self.weight else None
        total = sda_loss(
            logits, theirs, targets, self.weight, epsilon=self.epsilon, convention=self.convention, reduction="sum"
        )
        terms = {"loss": total / counts["targets"]}
        if step.logged:
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits, targets, reduction="sum") / counts["targets"]
                terms |= self._parts(model, batch, logits, theirs, counts)
        return terms

    def _parts(self, model, batch, logits: Tensor, theirs: Tensor | None, counts: dict[str, int]) -> dict[str, Tensor]:
        """The MSE and its two parts, for the history, at the cost of another forward pass."""
        if theirs is None:
            return dict.fromkeys(("mse", "mse_dropout", "mse_age"), logits.new_zeros(()))
        with mode(model, training=False):
            calm = counted_logits(model, batch)
        pairs = {"mse": (logits, theirs), "mse_dropout": (logits, calm), "mse_age": (calm, theirs)}
        return {name: squared_error(*pair, reduction="sum") / counts["targets"] for name, pair in pairs.items()}


class Averaging(SelfDistillation):
    """What SDA and the exponential average share: one teacher network, whose parameters are an average."""

    passes = 4 / 3  # a forward pass is a third of a step

    def attach(self, model: nn.Module) -> None:
        self.older, self.flat = twin(model)

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        return quality(self.older, batches, "teacher")


class SDA(Averaging):
    """Eq. (5) and (6): the teacher has the mean of the parameters of the last K earlier selves; size 0: of all."""

    name = "sda"

    def __init__(self, size: int = 1, weight: float = 1.0, epsilon: float = 0.0, convention: str = "uniform") -> None:
        super().__init__(weight, epsilon, convention)
        self.size = size

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        self.window = Window(model, self.size)

    def teacher_logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor | None:
        return counted_logits(self.older, batch) if len(self.window) else None

    def after_update(self, model: nn.Module, step: Step) -> None:
        self.window.push(model)
        self.window.average_into(self.flat)

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def held_bytes(self) -> int:
        return self.window.bytes() + self.flat.data.nbytes

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)
        if len(self.window):
            self.window.average_into(self.flat)


class SDV(SelfDistillation):
    """Eq. (7): the mean logits of the last K earlier selves, which run as one batched forward pass."""

    name = "sdv"

    def __init__(self, size: int = 1, weight: float = 1.0, epsilon: float = 0.0, convention: str = "uniform") -> None:
        super().__init__(weight, epsilon, convention)
        if size < 1:
            raise UserError("SDV asks every earlier self by itself: teachers must be at least 1, and cannot be all.")
        self.size, self.passes = size, 1 + size / 3

    def attach(self, model: nn.Module) -> None:
        self.window = Window(model, self.size, averaged=False)
        self.shape = copy.deepcopy(model).eval().requires_grad_(False).to("meta")
        self.buffers = dict(model.named_buffers())

    def teacher_logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor | None:
        if not len(self.window):
            return None
        # o_k: (K, N, C);  1/K sum_k o_k: (N, C)
        return self.each(batch).float().mean(0)

    def each(self, batch: dict[str, Tensor]) -> Tensor:
        """The logits (K, N, C) of every earlier self in the window, without dropout."""
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}

        def one(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.shape, (parameters, self.buffers), kwargs=inputs).logits

        # torch has no batching rule for the fused attention of CPUs and would ask one self after another
        on_cpu = inputs["input_ids"].device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if on_cpu else contextlib.nullcontext():
            return torch.vmap(one)(self.window.stacked())

    def after_update(self, model: nn.Module, step: Step) -> None:
        self.window.push(model)

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        return {}

    def held_bytes(self) -> int:
        return self.window.bytes()

    def state(self) -> dict[str, Any]:
        return self.window.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.window.restore(state)


class EMA(Averaging):
    """Not in the paper: an exponential moving average as the teacher, as public code that bears its name has it.

    theta~ <- d theta~ + (1 - d) theta after every update, so the present self is in it, and every earlier one, the
    starting point too; d = min(decay, (1 + s) / (10 + s)) after s updates. It teaches from the first update on.
    """

    name = "ema"

    def __init__(self, decay: float = 0.995, weight: float = 1.0, epsilon: float = 0.0, convention: str = "uniform"):
        super().__init__(weight, epsilon, convention)
        if not 0 <= decay < 1:
            raise UserError(f"The decay of an exponential average is {decay}: choose one from 0 to below 1.")
        self.decay = decay

    def attach(self, model: nn.Module) -> None:
        super().attach(model)
        self.latest = Flat(model)

    def teacher_logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return counted_logits(self.older, batch)

    @torch.no_grad()
    def after_update(self, model: nn.Module, step: Step) -> None:
        decay = min(self.decay, (1 + step.update) / (10 + step.update))
        self.latest.take(model)
        self.flat.data.lerp_(self.latest.data, 1 - decay)

    def held_bytes(self) -> int:
        return self.flat.data.nbytes + self.latest.data.nbytes

    def state(self) -> dict[str, Any]:
        return {"average": self.flat.data}

    def restore(self, state: dict[str, Any]) -> None:
        self.flat.data.copy_(state["average"])


class Itself(SelfDistillation):
    """Not in the paper: the teacher is the present self without dropout, so that its age can teach nothing.

    With time steps counted by micro-batches and four of them an update, it is what K = 1 is in three of four.
    """

    name, passes = "itself", 4 / 3

    def teacher_logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with mode(model, training=False):
            return counted_logits(model, batch)
