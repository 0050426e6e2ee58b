"""What can be learnt: a corpus, a tokenizer, a model and its scores, behind one small interface.

>>> task = Translation(settings)              # loads the corpus, trains the tokenizer
>>> model = task.model(seed=1)
>>> task.validate(model)
{'loss': 6.9, 'accuracy': 0.01, 'perplexity': 992.0}

A task knows nothing of any paper. Its table of settings has the values of the demo and study presets; a paper
takes the table, adds its own lines and fills in the values of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils import batches as b
from kdutils import evaluation, models
from kdutils.data import Corpus, load_corpus
from kdutils.errors import UserError
from kdutils.settings import Setting, Settings, Table
from kdutils.training import Recipe
from kdutils.truth import QUESTIONS, questions, truth_scores

DATA = (
    Setting("data_seed", 0, 0, 0, "seed of the demo corpus and of row samples; the same for all runs"),
    Setting("test_split", "test", "test", "test", "the split that is tested on, once, at the end"),
)
SHAPE = (
    Setting("width", 64, 256, 512, "size of the hidden states"),
    Setting("layers", 1, 3, 6, "layers (translation: of encoder and of decoder each)"),
    Setting("heads", 4, 4, 4, "attention heads"),
    Setting("feedforward", 128, 1024, 1024, "size of the feed-forward layers"),
    Setting("dropout", 0.1, 0.1, 0.1, "dropout rate"),
)
TRAINING = (
    Setting("updates", 300, 8000, 300_000, "optimiser steps"),
    Setting("accumulation", 1, 1, 1, "batches an update"),
    Setting("learning_rate", 8e-3, 5e-4, 5e-4, "peak learning rate (AdamW)"),
    Setting("warmup", 40, 1000, 4000, "updates of linear warm-up"),
    Setting("schedule", "inverse_sqrt", "inverse_sqrt", "inverse_sqrt", "how the rate falls after the warm-up"),
    Setting("weight_decay", 1e-4, 1e-4, 1e-4, "decoupled weight decay of the matrices"),
    Setting("clip", 0.0, 0.0, 0.0, "largest gradient norm; 0: no clipping"),
    Setting("eval_every", 60, 500, 2000, "updates between evaluations on the validation split; 0: once an epoch"),
    Setting("log_every", 20, 100, 100, "updates between lines of the training history"),
    Setting("checkpoint_every", 300, 500, 2000, "updates between checkpoints"),
    Setting("patience", 0, 0, 0, "evaluations without improvement before stopping; 0: train to the end"),
    Setting("threads", 1, 0, 0, "CPU threads; 0: all. One is as fast at the demo's size, and its sums have one order"),
    Setting("precision", "auto", "auto", "auto", "auto, fp32, bf16 or fp16"),
    Setting("tracker", "", "", "", "an experiment tracker of accelerate, such as tensorboard; empty: none"),
)


class Task:
    """A corpus and a tokenizer, made once from the settings, for all seeds and all methods alike."""

    name = ""
    kind = ""  # of the model: translation, classification or masked_lm
    monitor, larger_is_better = "loss", False
    headline = "test_loss"  # the metric that results are compared by

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.corpus = self._load()
        self.tokenizer = self._tokenizer()
        self.examples = {split: self._examples(split) for split in self.corpus.splits}
        too_long = (f"{split}: {examples.note}" for split, examples in self.examples.items() if examples.note)
        self.notes = (*self.corpus.notes, *too_long, *self._unknown())

    def check(self, seed: int) -> None:
        """Raises UserError for what the training or the test would stumble over, before it costs any time."""
        if self.settings.threads < 0:
            raise UserError(f"threads is {self.settings.threads}: choose 0 for all, or at least 1.")
        if self.settings.updates < 1:
            raise UserError(f"updates is {self.settings.updates}: it must be at least 1.")
        self.model(seed), self.training_batches(seed)
        for split in self.examples:
            self.fixed_batches(split)

    def _unknown(self) -> list[str]:
        """Says that more than one in a hundred test rows cannot be read or written in full."""
        names, test = {"source": "sources", "target": "references", "input_ids": "texts"}, self.examples["test"]
        advice = "raise train_rows, or choose data or a model that knows them"
        return [
            f"{count:,} of {len(test):,} test {names[side]} hold characters that the vocabulary lacks: {advice}."
            for side, count in test.holding(self.tokenizer.unk_token_id).items()
            if count > 0.01 * len(test)
        ]

    def recipe(self, **changes: Any) -> Recipe:
        """The training recipe that the settings describe."""
        names = [name for name in Recipe.__dataclass_fields__ if name in self.settings]
        chosen = {name: self.settings[name] for name in names}
        return Recipe(**{**chosen, "monitor": self.monitor, "larger_is_better": self.larger_is_better, **changes})

    def model(self, seed: int) -> PreTrainedModel:
        """A model at its starting point; the same for every method of a seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._model()

    def training_batches(self, seed: int) -> b.Batches:
        """Shuffled batches of the training split; the same for every method of a seed."""
        return b.Batches(self.examples["train"], self.training_collate(), seed=seed, **self._budget())

    def fixed_batches(self, split: str, rows: int | None = None) -> b.Batches:
        """All rows of a split, or the first few, in a fixed order."""
        return b.Batches(self.examples[split][:rows], self.collate(), shuffle=False, **self._budget())

    def training_collate(self):
        """What makes the batches of the training; the same as for the evaluation unless a task says otherwise."""
        return self.collate()

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        """Quick scores on the validation split; "loss" is without label smoothing and without dropout."""
        return self._scores(model, "validation")

    def test(self, model: PreTrainedModel) -> dict[str, float]:
        """All scores on the test split, named test_..."""
        return {f"test_{name}": score for name, score in self._scores(model, "test").items()}

    def facts(self) -> dict[str, Any]:
        """What of the data belongs into the provenance of a result."""
        return {
            "corpus": self.corpus.name,
            "rows": {split: len(examples) for split, examples in self.examples.items()},
            "fingerprint": self.corpus.fingerprint,
            "vocabulary": len(self.tokenizer),
            "notes": list(self.notes),
        }

    def _rows(self) -> dict[str, int]:
        splits = ("train", "validation", "test")
        return {split: n for split in splits if (n := self.settings[f"{split}_rows"])}

    def _trained_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        return b.train_tokenizer(texts, self.settings.vocab_size, self.kind)

    def _shape(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in ("width", "layers", "heads", "feedforward", "dropout")}


