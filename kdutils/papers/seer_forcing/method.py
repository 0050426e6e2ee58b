"""Seer Forcing as a training method, and what its two decoders see."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.core.errors import UserError, unknown
from kdutils.losses.divergences import kl_divergence, label_smoothed_nll
from kdutils.models.forward import mode
from kdutils.papers.seer_forcing.decoder import SeerDecoder, check_seer, two_decoders, visible_positions
from kdutils.papers.seer_forcing.objective import adversarial_losses, checked_weights, l2_loss, seer_loss
from kdutils.tasks.scores import compared_scores
from kdutils.training.method import Method, Step

TRANSFERS = ("kd", "l2", "adversarial")
LONGEST_TRIAL = 24  # words: a sentence is compared with itself once for each, over the whole vocabulary


class SeerForcing(Method):
    """Trains a translator and, beside it, a seer decoder on the same words; the seer teaches as it learns.

    transfer: "kd" is the paper's; "l2" and "adversarial" are what it compared with, weighted by (1 - alpha) times
    `transfer_weight`. full_cross_entropy: the conventional decoder's labels count 1 instead of alpha. The seer is
    in training mode while it teaches, as in the released code. The other options are those of `SeerDecoder`.
    """

    name = "seer_forcing"

    def __init__(
        self,
        alpha: float = 0.5,
        transfer: str = "kd",
        transfer_weight: float = 1.0,
        full_cross_entropy: bool = False,
        epsilon: float = 0.1,
        convention: str = "uniform",
        **options: object,
    ) -> None:
        super().__init__(epsilon, convention)
        hard, own, soft = checked_weights(alpha)
        if transfer not in TRANSFERS:
            raise unknown("transfer", transfer, TRANSFERS)
        if not 0.0 <= transfer_weight < math.inf:
            raise UserError(
                f"The decoders cannot be drawn together by a weight of {transfer_weight}: choose 0 or more."
            )
        check_seer(**options)
        self.transfer, self.options = transfer, options
        self.weights = (1.0 if full_cross_entropy else hard, own, soft if transfer == "kd" else 0.0)
        self.transfer_weight = soft * transfer_weight if transfer != "kd" else 0.0
        self.networks = nn.ModuleDict()

    def attach(self, model: PreTrainedModel) -> None:
        config, width = model.config, model.config.d_model
        self.networks["seer"] = SeerDecoder(model.get_decoder(), **self.options).to(model.device)
        if self.transfer == "adversarial":
            judge = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
            self.networks["discriminator"] = judge.to(model.device, model.dtype)
        self.passes = passes(config.decoder_layers, width, config.decoder_ffn_dim, config.vocab_size)

    def modules(self) -> dict[str, nn.Module]:
        return dict(self.networks.items())

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
        logits, hidden = two_decoders(model, self.networks["seer"], batch)
        targets, n = batch["targets"], counts["targets"]
        smoothing = {"epsilon": self.epsilon, "convention": self.convention}
        total = seer_loss(logits, targets, **smoothing, reduction="sum", weights=self.weights)
        terms = {"loss": (total + self._matched(hidden)) / n}
        if step.logged:  # the parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                conventional, seer = logits
                terms["nll"] = label_smoothed_nll(conventional, targets, reduction="sum") / n
                terms["seer_nll"] = label_smoothed_nll(seer, targets, reduction="sum") / n
                terms["seer_kl"] = kl_divergence(seer, conventional, reduction="sum") / n
        return terms

    def _matched(self, hidden: Tensor) -> Tensor | float:
        """The terms of the two alternatives to distillation, summed over the positions."""
        if self.transfer == "kd":
            return 0.0
        if self.transfer == "l2":
            return self.transfer_weight * l2_loss(*hidden, reduction="sum")
        fooling, telling = adversarial_losses(self.networks["discriminator"], *hidden, reduction="sum")
        return self.transfer_weight * fooling + telling

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        return seer_scores(model, self.networks["seer"], batches)


@torch.no_grad()
def seer_scores(model: nn.Module, seer: SeerDecoder, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """What the seer knows under teacher forcing, dropout off; means over the target tokens of all batches.

    seer_loss and seer_accuracy: its negative log-likelihood (nats) and accuracy; seer_kl: KL(p_s || p_c), how far the
    model's own decoder is from it. seer_leak and past_leak: the most that a logit changes, of the seer when the very
    word that it predicts is replaced, and of the model when a word that follows is (both in one sentence; 0 is right).
    """
    sums, count, leaks, device = torch.zeros(5, dtype=torch.float64), 0, {}, next(model.parameters()).device
    with mode(model, training=False), mode(seer, training=False):
        for batch in batches:
            if not len(batch["targets"]):
                continue
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            leaks = leaks or _leaks(model, seer, batch)
            (conventional, foreseen), targets = two_decoders(model, seer, batch)[0], batch["targets"]
            sums += compared_scores(foreseen, conventional, targets)
            count += len(targets)
    if not count:
        raise UserError("No token of these batches counts: check the data set.")
    nll, right, _, _, apart = (sums / count).tolist()
    return {"seer_loss": nll, "seer_accuracy": right, "seer_kl": apart, **leaks}


def _leaks(model: nn.Module, seer: SeerDecoder, batch: dict[str, Tensor]) -> dict[str, float]:
    """The longest sentence of the batch against itself with one word replaced, for each of its first words in turn."""
    row = int((batch["labels"] >= 0).sum(1).argmax())
    length = min(int((batch["labels"][row] >= 0).sum()), LONGEST_TRIAL)
    copies = {
        name: batch[name][row, : length if name in ("decoder_input_ids", "labels") else None].repeat(length, 1)
        for name in ("input_ids", "attention_mask", "decoder_input_ids", "labels")
    }
    word = torch.arange(1, length, device=copies["labels"].device)  # row j replaces input j; row 0 is as it was
    start = copies["decoder_input_ids"][0, 0].item()
    copies["decoder_input_ids"][word, word] = start  # which is no word of the sentence
    copies["positions"] = torch.arange(length**2, device=word.device)
    logits = two_decoders(model, seer, copies)[0].float().unflatten(1, (length, length))  # (2, replaced, output, V)
    changed = (logits - logits[:, :1]).abs().amax(-1)  # (2, replaced, output)
    future = ~visible_positions(length, "past").T.to(word.device)  # input j lies behind output i: j > i
    nothing = changed.new_zeros(1)
    return {
        "seer_leak": float(torch.cat([changed[1, word, word - 1], nothing]).max()),
        "past_leak": float(torch.cat([changed[0][future], nothing]).max()),
    }


def passes(layers: int, width: int, feedforward: int, vocabulary: int) -> float:
    """What an update costs in plain ones, counted in matrix products, for sentences of equal length on both sides.

    The seer adds a decoder whose first N - 1 layers take two streams and whose last one takes two through its
    self-attention and one through the rest, and a second projection onto the vocabulary; keys and values of the source
    are computed once a layer. Encoder and embeddings are shared.
    """
    square, ffn, project = width**2, 2 * width * feedforward, vocabulary * width
    plain = layers * (4 * square + ffn) + layers * (8 * square + ffn) + project
    fusion = 2 * 4 * square + 2 * square + 4 * square + ffn
    seer = (layers - 1) * (2 * (4 * square + 2 * square + ffn) + 2 * square) + fusion + project
    return 1 + seer / plain
