"""The demo's encoder: what it is pre-trained on and what it leaves unread, and that its command makes such a one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from kdutils.data.batches import Batches, collate_masked_lm
from kdutils.data.corpora import load_corpus
from kdutils.data.tokens import load_tokenizer
from kdutils.models import build
from kdutils.papers.self_distillation.experiment import SETTINGS, FineTuning
from kdutils.study import encoder, kept
from kdutils.tasks.scores import token_scores
from tests.tiny import assert_same_weights

FEW = {"train": 60, "validation": 12, "test": 12}


@pytest.fixture
def tiny(monkeypatch):
    """As little as still is a training."""
    monkeypatch.setattr(encoder, "ROWS", FEW)
    monkeypatch.setattr(encoder, "UNREAD", 40)
    monkeypatch.setattr(
        encoder, "SHAPE",
        {"width": 16, "layers": 1, "heads": 2, "feedforward": 16, "vocab_size": 300, "max_length": 32},
    )  # fmt: skip
    monkeypatch.setattr(
        encoder, "TRAINING",
        {"max_words": 0, "max_tokens": 300, "learning_rate": 1e-2, "warmup": 1, "updates": 4, "eval_every": 2,
         "log_every": 2, "precision": "fp32"},
    )  # fmt: skip


# ---------------------------------------------------------------- what it reads


def test_its_reviews_are_none_that_a_demo_may_fine_tune_or_test_on(monkeypatch):
    monkeypatch.setattr(encoder, "ROWS", FEW)
    splits = encoder.corpus().splits
    reviews = {row["text"] for split, rows in splits.items() for row in rows[FEW[split] :]}
    assert len(reviews) == sum(FEW.values()) and all(len(rows) == 2 * FEW[split] for split, rows in splits.items())
    known = load_corpus("demo", "classification", rows={"train": encoder.UNREAD - 20, "validation": 10, "test": 10})
    unread = {row["text"] for rows in known.splits.values() for row in rows}
    assert len(unread) == encoder.UNREAD == 6000 and not reviews & unread


@pytest.mark.parametrize("preset", ["demo", "grammar"])
def test_it_has_read_hardly_a_sentence_that_self_distillation_fine_tunes_or_tests_on(preset):
    """Sentences are drawn, and short ones come again: that one of them is right was told by no label."""
    read = {row["text"] for rows in load_corpus("demo", "text", rows=encoder.ROWS).splits.values() for row in rows}
    settings = SETTINGS.resolve(preset)
    corpus = FineTuning.load(settings)
    assert settings.model == "demo" and settings.data == "demo:acceptability"
    for rows in corpus.splits.values():
        assert sum(row["text"] in read for row in rows) <= 0.01 * len(rows)


def test_the_sentences_are_read_too_and_no_label_is(monkeypatch):
    monkeypatch.setattr(encoder, "ROWS", FEW)
    corpus = encoder.corpus()
    assert all(row.keys() == {"text"} for rows in corpus.splits.values() for row in rows)
    sentences = load_corpus("demo", "text", rows=FEW).splits
    assert all(corpus.splits[split][: FEW[split]] == sentences[split] for split in FEW)


# ---------------------------------------------------------------- how it is made


def test_the_command_writes_a_model_that_plain_transformers_load_and_its_record(tiny, tmp_path, monkeypatch):
    place = tmp_path / "demo"
    encoder.pretrain(tmp_path / "runs", place)
    assert {path.name for path in place.iterdir()} == {path.name for path in build.DEMO.iterdir()}
    assert {one.dtype for one in load_file(place / "model.safetensors").values()} == {torch.float16}
    net = AutoModelForMaskedLM.from_pretrained(place)
    assert_same_weights(net.float(), kept.load(tmp_path / "runs/encoder", "masked_lm"))
    assert net.config.hidden_size == 16 and len(AutoTokenizer.from_pretrained(place)) <= 300
    record = json.loads((place / "record.json").read_text())
    assert record.keys() == json.loads((build.DEMO / "record.json").read_text()).keys()
    assert record["settings"] == json.loads(json.dumps(dict(encoder.settings()))) and record["settings"]["updates"] == 4
    assert [row["update"] for row in record["history"] if row["kind"] == "eval"] == [2, 4]
    assert record["provenance"]["versions"]["torch"] == torch.__version__

    written = {path.name: path.read_bytes() for path in place.iterdir()}
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *_, **__: pytest.fail("trained again"))
    encoder.pretrain(tmp_path / "runs", place)
    assert written == {path.name: path.read_bytes() for path in place.iterdir()}


def test_the_committed_encoder_was_made_by_these_settings():
    settings = json.loads((build.DEMO / "record.json").read_text())["settings"]
    for name, value in {**encoder.SHAPE, **encoder.TRAINING}.items():
        assert settings[name] == value, name
    config = build.load_config("demo")
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert found == tuple(encoder.SHAPE[name] for name in ("width", "layers", "heads", "feedforward"))
    assert (config.vocab_size, config.max_position_embeddings) == (1000, 64)


def test_it_knows_the_words_of_reviews_that_it_has_not_read():
    """Three in ten words are hidden; it finds more than half of them, as its record says."""
    tokenizer = load_tokenizer("demo")
    rows = load_corpus("demo", "classification", rows={"train": 60, "validation": 1, "test": 1}).splits["train"]
    examples = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in rows]
    batches = Batches(examples, collate_masked_lm(tokenizer, 0.3), batch_size=30, shuffle=False)
    found = token_scores(build.pretrained("demo", "masked_lm").eval(), batches)
    assert found["accuracy"] > 0.5 and found["loss"] < 1.6
