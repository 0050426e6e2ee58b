"""CBBGCA's two stages as training methods: both models side by side, and the frozen one as teacher."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.core.errors import UserError, unknown
from kdutils.data.batches import EOS, MASK, PAD
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.models.forward import MODEL_INPUTS, counted_logits, mode, only_at
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.objective import (
    MIXES,
    PARTS,
    SELECTIONS,
    cbbgca_loss,
    check_threshold,
    cmlm_inputs,
    joint_loss,
    kd_weight,
    select_unconfident,
    selected_parts,
    uniform_mask,
)
from kdutils.tasks.scores import compared_scores
from kdutils.training.checkpoints import seeded
from kdutils.training.method import Method, Step

SELECTION_PASSES = ("training", "clean")
SPEAKERS = ("cmlm", "itself")


class JointTraining(Method):
    """Stage 1 (Eq. 8): a translator and a masked language model, trained together on one encoder.

    joint_weight: lambda, of the translator's loss. rising: it rises linearly from 0.5 to 1 over the run ("Dynamic",
    Table 3). Given a CMLM as `teacher`, it goes on with a copy of that one.
    """

    name = "joint"
    passes = 1.5  # about; `attach` knows the shape

    def __init__(
        self,
        joint_weight: float = 0.7,
        shared_encoder: bool = True,
        rising: bool = False,
        threshold: float = 0.2,
        epsilon: float = 0.1,
        convention: str = "uniform",
    ) -> None:
        super().__init__(epsilon, convention)
        nothing = torch.zeros(0, 2)
        joint_loss(nothing, nothing[:, 0].long(), nothing, nothing[:, 0].long(), joint_weight)  # refuses what is wrong
        check_threshold(threshold)
        self.joint_weight, self.shared_encoder, self.rising, self.threshold = (
            joint_weight, shared_encoder, rising, threshold,
        )  # fmt: skip
        self.networks = nn.ModuleDict()

    def attach(self, model: PreTrainedModel) -> None:
        self.networks["cmlm"] = CMLM(model, self.shared_encoder).to(model.device)
        if self.teacher is not None:
            self.networks["cmlm"].load_state_dict(self.teacher.state_dict())
            self.teacher = None  # it was only a start
        c = model.config
        shape = (c.decoder_layers, c.d_model, c.decoder_ffn_dim, c.vocab_size)
        self.passes = joint_passes(*shape, self.shared_encoder)

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.networks.items())

    def weight(self, step: Step) -> float:
        """lambda at an update."""
        return 0.5 + 0.5 * (step.update - 1) / step.updates if self.rising else self.joint_weight

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        labels, targets, n, cmlm = batch["labels"], batch["targets"], counts["targets"], self.networks["cmlm"]
        with only_at(model, batch["positions"]):
            found = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}, use_cache=False)
        hidden = uniform_mask((labels >= 0) & (labels != EOS))
        inputs, words = cmlm_inputs(labels, hidden, MASK, EOS, PAD)
        positions = hidden.flatten().nonzero()[:, 0]
        encoded = found.encoder_last_hidden_state
        if not self.shared_encoder:
            encoded = cmlm.encoded(batch["input_ids"], batch["attention_mask"])
        guessed = cmlm(inputs, words, positions, encoded, batch["attention_mask"])
        asked = labels.flatten()[positions]
        smoothing = {"epsilon": self.epsilon, "convention": self.convention}
        terms = {"loss": joint_loss(found.logits, targets, guessed, asked, self.weight(step), **smoothing) / n}
        if step.logged:  # the parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(found.logits, targets, reduction="sum") / n
                terms["cmlm_nll"] = label_smoothed_nll(guessed, asked) * len(targets) / n
        return terms

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        return teacher_scores(model, self.networks["cmlm"], batches, self.threshold)


class CBBGCA(Method):
    """Stage 2 (Eq. 11 to 13): a frozen masked language model, `teacher`, is distilled on the unconfident words.

    threshold: epsilon. which: the words, as in `selected_parts`. schedule and alpha: of the teacher's weight, as in
    `kd_weight`. mix: as in `cbbgca_loss`. selection: the words are chosen on the "training" pass itself, with its
    dropout, or on a second, "clean" pass without, for a third of a plain step. The teacher runs on the sentences that
    have selected words, and is asked for these words alone. speaker: "itself" is a control in which the translator's
    own clean pass teaches the same words.
    """

    name = "cbbgca"
    passes = 4 / 3  # a plain step and the teacher's forward pass, if every sentence has a selected word

    def __init__(
        self,
        threshold: float = 0.2,
        which: str = "unconfident",
        schedule: str = "linear",
        alpha: float = 1.0,
        mix: str = "selected",
        selection: str = "training",
        speaker: str = "cmlm",
        epsilon: float = 0.1,
        convention: str = "uniform",
    ) -> None:
        super().__init__(epsilon, convention)
        check_threshold(threshold)
        kd_weight(0, 1, schedule, alpha)  # refuses what is wrong
        for what, name, known in (
            ("selection of words", which, SELECTIONS),
            ("mix of labels and teacher", mix, MIXES),
            ("pass to select by", selection, SELECTION_PASSES),
            ("teacher", speaker, SPEAKERS),
        ):
            if name not in known:
                raise unknown(what, name, known)
        self.threshold, self.which, self.schedule, self.alpha = threshold, which, schedule, alpha
        self.mix, self.selection, self.speaker = mix, selection, speaker
        # forward passes besides the plain step; one clean pass serves both to select and to teach
        spoken = PARTS if which == "parts" and speaker == "cmlm" else 1
        self.passes = 1 + (spoken + (selection == "clean" and speaker == "cmlm")) / 3

    def attach(self, model: PreTrainedModel) -> None:
        if self.teacher is None and self.alpha and self.speaker == "cmlm":
            raise UserError("CBBGCA learns from a masked language model: give the method one as its teacher.")
        own = {id(p) for p in model.parameters()}
        if self.teacher is not None and any(id(p) in own for p in self.teacher.parameters()):
            raise UserError(
                "The teacher shares weights with the student, which would be frozen with it: build it on a copy of the "
                "translator."
            )

    def weight(self, step: Step) -> float:
        """alpha at an update."""
        return kd_weight(step.update - 1, step.updates, self.schedule, self.alpha)  # updates are counted from 1

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        logits, targets, n = counted_logits(model, batch), batch["targets"], counts["targets"]
        alpha, selected, theirs = self.weight(step), torch.zeros_like(targets, dtype=torch.bool), logits[:0].detach()
        if alpha:
            clean = self._clean(model, batch) if self.selection == "clean" or self.speaker == "itself" else None
            judged = logits.detach() if self.selection == "training" else clean
            sentences = batch["positions"] // batch["labels"].shape[1]
            parts = selected_parts(judged, targets, sentences, targets != EOS, self.which, self.threshold)
            selected = torch.stack(parts).any(0)
            theirs = clean[selected] if self.speaker == "itself" else teacher_logits(self.teacher, batch, parts)
        total = cbbgca_loss(
            logits, targets, theirs, selected, alpha, epsilon=self.epsilon, convention=self.convention,
            reduction="sum", mix=self.mix,
        )  # fmt: skip
        terms = {"loss": total / n}
        if step.logged:  # the parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits, targets, reduction="sum") / n
                terms["kd"] = kl_divergence(theirs, logits[selected], reduction="sum") / n
                terms["selected"] = selected.sum() / n  # of the target tokens: the share whose teacher speaks
                terms["alpha"] = torch.tensor(alpha * len(targets) / n)
        return terms

    @torch.no_grad()
    def _clean(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with mode(model, training=False):
            return counted_logits(model, batch)

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        return {} if self.teacher is None else teacher_scores(model, self.teacher, batches, self.threshold)


@torch.no_grad()
def teacher_logits(cmlm: CMLM, batch: dict[str, Tensor], parts: Iterable[Tensor]) -> Tensor:
    """What the masked language model says of selected words, (M, V), in their order, each part hidden in its own pass.

    parts: booleans (N,) over the targets that the batch counts, of which no two share a word. Only sentences with a
    selected word are computed; which these are is asked once a part, for a GPU has to be waited for.
    """
    found, cells, width, device = [], [], batch["labels"].shape[1], batch["labels"].device
    for part in parts:
        # flat cells of the labels (m,), their sentences (b,), and the same cells among these sentences alone (m,)
        cell = batch["positions"].where(part, -1).cpu()
        cell = cell[cell >= 0]
        rows, own = (cell // width).unique(return_inverse=True)
        if not len(cell):
            continue
        rows, inside = rows.to(device), (own * width + cell % width).to(device)
        labels, source, source_mask = (batch[name][rows] for name in ("labels", "input_ids", "attention_mask"))
        hidden = torch.zeros(labels.numel(), dtype=torch.bool, device=device).index_fill(0, inside, True)
        inputs, words = cmlm_inputs(labels, hidden.view_as(labels), MASK, EOS, PAD)
        found.append(cmlm(inputs, words, inside, cmlm.encoded(source, source_mask), source_mask))
        cells.append(cell)
    if not found:
        return cmlm.projection.weight.new_zeros(0, len(cmlm.projection.weight))
    return found[0] if len(found) == 1 else torch.cat(found)[torch.cat(cells).argsort().to(device)]


@torch.no_grad()
def teacher_scores(
    model: nn.Module, cmlm: CMLM, batches: Iterable[dict[str, Tensor]], epsilon: float = 0.2, training: bool = False
) -> dict[str, float]:
    """What the teacher, without dropout, knows on the words that the translator is unconfident of (Eq. 11).

    training: the words are chosen on a pass of the translator with dropout, as in training; else on a clean one.
    selected_share: of the words (a sentence's end is none). On these words, under teacher forcing, negative
    log-likelihood (nats) and accuracy of the teacher, teacher_loss and teacher_accuracy, and of the pass that chose,
    student_loss and student_accuracy; teacher_kl, KL(q || p); with `training` clean_loss and clean_accuracy, those of
    the translator without dropout: what it knows by itself. All but the share are NaN where no word is unconfident.
    """
    device, counted = next(model.parameters()).device, torch.zeros(2)
    sums, clean = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    with seeded(0), mode(model, training=False), mode(cmlm, training=False):
        for batch in batches:
            batch = {name: one.to(device) if torch.is_tensor(one) else one for name, one in batch.items()}
            with mode(model, training=training):
                logits, targets = counted_logits(model, batch), batch["targets"]
            chosen = select_unconfident(logits, targets, epsilon, targets != EOS)
            counted += torch.stack([chosen.sum(), (targets != EOS).sum()]).cpu()
            sums += compared_scores(teacher_logits(cmlm, batch, [chosen]), logits[chosen], targets[chosen])
            if training:
                clean += compared_scores(counted_logits(model, batch)[chosen], logits[chosen], targets[chosen])
    names = ("teacher_loss", "teacher_accuracy", "student_loss", "student_accuracy", "teacher_kl")
    means = dict(zip(names, (sums / counted[0]).tolist(), strict=True))
    if training:
        means |= dict(zip(("clean_loss", "clean_accuracy"), (clean / counted[0]).tolist()[:2], strict=True))
    return {"selected_share": float(counted[0] / counted[1].clamp(min=1)), **means}


def joint_passes(layers: int, width: int, feedforward: int, vocabulary: int, shared_encoder: bool = True) -> float:
    """What an update of stage 1 costs in plain ones, counted in matrix products, for equal lengths on both sides.

    A second decoder, and a projection for the words that are hidden, half of them on average; or a second encoder too.
    """
    square, ffn = width**2, 2 * width * feedforward
    encoder, decoder, project = layers * (4 * square + ffn), layers * (8 * square + ffn), vocabulary * width
    return 1 + (decoder + project / 2 + (0 if shared_encoder else encoder)) / (encoder + decoder + project)
