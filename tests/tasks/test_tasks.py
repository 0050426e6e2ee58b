"""Tasks: one corpus, tokenizer and starting point for all methods of a seed, and scores that can be repeated."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from kdutils.core.errors import UserError
from kdutils.papers.lssd.multilingual import ManyToOne, OneToMany
from kdutils.tasks.classification import Classification
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.tasks.regression import Regression
from kdutils.tasks.scores import translation_scores
from kdutils.tasks.translation import Translation, keep_translations, translations
from kdutils.training.loop import Recipe
from tests.corpus_files import write
from tests.tiny import SMALL, assert_same_weights, one_sentence

TABLES = {"translation": Translation, "classification": Classification, "regression": Regression}


def make(name: str, **changes):
    small = {**SMALL, "vocab_size": 400, **({"max_tokens": 200} if name == "translation" else {}), **changes}
    return TABLES[name](TABLES[name].settings_table.resolve("demo", small))


@pytest.fixture(scope="module", params=TABLES)
def task(request):
    return make(request.param)


def test_the_recipe_is_the_settings_and_the_changes_of_an_arm(task):
    recipe, s = task.recipe(updates=99), task.settings
    assert isinstance(recipe, Recipe) and recipe.updates == 99
    for name in ("warmup", "learning_rate", "schedule", "clip", "accumulation", "eval_every", "patience", "precision"):
        assert getattr(recipe, name) == s[name]
    selected = s.get("select_by", task.monitor)
    assert (recipe.monitor, recipe.larger_is_better) == (selected, not selected.endswith("loss"))


def test_every_setting_of_training_reaches_the_recipe(task):
    # the last three: of papers that set them
    unreached = {"betas", "monitor", "larger_is_better", "head_learning_rate", "behind", "ahead"}
    assert set(Recipe.__dataclass_fields__) - unreached <= set(task.settings)


def test_a_seed_gives_one_starting_point_and_one_order_of_batches(task):
    assert_same_weights(task.model(1), task.model(1))
    with pytest.raises(AssertionError):
        assert_same_weights(task.model(1), task.model(2))
    one, same, other = (task.training_batches(seed) for seed in (1, 1, 2))
    assert one.plan(3) == same.plan(3) != other.plan(3)
    assert sorted(i for batch in one.plan(0) for i in batch) == list(range(len(task.examples["train"])))


def test_making_a_task_and_its_model_draws_no_random_numbers(task):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    again = make(task.name)
    again.model(5), again.training_batches(3).batch(0, 0)
    again.test(again.model(1))
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert again.facts() == task.facts()


def test_scores_are_repeatable_and_named(task):
    net = task.model(1)
    scores, tested = task.validate(net), task.test(net)
    assert scores == task.validate(net) and tested == task.test(net)
    assert task.recipe().monitor in scores and task.headline in tested


def test_what_selects_is_named_and_a_score_that_the_task_has(task):
    if "select_by" not in task.settings:
        assert task.recipe().monitor == "loss"
        return
    scores = make(task.name).validate(task.model(1))
    assert set(task.selectable) <= set(scores)
    name = next(one for one in task.selectable if one.endswith("loss"))
    by_loss = make(task.name, select_by=name)
    assert (by_loss.recipe().monitor, by_loss.recipe().larger_is_better) == (name, False)
    assert "bleu" not in by_loss.validate(by_loss.model(1))  # translations are made only where they choose
    with pytest.raises(UserError, match="score to select by.*blue") as caught:
        make(task.name, select_by="blue").check(1)
    one_sentence(caught.value)


def test_a_scored_model_names_all_its_scores(task):
    net = task.model(1)
    scores, tested = task.validate(net), task.test(net)
    assert all(name.startswith("test_") for name in tested) and not any(name.startswith("test_") for name in scores)
    assert {f"test_{name}" for name in scores} <= tested.keys()


def test_fixed_batches_are_in_order_and_all_or_the_first_few(task):
    assert sum(len(batch["targets"]) > 0 for batch in task.fixed_batches("test")) > 0
    assert sum(len(plan) for plan in task.fixed_batches("validation").plan(0)) == 10
    assert sorted(i for plan in task.fixed_batches("train", 7).plan(0) for i in plan) == list(range(7))
    assert task.fixed_batches("test").plan(0) == task.fixed_batches("test").plan(9)


def test_facts_say_what_the_data_was(task):
    facts = task.facts()
    assert facts["rows"] == {"train": 40, "validation": 10, "test": 10}
    assert facts["vocabulary"] == len(task.tokenizer) and facts["fingerprint"] == task.corpus.fingerprint
    assert ("bleu_signature" in facts) == (task.name == "translation")


def test_characters_that_no_training_row_has_are_counted(tmp_path):
    known = [{"src": f"word {i}", "tgt": f"Wort {i}", "text": f"word {i}", "label": i % 2} for i in range(20)]
    strange = [{**row, "tgt": f"言葉 {i}", "text": f"言葉 {i}"} for i, row in enumerate(known)]
    for split, rows in {"train": known, "validation": known, "test": [*known[:13], *strange[:7]]}.items():
        write(tmp_path / f"en-de.{split}.jsonl", rows)
        write(tmp_path / f"{split}.jsonl", rows)
    for name, what in (("translation", "references"), ("classification", "texts")):
        lacks = [note for note in make(name, data=str(tmp_path), test_rows=0).notes if "lacks" in note]
        said = f"7 of 20 test {what} hold characters that the vocabulary lacks: raise train_rows, "
        assert lacks == [f"{said}or choose data or a model that knows them."]


@pytest.mark.slow
def test_the_demo_corpora_of_the_records_are_drawn_today():
    """Every recorded run on the grammar could be run again on the same rows."""
    tasks = {cls.name: cls for cls in (Translation, Classification, Regression, MaskedLM, ManyToOne, OneToMany)}
    names = {"data", "pair", "language", "languages", "pivot", "max_words", "data_seed", "test_split"}
    names |= {f"{split}_rows" for split in ("train", "validation", "test")}
    expected = {}
    results = Path(__file__).resolve().parents[2] / "results"
    for path in (*results.glob("*/demo/*.json"), *results.glob("*/grammar/*.json")):
        record = json.loads(path.read_text("utf-8"))
        chosen = {name: value for name, value in record["settings"].items() if name in names}
        if record["settings"]["data"] == "demo":
            fingerprint = record["provenance"]["data"]["fingerprint"]
            assert expected.setdefault((record["task"], json.dumps(chosen)), fingerprint) == fingerprint
    assert {name for name, _ in expected} == {"translation", "masked_lm", "many_to_one"}
    for (name, chosen), fingerprint in expected.items():
        task = tasks[name].__new__(tasks[name])  # the corpus alone, without its tokenizer
        task.settings = task.settings_table.resolve("demo", json.loads(chosen))
        assert task._load().fingerprint == fingerprint, chosen


def test_translations_of_the_test_are_kept_so_that_they_can_be_scored_again(tmp_path):
    task = make("translation")
    scores = task.test(task.model(1), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "translations.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [{"src": line["src"], "tgt": line["tgt"]} for line in lines] == task.corpus.splits["test"]
    again = translation_scores([line["translation"] for line in lines], [line["tgt"] for line in lines], "de")
    assert {f"test_{name}": value for name, value in again.items()}.items() <= scores.items()
    assert translations(tmp_path) == lines


def test_translations_are_read_as_they_were_written_whatever_separators_are_in_them(tmp_path):
    row = {"src": "one\u2028two", "tgt": "eins\x85zwei", "language": "de"}
    keep_translations(tmp_path, [row, row], ["eins\n\x0czwei", ""])
    assert translations(tmp_path) == [{**row, "translation": "eins\n\x0czwei"}, {**row, "translation": ""}]


def test_translations_that_are_missing_or_damaged_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"translations\.jsonl does not exist"):
        translations(tmp_path)
    for damaged in (b'{"src": "a", "tgt"', b'{"src": "a"}\n', b"[1]\n", b"\xff\n"):
        (tmp_path / "translations.jsonl").write_bytes(damaged)
        with pytest.raises(UserError, match=r"translations\.jsonl is damaged"):
            translations(tmp_path)


@pytest.mark.parametrize(
    ("labels", "positive", "said"),
    [(("entailment", "not_entailment"), 0, "of entailment"), (("glad", "sad"), None, "macro average")],
)
def test_f1_is_that_of_the_class_that_the_names_call_positive(tmp_path, monkeypatch, labels, positive, said):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [{"text": f"word {i} and so on", "label": labels[i % 2]} for i in range(20)])
    task = make("classification", data=str(tmp_path))
    monkeypatch.setattr(
        "kdutils.tasks.classification.label_scores", lambda model, batches, positive: {"positive": positive}
    )
    assert task.test(None) == {"test_positive": positive} and task.facts()["f1"] == said


def test_translations_come_back_in_order_and_as_text():
    task = make("translation")
    sentences = [row["src"] for row in task.corpus.splits["test"]][:3]
    net = task.model(1)
    out = task.translate(net, sentences)
    assert len(out) == 3 and all(isinstance(text, str) for text in out)
    assert task.translate(net, sentences[::-1]) == out[::-1]
    assert len(task.translate(net, sentences, beams=2)) == 3


def test_long_pairs_are_left_out_of_the_training_only_and_the_notes_say_so():
    task = make("translation", max_length=12, max_words=0, train_rows=60)
    rows = task.facts()["rows"]
    assert rows["train"] < 60 and rows["validation"] == rows["test"] == 10
    assert any(note.startswith("train: ") and "dropped" in note for note in task.notes)
    task.check(seed=1)


def test_a_pretrained_model_brings_its_tokenizer(tmp_path):
    first = make("classification")
    first.model(1).save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    second = make("classification", model=str(tmp_path))
    assert len(second.tokenizer) == len(first.tokenizer)
    assert_same_weights(second.model(7), first.model(1))
    second.check(seed=1)


def test_the_dropout_of_the_settings_reaches_a_pretrained_model(tmp_path):
    first = make("classification")
    first.model(1).save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    second = make("classification", model=str(tmp_path), dropout=0.3)
    rates = {module.p for module in second.model(1).modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.3}


def saved(folder, **changes) -> str:
    """A folder with a classifier of the demo's labels and its tokenizer."""
    task = make("classification", **changes)
    task.model(1).save_pretrained(folder)
    task.tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_pretrained_classifier_learns_at_a_rate_of_its_own_and_the_notes_say_so(tmp_path):
    given = {name: SMALL[name] for name in ("train_rows", "validation_rows", "test_rows")}
    settings = Classification.settings_table.resolve("demo", {**given, "model": saved(tmp_path)})
    recipe, task = Classification(settings).recipe(), Classification(settings)
    assert (recipe.learning_rate, recipe.warmup, recipe.schedule) == (5e-5, 20, "linear")
    assert (recipe.weight_decay, recipe.clip) == (0.01, 1.0)
    assert settings.note in task.facts()["notes"] and "learning_rate = 5e-05" in settings.note
    assert Classification.settings_table.resolve("demo", given).learning_rate == 1e-3


