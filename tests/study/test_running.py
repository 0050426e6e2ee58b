"""Experiments: trained once, kept and found again; what cannot work is refused before anything is written."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, pipeline

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import exclusive, read_json
from kdutils.papers.r_drop.experiment import EXPERIMENTS
from kdutils.study.experiment import Arm, Experiment, absolute, resolve
from kdutils.study.running import finished, folder, load_model, run
from kdutils.training.method import Method
from tests import tiny
from tests.tiny import SMALL, one_sentence, started

TRANSLATION, CLASSIFICATION = EXPERIMENTS
TINY = {**SMALL, "translation.max_tokens": 200, "translation.vocab_size": 400, "classification.vocab_size": 400}


def settings(name: str = "classification", **changes):
    return resolve(EXPERIMENTS, "demo", {**TINY, **{f"{name}.{key}": value for key, value in changes.items()}})[name]


TRAINED = settings()
ARMS = ["baseline", "r_drop"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two arms at two seeds, trained once for the tests that only look."""
    place = tmp_path_factory.mktemp("runs")
    run(CLASSIFICATION, TRAINED, [1, 2], place, ARMS)
    return place


def everything(place: Path) -> list[tuple[str, int, bytes]]:
    files = (path for path in sorted(place.rglob("*")) if path.is_file() and path.name != ".lock")
    return [(str(path), path.stat().st_mtime_ns, path.read_bytes()) for path in files]


# ---------------------------------------------------------------- what a run leaves


def test_a_record_holds_what_claims_and_the_report_read(runs):
    records = finished(CLASSIFICATION, TRAINED, runs)
    assert [record["seed"] for record in records] == [1, 2]
    for record in records:
        assert (record["paper"], record["task"], record["preset"]) == ("r_drop", "classification", "demo")
        assert record["settings"] == dict(TRAINED) and record["overrides"] == TRAINED.overrides
        assert set(record["arms"]) == set(ARMS)
        provenance = record["provenance"]
        assert {"commit", "versions", "device", "date", "python", "data"} <= provenance.keys()
        assert provenance["data"]["rows"] == {"train": 40, "validation": 10, "test": 10}
        assert len(provenance["data"]["fingerprint"]) == 64
        for arm in record["arms"].values():
            needed = {
                "test_loss", "test_accuracy", "test_f1", "test_matthews", "validation_loss", "validation_accuracy",
                "final_loss", "final_kl", "final_dropout_gap", "final_train_loss", "best_update", "updates", "minutes",
                "seconds_per_update", "peak_memory_mb", "parameters",
            }  # fmt: skip
            assert needed <= arm["metrics"].keys()
            assert all(isinstance(value, int | float) for value in arm["metrics"].values())
            assert arm["metrics"]["updates"] == 6 and 0 < arm["metrics"]["peak_memory_mb"] < 20_000
            evaluations = [row for row in arm["history"] if row["kind"] == "eval"]
            assert [row["update"] for row in evaluations] == [2, 4, 6]
            assert all(
                {"loss", "accuracy", "kl", "dropout_gap", "train_loss", "seconds"} <= row.keys() for row in evaluations
            )
            assert arm["metrics"]["final_loss"] == evaluations[-1]["loss"]
            best = max(evaluations, key=lambda row: row["accuracy"])
            assert arm["metrics"]["validation_accuracy"] == best["accuracy"]


def test_a_record_is_json_and_comes_back_the_same(runs):
    for record in finished(CLASSIFICATION, TRAINED, runs):
        assert json.loads(json.dumps(record)) == record
        place = folder(CLASSIFICATION, TRAINED, runs) / f"seed-{record['seed']}"
        assert read_json(place / "record.json") == record
        result = read_json(place / "r_drop/result.json")
        assert "model/model.safetensors" in result.pop("weights")  # of the run, not of what it found
        assert result == record["arms"]["r_drop"]


