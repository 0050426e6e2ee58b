"""LSSD as a training method: its past teachers, or one for all, or one of each language alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdutils.core.errors import UserError, unknown
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.forward import counted_logits
from kdutils.models.snapshots import FrozenCopies
from kdutils.papers.lssd.multilingual import tag
from kdutils.papers.lssd.objective import lssd_loss
from kdutils.papers.lssd.schedule import LanguageTeachers
from kdutils.training.method import Method, Step

TEACHERS = ("language", "overall", "individual")


class BestStudents(Method):
    """Plain training that keeps the student that was best at each language so far: what LSSD is compared with.

    An epoch is the time between two evaluations. The copies, in half precision, are part of a run's state.
    """

    score = "smoothed_loss_{}"  # by what validation score a language is judged

    def __init__(
        self, languages: Sequence[str], epsilon: float = 0.1, convention: str = "others", age: int = 2
    ) -> None:
        super().__init__(epsilon, convention)
        self.languages, self.age = list(languages), age
        self._start()

    def _start(self) -> None:
        self.bank, self.copies = LanguageTeachers(self.languages, self.age), FrozenCopies()

    def attach(self, model: PreTrainedModel) -> None:
        self._start()

    def after_evaluation(self, model: nn.Module, scores: dict[str, float], step: Step) -> None:
        names = {language: self.score.format(language) for language in self.languages}
        if self.bank.update({language: scores[name] for language, name in names.items() if name in scores}):
            self.copies.keep(str(self.bank.finished), model)
        self.copies.keep_only(str(best.epoch) for best in self.bank.best.values())

    def best_weights(self, language: str) -> dict[str, Tensor]:
        """The weights of the student that was best at a language, by the names of its parameters."""
        return self.copies.weights[str(self.bank.best[language].epoch)]

    def state(self) -> dict[str, Any]:
        return {"bank": self.bank.state(), "copies": self.copies.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.bank.restore(state["bank"])
        self.copies.restore(state["copies"])


class LSSD(BestStudents):
    """Trains one translator of several languages; each is taught by the student that was best on it so far.

    teachers: "language" is the paper's; "overall" is one teacher for all, the student of the best overall validation
    loss (the paper's Table 4); "individual" are fixed models of one language each, given as `teacher` (an
    nn.ModuleDict by the languages' tags), which teach from the first epoch on (Multi-Distill). language_aware: they
    speak the words of the target language only, as in some scripts of the released code. The other options are those
    of `lssd_loss`. An epoch is the time between two evaluations.
    """

    name = "lssd"
    passes = 4 / 3  # of a batch that is taught: a plain step and the teacher's forward pass

    def __init__(
        self, languages: Sequence[str], alpha: float = 1.0, teachers: str = "language", age: int = 2,
        epsilon: float = 0.1, convention: str = "others", language_aware: bool = False, kind: str = "whole",
        level: str = "sentence", combine: str = "sum", top_k: int = 0, floor: float = 0.0, cap: float = 2.0,
        strict: bool = False,
    ) -> None:  # fmt: skip
        if teachers not in TEACHERS:
            raise unknown("kind of teachers", teachers, TEACHERS)
        self.kind, self.language_aware = teachers, language_aware
        self.options = {"alpha": alpha, "kind": kind, "level": level, "combine": combine, "top_k": top_k}
        self.options |= {"floor": floor, "cap": cap, "strict": strict}
        self.score = "smoothed_loss" if teachers == "overall" else BestStudents.score
        empty = torch.zeros(0, 2)
        lssd_loss(empty, empty[:, 0].long(), empty, sentences=empty[:, 0].long(), **self.options)  # refuses the wrong
        super().__init__(languages, epsilon, convention, age)

    def _start(self) -> None:
        super()._start()
        self.taught = dict.fromkeys(self.languages, 0)  # epochs in which a language was distilled
        self.now: set[str] = set()  # languages that were distilled in this epoch

    def attach(self, model: PreTrainedModel) -> None:
        self._start()
        for language in self.languages if self.teacher is not None else ():
            if tag(language) not in self.teacher:
                raise UserError(f"Individual teachers need a network for each language; '{language}' has none.")
            self.copies.keep(language, self.teacher[tag(language)])
        self.teacher = None  # the copies are all that is needed of them

    def loss(self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], step: Step) -> dict[str, Tensor]:
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
        if step.logged:  # the parts apart, for the history; they cost another reading of the logits
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

    def extra_scores(self, model: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
        """taught_<language>: epochs so far in which it was distilled."""
        return {f"taught_{one}": float(count + (one in self.now)) for one, count in self.taught.items()}

    def after_evaluation(self, model: nn.Module, scores: dict[str, float], step: Step) -> None:
        for language in self.now:
            self.taught[language] += 1
        self.now = set()
        if self.kind != "individual":
            super().after_evaluation(model, scores, step)

    def state(self) -> dict[str, Any]:
        copies = {} if self.kind == "individual" else self.copies.state()  # fixed ones are given again
        return {"bank": self.bank.state(), "copies": copies, "taught": self.taught, "now": sorted(self.now)}

    def restore(self, state: dict[str, Any]) -> None:
        self.bank.restore(state["bank"])
        self.taught, self.now = dict(state["taught"]), set(state["now"])
        if self.kind != "individual":
            self.copies.restore(state["copies"])
