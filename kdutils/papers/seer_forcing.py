"""Seer Forcing: a decoder that sees the future words teaches the one that cannot (Feng et al., 2021, arXiv:2106.06751).

>>> loss = seer_loss(torch.stack([conventional_logits, seer_logits]), targets, alpha=0.5)
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["translation"], seeds=[1, 2, 3])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.claims import Claim, from_history, history, paired, paired_difference, sweep_setting, value
from kdutils.decoders import SeerDecoder, check_seer, two_decoders, visible_positions
from kdutils.distillation import reduced
from kdutils.divergences import kl_divergence, label_smoothed_nll, nll_formula, weighted_sum
from kdutils.errors import UserError, unknown
from kdutils.evaluation import translation_scores
from kdutils.experiments import Arm, Experiment, Trial
from kdutils.methods import Method, Moment
from kdutils.models import mode
from kdutils.settings import Setting, Settings
from kdutils.tasks import Translation

TITLE = "Guiding Teacher Forcing with Seer Forcing for Neural Machine Translation"
CITATION = "Feng, Gu, Guo, Yang, Shao. ACL-IJCNLP 2021, pages 2862-2872. arXiv:2106.06751"

TRANSFERS = ("kd", "l2", "adversarial")
LONGEST_TRIAL = 24  # words: a sentence is compared with itself once for each, over the whole vocabulary

# --- the objective -----------------------------------------------------------------------------------------------


class _Forcing:
    """a CE(p_c) + b CE(p_s) + c H(p_s, p_c) at a position, as a formula of `kdutils.divergences`; p_s teaches only."""

    def __init__(self, nll, weights: Sequence[float]) -> None:
        self.nll, self.weights = nll, weights

    def value(self, rows: Tensor | slice, logp: Tensor) -> Tensor:
        a, b, c = self.weights
        soft = -(logp[1].exp() * logp[0]).sum(-1) if c else 0.0
        return a * self.nll.value(rows, logp[:1]) + b * self.nll.value(rows, logp[1:]) + c * soft

    def slope(self, rows: Tensor | slice, logp: Tensor, p: Tensor) -> tuple[Tensor]:
        a, b, c = self.weights
        (both,) = self.nll.slope(rows, logp, p)  # of the sum over the passes, so each pass has its own
        both[0] *= a
        both[1] *= b
        if c:
            both[0] += c * (p[0] - p[1])
        return (both,)

    def check(self, rows: Tensor | slice, classes: int) -> None:
        self.nll.check(rows, classes)


def seer_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 0.5,
    mask: Tensor | None = None,
    epsilon: float = 0.1,
    convention: str = "uniform",
    reduction: str = "mean",
    weights: Sequence[float] | None = None,
) -> Tensor:
    """alpha CE(p_c, y) + CE(p_s, y) + (1 - alpha) H(sg p_s, p_c), a position (label_smoothed_cross_entropy.py, 84).

    logits (2, ..., V): the conventional decoder's, then the seer's; targets and mask (...). H is the cross-entropy
    under the seer's distribution at temperature 1: its gradient is that of KL(p_s || p_c), its value includes the
    seer's entropy. Label smoothing touches the two CE only. sg: no gradient of H reaches the seer. With alpha = 1
    two decoders are trained side by side and neither teaches. `weights`: of the three terms, instead of
    (alpha, 1, 1 - alpha). The released code divides the sum by the target tokens of the batch: "mean".
    Raises UserError for logits that are not two sets, an alpha outside 0 to 1 or a negative weight.
    """
    if logits.ndim < 2 or logits.shape[0] != 2 or logits.shape[1:-1] != targets.shape:
        wanted = f"(2, {', '.join(map(str, [*targets.shape, 'V']))})"
        raise UserError(f"Seer forcing compares two decoders: logits must be {wanted}, not {tuple(logits.shape)}.")
    nll = nll_formula(targets, logits.shape[-1], epsilon, convention)
    formula = _Forcing(nll, checked_weights(alpha) if weights is None else _not_negative(weights))
    return weighted_sum([(1.0, formula)], logits, mask, reduction)


def l2_loss(student_hidden: Tensor, seer_hidden: Tensor, reduction: str = "mean") -> Tensor:
    """mean_d (h_c - sg h_s)^2, a position: the states that the output projection is given, (..., d).

    The paper compares distillation with an L2 term; its text was not at hand, so what is matched is our choice. In
    float32 at least. No gradient reaches the seer. Raises UserError for shapes that differ.
    """
    if student_hidden.shape != seer_hidden.shape:
        shapes = f"{tuple(student_hidden.shape)} and {tuple(seer_hidden.shape)}"
        raise UserError(f"Hidden states can be compared when their shapes are equal, not {shapes}.")
    exact = torch.promote_types(student_hidden.dtype, torch.float32)
    apart = (student_hidden.to(exact) - seer_hidden.detach().to(exact)).square().mean(-1)
    return reduced(apart, reduction)


def adversarial_losses(
    discriminator: nn.Module, student_hidden: Tensor, seer_hidden: Tensor, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """(fooling, telling): the student wants its states taken for the seer's, the discriminator to tell them apart.

    fooling = -log D(h_c), with a gradient into h_c only; telling = -log D(h_s) - log(1 - D(h_c)), with a gradient
    into the discriminator only, which gives one logit a position. The paper compares distillation with adversarial
    learning; its text was not at hand, so states, network and this non-saturating form are our choice.
    """
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    exact = torch.promote_types(student_hidden.dtype, torch.float32)
    judged = torch.func.functional_call(discriminator, frozen, (student_hidden,))[..., 0].to(exact)
    real, fake = (discriminator(hidden.detach())[..., 0].to(exact) for hidden in (seer_hidden, student_hidden))
    return reduced(F.softplus(-judged), reduction), reduced(F.softplus(-real) + F.softplus(fake), reduction)


def checked_weights(alpha: float) -> tuple[float, float, float]:
    """(alpha, 1, 1 - alpha). Raises UserError for an alpha outside 0 to 1."""
    if not 0.0 <= alpha <= 1.0:
        raise UserError(f"alpha weighs labels against the seer: choose it from 0 to 1, not {alpha}.")
    return alpha, 1.0, 1.0 - alpha


def _not_negative(weights: Sequence[float]) -> Sequence[float]:
    if len(weights) != 3 or not all(0.0 <= weight < math.inf for weight in weights):
        raise UserError(f"Seer forcing has three weights of at least 0, not {tuple(weights)}.")
    return weights


# --- the method --------------------------------------------------------------------------------------------------


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

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], moment: Moment
    ) -> dict[str, Tensor]:
        logits, hidden = two_decoders(model, self.networks["seer"], batch)
        targets, n = batch["targets"], counts["targets"]
        smoothing = {"epsilon": self.epsilon, "convention": self.convention}
        total = seer_loss(logits, targets, **smoothing, reduction="sum", weights=self.weights)
        terms = {"loss": (total + self._matched(hidden)) / n}
        if moment.logged:  # the parts apart, for the history; they cost another reading of the logits
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

    def look(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        return seer_scores(model, self.networks["seer"], batches)


@torch.no_grad()
def seer_scores(model: nn.Module, seer: SeerDecoder, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """What the seer knows under teacher forcing, dropout off; means over the target tokens of all batches.

    seer_loss and seer_accuracy: its negative log-likelihood (nats) and accuracy; seer_kl: KL(p_s || p_c), how far the
    model's own decoder is from it. seer_leak and past_leak: the most that a logit changes, of the seer when the very
    word that it predicts is replaced, and of the model when a word that follows is (both in one sentence; 0 is right).
    """
    sums, count, leaks, device = torch.zeros(3, dtype=torch.float64), 0, {}, next(model.parameters()).device
    with mode(model, training=False), mode(seer, training=False):
        for batch in batches:
            if not len(batch["targets"]):
                continue
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            leaks = leaks or _leaks(model, seer, batch)
            (conventional, foreseen), targets = two_decoders(model, seer, batch)[0].float(), batch["targets"]
            right = (foreseen.argmax(-1) == targets).sum()
            nll = label_smoothed_nll(foreseen, targets, reduction="sum")
            apart = kl_divergence(foreseen, conventional, reduction="sum")
            sums += torch.stack([nll, right.to(nll.dtype), apart]).double().cpu()
            count += len(targets)
    if not count:
        raise UserError("No token of these batches counts: check the data set.")
    names = ("seer_loss", "seer_accuracy", "seer_kl")
    return {**dict(zip(names, (sums / count).tolist(), strict=True)), **leaks}


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


# --- the experiment ----------------------------------------------------------------------------------------------

README, CODE = "README of the official code", "official code"
SETTINGS = Translation.settings_table.extended(
    Setting("alpha", 0.5, 0.5, 0.5, "weight of the labels in the conventional decoder; the seer has 1 - alpha",
            f"{README}: 0.5, and 0.25 for NIST"),
    Setting("reading", "reversed", "reversed", "reversed", "future stream: reversed (as released) or masked (as drawn)",
            f"{CODE}, transformer.py 779"),
    Setting("shift", 2, 2, 2, "the future begins so many words on; 1 shows the answer, 60 nothing",
            f"{CODE}, transformer_layer.py 606"),
    Setting("seer_dropout", 0.1, 0.1, 0.1, "dropout of the seer decoder",
            f"{CODE}, transformer.py 1003: 0.1 whatever the flag; {README}: 0.1 or 0.2"),
    Setting("full_cross_entropy", False, False, False, "labels count in full, not by alpha", f"{CODE}, criterion 84"),
    Setting("l2_weight", 0.01, 0.01, 0.01, "of the L2 term, times 1 - alpha",
            "ours: best validation BLEU in the demo; not in the official code"),
    Setting("adversarial_weight", 0.003, 0.003, 0.003, "of the adversarial term, times 1 - alpha",
            "ours: best validation BLEU in the demo; not in the official code"),
    max_words={"demo": 5},
    train_rows={"demo": 2000},
    data={"paper": "hub:wmt/wmt16/de-en", "source": f"{README}: WMT16, and three others"},
    pair={"paper": "en-de", "source": f"{README}: WMT16 En-De"},
    vocab_size={"paper": 32_000, "source": "paper's value not seen"},
    max_length={"source": "paper's value not seen"},
    width={"source": f"{README}: transformer_wmt_en_de, 512"},
    layers={"demo": 2, "source": f"{README}: transformer_wmt_en_de, 6 + 6"},
    heads={"paper": 8, "source": f"{README}: transformer_wmt_en_de, 8"},
    feedforward={"paper": 2048, "source": f"{README}: transformer_wmt_en_de, 2048"},
    dropout={"study": 0.3, "paper": 0.1, "source": f"{README}: 0.1, and 0.3 for NIST"},
    label_smoothing={"source": f"{README}: 0.1"},
    smoothing_convention={"source": f"{CODE}, criterion 12 to 29: epsilon/V"},
    max_tokens={"source": f"{README}: 4096"},
    accumulation={"paper": 8, "source": f"{README}: 4 GPUs x 2"},
    updates={"demo": 250, "study": 2500, "paper": 100_000, "source": "not given"},
    eval_every={"demo": 50, "study": 250},
    learning_rate={"paper": 7e-4, "source": f"{README}: 7e-4"},
    warmup={"study": 500, "paper": 4000, "source": f"{README}: 4000"},
    schedule={"source": f"{README}: inverse square root"},
    weight_decay={"paper": 0.0, "source": f"{README}: none"},
    clip={"source": f"{README}: none"},
    precision={"source": f"{README}: fp16; here by the device"},
    beams={"study": 4, "paper": 4, "source": f"{README}: 4, length penalty 0.6; here without one"},
)  # fmt: skip


def plain(settings: Settings) -> Method:
    """The baseline: one decoder, the same cross-entropy."""
    return Method(settings.label_smoothing, settings.smoothing_convention)


def forcing(transfer: str = "kd", alpha: float | None = None):
    """Makes the method of an arm from the settings; `alpha` overrides theirs."""

    def method(s: Settings) -> SeerForcing:
        weight = {"kd": 1.0, "l2": s.l2_weight, "adversarial": s.adversarial_weight}[transfer]
        return SeerForcing(
            s.alpha if alpha is None else alpha, transfer, weight, s.full_cross_entropy, s.label_smoothing,
            s.smoothing_convention, reading=s.reading, shift=s.shift, dropout=s.seer_dropout,
        )  # fmt: skip

    return method


def equal_compute(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as seer forcing does."""
    s = settings
    return {"updates": round(passes(s.layers, s.width, s.feedforward, s.vocab_size) * s.updates)}


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_compute", "baseline, equal compute", plain, equal_compute),
    Arm("seer_forcing", "Seer Forcing", forcing()),
    Arm("joint", "both decoders, no teaching", forcing(alpha=1.0)),
    Arm("l2", "L2 instead of distillation", forcing("l2")),
    Arm("adversarial", "adversarial instead of distillation", forcing("adversarial")),
)


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """BLEU of whole translations on the validation split, by which the ways of teaching are compared (claim S3)."""
    rows = trial.task.corpus.splits["validation"]
    hypotheses = trial.task.translate(model, [row["src"] for row in rows])
    scores = translation_scores(hypotheses, [row["tgt"] for row in rows], trial.task.corpus.languages[1])
    return {"validation_bleu": scores["bleu"]}