def test_a_finished_run_keeps_its_model_and_history_and_no_checkpoints(runs):
    for place in folder(CLASSIFICATION, TRAINED, runs).glob("seed-*/*/"):
        names = {path.name for path in place.iterdir()}
        assert names == {"model", "history.jsonl", "result.json"}
        lines = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
        assert lines == read_json(place / "result.json")["history"]


def test_a_model_has_a_card_and_cuts_texts_that_are_too_long_for_it(runs):
    place = folder(CLASSIFICATION, TRAINED, runs) / "seed-1" / "r_drop" / "model"
    card = (place / "README.md").read_text()
    score = read_json(place.parent / "result.json")["metrics"]["test_accuracy"]
    for told in ("# R-Drop (r_drop, classification)", "seed 1", f"| test_accuracy | {score:.4g} |", "train_rows="):
        assert told in card
    classify = pipeline("text-classification", model=str(place))
    assert classify.tokenizer.model_max_length == classify.model.config.max_position_embeddings
    assert classify("word " * 500, truncation=True)


def test_a_translator_is_exported_with_a_length_to_stop_at(tmp_path):
    run(TRANSLATION, settings("translation"), [1], tmp_path, ["baseline"])
    place = folder(TRANSLATION, settings("translation"), tmp_path) / "seed-1" / "baseline" / "model"
    model = AutoModelForSeq2SeqLM.from_pretrained(place)
    assert model.generation_config.max_new_tokens == model.config.max_position_embeddings - 1 > 20
    made = model.generate(torch.tensor([[5, 6, 2]]), min_new_tokens=40)
    assert made.shape[1] > 21


def test_seeds_and_arms_differ_in_what_they_should(runs):
    one, two = finished(CLASSIFICATION, TRAINED, runs)
    losses = {(record["seed"], arm): record["arms"][arm]["history"][0]["loss"] for record in (one, two) for arm in ARMS}
    assert len(set(losses.values())) == 4
    assert one["provenance"]["data"] == two["provenance"]["data"]


# ---------------------------------------------------------------- nothing twice


