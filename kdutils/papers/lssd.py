"""LSSD: each language's best past student teaches the present one (Huang, Feng, Geng, Qin, 2022, arXiv:2205.01620).

>>> loss = lssd_loss(logits, targets, teacher_logits, weight=2.5, kind="adaptive")
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["many_to_one"], seeds=[1, 2, 3])
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.claims import Claim, paired_difference
from kdutils.convergence import (
    by_size,
    convergence_epochs,
    distance_to_best,
    epochs_taught,
    later,
    least_gain,
    measured,
    overfitting,
    span_beyond_noise,
    sweep_sides,
    taught_otherwise,
)
from kdutils.distillation import FixedTeacher, gated_distillation
from kdutils.divergences import label_smoothed_nll, nll_formula, weighted_sum
from kdutils.errors import UserError, unknown
from kdutils.experiments import Arm, Experiment, Trial
from kdutils.methods import Method, Moment
from kdutils.models import counted_logits
from kdutils.multilingual import ManyToOne, OneToMany, language_sampling, tag
from kdutils.past_selves import FrozenCopies, LanguageTeachers
from kdutils.settings import Setting, Settings, Table
from kdutils.teachers import individual_teachers

__all__ = ["LSSD", "LanguageTeachers", "gate", "language_sampling", "lssd_loss"]

TITLE = "Unifying the Convergences in Multilingual Neural Machine Translation"
CITATION = "Huang, Feng, Geng, Qin. EMNLP 2022, pages 6822-6835. arXiv:2205.01620"

GATES = ("whole", "selective", "adaptive")
LEVELS = ("token", "sentence")
COMBINATIONS = ("halved", "sum", "convex")
TEACHERS = ("language", "overall", "individual")

# --- the objective -----------------------------------------------------------------------------------------------


def gate(
    student_logp: Tensor,
    teacher_logp: Tensor,
    kind: str = "whole",
    level: str = "token",
    sentences: Tensor | None = None,
    floor: float = 0.2,
    cap: float = 1.0,
) -> Tensor:
    """Equation (7) of the notebook: how much of the teacher each position takes, from log-probabilities (N,).

    They are those of the right word under student and teacher. "whole": 1. "selective": 1 where the teacher is better,
    else `floor`; a tie is not better. "adaptive": the ratio of teacher to student, at most `cap`. "token" compares
    the probabilities q* and p* of a position; "sentence" their sums over the positions of a sentence, which are
    numbered in `sentences` (N,), any integers. Nothing has a gradient. Raises UserError for an unknown kind or level,
    for sentences that are not told, and for shapes that differ.
    """
    _check_gate(kind, level, floor, cap)
    given = [student_logp, teacher_logp, *([] if sentences is None else [sentences])]
    if any(one.shape != student_logp.shape for one in given):
        raise UserError(f"A gate needs one number a position, not {[tuple(one.shape) for one in given]}.")
    least = torch.finfo(student_logp.dtype).min  # of a word that is impossible
    p, q = student_logp.detach().clamp_min(least), teacher_logp.detach().clamp_min(least)
    if kind == "whole":
        return torch.ones_like(p)
    if level == "sentence":
        if sentences is None:
            raise UserError("A gate of whole sentences needs to know which position belongs to which: give sentences.")
        p, q = _by_sentence(p, sentences), _by_sentence(q, sentences)
    if kind == "selective":
        return torch.where(q > p, torch.ones_like(p), torch.full_like(p, floor))
    return (q - p).clamp(max=math.log(cap)).exp()


def _by_sentence(logp: Tensor, sentences: Tensor) -> Tensor:
    """At each position, the log of the sum of the probabilities of its sentence."""
    _, own = sentences.unique(return_inverse=True)
    top = torch.full_like(logp, -math.inf).scatter_reduce(0, own, logp, "amax")
    total = torch.zeros_like(logp).index_add(0, own, (logp - top[own]).exp())
    return top[own] + total[own].log()


def lssd_loss(
    logits: Tensor,
    targets: Tensor,
    teacher_logits: Tensor | None = None,
    weight: float = 1.0,
    kind: str = "whole",
    level: str = "token",
    mask: Tensor | None = None,
    sentences: Tensor | None = None,
    combine: str = "halved",
    top_k: int = 0,
    words: Tensor | None = None,
    floor: float = 0.2,
    cap: float = 1.0,
    epsilon: float = 0.1,
    convention: str = "others",
    reduction: str = "mean",
) -> Tensor:
    """Equations (5) to (8) of the notebook, a position: 1/2 [CE + weight g H(q, p)] with a teacher, CE without one.

    logits, teacher_logits (..., V); targets, mask and sentences (...); without `sentences`, targets of (B, T) have a
    sentence a row. H is the cross-entropy under the teacher's distribution q at temperature 1, g the `gate` of `kind`
    and `level`. combine: "halved" is the released code, in which labels count half wherever a teacher speaks, with a
    weight of 0 too; "sum" is CE + weight g H; "convex" (1 - weight) CE + weight g H. top_k > 0: only the teacher's K
    most probable words enter H, not renormalised. words (V,): q is renormalised over those that are True, before top-K
    and gate; the student is not. Label smoothing touches CE only. No gradient reaches the teacher or passes the gate.
    "mean" divides by the counted positions. Raises UserError for shapes that differ and for a weight or name that
    makes no sense.
    """
    nll = nll_formula(targets, logits.shape[-1], epsilon, convention)
    if logits.shape[:-1] != targets.shape or (teacher_logits is not None and teacher_logits.shape != logits.shape):
        given = [tuple(one.shape) for one in (logits, teacher_logits, targets) if one is not None]
        raise UserError(
            f"Logits and teacher logits must be ({', '.join(map(str, [*targets.shape, 'V']))}), not {given}."
        )
    weights = checked_weights(weight, combine)
    _check_gate(kind, level, floor, cap)
    if top_k < 0:
        raise UserError(f"top_k is {top_k}: choose how many words of the teacher count, or 0 for all.")
    if teacher_logits is None:
        return weighted_sum([(1.0, nll)], logits[None], mask, reduction)
    teacher = FixedTeacher(teacher_logits, words, top_k)
    if sentences is None and targets.ndim == 2:
        sentences = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)
    if sentences is not None and sentences.shape != targets.shape:
        raise UserError(f"Sentences have the shape {tuple(sentences.shape)}, the positions {tuple(targets.shape)}.")
    numbers = None if sentences is None else sentences.reshape(-1)

    def gates(p: Tensor, q: Tensor, rows: Tensor) -> Tensor:
        return gate(p, q, kind, level, None if numbers is None else numbers[rows], floor, cap)

    return gated_distillation(nll, logits, targets, teacher, gates, weights, mask, reduction)


def checked_weights(weight: float, combine: str) -> tuple[float, float]:
    """What CE and the distillation term count on a distilled batch. Raises UserError for what makes no sense."""
    if combine not in COMBINATIONS:
        raise unknown("combination", combine, COMBINATIONS)
    if not 0.0 <= weight < math.inf:
        raise UserError(f"Distillation cannot count {weight}: choose a weight of 0 or more.")
    if combine == "convex" and weight > 1.0:
        raise UserError(f"The convex form weighs labels by 1 - weight: choose a weight from 0 to 1, not {weight}.")
    return {"halved": (0.5, weight / 2), "sum": (1.0, weight), "convex": (1.0 - weight, weight)}[combine]


def _check_gate(kind: str, level: str, floor: float, cap: float) -> None:
    if kind not in GATES:
        raise unknown("gate", kind, GATES)
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    if not 0.0 <= floor < math.inf or not 0.0 < cap < math.inf:
        raise UserError(f"A gate needs a floor of 0 or more and a cap above 0, not {floor} and {cap}.")


# --- the method --------------------------------------------------------------------------------------------------


class LSSD(Method):
    """Trains one translator of several languages; each is taught by the student that was best on it so far.

    teachers: "language" is the paper's; "overall" is one teacher for all, the student of the best overall validation
    loss; "individual" are fixed models of one language each, given as `teacher` (an nn.ModuleDict by the languages'
    tags), which teach from the first epoch on. language_aware: they speak the words of the target language only. The
    other options are those of `lssd_loss`. An epoch is the time between two evaluations.
    """

    name = "lssd"
    passes = 4 / 3  # of a batch that is taught: a plain step and the teacher's forward pass

    def __init__(
        self, languages: Sequence[str], weight: float = 1.0, teachers: str = "language", warmup: int = 1, age: int = 2,
        epsilon: float = 0.1, convention: str = "others", language_aware: bool = False, kind: str = "whole",
        level: str = "token", combine: str = "halved", top_k: int = 0, floor: float = 0.2, cap: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(epsilon, convention)
        if teachers not in TEACHERS:
            raise unknown("kind of teachers", teachers, TEACHERS)
        self.languages, self.kind, self.language_aware = list(languages), teachers, language_aware
        self.options = {"weight": weight, "kind": kind, "level": level, "combine": combine}
        self.options |= {"top_k": top_k, "floor": floor, "cap": cap}
        empty = torch.zeros(0, 2)
        lssd_loss(
            empty, empty[:, 0].long(), empty, sentences=empty[:, 0].long(), **self.options
        )  # refuses what is wrong
        self.rule = (warmup, age)
        self._start()

    def _start(self) -> None:
        self.bank, self.copies = LanguageTeachers(self.languages, *self.rule), FrozenCopies()
        self.taught = dict.fromkeys(self.languages, 0)  # epochs in which a language was distilled
        self.now: set[str] = set()  # languages that were distilled in this epoch

    def attach(self, model: PreTrainedModel) -> None:
        self._start()
        for language in self.languages if self.teacher is not None else ():
            if tag(language) not in self.teacher:
                raise UserError(f"Individual teachers need a network for each language; '{language}' has none.")
            self.copies.keep(language, self.teacher[tag(language)])
        self.teacher = None  # the copies are all that is needed of them

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], moment: Moment
    ) -> dict[str, Tensor]:
        logits, targets, n = counted_logits(model, batch), batch["targets"], counts["targets"]
        theirs = self._teacher_logits(model, batch)
        if self.language_aware and "target_words" not in batch:
            raise UserError(
                "Language-aware distillation needs the target languages' words: it is for one-to-many only."
            )
        words = batch["target_words"] if self.language_aware else None
        sentences = batch["positions"] // batch["labels"].shape[1]
        smoothing = {"epsilon": self.epsilon, "convention": self.convention, "reduction": "sum"}
        total = lssd_loss(logits, targets, theirs, sentences=sentences, words=words, **self.options, **smoothing)
        terms = {"loss": total / n}
        if moment.logged:  # the parts apart, for the history; they cost another reading of the logits
            with torch.no_grad():
                terms["nll"] = label_smoothed_nll(logits, targets, reduction="sum") / n
                terms["taught"] = terms["nll"].new_tensor(0.0 if theirs is None else len(targets) / n)
        return terms

    @torch.no_grad()
    def _teacher_logits(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor | None:
        """What the teacher of the batch's language says, or None where there is nobody to teach."""
        language = batch["language"]
        if language not in self.taught:
            raise UserError(f"A batch is of '{language}', but the method was told of {', '.join(self.languages)}.")
        name = language if self.kind == "individual" else str(self.bank.best[language].epoch)
        if not (self.kind == "individual" or self.bank.active(language)):
            return None
        self.now.add(language)
        with torch.autocast(batch["targets"].device.type, enabled=False):  # the copies have a precision of their own
            return counted_logits(self.copies.network(name, model), batch)

    def look(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """taught_<language>: epochs so far in which it was distilled."""
        return {f"taught_{one}": float(count + (one in self.now)) for one, count in self.taught.items()}

    def after_evaluation(self, model: nn.Module, scores: dict[str, float], moment: Moment) -> None:
        for language in self.now:
            self.taught[language] += 1
        self.now = set()
        if self.kind == "individual":
            return
        score = "smoothed_loss" if self.kind == "overall" else "smoothed_loss_{}"
        names = {language: score.format(language) for language in self.languages}
        if self.bank.update({language: scores[name] for language, name in names.items() if name in scores}):
            self.copies.keep(str(self.bank.finished), model)
        self.copies.keep_only(str(best.epoch) for best in self.bank.best.values())

    def state(self) -> dict[str, Any]:
        copies = {} if self.kind == "individual" else self.copies.state()  # fixed ones are given again
        return {"bank": self.bank.state(), "copies": copies, "taught": self.taught, "now": sorted(self.now)}

    def restore(self, state: dict[str, Any]) -> None:
        self.bank.restore(state["bank"])
        self.taught, self.now = dict(state["taught"]), set(state["now"])
        if self.kind != "individual":
            self.copies.restore(state["copies"])


# --- the experiments ---------------------------------------------------------------------------------------------

SCRIPTS, CODE = "experiment_scripts of the official code, TED-8", "official code"


def _extended(table: Table, best: dict[str, float], **more: dict[str, Any]) -> Table:
    """The settings of a direction; the scripts weigh the teacher differently in each."""
    return table.extended(
        Setting("weight", best["adaptive"], best["adaptive"], best["adaptive"], "of the teacher, in LSSD", SCRIPTS),
        Setting("gate", "adaptive", "adaptive", "adaptive", "whole, selective or adaptive", f"{SCRIPTS}: all three"),
        Setting("level", "sentence", "sentence", "sentence", "of the gate: token or sentence", SCRIPTS),
        Setting("whole_weight", best["whole"], best["whole"], best["whole"], "of the teacher, in arm whole", SCRIPTS),
        Setting("selective_weight", best["selective"], best["selective"], best["selective"],
                "of the teacher, in arm selective, which gates tokens", SCRIPTS),
        Setting("combine", "halved", "halved", "halved",
                "of labels and teacher: halved (as released), sum or convex", f"{CODE}, criterion 121"),
        Setting("top_k", 0, 0, 0, "words of the teacher that count; 0: all", f"{CODE}, 143: not in the scripts"),
        Setting("teacher_warmup", 1, 1, 1, "epochs before anybody teaches", f"{CODE}: 1"),
        Setting("teacher_age", 2, 2, 2, "epochs after which a teacher may teach", f"{CODE}, task 636 to 641"),
        data={"paper": "ted8_diverse", "source": "TED-8-Diverse, as a folder: it is on no hub as parquet"},
        languages={"source": "TED-8-Diverse"},
        temperature={"demo": 5.0, "source": f"{SCRIPTS}: 1 (WMT-6: 5)"},
        epoch_rows={"demo": 1000, "source": "not set there: the size of the corpora"},
        train_rows={"source": "all: 5,664 (bos) to 205,640 (kor)"},
        vocab_size={"study": 16_000, "paper": 32_000, "source": "8,000 a language of TED there; joint here"},
        max_length={"source": "not seen"},
        width={"source": "transformer_iwslt_de_en: 512"},
        layers={"source": "transformer_iwslt_de_en: 6 + 6"},
        heads={"source": "transformer_iwslt_de_en: 4"},
        feedforward={"source": "transformer_iwslt_de_en: 1024"},
        dropout={"demo": 0.0, "study": 0.3, "paper": 0.3, "source": f"{SCRIPTS}: 0.3"},
        label_smoothing={"demo": 0.0, "source": f"{SCRIPTS}: 0.1"},
        smoothing_convention={"source": "label_smoothed_cross_entropy.py, 34: epsilon/(V-1)"},
        max_words={"demo": 5},
        max_tokens={"demo": 600, "paper": 8192, "source": f"{SCRIPTS}: 8192 a GPU"},
        accumulation={"paper": 8, "source": f"{SCRIPTS}: 8 GPUs"},
        updates={"demo": 650, "study": 5000, "paper": 200_000, "source": f"{SCRIPTS}: 200k, at most 300 epochs"},
        learning_rate={"paper": 2e-3, "source": f"{SCRIPTS}: 0.002"},
        warmup={"demo": 200, "source": f"{SCRIPTS}: 4000"},
        schedule={"source": f"{SCRIPTS}: inverse square root"},
        weight_decay={"paper": 0.0, "source": f"{SCRIPTS}: none"},
        clip={"source": f"{SCRIPTS}: none"},
        precision={"source": f"{SCRIPTS}: fp16; here by the device"},
        eval_every={"source": "--LS-epoch: every virtual epoch"},
        beams={"source": "fairseq's default: 5"},
        **more,
    )  # fmt: skip


MANY_TO_ONE = _extended(ManyToOne.settings_table, {"whole": 2.5, "selective": 1.0, "adaptive": 2.5})
ONE_TO_MANY = _extended(OneToMany.settings_table, {"whole": 0.6, "selective": 0.5, "adaptive": 0.5}).extended(
    Setting("language_aware", True, True, True, "the teacher speaks the target language's words only", SCRIPTS)
)


def plain(settings: Settings) -> Method:
    """The baseline: the same cross-entropy, nobody teaches."""
    return Method(settings.label_smoothing, settings.smoothing_convention)


def taught(teachers: str = "language", kind: str = "", level: str = "", weight: str = "weight", aware: bool = True):
    """Makes the method of an arm from the settings; `kind` and `level` override theirs, `weight` names one of them.

    aware: whether the setting `language_aware` applies; the scripts leave it out of the selective gate.
    """

    def method(s: Settings) -> LSSD:
        return LSSD(
            s.languages, s[weight], teachers, s.teacher_warmup, s.teacher_age, s.label_smoothing,
            s.smoothing_convention, aware and s.get("language_aware", False), kind=kind or s.gate,
            level=level or s.level, combine=s.combine, top_k=s.top_k,
        )  # fmt: skip

    return method


def third_more(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as LSSD would if every batch were taught: its upper bound."""
    return {"updates": round(LSSD.passes * settings.updates)}


def _individual(trial: Trial) -> nn.ModuleDict:
    return individual_teachers(trial, plain(trial.settings))


ARMS = (
    Arm("baseline", "baseline", plain),
    Arm("baseline_compute", "baseline, a third more updates", plain, third_more),
    Arm("lssd", "LSSD", taught()),
    Arm("whole", "LSSD, whole", taught(kind="whole", weight="whole_weight")),
    Arm(
        "selective", "LSSD, selective", taught(kind="selective", level="token", weight="selective_weight", aware=False)
    ),
    Arm("overall", "one teacher for all", taught("overall")),
    Arm("individual", "individual teachers", taught("individual"), teacher=_individual),
)

EXPERIMENTS = (
    Experiment("lssd", ManyToOne, MANY_TO_ONE, ARMS),
    Experiment("lssd", OneToMany, ONE_TO_MANY, ARMS),
)

# --- the claims --------------------------------------------------------------------------------------------------


def gain(over: str = "baseline"):
    """LSSD's mean test BLEU minus that of another arm, seed by seed."""
    return lambda records: paired_difference(records, "test_bleu", "lssd", over)


ABSTRACT = "abstract: a direction, no number seen"
RERUN = (
    "Huang et al. 2023, Table 1: a later paper's re-run by the first author; the paper's own tables were not at hand"
)
OURS = "ours: follows from the method"
SWEPT = "by the validation loss; in the halved form the weight also sets how much a taught language counts in all"
LAST = "where a loss still falls in the last epoch, its best epoch is a lower bound; language and size go together"
SMALL = "the paper has 31.5 million parameters without embeddings; temperature 1, dropout 0.3, smoothing 0.1"
CLAIMS = (
    Claim("L1a", "Without LSSD two languages' best epochs lie further apart than those of one language in two seeds.",
          span_beyond_noise, paper=ABSTRACT, unit="epochs", scale=LAST),
    Claim("L1b", "Without LSSD the largest language reaches its best validation loss after the smallest.",
          measured("baseline", later), paper=ABSTRACT, unit="epochs", scale=LAST),
    Claim("L1c", "Without LSSD, the larger a language the later its best epoch.",
          measured("baseline", by_size(convergence_epochs)), paper=ABSTRACT, unit="rank correlation", scale=LAST),
    Claim("L2", "LSSD lowers the summed distance of the chosen checkpoint to each language's own best loss.",
          measured("lssd", distance_to_best, "baseline"), paper="the method's purpose, no number seen", unit="nats",
          better="<", scale="a distance also shrinks where a language's best loss gets worse"),
    Claim("L3", "No language loses more than 1 BLEU: the gain of the one that gains least on average.",
          least_gain("test_bleu", "lssd", "baseline"), paper=ABSTRACT, unit="BLEU", better=">", bound=-1.0,
          scale="the abstract: all gain; the least of several noisy means is biased downwards"),
    Claim("L4a", "LSSD raises the mean test BLEU into the pivot at the same number of updates.", gain(),
          paper="+1.77 (or +1.69) on TED-8-Diverse, +0.60 on WMT-6", source=RERUN, unit="BLEU", published=1.77,
          task="many_to_one", scale=SMALL),
    Claim("L4b", "LSSD raises the mean test BLEU out of the pivot at the same number of updates.", gain(),
          paper="+0.80 on TED-8-Diverse, +0.84 on WMT-6", source=RERUN, unit="BLEU", published=0.80,
          task="one_to_many", scale=SMALL),
    Claim("L4c", "LSSD is above a baseline with a third more updates, which is more than LSSD costs.",
          gain("baseline_compute"), paper="ours", unit="BLEU"),
    Claim("L4d", "LSSD lowers the test loss of the chosen checkpoint.",
          lambda records: paired_difference(records, "test_smoothed_loss", "lssd", "baseline"), paper="ours: a quieter "
          "measure than BLEU", unit="nats", better="<"),
    Claim("L5", "A teacher for each language is better than the best overall student as the teacher of all.",
          gain("overall"), paper="implied by a switch of the official code, no number seen", unit="BLEU"),
    Claim("L6a", "The smaller a language, the more epochs it is taught in (rank correlation with its size).",
          measured("lssd", by_size(epochs_taught)), paper="expected, no number seen", unit="rank correlation",
          better="<", scale="language and size go together"),
    Claim("L6b", "Each language is taught when Equations (3) and (4) ask for it (but for a last, short epoch).",
          measured("lssd", taught_otherwise), paper=OURS, unit="epochs", kind="exact"),
    Claim("L7a", "Into the pivot, the best loss with a weight above 1 is below the best with a weight under 1.",
          sweep_sides("validation_smoothed_loss", "lssd", "weight"), better="<",
          paper="scripts: 2 to 2.5 (whole, adaptive)", source=SCRIPTS, unit="nats", over=("weight",),
          task="many_to_one", scale=SWEPT),
    Claim("L7b", "Out of the pivot, the best loss with a weight under 1 is below the best with a weight above 1.",
          sweep_sides("validation_smoothed_loss", "lssd", "weight"), paper="scripts: 0.5 to 0.8", source=SCRIPTS,
          unit="nats", over=("weight",), task="one_to_many", scale=SWEPT),
    Claim("L8", "The smallest language overfits less: its validation loss rises less from its lowest to the end.",
          measured("lssd", overfitting, "baseline"), paper=ABSTRACT, unit="nats", better="<"),
    Claim("L9", "LSSD is better than the same distillation from translators that were trained on one language each.",
          gain("individual"), paper="+1.25 (M2O), +1.24 (O2M) on TED-8-Diverse; +0.99, +1.19 on WMT-6", source=RERUN,
          unit="BLEU", scale="here those teachers have LSSD's gate and weight and teach every batch from the first; "
          "the numbers are about Multi-Distill, whose form in the re-run was not seen"),
)  # fmt: skip
