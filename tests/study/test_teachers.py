"""Teachers: pre-trained once for everyone who learns from them, through kills, or taken as they are."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import exclusive, make_folder, write_json
from kdutils.data.tokens import save_tokenizer
from kdutils.papers.distilbert.experiment import EXPERIMENTS
from kdutils.study import kept
from kdutils.study.teachers import DECIDING, teacher_folder, teacher_of, teacher_shape, teacher_story
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.training.method import Method
from tests.tiny import assert_same_weights, killed, one_sentence, timeless

TINY = {
    "train_rows": 60, "validation_rows": 12, "test_rows": 12, "vocab_size": 300, "width": 16, "layers": 2, "heads": 2,
    "feedforward": 16, "max_tokens": 200, "teacher_updates": 6, "precision": "fp32", "threads": 1,
}  # fmt: skip


def make(**changes) -> MaskedLM:
    return MaskedLM(MaskedLM.settings_table.resolve("demo", {**TINY, **changes}))


pytestmark = pytest.mark.usefixtures("few_questions")


@pytest.fixture(scope="module")
def task():
    return make()


@pytest.fixture(scope="module")
def runs(task, tmp_path_factory):
    """The folder of all runs, with a teacher whose training nothing interrupted."""
    place = tmp_path_factory.mktemp("runs")
    teacher_of(task, place)
    return place


def everything(place: Path) -> list[tuple[str, int]]:
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock")
    return [(str(path), path.stat().st_mtime_ns) for path in files]


# ---------------------------------------------------------------- trained once


def test_a_teacher_is_trained_once_and_then_loaded(task, runs, monkeypatch):
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained again"))
    before = everything(runs)
    one, other = teacher_of(task, runs), teacher_of(make(), runs)
    assert isinstance(one, BertForMaskedLM) and not one.training
    assert_same_weights(one, other)
    assert everything(runs) == before


def test_it_keeps_its_model_and_its_history_and_no_checkpoints(task, runs):
    place = teacher_folder(task, runs)
    assert place.parent == runs / "teachers" and place.name.startswith("masked_lm-")
    assert {path.name for path in place.iterdir()} - {".lock"} == {"model", "history.jsonl", "result.json"}


def test_the_story_has_the_training_curve_and_the_seconds(task, runs):
    story = teacher_story(task, runs)
    evaluations = [row for row in story["history"] if row["kind"] == "eval"]
    assert [row["update"] for row in evaluations] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "accuracy", "perplexity", "truth_kl", "truth_mass"} <= row.keys() for row in evaluations)
    assert story["seconds"] > 0 and {"device", "versions", "date"} <= story["provenance"].keys()


def test_the_teacher_is_the_best_of_its_training(task, runs):
    losses = [row["loss"] for row in teacher_story(task, runs)["history"] if row["kind"] == "eval"]
    assert task.validate(teacher_of(task, runs))["loss"] == pytest.approx(min(losses), rel=1e-6)
    assert min(losses) < task.validate(task.model(0))["loss"]


def test_nothing_is_told_of_a_teacher_before_it_is_trained(task, tmp_path):
    assert teacher_story(task, tmp_path) == {}


def test_its_recipe_is_its_own_and_ends_at_a_rate_of_zero(tmp_path):
    task = make(teacher_updates=40, teacher_learning_rate=0.004, learning_rate=7.0, updates=3, patience=1, warmup=9)
    teacher_of(task, tmp_path)
    rows = [row for row in teacher_story(task, tmp_path)["history"] if row["kind"] == "train"]
    rates = {row["update"]: row["learning_rate"] for row in rows}
    assert rates[40] == pytest.approx(0.0, abs=1e-9)
    assert rates[20] == pytest.approx(0.004 * 20 / 38)  # a twentieth of the updates warm up, the others fall


def test_it_starts_from_its_own_seed_and_trains_to_the_end(tmp_path, monkeypatch):
    task, given = make(teacher_seed=1, patience=1), []

    def fit(*arguments, **options):
        given.extend(arguments)
        raise Paused("Enough is seen.")

    monkeypatch.setattr("kdutils.study.kept.fit", fit)
    with pytest.raises(Paused):
        teacher_of(task, tmp_path)
    assert_same_weights(given[0], task.model(1))
    assert given[3].patience == 0 and type(given[1]) is Method


def test_it_is_trained_on_uniform_masks_and_not_on_those_of_a_method(runs, task, tmp_path):
    """A paper's own choice of targets must not change the teacher that it shares with others."""

    class Other(MaskedLM):
        def training_collate(self):
            raise AssertionError("the masks of a method")

    same = Other(task.settings)
    assert teacher_folder(same, runs) == teacher_folder(task, runs)
    assert_same_weights(teacher_of(same, tmp_path), teacher_of(task, runs))


