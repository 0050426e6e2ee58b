"""The models that come with the demo: small BERTs, pre-trained on the grammar and committed with their records.

>>> settings = resolve(EXPERIMENTS, "demo", {"model": "demo"})      # any classification starts from it

"demo" has read sentences and reviews, and is where fine-tunings start; "demo:teacher" has read sentences only, until it
knew them, and teaches masked language models. `python -m kdutils.study.encoder demo:teacher` trains it anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kdutils.core.files import write_json
from kdutils.core.machine import provenance
from kdutils.core.settings import Settings
from kdutils.data.corpora import Corpus, load_corpus
from kdutils.models import build
from kdutils.study import kept
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.training.method import Method

ROWS = {"train": 12_000, "validation": 200, "test": 200}
# Of the reviews the first ones are those that a demo fine-tunes and tests on: they stay unread here.
UNREAD = 6000
SETTINGS = {
    "demo": {
        "width": 128, "layers": 3, "heads": 4, "feedforward": 256, "vocab_size": 1000, "max_length": 64, "max_words": 0,
        "max_tokens": 1500, "learning_rate": 3e-3, "warmup": 200, "updates": 4000, "eval_every": 500,
    },
    "demo:teacher": {
        "width": 128, "layers": 4, "heads": 4, "feedforward": 256, "vocab_size": 1000, "max_words": 0,
        "train_rows": 20_000, "mask_probability": 0.15, "max_tokens": 1500, "learning_rate": 3e-3, "warmup": 300,
        "updates": 6000, "eval_every": 500, "checkpoint_every": 500, "log_every": 100, "threads": 2,
    },
}  # fmt: skip


def settings(name: str = "demo") -> Settings:
    """Masked language modelling as the demo has it, in the shape of one of the models."""
    return MaskedLM.settings_table.resolve("demo", SETTINGS[name])


def corpus() -> Corpus:
    """Sentences and reviews of the English grammar, half and half."""
    sentences = load_corpus("demo", "text", rows=ROWS).splits
    sizes = {**ROWS, "train": ROWS["train"] + UNREAD}
    reviews = load_corpus("demo", "classification", rows=sizes).splits | {}
    reviews["train"] = reviews["train"][UNREAD:]
    texts = {split: [{"text": row["text"]} for row in sentences[split] + reviews[split]] for split in ROWS}
    return Corpus("demo", "text", texts, languages=("en",))


def pretrain(name: str = "demo", runs: str | Path = "runs", folder: Path | None = None) -> None:
    """Trains a model, which takes minutes, and writes it to `folder` in half precision, with its record."""
    chosen, folder = settings(name), folder or Path(build.located(name))
    task, trained = MaskedLM(chosen, corpus() if name == "demo" else None), Path(runs) / folder.name
    if kept.result(trained) is None:
        model = task.model(0)
        fitted = kept.train(
            model, Method(), task.training_batches(0), task.recipe(), trained, seed=0, cores=chosen.threads,
            evaluate=lambda now: {**task.validate(now), **task.truth(now, "validation")}, identity=chosen.digest,
            description=name,
        )  # fmt: skip
        kept.export(trained, model.half(), task.tokenizer)
        facts = {"history": fitted.history, "minutes": fitted.seconds / 60, "provenance": provenance()}
        kept.keep(trained, {**facts, "settings": dict(chosen), "parameters": build.parameter_count(model)})
    model = kept.load(trained, "masked_lm")
    model.half().save_pretrained(folder)
    task.tokenizer.save_pretrained(folder)
    write_json(folder / "record.json", kept.result(trained))


if __name__ == "__main__":
    pretrain(*sys.argv[1:2])
