"""Classification of texts or of pairs of texts."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.settings import Setting, Table
from kdutils.data import batches as b
from kdutils.data.corpora import Corpus, load_corpus
from kdutils.models import build
from kdutils.tasks.base import DATA, SHAPE, TRAINING, Task
from kdutils.tasks.scores import label_scores, positive_class


class Classification(Task):
    """Classification of texts or pairs of texts, by an encoder from scratch or a pre-trained one."""

    name = kind = "classification"
    headline = "test_accuracy"
    selectable = ("accuracy", "f1", "matthews", "loss")
    settings_table = (
        Table(
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
            Setting(
                "smoothing_convention", "uniform", "uniform", "uniform", "uniform: epsilon/V; others: epsilon/(V-1)"
            ),
            Setting("batch_size", 32, 32, 32, "rows a batch"),
            *TRAINING,
            Setting(
                "select_by", "accuracy", "accuracy", "accuracy", "validation score that chooses the weights, or loss"
            ),
        )
        .extended(
            layers={"demo": 2},
            learning_rate={"demo": 1e-3, "pretrained": 5e-5},
            warmup={"demo": 30, "pretrained": 20},
            schedule={"pretrained": "linear"},
            weight_decay={"pretrained": 0.01},
            clip={"pretrained": 1.0},
            updates={"demo": 200},
            eval_every={"demo": 50},
        )
        .extended(
            # the bed that all classification papers share: a real pretrained encoder on a small part of a real set
            data={"small": "hub:stanfordnlp/sst2"},
            model={"small": "sentence-transformers/all-MiniLM-L6-v2"},
            train_rows={"small": 1000},
            validation_rows={"small": 400},
            test_rows={"small": 0},
            max_length={"small": 64},
            learning_rate={"small": 1e-4},
            schedule={"small": "linear"},
            warmup={"small": 20},
            weight_decay={"small": 0.01},
            clip={"small": 1.0},
            updates={"small": 200},
            eval_every={"small": 25},
        )
    )

    def collate(self):
        return b.collate_classification(b.required(self.tokenizer, "pad_token_id", "classification"))

    def _load(self) -> Corpus:
        s = self.settings
        return load_corpus(
            s.data, self.name, language=s.language, rows=self._rows(), test_split=s.test_split,
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
            found: list[str] = []
            model = build.pretrained(self.settings.model, "classification", labels, self.settings.dropout, found)
            self.notes = tuple(dict.fromkeys((*self.notes, *found)))  # once, however many seeds start from it
            return model
        return build.classifier(len(self.tokenizer), labels, **self._shape(), max_length=self.settings.max_length)

    def _budget(self) -> dict[str, int]:
        return {"batch_size": self.settings.batch_size}

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return label_scores(model, self.fixed_batches(split), positive_class(self.corpus.labels))

    def facts(self) -> dict[str, Any]:
        positive = positive_class(self.corpus.labels)
        return {**super().facts(), "f1": "macro average" if positive is None else f"of {self.corpus.labels[positive]}"}