def test_the_teachers_seed_decides_its_weights(task, runs, tmp_path):
    other = teacher_of(make(teacher_seed=1), tmp_path)
    with pytest.raises(AssertionError):
        assert_same_weights(other, teacher_of(task, runs))


# ---------------------------------------------------------------- whose teacher is whose

STUDENTS = {
    "updates", "learning_rate", "warmup", "eval_every", "log_every", "checkpoint_every", "patience", "threads",
    "tracker",
}  # fmt: skip


def place_of(fingerprint: str = "rows", **changes) -> Path:
    """Where a teacher of these settings would lie, without making the task."""
    settings = EXPERIMENTS[0].settings.resolve("demo", changes)
    return teacher_folder(SimpleNamespace(name="masked_lm", settings=settings, corpus=SimpleNamespace(
        fingerprint=fingerprint)))  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"updates": 7}, {"learning_rate": 0.1}, {"warmup": 1}, {"patience": 3}, {"eval_every": 3}, {"log_every": 3},
        {"checkpoint_every": 9}, {"threads": 2}, {"tracker": "tensorboard"}, {"student_layers": 1}, {"alpha_ce": 0.0},
        {"temperature": 4.0}, {"downstream": ["demo"]}, {"mask_smoothing": 0.0}, {"freeze_positions": False},
        {"drop_rows": True},
    ],
    ids=str,
)  # fmt: skip
def test_students_of_other_settings_share_a_teacher(change):
    assert place_of(**change) == place_of()


@pytest.mark.parametrize(
    "change",
    [
        {"data": "elsewhere"}, {"language": "de"}, {"max_words": 9}, {"train_rows": 5}, {"data_seed": 1},
        {"tokenizer": "x"}, {"vocab_size": 99}, {"max_length": 9}, {"mask_probability": 0.2}, {"width": 8},
        {"layers": 3}, {"heads": 1}, {"feedforward": 8}, {"dropout": 0.2}, {"max_tokens": 100}, {"accumulation": 2},
        {"schedule": "cosine"}, {"weight_decay": 0.1}, {"clip": 2.0}, {"teacher_updates": 7},
        {"teacher_learning_rate": 0.1}, {"teacher_seed": 1}, {"precision": "bf16"},
    ],
    ids=str,
)  # fmt: skip
def test_another_teacher_has_another_place(change):
    assert place_of(**change) != place_of()


def test_the_shape_of_a_teacher_is_that_of_the_settings_or_of_the_model_that_they_name(task, runs):
    """(layers, width, feed-forward size, words)."""
    s = task.settings
    assert teacher_shape(s) == (2, 16, 16, 300) and teacher_shape(s.changed(vocab_size=0)) == (2, 16, 16, 30_522)
    folder = teacher_folder(task, runs) / "model"
    other = s.changed(layers=40, width=7, feedforward=9)  # those of a named teacher are its own
    for named in (other.changed(model=str(folder)), other.changed(teacher_start=str(folder))):
        assert teacher_shape(named) == (2, 16, 16, len(task.tokenizer)) and len(task.tokenizer) < 300
    assert teacher_shape(other.changed(model="demo:teacher")) == (4, 128, 256, 1000)
    assert teacher_shape(other.changed(model="bert-base-uncased", vocab_size=0)) == (40, 7, 9, 30_522)  # not here yet