def test_a_new_head_is_in_the_notes_once(tmp_path):
    place = saved(tmp_path)
    make("classification").model(1).bert.save_pretrained(place)
    task = make("classification", model=place)
    task.model(1), task.model(2)
    assert sum("classification head is a new one" in note for note in task.facts()["notes"]) == 1


def test_a_start_without_room_for_these_texts_is_refused_before_anything_is_trained(tmp_path):
    place = saved(tmp_path, max_length=20)
    make("classification", model=place, max_length=20).check(1)
    with pytest.raises(UserError, match="has 20 positions, but max_length is 48") as caught:
        make("classification", model=place).check(1)
    one_sentence(caught.value)
    other = make("classification", train_rows=200, vocab_size=900)
    other.tokenizer.save_pretrained(place)
    with pytest.raises(UserError, match="take both from one model") as caught:
        make("classification", model=place, max_length=20).check(1)
    assert str(len(other.tokenizer)) in one_sentence(caught.value)


def test_a_tokenizer_that_cannot_pad_is_refused_before_anything_is_trained(tmp_path):
    task = make("classification", model=saved(tmp_path))
    task.tokenizer.pad_token = None
    with pytest.raises(UserError, match="no pad_token_id") as caught:
        task.check(1)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("translation", {"beams": 0}, "beams is 0"),
        ("translation", {"max_tokens": 4}, "raise max_tokens"),
        ("classification", {"threads": -2}, "threads is -2"),
        ("classification", {"heads": 5}, "choose a multiple of 5"),
    ],
)
def test_check_finds_what_would_only_fail_later(name, change, words):
    with pytest.raises(UserError, match=words) as caught:
        make(name, **change).check(seed=1)
    one_sentence(caught.value)
