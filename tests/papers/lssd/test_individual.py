"""Translators of one language each: trained on its pairs alone, kept where they were best, loaded ever after."""

from __future__ import annotations

import json
import random
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from kdutils.core.errors import Paused
from kdutils.papers.lssd.individual import individual_teachers
from kdutils.papers.lssd.multilingual import ManyToOne, OneToMany, tag
from kdutils.study.experiment import Trial
from kdutils.training.loop import Fitted
from kdutils.training.method import Method
from tests.tiny import SMALL, assert_same_weights, one_sentence

LANGUAGES = ["ko", "es"]
TINY = {
    **SMALL, "languages": LANGUAGES, "train_rows": [12, 30], "validation_rows": 6, "test_rows": 6, "vocab_size": 400,
    "max_tokens": 150, "max_words": 5, "updates": 8, "learning_rate": 0.03,
}  # fmt: skip


def make(direction=ManyToOne, **changes):
    return direction(direction.settings_table.resolve("demo", {**TINY, **changes}))


@pytest.fixture(scope="module")
def task():
    return make()


def trial_of(task, place, seed: int = 1, until: float | None = None) -> Trial:
    return Trial(task, "individual", seed, place / "individual_arm", place, until)


def method() -> Method:
    return Method(0.1, "others")


def trained(task, place, **options) -> nn.ModuleDict:
    """One for each language, under its tag."""
    return individual_teachers(trial_of(task, place, **options), method())


@pytest.fixture(scope="module")
def place(task, tmp_path_factory):
    """A folder with the teachers of seed 1."""
    place = tmp_path_factory.mktemp("runs")
    trained(task, place)
    return place


def kept(place):
    """The folders of the teachers, one a language."""
    return sorted(file.parent.parent for file in place.rglob("*.safetensors"))


def stamps(place):
    return [(file, file.stat().st_mtime_ns) for file in sorted(place.rglob("*")) if file.is_file()]


def never(*arguments, **options):
    pytest.fail("trained again")


def test_there_is_one_for_each_language_in_their_order(task, place):
    found = trained(task, place)
    assert isinstance(found, nn.ModuleDict) and list(found) == [tag(one) for one in LANGUAGES]
    with pytest.raises(AssertionError):
        assert_same_weights(*found.values())


def test_they_are_kept_and_their_checkpoints_are_not(place):
    assert [folder.name[:2] for folder in kept(place)] == sorted(LANGUAGES)
    for folder in kept(place):
        assert folder.parent == place / "individual_arm" / "individual"
        assert {path.name for path in folder.iterdir()} == {"model", "history.jsonl", "result.json"}


def test_what_is_kept_is_loaded_and_not_trained_again(task, place, tmp_path, monkeypatch):
    fresh, before = trained(task, tmp_path), stamps(place)
    monkeypatch.setattr("kdutils.study.kept.fit", never)
    loaded = trained(task, place)
    for name in fresh:
        assert_same_weights(loaded[name], fresh[name])
    assert before == stamps(place)


def test_each_is_trained_on_the_pairs_of_its_language_like_the_translator_of_all(task, tmp_path, monkeypatch):
    calls = []

    def fit(model, method, batches, recipe, **options):
        assert_same_weights(model, task.model(3))
        languages = {batches.examples[i]["language"] for batch in batches.plan(0) for i in batch}
        calls.append((languages, len(batches.examples), batches.seed, method, recipe, options))
        return NOTHING

    monkeypatch.setattr("kdutils.study.kept.fit", fit)
    own = method()
    individual_teachers(trial_of(task, tmp_path, seed=3, until=12.5), own)
    assert [(languages, rows, seed) for languages, rows, seed, *_ in calls] == [({"ko"}, 12, 3), ({"es"}, 30, 3)]
    for (*_, used, recipe, options), language in zip(calls, LANGUAGES, strict=True):
        assert used is own and recipe.updates == task.settings.updates and recipe.monitor == "smoothed_loss"
        assert recipe == task.recipe(eval_every=1, checkpoint_every=2) and options["until"] == 12.5
        assert options["evaluate"](task.model(1)) == task.scores(task.model(1), "validation", language)
        assert language in options["description"] and language in options["identity"]


