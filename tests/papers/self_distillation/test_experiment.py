"""Self-distillation as an experiment: settings, label noise, where it starts, arms, the ensembles of several seeds."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdutils.core.errors import UserError
from kdutils.core.files import read_json
from kdutils.data.corpora import load_corpus
from kdutils.models import build
from kdutils.papers.self_distillation.experiment import ARMS, EXPERIMENTS, SETTINGS, FineTuning, noisy
from kdutils.papers.self_distillation.method import EMA, SDA, SDV, Itself, SelfEnsemble
from kdutils.study import kept
from kdutils.study.experiment import resolve
from kdutils.study.running import folder, load_model, run
from kdutils.training.method import Method
from tests.corpus_files import labelled, write
from tests.tiny import SMALL, assert_same_weights, killed, one_sentence, timeless

EXPERIMENT = EXPERIMENTS[0]
TINY = {**SMALL, "updates": 4, "test_rows": 40, "teacher_size": 2, "members": 3, "learning_rate": 3e-3, "batch_size": 8}
NAMES = [arm.name for arm in ARMS]


def settings_of(preset: str = "demo", **changes):
    return resolve(EXPERIMENTS, preset, changes)["classification"]


@pytest.fixture(scope="module")
def settings():
    return settings_of(**TINY)


@pytest.fixture(scope="module")
def task(settings):
    return EXPERIMENT.task(settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def arms(settings, task, runs):
    """What became of all arms at one seed."""
    (record,) = run(EXPERIMENT, settings, [1], runs, NAMES, task=task)
    return record["arms"]


# ---------------------------------------------------------------- settings and arms


def test_every_value_of_the_paper_has_its_source():
    """But for what is about running, and of the demo's own corpus."""
    ours = {"language", "data_seed", "smoothing_convention", "log_every", "checkpoint_every", "threads", "tracker"}
    assert {name for name, setting in SETTINGS.settings.items() if not setting.source} == ours
    assert all(setting.meaning for setting in SETTINGS.settings.values())


def test_the_papers_own_settings_are_in_the_table():
    paper = settings_of("paper")
    assert (paper.learning_rate, paper.head_learning_rate, paper.dropout, paper.max_length) == (2e-5, 1e-3, 0.1, 512)
    assert (paper.batch_size, paper.accumulation, paper.mse_weight) == (4, 4, 1.0)
    assert (paper.teacher_size, paper.members) == (5, 4)
    assert paper.updates == 6 * 25_000 / 16 == 9375 and paper.warmup == round(0.1 * paper.updates)  # six epochs of IMDb
    assert paper.data == "hub:stanfordnlp/imdb" and paper.model == "bert-base-uncased" and paper.label_noise == 0
    recipe = FineTuning.__new__(FineTuning)
    recipe.settings = paper
    assert recipe.recipe().head_learning_rate == 1e-3 and recipe.recipe().accumulation == 4


@pytest.mark.parametrize("preset", ["small", "study"])
def test_the_real_beds_are_the_papers_stability_experiment(preset):
    """1,500 pairs of three classes, from right labels, of whole epochs, with a tenth of warm-up."""
    bed = settings_of(preset)
    epoch = math.ceil(1500 / bed.batch_size)
    assert bed.train_rows == 1500 and bed.label_noise == 0 and bed.updates % epoch == 0 == bed.updates % bed.eval_every
    assert bed.warmup == pytest.approx(0.1 * bed.updates, abs=1) and bed.model not in ("", "demo")


def test_another_start_than_the_demos_has_the_values_of_a_pretrained_one():
    assert settings_of().model == "demo" and settings_of().learning_rate == 1e-3
    assert settings_of(model="bert-base-uncased").learning_rate == 5e-5
    assert "A pretrained start has values of its own" in settings_of(model="bert-base-uncased").note


