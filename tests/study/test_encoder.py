"""The models of the demo: what they are pre-trained on and what they leave unread, and that a command makes such."""

from __future__ import annotations

import json
from pathlib import Path

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
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.tasks.scores import token_scores
from kdutils.tasks.truth import questions, truth_scores
from tests.tiny import assert_same_weights

FEW = {"train": 60, "validation": 12, "test": 12}


NAMES = ("demo", "demo:teacher")


@pytest.fixture
def tiny(monkeypatch, few_questions):
    """As little as still is a training."""
    small = {
        "width": 16, "layers": 1, "heads": 2, "feedforward": 16, "vocab_size": 300, "max_length": 32, "max_words": 0,
        "max_tokens": 300, "learning_rate": 1e-2, "warmup": 1, "updates": 4, "eval_every": 2, "log_every": 2,
        "checkpoint_every": 2, "precision": "fp32", "threads": 1,
    }  # fmt: skip
    monkeypatch.setattr(encoder, "ROWS", FEW)
    monkeypatch.setattr(encoder, "UNREAD", 40)
    rows = {f"{split}_rows": n for split, n in FEW.items()}
    monkeypatch.setattr(encoder, "SETTINGS", {"demo": small, "demo:teacher": {**small, "layers": 2, **rows}})


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


@pytest.mark.parametrize("name", NAMES)
def test_the_command_writes_a_model_that_plain_transformers_load_and_its_record(name, tiny, tmp_path, monkeypatch):
    place, committed = tmp_path / "made", Path(build.located(name))
    encoder.pretrain(name, tmp_path / "runs", place)
    assert {path.name for path in place.iterdir()} == {path.name for path in committed.iterdir()}
    assert {one.dtype for one in load_file(place / "model.safetensors").values()} == {torch.float16}
    net = AutoModelForMaskedLM.from_pretrained(place)
    assert_same_weights(net.float(), kept.load(tmp_path / "runs/made", "masked_lm"))
    assert net.config.hidden_size == 16 and len(AutoTokenizer.from_pretrained(place)) <= 300
    assert net.config.num_hidden_layers == encoder.SETTINGS[name]["layers"]
    record = json.loads((place / "record.json").read_text())
    assert record.keys() == json.loads((committed / "record.json").read_text()).keys()
    assert record["settings"] == json.loads(json.dumps(dict(encoder.settings(name))))
    looks = [row for row in record["history"] if row["kind"] == "eval"]
    assert [row["update"] for row in looks] == [2, 4] and all(row["truth_kl"] > 0 for row in looks)
    assert record["settings"]["updates"] == 4 and record["provenance"]["versions"]["torch"] == torch.__version__

    written = {path.name: path.read_bytes() for path in place.iterdir()}
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *_, **__: pytest.fail("trained again"))
    encoder.pretrain(name, tmp_path / "runs", place)
    assert written == {path.name: path.read_bytes() for path in place.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_written_to_where_its_name_is_looked_up(name, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "located", lambda name: str(tmp_path / name.replace(":", "-")))
    encoder.pretrain(name, tmp_path / "runs")
    assert (tmp_path / name.replace(":", "-") / "record.json").exists()


def test_the_teacher_reads_sentences_alone(tiny, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(
        "kdutils.study.kept.train", lambda model, method, batches, *_, **__: read.append(batches) or 1 / 0
    )
    for name in NAMES:
        with pytest.raises(ZeroDivisionError):
            encoder.pretrain(name, tmp_path / "runs", tmp_path / "made")
    pieces = [len(batches.lengths) for batches in read]
    assert pieces[1] == FEW["train"] and pieces[0] >= 2 * FEW["train"]  # long reviews are split


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_models_were_made_by_these_settings(name):
    settings = json.loads((Path(build.located(name)) / "record.json").read_text())["settings"]
    chosen = encoder.settings(name)
    for setting in settings:
        assert settings[setting] == chosen[setting], setting
    config = build.load_config(name)
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert found == tuple(encoder.SETTINGS[name][size] for size in ("width", "layers", "heads", "feedforward"))
    assert (config.vocab_size, config.max_position_embeddings) == (1000, chosen.max_length)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_files_are_small_and_their_record_is_of_their_shape(name):
    place = Path(build.located(name))
    assert sum(path.stat().st_size for path in place.iterdir()) <= 2_000_000
    record = json.loads((place / "record.json").read_text())
    assert record["parameters"] == build.parameter_count(build.pretrained(name, "masked_lm"))
    assert record["history"][-1]["update"] == record["settings"]["updates"]


def test_the_committed_teacher_knew_the_grammar_at_its_end():
    history = json.loads((build.TEACHER / "record.json").read_text())["history"]
    known = [row["truth_kl"] for row in history if row["kind"] == "eval"]
    assert 0 < known[-1] < 0.15 and known[-1] < known[0] / 2


def test_the_committed_teacher_knows_the_grammar_of_sentences_that_it_has_not_read():
    """Measured anew, and on another split than that of the record."""
    task = MaskedLM(
        encoder.settings("demo:teacher").changed(model="demo:teacher", train_rows=10, validation_rows=10, test_rows=60)
    )
    asked = questions(task.corpus.splits["test"], task.tokenizer, "en", 30, longest=task.settings.max_length)
    assert truth_scores(task.model(0), asked)["truth_kl"] < 0.2


def test_it_knows_the_words_of_reviews_that_it_has_not_read():
    """Three in ten words are hidden; it finds more than half of them, as its record says."""
    tokenizer = load_tokenizer("demo")
    rows = load_corpus("demo", "classification", rows={"train": 60, "validation": 1, "test": 1}).splits["train"]
    examples = [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in rows]
    batches = Batches(examples, collate_masked_lm(tokenizer, 0.3), batch_size=30, shuffle=False)
    found = token_scores(build.pretrained("demo", "masked_lm").eval(), batches)
    assert found["accuracy"] > 0.5 and found["loss"] < 1.6