NOTHING = Fitted([], {}, 0, 0.0, 0)


def stand_in(task, **changes) -> SimpleNamespace:
    """The task with other settings."""
    same = {name: getattr(task, name) for name in ("model", "only", "scores", "recipe", "corpus", "tokenizer", "kind")}
    return SimpleNamespace(**same, settings=task.settings.changed(**changes))


@pytest.mark.parametrize(("updates", "looks", "checkpoints"), [(1, 1, 1), (19, 1, 4), (100, 5, 25), (1000, 50, 250)])
def test_they_are_looked_at_twenty_times_whatever_the_epochs(task, tmp_path, monkeypatch, updates, looks, checkpoints):
    recipes = []
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *arguments, **options: recipes.append(arguments[3]) or NOTHING)
    individual_teachers(trial_of(stand_in(task, updates=updates), tmp_path), method())
    assert {(recipe.eval_every, recipe.checkpoint_every) for recipe in recipes} == {(looks, checkpoints)}


def test_a_language_may_be_called_as_something_that_modules_have(task, tmp_path, monkeypatch):
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *arguments, **options: NOTHING)
    other = stand_in(task, languages=["to", "half", "type"])
    other.only = lambda language, seed: task.only("ko", seed)
    found = trained(other, tmp_path)
    assert len(found) == 3 and isinstance(found, nn.ModuleDict)


@pytest.mark.parametrize("direction", [ManyToOne, OneToMany])
def test_it_is_taken_where_the_loss_of_its_language_was_lowest(direction, tmp_path):
    """With a rate so high that the last is not the best."""
    task, rises = make(direction, learning_rate=0.3, schedule="constant_with_warmup", updates=12), []
    for language, model in zip(LANGUAGES, trained(task, tmp_path).values(), strict=True):
        (folder,) = (tmp_path / "individual_arm" / "individual").glob(f"{language}-*")
        lines = (folder / "history.jsonl").read_text().splitlines()
        losses = [row["smoothed_loss"] for row in map(json.loads, lines) if row["kind"] == "eval"]
        rises.append(losses[-1] - min(losses))
        found = task.scores(model, "validation", language)["smoothed_loss"]
        assert found == pytest.approx(min(losses), rel=1e-6)
        assert found < task.scores(task.model(1), "validation", language)["smoothed_loss"] and len(losses) == 12
    assert max(rises) > 0


def test_one_does_not_depend_on_those_before_it(task, place, tmp_path):
    """The second alone, because the first is there already, is what it was after the first."""
    target = tmp_path / "individual_arm" / "individual"
    target.mkdir(parents=True)
    first = kept(place)[1]  # in alphabetical order
    shutil.copytree(first, target / first.name)
    both, whole = trained(task, tmp_path), trained(task, place)
    for name in both:
        assert_same_weights(both[name], whole[name])


def test_a_seed_has_teachers_of_its_own(task, place, tmp_path):
    one, other = trained(task, place), trained(task, tmp_path, seed=2)
    for name in one:
        with pytest.raises(AssertionError):
            assert_same_weights(one[name], other[name])


def test_random_numbers_are_as_they_were(task, tmp_path):
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    trained(task, tmp_path)
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_out_of_time_they_pause_and_go_on_to_the_same(task, place, tmp_path):
    pauses, found = [], None
    while found is None:
        try:
            found = trained(task, tmp_path, until=time.monotonic())
        except Paused as pause:
            pauses.append(one_sentence(pause))
    assert len(pauses) == 2 * (task.settings.updates - 1)
    assert sum("es alone" in pause for pause in pauses) == sum("ko alone" in pause for pause in pauses)
    for language, whole in trained(task, place).items():
        assert_same_weights(found[language], whole)


def test_other_rows_under_the_same_settings_have_other_teachers(task, tmp_path):
    """A corpus may change under its name: here all sources of a language become one word."""
    first = trained(task, tmp_path)
    changed = make()
    changed.corpus = SimpleNamespace(fingerprint="other rows")
    changed.examples["train"] = [{**e, "source": [e["source"][0], 7, 2]} for e in task.examples["train"]]
    for language, model in trained(changed, tmp_path).items():
        with pytest.raises(AssertionError):
            assert_same_weights(model, first[language])
