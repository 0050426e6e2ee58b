"""Tutor-KD as a training method, and distillation without a tutor, on the same student."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForMaskedLM, PreTrainedModel

from kdutils.core.errors import UserError, unknown
from kdutils.losses.divergences import kl_divergence
from kdutils.models.forward import features_at, mode, only_at
from kdutils.papers.tutor_kd.objective import (
    WEIGHTS,
    attention_loss,
    check_weights,
    hidden_loss,
    layer_map,
    modified_logit_loss,
    modified_teacher_logit,
    policy_gradient_loss,
    probabilities,
    student_reward,
    teacher_reward,
    total_loss,
    tutor_loss,
)
from kdutils.papers.tutor_kd.student import Seen, attention_mask, observed, tutor_head
from kdutils.training.checkpoints import seeded
from kdutils.training.method import Method, Step

SAMPLERS = ("tutor", "teacher", "argmax", "random")
STEPS = ("joint", "alternating")
LOGITS = ("modified", "plain")


class Distillation(Method):
    """What all that learn from the teacher share: a projection to its width, and its layers to follow.

    weights: of the representation (attention and hidden states), the logits, the policy gradient, the tutor's KL.
    attention: whether attention scores are followed. inverted_mask: as in `attention_mask`.
    """

    predicts = True  # whether the student has a vocabulary head

    def __init__(
        self,
        weights: Iterable[float] = WEIGHTS,
        attention: bool = True,
        inverted_mask: bool = False,
        passes: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights = check_weights(tuple(weights))
        self.attention, self.inverted_mask, self.passes = attention, inverted_mask, passes
        self.networks = nn.ModuleDict()

    def attach(self, model: PreTrainedModel) -> None:
        teacher = self.taught().config
        self.layers = layer_map(teacher.num_hidden_layers, model.config.num_hidden_layers)
        if teacher.num_attention_heads != model.config.num_attention_heads:
            raise UserError("Attention is compared head by head: the student needs as many heads as its teacher.")
        if (model.get_output_embeddings() is not None) != self.predicts:
            wanted = "predicting_student" if self.predicts else "judging_student"
            raise UserError(f"The student has a head that this method does not train: make it by `{wanted}`.")
        self.networks["projection"] = nn.Linear(model.config.hidden_size, teacher.hidden_size).to(
            model.device, model.dtype
        )

    def taught(self) -> BertForMaskedLM:
        """The teacher. Raises UserError when a method was made without one."""
        if self.teacher is None:
            raise UserError("Distillation needs a teacher: set Method.teacher before training.")
        return self.teacher

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.networks.items())

    def count(self, batch: dict[str, Tensor]) -> dict[str, int]:
        return {"targets": batch["targets"].numel(), "tokens": batch["tokens"].numel()}

    def given(self, batch: dict[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        """What an encoder is given of a text (B, S)."""
        return {"input_ids": text, "attention_mask": attention_mask(batch, self.inverted_mask)}

    def teach(self, batch: dict[str, Tensor], text: Tensor) -> tuple[Tensor, Seen]:
        """The teacher on a text: logits (n, V) at the chosen positions, and what its layers computed."""
        teacher = self.taught()
        watched = observed(teacher.base_model, self.layers, self.attention)
        with torch.no_grad(), only_at(teacher, batch["positions"]), watched as seen:
            logits = teacher(**self.given(batch, text)).logits
        return logits, seen

    def study(self, model: nn.Module, batch: dict[str, Tensor], text: Tensor) -> tuple[Tensor, Seen]:
        """The student on a text: what its head says, and what its layers computed."""
        plain = model.module if hasattr(model, "module") else model
        with observed(plain.base_model, range(1, len(self.layers) + 1), self.attention) as seen:
            said = model(**self.given(batch, text)).logits
        return said, seen

    def representation(self, ours: Seen, theirs: Seen, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """L_hidden and L_att, summed over the tokens of the batch."""
        # h, h' of the tokens that are no padding: (M, d) each
        hidden = ([one.flatten(0, 1)[batch["tokens"]] for one in seen.hidden] for seen in (ours, theirs))
        found = {"hidden": hidden_loss(*hidden, self.networks["projection"], reduction="sum")}
        if self.attention:
            found["attention"] = attention_loss(ours.scores, theirs.scores, batch["attention_mask"], "sum")
        return found


class PlainKD(Distillation):
    """Distillation without a tutor: the student sees the masked text, and learns the teacher's distribution there.

    L = w_1 (L_att + L_hidden) + w_2 KL(p_T || p_S), the KL of the chosen positions in the place of the modified logit:
    summed over them, and divided by all tokens.
    """

    name = "kd"

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        text, tokens = batch["input_ids"], counts["tokens"]
        masked, theirs = self.teach(batch, text)
        with only_at(model, batch["positions"]):
            logits, ours = self.study(model, batch, text)
        parts = {name: part / tokens for name, part in self.representation(ours, theirs, batch).items()}
        parts["logit"] = kl_divergence(masked, logits, reduction="sum") / tokens
        total = self.weights[0] * (parts["hidden"] + parts.get("attention", 0.0)) + self.weights[1] * parts["logit"]
        return {"loss": total, **(parts if step.logged else {})}


class TutorKD(Distillation):
    """Tutor-KD: the masked words are written anew, and the student judges the text that comes of it.

    sampler: who writes; "tutor", and for comparison "teacher" (samples of p_T), "argmax" (its likeliest word) and
    "random" (any entry of the vocabulary), which train no tutor. rewards: the factors of R_T and R_S. steps: "joint",
    tutor and student in every update, as released; or "alternating", the tutor in odd updates (the maximisation), the
    student in even ones (the minimisation). baseline: the share that a running mean of the reward keeps at an update,
    which is subtracted from it; 0: nothing is. logits: "modified", or "plain": the student predicts the words at the
    chosen positions of the text that was written, by a vocabulary head.
    """

    name = "tutor_kd"

    def __init__(
        self,
        weights: Iterable[float] = WEIGHTS,
        sampler: str = "tutor",
        rewards: tuple[float, float] = (1.0, 1.0),
        steps: str = "joint",
        baseline: float = 0.0,
        logits: str = "modified",
        attention: bool = True,
        inverted_mask: bool = False,
        passes: float = 1.0,
    ) -> None:
        super().__init__(weights, attention, inverted_mask, passes)
        for what, name, known in (("sampler", sampler, SAMPLERS), ("kind of steps", steps, STEPS),
                                  ("kind of logits", logits, LOGITS)):  # fmt: skip
            if name not in known:
                raise unknown(what, name, known)
        if not 0 <= baseline < 1 or len(rewards) != 2 or not all(0 <= one < math.inf for one in rewards):
            raise UserError(
                f"Rewards {rewards} must be two factors of at least 0, a baseline from 0 to below 1, not {baseline}."
            )
        self.sampler, self.rewards, self.steps, self.logits = sampler, tuple(rewards), steps, logits
        self.predicts = logits == "plain"
        self.decay, self.baseline, self.earned = baseline, torch.zeros(()), torch.zeros(2)

    def attach(self, model: PreTrainedModel) -> None:
        super().attach(model)
        config = self.taught().config
        if self.sampler == "tutor":
            self.networks["tutor"] = tutor_head(config.hidden_size, config.vocab_size).to(model.device, model.dtype)
        self.baseline, self.earned = self.baseline.to(model.device), self.earned.to(model.device)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        n, tokens, original, positions = counts["targets"], counts["tokens"], batch["targets"], batch["positions"]
        tutors = self.sampler == "tutor" and (self.steps == "joint" or step.update % 2 == 1)
        learns = self.steps == "joint" or not tutors
        masked, features = self.masked_pass(batch)
        with torch.set_grad_enabled(tutors):
            # log G up to a constant: (n, V)
            writing = self.networks["tutor"](features) if self.sampler == "tutor" else masked
        # x': (n,)
        written = write(writing, self.sampler)
        text = rewritten(batch, written)
        replaced, theirs = self.teach(batch, text)
        with torch.set_grad_enabled(learns):
            judged, ours = self.study(model, batch, text)
            parts = {name: part / tokens for name, part in self.representation(ours, theirs, batch).items()}
            parts["logit"] = self._logit(judged, masked, replaced, written, batch) / tokens
        rewards = self.rewarded(masked, replaced, judged, original, written, positions)
        parts["policy"] = parts["tutor"] = masked.new_zeros(())
        if tutors:
            self.earned += torch.stack([rewards.sum(), torch.ones_like(rewards).sum()])
            paid = policy_gradient_loss(writing, written, rewards, reduction="sum", baseline=self.baseline)
            parts |= {"policy": paid / n, "tutor": tutor_loss(writing, masked, reduction="sum") / n}
        followed = parts["hidden"] + parts.get("attention", 0.0)
        total = total_loss(followed, parts["logit"], parts["policy"], parts["tutor"], self.weights)
        return {"loss": total, **(parts | {"reward": rewards.sum() / n} if step.logged else {})}

    def masked_pass(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The teacher on the masked text: logits (n, V) and last hidden states (n, width) at the chosen positions."""
        teacher, given = self.taught(), self.given(batch, batch["input_ids"])
        with torch.no_grad():
            features, hidden = features_at(teacher, given, batch["positions"])
            return teacher.get_output_embeddings()(features), hidden

    def study(self, model: nn.Module, batch: dict[str, Tensor], text: Tensor) -> tuple[Tensor, Seen]:
        if not self.predicts:
            return super().study(model, batch, text)
        with only_at(model, batch["positions"]):
            return super().study(model, batch, text)

    def _logit(
        self, judged: Tensor, masked: Tensor, replaced: Tensor, written: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """The loss of the student's head, whichever it has, summed over the tokens of the batch."""
        if self.logits == "plain":
            return kl_divergence(replaced, judged, reduction="sum")
        # a^T of every token, 1 where nothing was chosen: (B S,)
        chosen = modified_teacher_logit(masked, batch["targets"], written)
        right = chosen.new_ones(judged.numel()).index_copy(0, batch["positions"], chosen)
        some = batch["tokens"]
        return modified_logit_loss(judged.flatten()[some], right[some], reduction="sum")

    def rewarded(
        self, masked: Tensor, replaced: Tensor, judged: Tensor, original: Tensor, written: Tensor, positions: Tensor
    ) -> Tensor:
        """R_T and R_S with their factors, added: (n,)."""
        teacher = teacher_reward(replaced, original, written)
        right = modified_teacher_logit(masked, original, written)
        student = student_reward(right, self.said(judged, original, written, positions))
        return self.rewards[0] * teacher + self.rewards[1] * student

    def said(self, judged: Tensor, original: Tensor, written: Tensor, positions: Tensor) -> Tensor:
        """o (n,), so that sigmoid(o) is the student's own a; of a vocabulary head, from its two probabilities."""
        if self.logits == "modified":
            return judged.detach().flatten()[positions]
        return modified_teacher_logit(judged, original, written).logit(eps=1e-6)

    @torch.no_grad()
    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """What samples of the tutor, and of the teacher itself, do to teacher and student; means over held-out words.

        For "tutor" and "sampled" in front: teacher_reward R_T, student_reward R_S = |a^T - a^S|, easy p_T(x | X'),
        plausible p_T(x' | X^M), kept (the share with x' = x), entropy of the writer (nats). loss: that of the student's
        head in the text that the method itself writes. The masks are those of the batches, the samples always the same.
        """
        device, sums, counted = next(model.parameters()).device, {}, torch.zeros(2)
        with seeded(0), mode(model, training=False), mode(self.networks, training=False):
            for batch in batches:
                batch = {name: one.to(device) if torch.is_tensor(one) else one for name, one in batch.items()}
                counted += torch.tensor([batch["targets"].numel(), batch["tokens"].numel()])
                masked, features = self.masked_pass(batch)
                writers = {"sampled": (masked, "teacher")}
                if self.sampler == "tutor":
                    writers["tutor"] = (self.networks["tutor"](features), "tutor")
                elif self.sampler != "teacher":
                    writers[self.sampler] = (masked, self.sampler)
                for who, (logits, sampler) in writers.items():
                    for name, total in self._tried(model, batch, masked, logits, sampler).items():
                        sums[f"{who}_{name}"] = sums.get(f"{who}_{name}", 0.0) + float(total)
        own = "sampled" if self.sampler == "teacher" else self.sampler
        loss = sums[f"{own}_loss"] / max(1.0, float(counted[1]))
        means = {name: total / max(1.0, float(counted[0])) for name, total in sums.items()}
        return {name: mean for name, mean in means.items() if not name.endswith("_loss")} | {"loss": loss}

    def _tried(
        self, model: nn.Module, batch: dict[str, Tensor], masked: Tensor, writing: Tensor, sampler: str
    ) -> dict[str, Tensor]:
        """Sums over the chosen words of a batch, where `sampler` writes by the logits (n, V) of `writing`."""
        original, written = batch["targets"], write(writing, sampler)
        text = rewritten(batch, written)
        replaced, _ = self.teach(batch, text)
        judged, _ = self.study(model, batch, text)
        right = modified_teacher_logit(masked, original, written)
        log = writing.float().log_softmax(-1)
        return {
            "teacher_reward": teacher_reward(replaced, original, written).sum(),
            "student_reward": student_reward(right, self.said(judged, original, written, batch["positions"])).sum(),
            "easy": probabilities(replaced, original)[0].sum(),
            "plausible": probabilities(masked, written)[0].sum(),
            "kept": (written == original).sum(),
            "entropy": -(log.exp() * log).sum(),
            "loss": self._logit(judged, masked, replaced, written, batch),
        }

    def after_update(self, model: nn.Module, step: Step) -> None:
        """Renews the running mean of the reward, where one is kept."""
        total, count = self.earned
        if self.decay:
            mean = total / count.clamp(min=1)
            self.baseline = torch.where(count > 0, self.decay * self.baseline + (1 - self.decay) * mean, self.baseline)
        self.earned = torch.zeros_like(self.earned)

    def state(self) -> dict[str, Any]:
        # what was earned too: an update that the loss scale skipped has not been settled
        return {"baseline": self.baseline, "earned": self.earned}

    def restore(self, state: dict[str, Any]) -> None:
        self.baseline, self.earned = (state[name].to(self.baseline.device) for name in ("baseline", "earned"))


def write(logits: Tensor, sampler: str) -> Tensor:
    """One token a row, (n,), of logits (n, V): a draw ("tutor", "teacher"), the "argmax", or any at "random"."""
    if sampler == "argmax":
        return logits.argmax(-1)
    if sampler == "random":
        return torch.randint(logits.shape[-1], logits.shape[:1], device=logits.device)
    z = logits.detach().float()
    # the largest of z + Gumbel noise is a draw from softmax(z), also of no rows, and no GPU is waited for
    return (z - torch.empty_like(z).exponential_().log()).argmax(-1)


def rewritten(batch: dict[str, Tensor], written: Tensor) -> Tensor:
    """X' (B, S): the masked text with what was written (n,) at all chosen positions, also those that had been left."""
    text = batch["input_ids"]
    return text.flatten().index_copy(0, batch["positions"], written).view_as(text)