def test_what_is_finished_is_loaded_and_says_so(runs, capsys, monkeypatch):
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained again"))
    before = everything(runs)
    records = run(CLASSIFICATION, TRAINED, [2, 1], runs, ARMS)
    assert [record["seed"] for record in records] == [1, 2]
    assert "seed 1: loaded from" in capsys.readouterr().out
    assert [record["seed"] for record in run(CLASSIFICATION, TRAINED, [2], runs, ["r_drop"])] == [2]
    assert everything(runs) == before


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_results_on_data_that_changed_are_not_loaded(classification_folder, tmp_path, change, capsys):
    chosen = settings(data=str(classification_folder), train_rows=0, vocab_size=60, updates=2)
    run(CLASSIFICATION, chosen, [1], tmp_path / "runs", ["baseline"])
    before = everything(tmp_path / "runs")
    file = classification_folder / "test.jsonl"
    if change == "edited":
        file.write_text(file.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    else:
        shutil.rmtree(classification_folder)
    capsys.readouterr()
    with pytest.raises(UserError) as caught:
        run(CLASSIFICATION, chosen, [1], tmp_path / "runs", ["baseline"])
    wanted = {"edited": "The data changed since", "deleted": str(classification_folder)}[change]
    assert wanted in one_sentence(caught.value) and "loaded from" not in capsys.readouterr().out
    assert everything(tmp_path / "runs") == before


def test_an_arm_that_another_process_finished_meanwhile_is_not_trained_again(runs, tmp_path, monkeypatch):
    """It is asked with the lock held: between the first look and the lock another process may have been there."""
    shutil.copytree(runs, tmp_path / "runs")
    place = folder(CLASSIFICATION, TRAINED, tmp_path / "runs") / "seed-1"
    finished_meanwhile = (place / "r_drop/result.json").rename(tmp_path / "result.json")
    lock = exclusive

    def late(*arguments, **options):
        finished_meanwhile.rename(place / "r_drop/result.json")
        return lock(*arguments, **options)

    monkeypatch.setattr("kdutils.study.running.exclusive", late)
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained again"))
    (record,) = run(CLASSIFICATION, TRAINED, [1], tmp_path / "runs", ARMS)
    assert set(record["arms"]) == set(ARMS)


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_weights_that_changed_since_they_were_trained_are_refused(runs, tmp_path, damage):
    shutil.copytree(runs, tmp_path / "runs")
    file = folder(CLASSIFICATION, TRAINED, tmp_path / "runs") / "seed-1/r_drop/model/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content) if damage == "flipped" else file.unlink()
    with pytest.raises(UserError) as caught:
        load_model(CLASSIFICATION, TRAINED, "r_drop", 1, tmp_path / "runs")
    assert "delete the folder" in one_sentence(caught.value) and str(file) in str(caught.value)
    load_model(CLASSIFICATION, TRAINED, "baseline", 1, tmp_path / "runs")


def test_a_folder_of_another_project_by_the_same_name_has_runs_of_its_own(translation_folder, tmp_path, monkeypatch):
    places = []
    for project in ("one", "other"):
        shutil.copytree(translation_folder, tmp_path / project / "corpus")
        monkeypatch.chdir(tmp_path / project)
        for named in ("corpus", "./corpus", f"{tmp_path}/{project}/corpus"):
            chosen = settings("translation", data=named)
            assert chosen.overrides["data"] == named and chosen.data == str(tmp_path / project / "corpus")
            places.append(folder(TRANSLATION, chosen, "runs"))
    assert len(set(places)) == 2 and places[0] == places[2] != places[3]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("demo", "demo"), ("hub:owner/name", "hub:owner/name"), ("bert-base-uncased", "bert-base-uncased"), ("", ""),
        ("there", "{here}/there"), ("hub:./there", "hub:{here}/there"), (["there", "demo"], ["{here}/there", "demo"]),
        ("there/{pair}", "{here}/there/{pair}"), ("hub:owner/{pair}", "hub:owner/{pair}"), (7, 7),
        ("./demo", "{here}/demo"),
    ],
)  # fmt: skip
def test_settings_that_name_a_folder_are_absolute(typed, meant, tmp_path, monkeypatch):
    for name in ("there", "demo"):  # the latter is not the corpus and the encoder that come with the package
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    fill = lambda value: value.replace("{here}", str(tmp_path)) if isinstance(value, str) else value  # noqa: E731
    assert absolute(typed) == ([fill(one) for one in meant] if isinstance(meant, list) else fill(meant))


def test_a_missing_arm_is_added_later_and_the_others_stay(tmp_path):
    first = run(CLASSIFICATION, TRAINED, [1], tmp_path, ["r_drop"])
    assert set(first[0]["arms"]) == {"r_drop"}
    second = run(CLASSIFICATION, TRAINED, [1], tmp_path)
    assert set(second[0]["arms"]) == {"baseline", "baseline_2x", "r_drop"}
    assert second[0]["arms"]["r_drop"] == first[0]["arms"]["r_drop"]
    assert second[0]["arms"]["baseline_2x"]["metrics"]["updates"] == 12
    assert finished(CLASSIFICATION, TRAINED, tmp_path) == second


