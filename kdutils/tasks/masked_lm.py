"""Masked language modelling: what a teacher is pre-trained on, and what a student of it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.settings import Setting, Settings, Table
from kdutils.data import batches as b
from kdutils.data.corpora import Corpus, load_corpus
from kdutils.models import build
from kdutils.tasks.base import DATA, SHAPE, TRAINING, Task
from kdutils.tasks.scores import token_scores
from kdutils.tasks.truth import QUESTIONS, Question, questions, truth_scores

# The beds of all papers that distil masked language models: the grammar, under the teacher that comes with the suite;
# and what users ask an assistant (CLINC150), under a teacher that is pre-trained on it.
BED = {
    "data": {"small": "hub:clinc/clinc_oos/plus"},
    "max_words": {"demo": 0},
    "train_rows": {"demo": 2000, "grammar": 20_000, "small": 0},
    "validation_rows": {"demo": 60, "grammar": 200},
    "model": {"demo": "demo:teacher", "small": ""},
    "vocab_size": {"small": 2000},
    "width": {"small": 192},
    "feedforward": {"small": 768},
    "max_tokens": {"demo": 300, "grammar": 1000},
    "mask_probability": {"demo": 0.15},
    "teacher_updates": {"small": 5000},
    "teacher_learning_rate": {"small": 1e-3},
}


def bed(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The beds' changes to a table of settings, with more fields for some: `table.extended(**bed(model={...}))`."""
    return {name: {**BED.get(name, {}), **more.get(name, {})} for name in {**BED, **more}}


class MaskedLM(Task):
    """Masked language modelling by an encoder: the task that a teacher is pre-trained on, and distilled."""

    name = kind = "masked_lm"
    settings_table = Table(
        Setting(
            "data", "demo", "hub:Salesforce/wikitext/wikitext-103-raw-v1", "hub:wikimedia/wikipedia/20231101.en",
            "demo, hub:owner/name, or a folder of yours",
        ),
        Setting("language", "en", "en", "en", "language of the demo corpus"),
        Setting("max_words", 6, 0, 0, "of the demo corpus: longest sentence in words; 0: any"),
        Setting("train_rows", 8000, 0, 0, "training texts; 0: all"),
        Setting("validation_rows", 200, 1000, 2000, "validation texts; 0: all"),
        Setting("test_rows", 200, 1000, 2000, "test texts; 0: all"),
        *DATA,
        Setting(
            "model", "", "bert-base-uncased", "bert-base-uncased",
            "the teacher, of the hub or a folder; empty: one is pre-trained here",
        ),
        Setting("teacher_start", "", "", "", "an encoder that its pre-training starts from, under a new head"),
        Setting("tokenizer", "", "", "", "tokenizer of a teacher that is pre-trained here; empty: trained here too"),
        Setting("vocab_size", 1200, 0, 0, "entries of the vocabulary, if it is trained here"),
        Setting("max_length", 48, 128, 512, "tokens a piece; longer texts are split"),
        Setting("mask_probability", 0.3, 0.15, 0.15, "share of the tokens that are asked for"),
        *SHAPE,
        Setting("max_tokens", 400, 4096, 4096, "padded tokens a batch"),
        *TRAINING,
        Setting("teacher_updates", 1500, 100_000, 1_000_000, "optimiser steps of a teacher that is pre-trained here"),
        Setting("teacher_learning_rate", 6e-3, 1e-4, 1e-4, "its peak learning rate"),
        Setting("teacher_seed", 0, 0, 0, "its seed; every student of every seed learns from this one teacher"),
    ).extended(
        clip={"demo": 1.0},
        layers={"demo": 4, "study": 12, "paper": 12},
        width={"demo": 32, "study": 768, "paper": 768},
        heads={"study": 12, "paper": 12},
        feedforward={"demo": 128, "study": 3072, "paper": 3072},
        schedule={"demo": "linear", "study": "linear", "paper": "linear"},
    )  # fmt: skip

    def __init__(self, settings: Settings, corpus: Corpus | None = None) -> None:
        super().__init__(settings, corpus)
        self._questions: dict[str, list[Question]] = {}  # by split; each costs the grammar its time

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "teacher": self.settings.model or "pre-trained here"}

    def plain_batches(self, seed: int) -> b.Batches:
        """Shuffled batches of the training split with uniform masking, for the pre-training of a teacher."""
        return b.Batches(self.examples["train"], self.collate(), seed=seed, **self._budget())

    def collate(self):
        """Uniform masking: what every model is evaluated on, with the same masks for all of them."""
        return b.collate_masked_lm(self.tokenizer, self.settings.mask_probability)

    def test(self, model: PreTrainedModel, keep_in: Path | None = None) -> dict[str, float]:
        found = {f"test_{name}": score for name, score in self.truth(model, "test").items()}
        return {**super().test(model), **found}

    def truth(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """How far the model is from the true distribution of a hidden word: known for the demo corpus only."""
        if self.settings.data != "demo":
            return {}
        if split not in self._questions:
            rows = self.corpus.splits[split]
            language, longest = self.settings.language, self.settings.max_length
            self._questions[split] = questions(rows, self.tokenizer, language, QUESTIONS, longest=longest)
        return truth_scores(model, self._questions[split])

    def _load(self) -> Corpus:
        s = self.settings
        return load_corpus(
            s.data, "text", language=s.language, rows=self._rows(), test_split=s.test_split, seed=s.data_seed,
            max_words=s.max_words,
        )  # fmt: skip

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if name := self.settings.model or self.settings.teacher_start or self.settings.tokenizer:
            return b.load_tokenizer(name)
        return b.train_tokenizer((row["text"] for row in self.corpus.splits["train"]), self.settings.vocab_size, "text")

    def _examples(self, split: str) -> b.Examples:
        texts = [row["text"] for row in self.corpus.splits[split]]
        return b.masked_lm_examples(texts, self.tokenizer, self.settings.max_length, "split")

    def _model(self) -> PreTrainedModel:
        """The teacher at its starting point: from the hub or a folder, or untrained in the shape of the settings."""
        s = self.settings
        if name := s.model or s.teacher_start:
            return build.pretrained(name, "masked_lm", dropout=s.dropout, new_head=not s.model)
        return build.masked_lm(len(self.tokenizer), **self._shape(), max_length=self.settings.max_length)

    def _budget(self) -> dict[str, int]:
        return {"max_tokens": self.settings.max_tokens}

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return token_scores(model, self.fixed_batches(split))