EXPERIMENTS = (Experiment("seer_forcing", Translation, SETTINGS, ARMS, exam=exam),)

# --- the claims --------------------------------------------------------------------------------------------------


def gain(metric: str = "test_bleu", over: str = "baseline"):
    """Seer forcing's metric minus that of another arm, seed by seed."""
    return lambda records: paired_difference(records, metric, "seer_forcing", over)


def _gain_by_size(records: list[dict]) -> dict[int, float]:
    """The gain over the baseline at the largest number of training pairs of a sweep, minus that at the smallest."""
    ours, theirs = (sweep_setting(records, "test_bleu", arm, "train_rows") for arm in ("seer_forcing", "baseline"))
    sizes = ours.keys() & theirs.keys()
    if len(sizes) < 2:
        return {}
    by_rows = sorted(sizes, key=lambda rows: rows or math.inf)  # 0 stands for all there are
    small, large = (paired(ours[size], theirs[size]) for size in (by_rows[0], by_rows[-1]))
    return paired(large, small)


def _at_every_checkpoint(metric: str, worst) -> Callable[[list[dict]], dict[int, float]]:
    """The seer's metric minus the conventional decoder's where it is worst, over the evaluations after the warm-up."""

    def measure(records: list[dict]) -> dict[int, float]:
        numbers = {}
        for record in (r for r in records if "seer_forcing" in r["arms"]):
            updates, own = history(record, "seer_forcing", metric)
            seer = history(record, "seer_forcing", f"seer_{metric}")[1]
            rows = zip(updates, own, seer, strict=True)
            apart = [b - a for u, a, b in rows if u > record["settings"]["warmup"]]
            if apart:  # a run may end before its warm-up does
                numbers[record["seed"]] = worst(apart) if all(map(math.isfinite, apart)) else math.nan
        return numbers

    return measure