def test_a_run_killed_before_its_record_was_written_gets_one(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    place = folder(CLASSIFICATION, TRAINED, tmp_path / "runs") / "seed-1"
    expected = read_json(place / "record.json")
    (place / "record.json").unlink()
    assert [record["seed"] for record in finished(CLASSIFICATION, TRAINED, tmp_path / "runs")] == [2]
    (record,) = run(CLASSIFICATION, TRAINED, [1], tmp_path / "runs", ARMS)
    assert record["arms"] == expected["arms"]
    # and one that was killed between the result of a second arm and the record that names it
    expected["arms"].pop("r_drop")
    (place / "record.json").write_text(json.dumps(expected))
    (record,) = run(CLASSIFICATION, TRAINED, [1], tmp_path / "runs", ARMS)
    assert set(record["arms"]) == set(ARMS)


def test_other_settings_have_another_folder(tmp_path):
    places = {folder(CLASSIFICATION, settings(alpha=alpha), tmp_path) for alpha in (1, 2, 3)}
    assert len(places) == 3 and all(place.parent == tmp_path / "r_drop" for place in places)
    assert folder(CLASSIFICATION, settings(log_every=1), tmp_path) == folder(CLASSIFICATION, TRAINED, tmp_path)
    assert "classification-demo-" in folder(CLASSIFICATION, TRAINED, tmp_path).name
    paper = resolve(EXPERIMENTS, "paper", {}, ["classification"])["classification"]
    assert "classification-paper-" in folder(CLASSIFICATION, paper, tmp_path).name
    assert finished(CLASSIFICATION, settings(alpha=9), tmp_path) == []


def test_the_same_seed_gives_the_same_numbers(runs, tmp_path):
    first = read_json(folder(CLASSIFICATION, TRAINED, runs) / "seed-2/r_drop/result.json")
    run(CLASSIFICATION, TRAINED, [2], tmp_path, ["r_drop"])  # another order, without the arm before it
    again = read_json(folder(CLASSIFICATION, TRAINED, tmp_path) / "seed-2/r_drop/result.json")
    assert tiny.timeless(first["history"]) == tiny.timeless(again["history"])
    assert first["metrics"]["test_loss"] == again["metrics"]["test_loss"]


def test_random_numbers_and_threads_are_as_they_were(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(2).tolist()

    def restart():
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    restart()
    expected, threads = draw(), torch.get_num_threads()
    restart()
    run(CLASSIFICATION, settings(updates=2), [1], tmp_path, ["r_drop"])
    assert draw() == expected and torch.get_num_threads() == threads
    restart()
    with pytest.raises(Paused):
        run(CLASSIFICATION, settings(updates=4), [1], tmp_path, ["r_drop"], max_minutes=1e-9)
    assert draw() == expected


# ---------------------------------------------------------------- interrupted


def test_a_run_that_is_out_of_time_pauses_and_the_same_call_goes_on(runs, tmp_path):
    pauses, records = 0, None
    while records is None:
        try:
            records = run(CLASSIFICATION, TRAINED, [1], tmp_path, ARMS, max_minutes=1e-9)
        except Paused as pause:
            pauses += 1
            assert "max_minutes" in one_sentence(pause)
    assert pauses == 10  # every call takes one update of one arm
    expected = finished(CLASSIFICATION, TRAINED, runs)[0]
    for arm in ARMS:
        ours, theirs = records[0]["arms"][arm], expected["arms"][arm]
        assert tiny.timeless(ours["history"]) == tiny.timeless(theirs["history"])
        assert {k: v for k, v in ours["metrics"].items() if k.startswith(("test", "final", "val", "best"))} == {
            k: v for k, v in theirs["metrics"].items() if k.startswith(("test", "final", "val", "best"))
        }


def test_a_killed_experiment_goes_on_in_a_new_process(runs, tmp_path):
    processes, pattern = started(), f"{folder(CLASSIFICATION, TRAINED, tmp_path).name}"
    place = folder(CLASSIFICATION, TRAINED, tmp_path) / "seed-1"
    child = processes.start(tiny.run_an_experiment, runs=str(tmp_path), arms=ARMS, changes=TINY)
    until = time.monotonic() + 60
    while not (place / "baseline/result.json").exists():
        assert time.monotonic() < until, pattern
        time.sleep(0.002)
    with pytest.raises(UserError, match="Another run is writing into") as caught:
        run(CLASSIFICATION, TRAINED, [1], tmp_path, ARMS)
    one_sentence(caught.value)
    os.kill(child, signal.SIGKILL)
    while True:
        try:
            (record,) = run(CLASSIFICATION, TRAINED, [1], tmp_path, ARMS)
            break
        except UserError as error:  # the system takes a moment to bury the dead
            assert "Another run" in str(error) and time.monotonic() < until
    expected = finished(CLASSIFICATION, TRAINED, runs)[0]
    for arm in ARMS:
        assert tiny.timeless(record["arms"][arm]["history"]) == tiny.timeless(expected["arms"][arm]["history"])
        assert record["arms"][arm]["metrics"]["test_loss"] == expected["arms"][arm]["metrics"]["test_loss"]


def test_a_seed_that_another_run_holds_is_refused_and_left_alone(tmp_path):
    with exclusive(folder(CLASSIFICATION, TRAINED, tmp_path) / "seed-1"):
        with pytest.raises(UserError, match="Another run is writing into"):
            run(CLASSIFICATION, TRAINED, [1], tmp_path, ["baseline"])
        run(CLASSIFICATION, TRAINED, [2], tmp_path, ["baseline"])
    assert not (folder(CLASSIFICATION, TRAINED, tmp_path) / "seed-1/baseline").exists()


@pytest.mark.parametrize("place", ["transformers.PreTrainedModel.save_pretrained", "kdutils.study.running.write_json"])
def test_a_disk_that_is_full_at_the_end_costs_only_the_end(place, runs, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        from kdutils.core import files

        # write_json is explained by kdutils.core.files itself, so there the refusal is put below it
        patch.setattr(*((files.os, "replace") if "write_json" in place else (place,)), full)
        with pytest.raises(UserError, match="disk is full") as caught:
            run(CLASSIFICATION, TRAINED, [1], tmp_path, ["r_drop"])
        one_sentence(caught.value)
        assert finished(CLASSIFICATION, TRAINED, tmp_path) == []
        with pytest.raises(UserError, match="no finished model"):
            load_model(CLASSIFICATION, TRAINED, "r_drop", 1, tmp_path)
    (record,) = run(CLASSIFICATION, TRAINED, [1], tmp_path, ["r_drop"])
    expected = finished(CLASSIFICATION, TRAINED, runs)[0]["arms"]["r_drop"]
    assert tiny.timeless(record["arms"]["r_drop"]["history"]) == tiny.timeless(expected["history"])


# ---------------------------------------------------------------- refused before anything is written


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], [1.5], ["1"], [True], "123", 5, None, [2**32]])
def test_bad_seeds(seeds, tmp_path):
    with pytest.raises(UserError, match="seeds must be different whole numbers") as caught:
        run(CLASSIFICATION, TRAINED, seeds, tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


def test_an_optional_arm_is_chosen_only_by_its_name():
    arms = (*TRANSLATION.arms, Arm("half", "half", TRANSLATION.arm("r_drop").method, optional=True))
    experiment = replace(TRANSLATION, arms=arms)
    assert [arm.name for arm in experiment.chosen()] == ["baseline", "baseline_2x", "r_drop"]
    assert [arm.name for arm in experiment.chosen(["half", "baseline"])] == ["baseline", "half"]  # in their order


def test_unknown_arms_tasks_presets_and_settings(tmp_path):
    with pytest.raises(UserError, match="no arm 'r-drop'. Did you mean 'r_drop'"):
        run(CLASSIFICATION, TRAINED, [1], tmp_path / "runs", ["r-drop"])
    with pytest.raises(UserError, match="no task 'translate'. Did you mean 'translation'"):
        resolve(EXPERIMENTS, "demo", {}, ["translate"])
    with pytest.raises(UserError, match="no preset 'dmeo'"):
        resolve(EXPERIMENTS, "dmeo")
    with pytest.raises(UserError, match="no setting 'alhpa'. Did you mean 'alpha'"):
        resolve(EXPERIMENTS, "demo", {"alhpa": 1})
    with pytest.raises(UserError, match="no finished model"):
        load_model(CLASSIFICATION, TRAINED, "r_drop", 1, tmp_path)
    with pytest.raises(UserError, match="no arm 'x'"):
        load_model(CLASSIFICATION, TRAINED, "x", 1, tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("task", "change"),
    [
        *(("classification", change) for change in (
            {"schedule": "lin"}, {"precision": "fp8"}, {"updates": 0}, {"accumulation": 0}, {"eval_every": -1},
            {"checkpoint_every": 0}, {"log_every": 0}, {"learning_rate": -1}, {"alpha": -1}, {"k": 0}, {"m": 1},
            {"heads": 3}, {"heads": 0}, {"dropout": 1.5}, {"layers": 0}, {"width": -4}, {"batch_size": 0},
            {"max_length": 0}, {"vocab_size": 3}, {"label_smoothing": 2.0}, {"smoothing_convention": "x"},
            {"train_rows": -1}, {"data": "nowhere"}, {"language": "xx"}, {"test_split": "train"}, {"threads": -1},
            {"model": "nowhere/at-all"},
        )),
        *(("translation", change) for change in (
            {"beams": 0}, {"max_tokens": 0}, {"max_tokens": 5}, {"pair": "en"}, {"pair": "en-xx"}, {"max_length": 1},
            {"max_words": -1}, {"label_smoothing": -0.1}, {"warmup": -1}, {"feedforward": 0},
        )),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_work_are_one_sentence_before_anything_is_written(task, change, tmp_path):
    experiment = {"classification": CLASSIFICATION, "translation": TRANSLATION}[task]
    with pytest.raises(UserError) as caught:
        run(experiment, settings(task, **change), [1], tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_task_of_other_settings_is_refused(tmp_path):
    task = CLASSIFICATION.task(settings(train_rows=30))
    with pytest.raises(UserError, match="made from other settings") as caught:
        run(CLASSIFICATION, TRAINED, [1], tmp_path / "runs", task=task)
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_task_of_the_same_settings_is_used(tmp_path, monkeypatch):
    few = settings(updates=2)
    task = CLASSIFICATION.task(few)
    made = []
    monkeypatch.setattr(CLASSIFICATION.task, "_load", lambda self: made.append(self))
    assert len(run(CLASSIFICATION, few, [1], tmp_path, ["baseline"], task=task)) == 1
    assert made == []


# ---------------------------------------------------------------- resolve


def test_an_override_reaches_the_tasks_that_have_it():
    both = resolve(EXPERIMENTS, "demo", {"alpha": 2, "beams": 4})
    assert both["translation"].alpha == both["classification"].alpha == 2.0
    assert both["translation"].beams == 4 and "beams" not in both["classification"]
    assert both["classification"].overrides == {"alpha": 2.0}
    one = resolve(EXPERIMENTS, "demo", {"translation.alpha": "3"})
    assert one["translation"].alpha == 3.0
    assert one["classification"].alpha == resolve(EXPERIMENTS, "demo")["classification"].alpha
    assert set(resolve(EXPERIMENTS, "study", {}, ["translation"])) == {"translation"}


@pytest.mark.parametrize("overrides", [{"translation.alpha": 3, "alpha": 2}, {"alpha": 2, "translation.alpha": 3}])
def test_the_override_of_one_task_wins_in_any_order(overrides):
    both = resolve(EXPERIMENTS, "demo", overrides)
    assert (both["translation"].alpha, both["classification"].alpha) == (3.0, 2.0)


def test_an_override_that_no_task_takes_is_refused():
    with pytest.raises(UserError, match="Did you mean 'beams'"):
        resolve(EXPERIMENTS, "demo", {"beam": 4})
    with pytest.raises(UserError, match="no setting 'beams'"):
        resolve(EXPERIMENTS, "demo", {"beams": 4}, ["classification"])
    with pytest.raises(UserError, match="no setting 'beams'"):
        resolve(EXPERIMENTS, "demo", {"classification.beams": 4})
    with pytest.raises(UserError, match="no task 'translate'. Did you mean 'translation'"):
        resolve(EXPERIMENTS, "demo", {"translate.alpha": 4})
    with pytest.raises(UserError, match="no task 'translation'"):
        resolve(EXPERIMENTS, "demo", {"translation.alpha": 4}, ["classification"])
    with pytest.raises(UserError, match="takes a number"):
        resolve(EXPERIMENTS, "demo", {"alpha": "much"})


# ---------------------------------------------------------------- corpora of one's own, and other experiments


def test_a_translation_folder(translation_folder, tmp_path):
    chosen = settings("translation", data=str(translation_folder), train_rows=0, vocab_size=60, pair="en-de")
    (record,) = run(TRANSLATION, chosen, [1], tmp_path / "runs", ["r_drop"])
    assert record["provenance"]["data"]["rows"] == {"train": 40, "validation": 5, "test": 6}
    assert "test_bleu" in record["arms"]["r_drop"]["metrics"] and "bleu_signature" in record["provenance"]["data"]


def test_a_classification_folder(classification_folder, tmp_path):
    chosen = settings(data=str(classification_folder), train_rows=30, vocab_size=60)
    (record,) = run(CLASSIFICATION, chosen, [1], tmp_path / "runs", ["r_drop"])
    assert record["provenance"]["data"]["rows"] == {"train": 30, "validation": 5, "test": 6}
    assert any("sample of 30" in note for note in record["provenance"]["data"]["notes"])


@pytest.mark.parametrize(
    ("task", "source", "changes"),
    [
        ("translation", "multi30k", {"test_split": "test_2016_flickr", "vocab_size": 500, "max_tokens": 600}),
        ("classification", "sst2", {"vocab_size": 500}),
    ],
)
def test_real_data(task, source, changes, real_data, tmp_path):
    experiment = {"classification": CLASSIFICATION, "translation": TRANSLATION}[task]
    chosen = settings(task, data=str(real_data / source), updates=4, **changes)
    (record,) = run(experiment, chosen, [1], tmp_path, ["r_drop"])
    rows = record["provenance"]["data"]["rows"]
    assert 30 < rows["train"] <= 40 and rows["validation"] == rows["test"] == 10  # long pairs are not trained on
    assert record["arms"]["r_drop"]["metrics"]["test_loss"] > 0


def test_the_corpus_is_part_of_what_a_checkpoint_belongs_to(classification_folder, tmp_path):
    chosen = settings(data=str(classification_folder), train_rows=0, vocab_size=60)
    with pytest.raises(Paused):
        run(CLASSIFICATION, chosen, [1], tmp_path / "runs", ["r_drop"], max_minutes=1e-9)
    train = classification_folder / "train.jsonl"
    train.write_text(train.read_text().replace("text 3", "TEXT 3"))
    with pytest.raises(UserError, match="other settings") as caught:
        run(CLASSIFICATION, chosen, [1], tmp_path / "runs", ["r_drop"])
    one_sentence(caught.value)


def test_an_experiment_without_a_look_and_with_an_arm_of_its_own_recipe(tmp_path):
    small = Arm("small", "half the rate", lambda s: Method(), lambda s: {"learning_rate": s.learning_rate / 2})
    plain = Experiment("toy", CLASSIFICATION.task, CLASSIFICATION.settings, (small,))
    assert plain.name == "classification" and plain.arm("small") is small
    (record,) = run(plain, settings(updates=4, warmup=1), [0], tmp_path)
    history = record["arms"]["small"]["history"]
    assert "kl" not in history[1] and record["seed"] == 0 and record["paper"] == "toy"
    assert max(row.get("learning_rate", 0.0) for row in history) <= TRAINED.learning_rate / 2
