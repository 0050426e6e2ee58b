"""Regression: scores for pairs of texts, read, generated, learned and graded."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForSequenceClassification

from kdutils.core.errors import UserError
from kdutils.data.corpora import list_corpora, load_corpus
from kdutils.models.forward import counted_logits
from kdutils.study import kept
from kdutils.tasks.regression import Regression
from kdutils.tasks.scores import regression_scores
from kdutils.training.loop import Recipe
from kdutils.training.method import SquaredError, Step
from tests.corpus_files import refusal, write
from tests.tiny import SMALL, assert_same_weights, one_sentence


def make(**changes) -> Regression:
    return Regression(Regression.settings_table.resolve("demo", {**SMALL, "vocab_size": 400, **changes}))


def scored(n: int, start: int = 0) -> list[dict]:
    return [{"text_a": f"first {i}", "text_b": f"second {i}", "score": i % 11 / 2} for i in range(start, start + n)]


@pytest.fixture
def folder(tmp_path):
    for split, n, start in [("train", 40, 0), ("validation", 5, 100), ("test", 6, 200)]:
        write(tmp_path / f"pairs/{split}.jsonl", scored(n, start))
    return tmp_path / "pairs"


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_scipy_and_numpy(same_draws):
    predicted, gold = torch.randn(50).tolist(), torch.randint(0, 6, (50,)).tolist()  # ties among the gold ones
    found, (y, right) = regression_scores(predicted, gold), np.array([predicted, gold])
    assert set(found) == {"pearson", "spearman", "loss"} and all(type(one) is float for one in found.values())
    assert found["pearson"] == pytest.approx(np.corrcoef(y, right)[0, 1])
    ranks = np.corrcoef(stats.rankdata(y), stats.rankdata(right))[0, 1]
    assert found["spearman"] == pytest.approx(ranks)
    assert found["loss"] == pytest.approx(((y - right) ** 2).mean())


def test_scores_by_hand():
    """Deviations (-1, 0, 1) and (-1, -1, 2): Pearson 3 / sqrt(2 * 6); ranks 1, 2, 3 and 1.5, 1.5, 3."""
    expected = {"pearson": 3 / 12**0.5, "spearman": 1.5 / (2 * 1.5) ** 0.5, "loss": (0 + 1 + 1) / 3}
    assert regression_scores([1, 2, 3], [1, 1, 4]) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_what_never_changes_correlates_with_nothing():
    for sides in (([1.0, 1.0], [0.0, 5.0]), ([0.0, 5.0], [2.0, 2.0]), ([1.0], [2.0])):
        found = regression_scores(*sides)
        assert found["pearson"] == found["spearman"] == 0.0 and found["loss"] > 0


def test_scores_of_nothing_are_refused():
    for sides in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(UserError) as caught:
            regression_scores(*sides)
        one_sentence(caught.value)


# ---------------------------------------------------------------- reading


def test_pairs_with_scores_are_read_from_a_folder(folder):
    corpus = load_corpus(folder, "regression")
    assert corpus.splits["train"][3] == {"text": "first 3", "text_b": "second 3", "score": 1.5}
    assert corpus.sizes() == {"train": 40, "validation": 5, "test": 6}
    assert corpus.labels == ("score",) and corpus.notes == ()
    assert all(type(row["score"]) is float for rows in corpus.splits.values() for row in rows)
    assert [entry["task"] for entry in list_corpora(folder.parent)] == ["regression"]
    assert load_corpus(folder, "regression", rows={"train": 7}).sizes()["train"] == 7


def test_texts_alone_and_integers_have_scores_too(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [{"text": f"{split} {i}", "score": i} for i in range(4)])
    assert load_corpus(tmp_path, "regression").splits["test"][2] == {"text": "test 2", "score": 2.0}


@pytest.mark.parametrize(
    ("score", "words"),
    [
        ('"4.5"', "line 2 has '4.5' in column 'score', which is not a number"),
        ('"high"', "line 2 has 'high' in column 'score', which is not a number"),
        ("true", "line 2 has 'true' in column 'score', which is not a number"),
        ("[1]", "line 2 has a list in column 'score'"),
        ("1e999", "line 2 has inf in column 'score'"),
        ("1" + "0" * 400, "in column 'score', which is not a number below 1e15"),
        ("null", "line 2 has no score, which others have"),
        ("NaN", "line 2 has no score, which others have"),
        ('" "', "line 2 has no score, which others have"),
    ],
)
def test_bad_scores_are_named_with_the_line(folder, score, words):
    rows = [json.dumps(row) for row in scored(9)]
    rows[1] = rows[1].replace('"score": 0.5', f'"score": {score}')
    write(folder / "train.jsonl", rows)
    sentence = refusal(folder, "regression")
    assert "train.jsonl" in sentence and words in sentence


def test_scores_that_nothing_can_be_learned_from(folder):
    write(folder / "train.jsonl", [{**row, "score": 2.5} for row in scored(9)])
    assert "are all 2.5: at least two must differ" in refusal(folder, "regression")
    write(folder / "train.jsonl", [{**row, "score": None} for row in scored(9)])
    assert "are all None" in refusal(folder, "regression")
    write(folder / "train.jsonl", [{"text_a": "a", "text_b": "b"}])
    assert "but regression needs 'text' (or a pair such as 'text_a' and 'text_b') and 'score'" in refusal(
        folder, "regression"
    )


@pytest.mark.parametrize("hidden", [-1.0, None, "left out"])
def test_a_test_split_whose_scores_are_hidden_is_not_used(folder, hidden):
    """As that of STS-B on the hub, where all scores are -1."""
    rows = [{**row, "score": hidden} for row in scored(6, 200)]
    write(folder / "test.jsonl", [{k: v for k, v in row.items() if v != "left out"} for row in rows])
    corpus = load_corpus(folder, "regression")
    assert [row["text"] for row in corpus.splits["test"]] == [f"first {i}" for i in range(100, 105)]
    assert any("The scores of 'test' are hidden" in note for note in corpus.notes)


def test_the_layout_of_glue_on_the_hub(tmp_path, monkeypatch):
    import datasets
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "stsb").mkdir()
    for split, n, score in [("train", 40, None), ("validation", 5, None), ("test", 6, -1.0)]:
        rows = [
            {"sentence1": f"{split} {i}", "sentence2": f"b {i}", "label": i / 8 if score is None else score, "idx": i}
            for i in range(n)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"stsb/{split}-00000-of-00001.parquet")
    corpus = load_corpus(f"hub:{tmp_path}/stsb", "regression")
    assert corpus.splits["test"][3] == {"text": "validation 3", "text_b": "b 3", "score": 0.375}
    assert corpus.sizes() == {"train": 38, "validation": 2, "test": 5}
    notes = " ".join(corpus.notes)
    assert "The scores of 'test' are hidden (all -1)" in notes and "label as score" in notes


def test_the_real_sts_benchmark(real_data):
    corpus = load_corpus(real_data / "stsb", "regression", rows={"train": 1000, "validation": 400})
    assert corpus.sizes() == {"train": 1000, "validation": 400, "test": 1379}
    assert corpus.splits["test"][0] == {
        "text": "A girl is styling her hair.", "text_b": "A girl is brushing her hair.", "score": 2.5,
    }  # fmt: skip
    for rows in corpus.splits.values():
        scores = [row["score"] for row in rows]
        assert min(scores) == 0.0 and max(scores) == 5.0 and 2.0 < np.mean(scores) < 3.2
    task = make(data=str(real_data / "stsb"), vocab_size=600)
    tested = task.test(task.model(1))
    assert set(tested) == {"test_pearson", "test_spearman", "test_loss"} and abs(tested["test_pearson"]) <= 1


# ---------------------------------------------------------------- the demo


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_demo_is_the_same_for_a_seed_and_its_splits_share_no_text(language):
    sizes = {"train": 300, "validation": 60, "test": 60}
    corpus = load_corpus("demo", "regression", language=language, rows=sizes)
    assert corpus.sizes() == sizes and corpus.labels == ("score",) and corpus.languages == (language,)
    assert corpus.fingerprint == load_corpus("demo", "regression", language=language, rows=sizes).fingerprint
    assert corpus.fingerprint != load_corpus("demo", "regression", language=language, rows=sizes, seed=1).fingerprint
    for one, other in itertools.combinations(corpus.splits.values(), 2):
        for side in ("text", "text_b"):
            assert not {row[side] for row in one} & {row[side] for row in other}


def test_a_score_of_the_demo_is_the_share_of_common_words():
    rows = load_corpus("demo", "regression").splits["train"]
    assert len(rows) == 1000
    for row in rows:
        one, two = ({word.strip(".,").lower() for word in row[side].split()} for side in ("text", "text_b"))
        assert row["score"] == round(5 * len(one & two) / len(one | two), 2)
    scores = np.array([row["score"] for row in rows])
    assert scores.min() == 0.0 and scores.max() > 4.5 and 0.2 < (scores > 2).mean() < 0.3


def test_what_the_demo_cannot_give_is_refused():
    assert "xx" in refusal("demo", "regression", language="xx")
    assert "is a corpus for classification" in refusal("demo:acceptability", "regression")


# ---------------------------------------------------------------- the task


def test_a_batch_has_scores_and_the_model_one_output():
    task = make()
    batch = task.training_batches(1).batch(0, 0)
    assert batch["labels"].dtype == batch["targets"].dtype == torch.float32
    net = task.model(1)
    assert counted_logits(net, batch).shape == (len(batch["targets"]), 1)
    assert (net.config.num_labels, net.config.problem_type) == (1, "regression")
    assert net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss > 0
    assert "f1" not in task.facts() and task.facts()["rows"]["train"] == 40


def test_padding_does_not_change_a_prediction_or_a_score():
    task = make()
    net, rows = task.model(1).eval(), list(task.examples["test"])
    whole = counted_logits(net, task.collate()(rows))[:, 0]
    alone = torch.cat([counted_logits(net, task.collate()([row]))[:, 0] for row in rows])
    assert len({len(row["input_ids"]) for row in rows}) > 1
    torch.testing.assert_close(whole, alone)
    gold = [row["score"] for row in task.corpus.splits["test"]]
    expected = {f"test_{name}": value for name, value in regression_scores(alone.tolist(), gold).items()}
    assert task.test(net.train()) == pytest.approx(expected, rel=1e-4) and net.training


def test_the_plain_loss_is_the_mean_squared_error_of_a_whole_update():
    task = make()
    net, rows = task.model(1).double().eval(), list(task.examples["train"])[:7]
    whole, now, plain = task.collate()(rows), Step(1, 2, 0, True), SquaredError()
    right = torch.nn.functional.mse_loss(counted_logits(net, whole)[:, 0], whole["targets"].double())
    found = plain.loss(net, whole, plain.count(whole), now)
    torch.testing.assert_close(found["loss"], right)
    pieces = [plain.loss(net, task.collate()(rows[a:b]), plain.count(whole), now)["loss"] for a, b in ((0, 3), (3, 7))]
    torch.testing.assert_close(sum(pieces), right)


def test_it_is_learned_exported_and_loaded(tmp_path):
    task, recipe = make(updates=30), Recipe(updates=30, learning_rate=3e-3, warmup=2, precision="fp32")
    net = task.model(1)
    before = task.validate(net)["loss"]
    kept.train(net, SquaredError(), task.training_batches(1), recipe, tmp_path, seed=1, cores=1, evaluate=task.validate)
    assert task.validate(net)["loss"] < 0.9 * before
    kept.export(tmp_path, net, task.tokenizer)
    kept.keep(tmp_path, {})
    again = kept.load(tmp_path, task.kind)
    assert_same_weights(again, net)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert (plain.config.num_labels, plain.config.problem_type) == (1, "regression")
    assert task.test(plain) == task.test(net)


def test_a_pretrained_classifier_gets_a_new_head_of_one_output(tmp_path):
    first = make()
    first.model(1).bert.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    task = make(model=str(tmp_path))
    net = task.model(2)
    assert net.classifier.out_features == 1 and net.config.problem_type == "regression"
    assert any("classification head is a new one" in note for note in task.notes)
    task.check(1)


def test_the_presets_are_the_beds_of_classification_on_sts_b():
    small, study = (Regression.settings_table.resolve(preset) for preset in ("small", "study"))
    assert (small.data, small.model) == ("hub:nyu-mll/glue/stsb", "sentence-transformers/all-MiniLM-L6-v2")
    assert (small.train_rows, small.validation_rows, small.test_rows) == (1000, 400, 0)
    assert (study.data, study.model) == ("hub:nyu-mll/glue/stsb", "bert-base-uncased")
    assert small.select_by == study.select_by == "pearson" and "label_smoothing" not in small