def test_the_arms_follow_from_the_settings():
    chosen = settings_of(teacher_size=7, mse_weight=0.5, ema_decay=0.9, label_smoothing=0.1, members=6, updates=50)
    made = {arm.name: arm.method(chosen) for arm in ARMS}
    assert {name: type(method) for name, method in made.items()} == {
        "baseline": SelfEnsemble, "sda_1": SDA, "sda": SDA, "sda_all": SDA, "sdv": SDV, "ema": EMA, "itself": Itself,
        "members": Method, "frozen": Method,
    }  # fmt: skip
    assert {name: made[name].size for name in ("sda_1", "sda", "sda_all", "sdv")} == {
        "sda_1": 1, "sda": 7, "sda_all": 0, "sdv": 7,
    }  # fmt: skip
    assert {made[name].weight for name in ("sda_1", "sda", "sda_all", "sdv", "ema", "itself")} == {0.5}
    assert made["ema"].decay == 0.9 and {method.epsilon for method in made.values()} == {0.1}
    assert EXPERIMENT.arm("members").besides(chosen) == {"updates": 5 * 50}
    assert [arm.name for arm in EXPERIMENT.chosen()] == ["baseline", "sda_1", "sda", "sda_all", "sdv"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, 'model is empty: name an encoder to fine-tune, such as "demo"'),
        ({"ema_decay": 1.0}, "The decay of an exponential average is 1.0"),
        ({"teacher_size": 0}, "teacher_size is 0"),
        ({"members": 1}, "members is 1"),
        ({"label_noise": 1.5}, "label_noise is 1.5"),
        ({"mse_weight": -1.0}, "mse_weight is -1"),
        ({"head_learning_rate": -1.0}, "head_learning_rate is -1"),
        ({"max_length": 65}, "The model has 64 positions, but max_length is 65"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_trained(changes, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        run(EXPERIMENT, settings_of(**{**TINY, **changes}), [1], tmp_path, NAMES)
    one_sentence(caught.value)
    assert not list(tmp_path.rglob("*.json"))


# ---------------------------------------------------------------- labels that are wrong


@pytest.mark.parametrize(("share", "wrong"), [(0.2, 18), (0.25, 22), (0.5, 45), (1.0, 90)])
def test_exactly_that_share_of_the_training_labels_is_wrong(share, wrong, tmp_path):
    for split, n in (("train", 90), ("validation", 12), ("test", 12)):
        write(tmp_path / f"moods/{split}.jsonl", labelled(n, ("glad", "mad", "sad")))
    clean = load_corpus(tmp_path / "moods", "classification")
    before = [dict(row) for row in clean.splits["train"]]
    found = noisy(clean, share, seed=3)
    pairs = [(new["label"], old["label"]) for new, old in zip(found.splits["train"], before, strict=True)]
    assert sum(new != old for new, old in pairs) == wrong and {new for new, _ in pairs} == {0, 1, 2}
    assert [row["text"] for row in found.splits["train"]] == [row["text"] for row in before]
    assert clean.splits["train"] == before  # which somebody else may hold
    assert all(found.splits[split] == clean.splits[split] for split in ("validation", "test"))
    assert found.notes[:-1] == clean.notes and found.labels == clean.labels
    assert one_sentence(found.notes[-1]).startswith(f"{wrong} of 90 training labels were replaced by a wrong one")
    assert found.fingerprint != clean.fingerprint == noisy(clean, 0.0, seed=3).fingerprint
    assert found.fingerprint == noisy(clean, share, seed=3).fingerprint
    if share < 1:
        assert found.fingerprint != noisy(clean, share, seed=4).fingerprint
    others = {(new, old) for new, old in pairs if new != old}
    assert len(others) == 6  # every wrong label is drawn for every right one


def test_the_task_trains_on_the_wrong_labels_and_tests_on_the_right_ones(settings, task):
    clean = EXPERIMENT.task(settings.changed(label_noise=0.0))
    labels = {name: [row["label"] for row in one.corpus.splits["train"]] for name, one in
              {"noisy": task, "clean": clean}.items()}  # fmt: skip
    assert sum(a != b for a, b in zip(*labels.values(), strict=True)) == 8  # of 40
    trained = [one["label"] for one in task.examples["train"]]
    assert trained == labels["noisy"] != labels["clean"]
    for split in ("validation", "test"):
        assert task.corpus.splits[split] == clean.corpus.splits[split]
    assert FineTuning.load(settings).fingerprint == task.corpus.fingerprint != clean.corpus.fingerprint
    assert any("8 of 40 training labels" in note for note in task.notes)
    assert not any("training labels" in note for note in clean.notes)


# ---------------------------------------------------------------- where it starts


def test_all_seeds_start_from_one_head_and_differ_in_the_order_of_the_data(settings, task):
    assert_same_weights(task.model(1), task.model(2))
    assert task.training_batches(1).plan(0) != task.training_batches(2).plan(0)
    other = EXPERIMENT.task(settings.changed(start_seed=2), task.corpus).model(1)
    assert_same_weights(other.bert.encoder, task.model(1).bert.encoder)
    assert not torch.equal(other.classifier.weight, task.model(1).classifier.weight)
    assert any("classification head is a new one" in note for note in task.notes)


def test_members_start_from_heads_of_their_own(task):
    heads = [task.member(number).classifier.weight for number in (1000, 1001, 1002, 2000)] + [
        task.model(1).classifier.weight
    ]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(heads, 2))
    assert_same_weights(task.member(1000), task.member(1000))
    assert_same_weights(task.member(1000).bert.encoder, task.model(1).bert.encoder)


# ---------------------------------------------------------------- the arms


def test_every_arm_ends_with_finite_numbers(arms):
    assert list(arms) == NAMES
    for name, arm in arms.items():
        numbers = [value for row in [arm["metrics"], *arm["history"]] for value in row.values() if type(value) is float]
        assert len(numbers) > 20 and all(map(math.isfinite, numbers)), name
        assert arm["metrics"]["updates"] == 4 and arm["metrics"]["parameters"] > 500_000
        evaluations = [row for row in arm["history"] if row["kind"] == "eval"]
        known = {"train_loss", "train_accuracy", "train_logit_spread"}
        assert len(evaluations) == 2 and all(known <= row.keys() for row in evaluations)
        assert {"test_accuracy", "last_test_accuracy", "validation_accuracy"} <= arm["metrics"].keys()


def test_ensembles_and_teachers_are_scored_beside_the_model(arms):
    beside = {"baseline": "ensemble", "sda_1": "teacher", "sda": "teacher", "sda_all": "teacher", "ema": "teacher"}
    for name, arm in arms.items():
        for one in ("ensemble", "teacher"):
            wanted = beside.get(name) == one
            assert {f"{one}_loss", f"{one}_accuracy"} <= arm["history"][-1].keys() or not wanted, name
            assert any(key.startswith(f"{one}_") for key in arm["history"][-1]) == wanted, name
            assert any(key.startswith(f"test_{one}_") for key in arm["metrics"]) == wanted, name
    first = [row for row in arms["baseline"]["history"] if row["kind"] == "eval"][0]
    assert first["ensemble_loss"] != first["loss"]


def test_the_history_has_the_mse_and_what_it_is_made_of(arms):
    for name in ("sda_1", "sda", "sda_all", "sdv", "ema", "itself"):
        rows = [row for row in arms[name]["history"] if row["kind"] == "train"]
        assert len(rows) == 2 and all({"loss", "nll", "mse", "mse_dropout", "mse_age"} <= row.keys() for row in rows)
        assert all(row["mse"] > 0 and row["mse_dropout"] > 0 for row in rows), name
        assert (rows[-1]["mse_age"] == 0) == (name == "itself"), name


def test_a_frozen_encoder_stays_and_pooler_and_classifier_are_trained(settings, task, runs, arms):
    trained, start = load_model(EXPERIMENT, settings, "frozen", 1, runs), task.model(1).eval()
    pairs = zip(trained.named_parameters(), start.parameters(), strict=True)
    changed = {name for (name, after), before in pairs if not torch.equal(after, before)}
    assert changed == {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    whole = load_model(EXPERIMENT, settings, "baseline", 1, runs)
    assert not torch.equal(whole.bert.embeddings.word_embeddings.weight, start.bert.embeddings.word_embeddings.weight)


def test_a_trained_student_is_loaded_by_plain_transformers(settings, task, runs, arms):
    place = folder(EXPERIMENT, settings, runs) / "seed-1/sda/model"
    plain = AutoModelForSequenceClassification.from_pretrained(place).eval()
    assert_same_weights(plain, load_model(EXPERIMENT, settings, "sda", 1, runs))
    text = task.corpus.splits["test"][0]["text"]
    assert AutoTokenizer.from_pretrained(place)(text)["input_ids"] == task.tokenizer(text)["input_ids"]
    assert task.test(plain)["test_loss"] == pytest.approx(arms["sda"]["metrics"]["test_loss"], rel=1e-6)


# ---------------------------------------------------------------- several seeds that vote, and their average


def networks(place: Path) -> list[torch.nn.Module]:
    folders = [place, *(place / "members" / str(number) for number in (1, 2))]
    return [AutoModelForSequenceClassification.from_pretrained(one / "model").eval() for one in folders]


def test_vote_and_average_are_those_of_the_members(settings, task, runs, arms):
    found = networks(folder(EXPERIMENT, settings, runs) / "seed-1/members")
    rows = task.corpus.splits["test"]
    encoded = task.tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    right = torch.tensor([row["label"] for row in rows])

    def accuracy(scores: torch.Tensor) -> float:
        return float((scores.argmax(-1) == right).double().mean())

    mean = task.model(1).eval()
    with torch.no_grad():
        logits = [net(**inputs).logits for net in found]
        for name, weight in mean.named_parameters():
            weight.copy_(sum(net.get_parameter(name).double() for net in found) / 3)
        voted, averaged = sum(one.softmax(-1) for one in logits), mean(**inputs).logits
    metrics = arms["members"]["metrics"]
    assert metrics["test_vote_accuracy"] == pytest.approx(accuracy(voted))
    assert metrics["test_average_accuracy"] == pytest.approx(accuracy(averaged))
    assert metrics["test_member_accuracy"] == pytest.approx(sum(map(accuracy, logits)) / 3)
    assert metrics["test_accuracy"] == pytest.approx(accuracy(logits[0]))
    assert all("test_vote_accuracy" not in arm["metrics"] for name, arm in arms.items() if name != "members")


def test_members_are_different_networks(settings, runs, arms):
    place = folder(EXPERIMENT, settings, runs) / "seed-1/members"
    found = networks(place)
    assert {path.name for path in (place / "members").iterdir()} == {"1", "2"}
    for one, other in itertools.combinations(found, 2):
        same = [torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)]
        assert not any(same)
    assert not list(place.rglob("checkpoints"))


def train_members(runs: str) -> None:
    run(EXPERIMENT, settings_of(**TINY), [1], runs, ["members"])


UPDATE = "kdutils.training.loop:_Loop._update"


@pytest.mark.parametrize(
    ("kill_at", "event", "finished"),
    [
        (2, "kdutils.study.kept:train", []),  # before the first of the others
        (3, "kdutils.study.kept:train", ["1"]),  # between two of them
        (4 + 4 + 4, UPDATE, ["1"]),  # in the middle of the last, behind a checkpoint
        (3, "kdutils.study.kept:keep", ["1", "2"]),  # all are trained, and nothing is written of them
    ],
)
def test_a_run_that_is_killed_between_members_goes_on(kill_at, event, finished, settings, arms, tmp_path, monkeypatch):
    killed(train_members, kill_at, event, runs=str(tmp_path))
    place = folder(EXPERIMENT, settings, tmp_path) / "seed-1/members"
    done = sorted(path.parent.name for path in place.glob("members/*/result.json"))
    assert done == finished and not (place / "result.json").exists()
    fit, begun = kept.fit, []
    monkeypatch.setattr(kept, "fit", lambda *a, folder, **o: begun.append(folder.name) or fit(*a, folder=folder, **o))
    (record,) = run(EXPERIMENT, settings, [1], tmp_path, ["members"])
    assert begun == ["members", *(number for number in ("1", "2") if number not in finished)]
    ours, theirs = record["arms"]["members"], arms["members"]
    times = ("minutes", "seconds_per_update", "peak_memory_mb")
    for name in theirs["metrics"].keys() - set(times):
        assert ours["metrics"][name] == theirs["metrics"][name], name
    assert timeless(ours["history"]) == timeless(theirs["history"])
    assert read_json(place / "result.json")["weights"]


def test_the_demos_encoder_is_what_all_arms_start_from(task):
    encoder = build.pretrained("demo", "masked_lm")
    assert_same_weights(task.model(1).bert.encoder, encoder.bert.encoder)
    assert_same_weights(task.model(1).bert.embeddings, encoder.bert.embeddings)