class Translation(Task):
    """Translation of one language into another, by an encoder-decoder trained from scratch."""

    name = kind = "translation"
    headline = "test_bleu"
    settings_table = Table(
        Setting("data", "demo", "hub:bentrevett/multi30k", "demo", "demo, hub:owner/name, or a folder of yours"),
        Setting("pair", "en-de", "en-de", "de-en", "source and target language"),
        Setting("max_words", 7, 0, 0, "of the demo corpus: longest sentence in words; 0: any"),
        Setting("train_rows", 500, 0, 0, "training pairs; 0: all"),
        Setting("validation_rows", 200, 0, 0, "validation pairs; 0: all"),
        Setting("test_rows", 200, 0, 0, "test pairs; 0: all"),
        *DATA,
        Setting("vocab_size", 1200, 8000, 10_000, "entries of the joint byte-pair vocabulary"),
        Setting("max_length", 48, 128, 175, "tokens a side; longer pairs are left out of the training"),
        *SHAPE,
        Setting("label_smoothing", 0.1, 0.1, 0.1, "epsilon of the cross-entropies"),
        Setting("smoothing_convention", "uniform", "uniform", "uniform", "uniform: epsilon/V; others: epsilon/(V-1)"),
        Setting("max_tokens", 300, 4096, 4096, "padded tokens a batch, of the longer side"),
        *TRAINING,
        Setting("beams", 1, 5, 5, "beams of the test translations; 1: greedy"),
    )

    def translate(self, model: PreTrainedModel, sentences: list[str], beams: int | None = None) -> list[str]:
        """Translations of sentences, with the beams of the settings unless others are given."""
        return evaluation.translate(
            model, self.tokenizer, sentences, beams=beams or self.settings.beams, max_length=self.settings.max_length
        )

    def check(self, seed: int) -> None:
        super().check(seed)
        if self.settings.beams < 1:
            raise UserError(f"beams is {self.settings.beams}: it must be at least 1, which is greedy decoding.")

    def test(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss, accuracy and perplexity under teacher forcing; BLEU and chrF of whole translations."""
        rows = self.corpus.splits["test"]
        hypotheses = self.translate(model, [row["src"] for row in rows])
        scores = evaluation.translation_scores(hypotheses, [row["tgt"] for row in rows], self.corpus.languages[1])
        return {**super().test(model), **{f"test_{name}": score for name, score in scores.items()}}

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "bleu_signature": evaluation.bleu_signature(self.corpus.languages[1])}

    def collate(self):
        return b.collate_translation()

    def _load(self) -> Corpus:
        s = self.settings
        return load_corpus(
            s.data, "translation", pair=s.pair, rows=self._rows(), test_split=s.test_split, seed=s.data_seed,
            max_words=s.max_words,
        )  # fmt: skip

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._trained_tokenizer(row[side] for row in self.corpus.splits["train"] for side in ("src", "tgt"))

    def _examples(self, split: str) -> b.Examples:
        way = "drop" if split == "train" else "truncate"  # every pair of the other splits is scored
        return b.translation_examples(self.corpus.splits[split], self.tokenizer, self.settings.max_length, way)

    def _model(self) -> PreTrainedModel:
        length = 2 * self.settings.max_length
        return models.translation_model(len(self.tokenizer), **self._shape(), max_length=length)

    def _budget(self) -> dict[str, int]:
        return {"max_tokens": self.settings.max_tokens}

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return evaluation.token_scores(model, self.fixed_batches(split))


class Classification(Task):
    """Classification of texts or pairs of texts, by an encoder from scratch or a pre-trained one."""

    name = kind = "classification"
    headline = "test_accuracy"
    settings_table = Table(
        Setting("data", "demo", "hub:stanfordnlp/sst2", "demo", "demo, hub:owner/name, or a folder of yours"),
        Setting("language", "en", "en", "en", "language of the demo corpus"),
        Setting("train_rows", 1500, 0, 0, "training rows; 0: all"),
        Setting("validation_rows", 300, 0, 0, "validation rows; 0: all"),
        Setting("test_rows", 300, 0, 0, "test rows; 0: all"),
        *DATA,
        Setting("model", "", "bert-base-uncased", "bert-base-cased", "a model to start from; empty: from scratch"),
        Setting("vocab_size", 1000, 0, 0, "entries of the vocabulary, if it is trained here"),
        Setting("max_length", 48, 128, 128, "tokens a text; longer ones are cut"),
        *SHAPE,
        Setting("label_smoothing", 0.0, 0.0, 0.0, "epsilon of the cross-entropies"),
        Setting("smoothing_convention", "uniform", "uniform", "uniform", "uniform: epsilon/V; others: epsilon/(V-1)"),
        Setting("batch_size", 32, 32, 32, "rows a batch"),
        *TRAINING,
    ).extended(
        layers={"demo": 2},
        learning_rate={"demo": 1e-3},
        warmup={"demo": 30},
        updates={"demo": 200},
        eval_every={"demo": 50},
    )
    monitor, larger_is_better = "accuracy", True

    def collate(self):
        return b.collate_classification(self.tokenizer.pad_token_id)

    def _load(self) -> Corpus:
        s = self.settings
        return load_corpus(
            s.data, "classification", language=s.language, rows=self._rows(), test_split=s.test_split,
            seed=s.data_seed,
        )  # fmt: skip

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self.settings.model:
            return b.load_tokenizer(self.settings.model)
        rows = self.corpus.splits["train"]
        return self._trained_tokenizer(row[side] for row in rows for side in ("text", "text_b") if side in row)

    def _examples(self, split: str) -> b.Examples:
        return b.classification_examples(self.corpus.splits[split], self.tokenizer, self.settings.max_length)

    def _model(self) -> PreTrainedModel:
        labels = self.corpus.labels
        if self.settings.model:
            return models.pretrained(self.settings.model, "classification", labels, self.settings.dropout)
        return models.classifier(len(self.tokenizer), labels, **self._shape(), max_length=self.settings.max_length)

    def _budget(self) -> dict[str, int]:
        return {"batch_size": self.settings.batch_size}

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return evaluation.label_scores(model, self.fixed_batches(split), evaluation.positive_class(self.corpus.labels))

    def facts(self) -> dict[str, Any]:
        positive = evaluation.positive_class(self.corpus.labels)
        return {**super().facts(), "f1": "macro average" if positive is None else f"of {self.corpus.labels[positive]}"}


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

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "teacher": self.settings.model or "pre-trained here"}

    def plain_batches(self, seed: int) -> b.Batches:
        """Shuffled batches of the training split with uniform masking, for the pre-training of a teacher."""
        return b.Batches(self.examples["train"], self.collate(), seed=seed, **self._budget())

    def collate(self):
        """Uniform masking: what every model is evaluated on, with the same masks for all of them."""
        return b.collate_masked_lm(self.tokenizer, self.settings.mask_probability)

    def test(self, model: PreTrainedModel) -> dict[str, float]:
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
        s, self._questions = self.settings, {}
        return load_corpus(
            s.data, "text", language=s.language, rows=self._rows(), test_split=s.test_split, seed=s.data_seed,
            max_words=s.max_words,
        )  # fmt: skip

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if name := self.settings.model or self.settings.tokenizer:
            return b.load_tokenizer(name)
        return b.train_tokenizer((row["text"] for row in self.corpus.splits["train"]), self.settings.vocab_size, "text")

    def _examples(self, split: str) -> b.Examples:
        texts = [row["text"] for row in self.corpus.splits[split]]
        return b.masked_lm_examples(texts, self.tokenizer, self.settings.max_length, "split")

    def _model(self) -> PreTrainedModel:
        """The teacher at its starting point: from the hub or a folder, or untrained in the shape of the settings."""
        if self.settings.model:
            return models.pretrained(self.settings.model, "masked_lm", dropout=self.settings.dropout)
        return models.masked_lm(len(self.tokenizer), **self._shape(), max_length=self.settings.max_length)

    def _budget(self) -> dict[str, int]:
        return {"max_tokens": self.settings.max_tokens}

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return evaluation.token_scores(model, self.fixed_batches(split))