def test_other_rows_under_the_same_name_have_another_teacher():
    assert place_of("other rows") != place_of("rows")


def test_every_setting_of_the_task_decides_a_teacher_or_is_about_students():
    assert set(DECIDING) | STUDENTS | {"model"} == set(MaskedLM.settings_table.settings)
    assert not set(DECIDING) & STUDENTS


# ---------------------------------------------------------------- interrupted


def pretrain(runs: str) -> None:
    teacher_of(make(), runs)


def assert_the_same_teacher(task, place: Path, uninterrupted: Path) -> None:
    assert_same_weights(teacher_of(task, place), teacher_of(task, uninterrupted))
    ours, theirs = (teacher_story(task, runs)["history"] for runs in (place, uninterrupted))
    assert timeless(ours) == timeless(theirs)
    assert {path.name for path in teacher_folder(task, place).iterdir()} - {".lock"} == {
        "model", "history.jsonl", "result.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("event", "kill_at"),
    [
        ("kdutils.training.loop:_Loop._update", 4),
        ("kdutils.study.kept:save_tokenizer", 1),  # the model is on the disk, its result is not
        ("kdutils.study.kept:write_json", 1),
    ],
)
def test_a_killed_pretraining_goes_on_to_the_same_teacher(event, kill_at, task, runs, tmp_path):
    killed(pretrain, kill_at, event, runs=str(tmp_path))
    assert not (teacher_folder(task, tmp_path) / "result.json").exists()
    assert teacher_story(task, tmp_path) == {}
    assert_the_same_teacher(task, tmp_path, runs)


def test_a_pretraining_that_is_out_of_time_pauses_and_goes_on(task, runs, tmp_path):
    pauses = 0
    while not teacher_story(task, tmp_path):
        try:
            teacher_of(task, tmp_path, until=time.monotonic())
        except Paused as pause:
            pauses += 1
            assert "Paused teacher after update" in one_sentence(pause)
    assert pauses == 5
    assert_the_same_teacher(task, tmp_path, runs)


def test_two_processes_do_not_train_one_teacher_at_once(task, tmp_path):
    with exclusive(teacher_folder(task, tmp_path)), pytest.raises(UserError, match="Another run") as caught:
        teacher_of(task, tmp_path, until=time.monotonic())  # there is no time to wait
    one_sentence(caught.value)


def test_the_second_waits_until_the_first_lets_go(task, runs, tmp_path, capsys):
    held, let_go = threading.Event(), threading.Event()

    def first():
        with exclusive(teacher_folder(task, tmp_path)):
            held.set()
            let_go.wait(30)

    other = threading.Thread(target=first)
    other.start()
    held.wait(30)
    threading.Timer(0.5, let_go.set).start()
    started = time.monotonic()
    assert_same_weights(teacher_of(task, tmp_path), teacher_of(task, runs))
    other.join()
    assert time.monotonic() - started > 0.5 and "Waiting for the teacher" in capsys.readouterr().out


