"""Translation of one language into another, by an encoder-decoder that is trained from scratch.

>>> task = Translation(settings)              # loads the corpus, trains the tokenizer
>>> model = task.model(seed=1)
>>> task.validate(model)
{'loss': 6.9, 'accuracy': 0.01, 'perplexity': 992.0}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdutils.core.errors import UserError
from kdutils.core.files import explained, write_text
from kdutils.core.settings import Setting, Table
from kdutils.data import batches as b
from kdutils.data.corpora import Corpus, load_corpus
from kdutils.data.readers import Row
from kdutils.models import build
from kdutils.tasks.base import DATA, SHAPE, TRAINING, Task
from kdutils.tasks.scores import bleu_signature, token_scores, translate, translation_scores


class Translation(Task):
    """Translation of one language into another, by an encoder-decoder trained from scratch."""

    name = kind = "translation"
    headline = "test_bleu"
    selectable = ("bleu", "loss")
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
        Setting("select_by", "bleu", "bleu", "bleu", "validation score that chooses the weights: bleu, loss"),
        Setting("beams", 1, 5, 5, "beams of the test translations; 1: greedy"),
    ).extended(
        # the beds that all translation papers share; rates and dropout are what served the plain baseline best there
        validation_rows={"demo": 300, "small": 500},
        test_rows={"demo": 300, "grammar": 1000, "small": 0},
        updates={"demo": 900, "grammar": 9600, "small": 3000},
        eval_every={"demo": 100, "grammar": 800, "small": 250},
        data={"small": "hub:bentrevett/multi30k"},
        max_words={"small": 0},
        train_rows={"small": 5000},
        vocab_size={"small": 2000},
        max_length={"small": 64},
        width={"small": 128},
        layers={"small": 1},
        feedforward={"small": 512},
        dropout={"demo": 0.3, "small": 0.2},
        max_tokens={"small": 1000},
        learning_rate={"small": 3e-3},
        warmup={"small": 200},
        checkpoint_every={"grammar": 2400, "small": 250},
    )

    def translate(self, model: PreTrainedModel, sentences: list[str], beams: int | None = None) -> list[str]:
        """Translations of sentences, with the beams of the settings unless others are given."""
        return translate(
            model, self.tokenizer, sentences, beams=beams or self.settings.beams, max_length=self.settings.max_length
        )

    def check(self, seed: int) -> None:
        super().check(seed)
        if self.settings.beams < 1:
            raise UserError(f"beams is {self.settings.beams}: it must be at least 1, which is greedy decoding.")

    def test(self, model: PreTrainedModel, keep_in: Path | None = None) -> dict[str, float]:
        """Loss, accuracy and perplexity under teacher forcing; BLEU and chrF of whole translations."""
        rows = self.corpus.splits["test"]
        hypotheses = self.translate(model, [row["src"] for row in rows])
        if keep_in:
            keep_translations(keep_in, rows, hypotheses)
        scores = translation_scores(hypotheses, [row["tgt"] for row in rows], self.corpus.languages[1])
        return {**super().test(model), **{f"test_{name}": score for name, score in scores.items()}}

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "bleu_signature": bleu_signature(self.corpus.languages[1])}

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
        return build.translation_model(len(self.tokenizer), **self._shape(), max_length=length)

    def _budget(self) -> dict[str, int]:
        return {"max_tokens": self.settings.max_tokens}

    def validate(self, model: PreTrainedModel) -> dict[str, float]:
        """Scores under teacher forcing, and BLEU of greedy translations where that chooses the weights."""
        scores = super().validate(model)
        if self.settings.get("select_by") == "bleu":
            rows = self.corpus.splits["validation"]
            hypotheses = self.translate(model, [row["src"] for row in rows], beams=1)
            found = translation_scores(hypotheses, [row["tgt"] for row in rows], self.corpus.languages[1])
            scores["bleu"] = found["bleu"]
        return scores

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return token_scores(model, self.fixed_batches(split))


def keep_translations(folder: Path, rows: Sequence[Row], hypotheses: Sequence[str]) -> None:
    """Writes `translations.jsonl`, a test row and its translation in a line, so that they can be scored again."""
    lines = [{**row, "translation": text} for row, text in zip(rows, hypotheses, strict=True)]
    write_text(folder / "translations.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def translations(folder: Path) -> list[Row]:
    """What `keep_translations` wrote of a finished arm: "src", "tgt", "translation" of each test row, in their order.

    Raises UserError where the folder has no such file, or it was damaged.
    """
    path = Path(folder) / "translations.jsonl"
    with explained(path):
        lines = path.read_bytes().split(b"\n")  # str.splitlines would cut a sentence at a separator within it
    try:
        rows = [json.loads(line) for line in lines if line]
        if all({"src", "tgt", "translation"} <= row.keys() for row in rows):
            return rows
    except (ValueError, AttributeError):  # no JSON, or no object
        pass
    raise UserError(f"{path} is damaged: delete the folder that it lies in and run again.")
