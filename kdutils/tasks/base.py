"""What every task shares: a corpus and a tokenizer, made once, and the settings of data, shape and training.

A task knows nothing of any paper. Its table of settings has the values of the demo and study presets; a paper takes
the table, adds its own lines and fills in the values of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.errors import UserError, unknown
from kdutils.core.settings import Setting, Settings
from kdutils.data import batches as b
from kdutils.data.corpora import Corpus
from kdutils.training.loop import Recipe

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
    monitor = "loss"  # the validation score that chooses the weights, where no setting `select_by` names one
    selectable = ("loss",)  # what `select_by` may name
    headline = "test_loss"  # the metric that results are compared by

    def __init__(self, settings: Settings, corpus: Corpus | None = None) -> None:
        self.settings = settings
        self.corpus = corpus or self._load()
        self.tokenizer = self._tokenizer()
        self.examples = {split: self._examples(split) for split in self.corpus.splits}
        too_long = (f"{split}: {examples.note}" for split, examples in self.examples.items() if examples.note)
        self.notes = (*self.corpus.notes, *too_long, *self._unknown(), *filter(None, [settings.note]))

    @classmethod
    def load(cls, settings: Settings) -> Corpus:
        """The corpus alone, without a tokenizer: by its fingerprint a finished run is recognised."""
        task = cls.__new__(cls)
        task.settings = settings
        return task._load()

    def check(self, seed: int) -> None:
        """Raises UserError for what the training or the test would stumble over, before it costs any time."""
        if self.settings.threads < 0:
            raise UserError(f"threads is {self.settings.threads}: choose 0 for all, or at least 1.")
        if self.settings.updates < 1:
            raise UserError(f"updates is {self.settings.updates}: it must be at least 1.")
        if "select_by" in self.settings and self.settings.select_by not in self.selectable:
            raise unknown("score to select by", self.settings.select_by, self.selectable)
        self._check_start(self.model(seed).config)
        self.training_batches(seed)
        for split in self.examples:
            self.fixed_batches(split)

    def _unknown(self) -> list[str]:
        """Says that more than one in a hundred test rows cannot be read or written in full."""
        names, test = {"source": "sources", "target": "references", "input_ids": "texts"}, self.examples["test"]
        advice = "raise train_rows, or choose data or a model that knows them"
        return [
            f"{count:,} of {len(test):,} test {names[side]} hold characters that the vocabulary lacks: {advice}."
            for side, count in test.holding(self.tokenizer.unk_token_id).items()
            if side in names and count > 0.01 * len(test)  # a segment may have the number of the unknown word
        ]

    def recipe(self, **changes: Any) -> Recipe:
        """The training recipe that the settings describe."""
        names = [name for name in Recipe.__dataclass_fields__ if name in self.settings]
        chosen = {name: self.settings[name] for name in names}
        monitor = self.settings.get("select_by", self.monitor)
        return Recipe(**{**chosen, "monitor": monitor, "larger_is_better": not monitor.endswith("loss"), **changes})

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

    def test(self, model: PreTrainedModel, keep_in: Path | None = None) -> dict[str, float]:
        """All scores on the test split, named test_...; keep_in: a folder for what the model wrote, if it writes."""
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

    def _check_start(self, config: PreTrainedConfig) -> None:
        """Refuses a model that has no embedding for a token or for a position of these texts."""
        s = self.settings
        positions = getattr(config, "max_position_embeddings", s.max_length)
        if positions < s.max_length:
            raise UserError(f"The model has {positions} positions, but max_length is {s.max_length}: lower it to that.")
        if len(self.tokenizer) > config.vocab_size:
            raise UserError(
                f"The tokenizer has {len(self.tokenizer)} entries, but the model '{s.get('model')}' only "
                f"{config.vocab_size}: take both from one model."
            )

    def _rows(self) -> dict[str, int]:
        splits = ("train", "validation", "test")
        return {split: n for split in splits if (n := self.settings[f"{split}_rows"])}

    def _trained_tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerBase:
        return b.train_tokenizer(texts, self.settings.vocab_size, self.kind)

    def _shape(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in ("width", "layers", "heads", "feedforward", "dropout")}