def _change(metric: str):
    """Last minus first evaluation, seed by seed."""
    return lambda records: from_history(records, "seer_forcing", metric, lambda curve: curve[-1] - curve[0])


ABSTRACT, CODED = "abstract: a direction, no number seen", "follows from the method, no number seen"
ORDER = (
    "validation BLEU; what the paper's two alternatives match was not seen, and is our choice; their best weight was "
    "small, so they are near labels of weight alpha without teaching"
)
LEAD = "part of the lead is not the future: a seer whose future stream is always zero leads too (shift=60)"
CLAIMS = (
    Claim("S1", "Seer Forcing raises the test BLEU at the same number of updates.", gain(), paper=ABSTRACT, unit="BLEU",
          scale="the paper's translators are Transformer-base (60 million parameters), on NIST and WMT corpora"),
    Claim("S1c", "Seer Forcing raises the test BLEU at equal compute (matrix products): the baseline has more updates.",
          gain(over="baseline_compute"), paper="not in the abstract", unit="BLEU"),
    Claim("S2", "The gain is larger on more data.", _gain_by_size, paper=ABSTRACT, unit="BLEU", over=("train_rows",),
          scale="one corpus at several sizes, at the same number of updates; the paper has four corpora"),
    Claim("S3a", "Distillation is at least as good as matching the states (L2).", gain("validation_bleu", "l2"),
          paper=ABSTRACT, unit="BLEU", better=">=", scale=ORDER),
    Claim("S3b", "Distillation is at least as good as adversarial matching.", gain("validation_bleu", "adversarial"),
          paper=ABSTRACT, unit="BLEU", better=">=", scale=ORDER),
    Claim("S4a", "With dropout off, the seer is more accurate at every evaluation after the warm-up (smallest lead).",
          _at_every_checkpoint("accuracy", min), paper=CODED, unit="accuracy", scale=LEAD),
    Claim("S4b", "With dropout off, its negative log-likelihood is lower at every evaluation after the warm-up.",
          _at_every_checkpoint("loss", max), paper=CODED, unit="nats", better="<", scale=LEAD),
    Claim("S5", "Teaching helps: the test BLEU is above that of the same two decoders without it (alpha = 1).",
          gain(over="joint"), paper="expected, no number seen", unit="BLEU"),
    Claim("S6", "The exported model has exactly the baseline's parameters.", gain("parameters"),
          paper="abstract: the seer is for training only", unit="parameters", kind="exact"),
    Claim("S7a", "The seer does not see the word that it predicts: no logit changes when that word is replaced.",
          lambda records: value(records, "seer_forcing", "final_seer_leak"), paper="follows from Figure 2",
          unit="logit", kind="exact", tolerance=1e-3),
    Claim("S7b", "The conventional decoder does not see any word that follows.",
          lambda records: value(records, "seer_forcing", "final_past_leak"), paper="follows from Figure 2",
          unit="logit", kind="exact", tolerance=1e-3),
    Claim("S8a", "The conventional decoder's KL to the seer falls from the first evaluation to the last.",
          _change("seer_kl"), paper=CODED, unit="nats", better="<",
          scale="the first evaluation finds two decoders that know little, and agree on that"),
    Claim("S8b", "In the end that KL is lower than without teaching.", gain("final_seer_kl", "joint"), paper=CODED,
          unit="nats", better="<", scale="each arm is compared with a seer of its own"),
)  # fmt: skip