def test_what_another_run_has_trained_while_this_one_waited_is_loaded(task, runs, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def waited(place, *arguments, **options):
        shutil.copytree(teacher_folder(task, runs), place)  # the other run ends
        yield place

    monkeypatch.setattr("kdutils.study.kept.exclusive", waited)
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained again"))
    assert_same_weights(teacher_of(task, tmp_path), teacher_of(task, runs))


def test_random_numbers_are_as_they_were(task, tmp_path):
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    teacher_of(task, tmp_path)
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


# ---------------------------------------------------------------- once, whatever is made


def maker(folder: Path, made: list[str], name: str = "made"):
    """Finishes a folder, and says so."""

    def make() -> None:
        made.append(name)
        write_json(make_folder(folder) / "result.json", {"by": name})

    return make


def test_what_is_finished_is_not_made_again(tmp_path):
    made, place = [], tmp_path / "stage"
    for name in ("first", "second"):
        kept.once(place, maker(place, made, name), "the stage")
    assert made == ["first"] and kept.result(place) == {"by": "first"}


def test_what_was_not_finished_is_made_by_the_next(tmp_path):
    made, place = [], tmp_path / "stage"

    def paused() -> None:
        make_folder(place / "checkpoints")
        raise Paused("Out of time.")

    with pytest.raises(Paused):
        kept.once(place, paused, "the stage")
    kept.once(place, maker(place, made), "the stage", time.monotonic() + 60)
    assert made == ["made"]


def test_of_two_at_once_one_makes_it_and_the_other_waits_and_says_for_what(tmp_path, capsys):
    made, place, begun, finish = [], tmp_path / "stage", threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        finish.wait(30)
        maker(place, made, "slow")()

    first = threading.Thread(target=kept.once, args=(place, slow, "stage 1"))
    first.start()
    begun.wait(30)
    threading.Timer(0.5, finish.set).start()
    kept.once(place, maker(place, made, "second"), "stage 1")
    first.join()
    assert made == ["slow"] and "Waiting for stage 1, which another run trains" in capsys.readouterr().out


def test_who_has_no_time_to_wait_is_told_in_one_sentence(tmp_path):
    made, place = [], tmp_path / "stage"
    with exclusive(place), pytest.raises(UserError, match="Another run") as caught:
        kept.once(place, maker(place, made), "stage 1", time.monotonic())
    one_sentence(caught.value)
    assert not made


# ---------------------------------------------------------------- taken as they are


def test_a_teacher_in_a_folder_is_loaded_as_it_is(task, runs, tmp_path, monkeypatch):
    folder = teacher_folder(task, runs) / "model"
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained"))
    named = make(model=str(folder), width=8, layers=1)  # the shape is the folder's
    teacher = teacher_of(named, tmp_path)
    assert_same_weights(teacher, teacher_of(task, runs))
    assert not teacher.training and not list(tmp_path.iterdir())
    assert named.tokenizer("Anna sleeps.")["input_ids"] == task.tokenizer("Anna sleeps.")["input_ids"]
    assert named.facts()["teacher"] == str(folder)
    same = make(model=str(folder))  # its settings are those of the one that was trained here
    assert teacher_folder(same, runs) == teacher_folder(task, runs) and teacher_story(same, runs) == {}


def test_the_kept_teacher_is_loaded_by_plain_transformers(task, runs):
    folder = teacher_folder(task, runs) / "model"
    assert_same_weights(AutoModelForMaskedLM.from_pretrained(folder), teacher_of(task, runs))
    ids = AutoTokenizer.from_pretrained(folder)("Anna sleeps.")["input_ids"]
    assert ids == task.tokenizer("Anna sleeps.")["input_ids"]


def test_a_teacher_that_is_not_there_is_refused(task, tmp_path):
    with pytest.raises(UserError, match="nowhere/at-all") as caught:
        make(model="nowhere/at-all")
    one_sentence(caught.value)
    save_tokenizer(task.tokenizer, tmp_path)  # a tokenizer, but no model
    with pytest.raises(UserError, match="could not be loaded") as caught:
        teacher_of(make(model=str(tmp_path)), tmp_path)
    one_sentence(caught.value)


def test_an_encoder_without_a_head_is_no_teacher(task, runs, tmp_path):
    """Its head would be random, and every student would learn from it."""
    teacher_of(task, runs).bert.save_pretrained(tmp_path / "encoder")
    save_tokenizer(task.tokenizer, tmp_path / "encoder")
    named = make(model=str(tmp_path / "encoder"))
    for use in (lambda: named.check(1), lambda: teacher_of(named, tmp_path)):
        with pytest.raises(UserError, match=r"no weights for cls\.predictions\.") as caught:
            use()
        one_sentence(caught.value)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_of_masks_that_is_none_is_found_before_anything_is_trained(share):
    with pytest.raises(UserError, match="masking probability is") as caught:
        MaskedLM(make().settings.changed(mask_probability=share)).check(1)
    one_sentence(caught.value)


def test_a_teachers_seed_that_is_none_is_refused_with_one_sentence(tmp_path):
    with pytest.raises(UserError) as caught:
        teacher_of(make(teacher_seed=-1), tmp_path)
    one_sentence(caught.value)
