"""Downstream exams: points and macro mean, nothing twice, through kills, and a teacher in the fine-tuning."""

from __future__ import annotations

import json
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
)

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import read_json
from kdutils.core.settings import Settings
from kdutils.data.tokens import save_tokenizer, train_tokenizer
from kdutils.grammar import corpus as grammar
from kdutils.models import build
from kdutils.papers.distilbert.method import SecondDistillation
from kdutils.papers.distilbert.student import student_config
from kdutils.study import exams
from kdutils.study import kept as training
from kdutils.study.exams import exam_task, examine, finetuned, finetuning_folder, points_of, task_name
from kdutils.tasks.masked_lm import MaskedLM
from kdutils.training.method import Method, SquaredError
from tests.corpus_files import labelled, write
from tests.tiny import assert_same_weights, killed, one_sentence

TABLE = MaskedLM.settings_table.extended(*exams.SETTINGS)
TINY = {
    "downstream_rows": 24, "downstream_test_rows": 24, "downstream_epochs": 2, "downstream_batch": 8,
    "downstream_learning_rate": 0.02, "precision": "fp32", "threads": 1,
}  # fmt: skip
UPDATES = 6  # of such a fine-tuning


def chosen(**changes) -> Settings:
    return TABLE.resolve("demo", {**TINY, **changes})


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A folder with an encoder to be examined, and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = train_tokenizer(grammar.text(200), 300, "text")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build.masked_lm(len(tokenizer), width=16, layers=1, heads=2, feedforward=16, max_length=64)
    net.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def segmented(tmp_path_factory) -> Path:
    """A folder with a DistilBERT whose tokenizer tells segments apart, as BERT's does."""
    folder = tmp_path_factory.mktemp("segmented")
    words = sorted({word.strip(".,").lower() for text in grammar.text(100) for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *words]))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    teacher = build.masked_lm(len(tokenizer), width=16, layers=1, heads=2, feedforward=16, max_length=64)
    DistilBertForMaskedLM(student_config(teacher.config, 1)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def examined(encoder, tmp_path_factory):
    """(scores, folder) of an exam of two tasks, each with three fine-tunings that are kept."""
    place = tmp_path_factory.mktemp("examined")
    settings = chosen(downstream=["demo", "demo:acceptability"], downstream_seeds=3)
    return examine(encoder, settings, 1, place, keep=True), place


def results(place: Path) -> dict[str, dict]:
    return {path.parent.name: read_json(path)["metrics"] for path in sorted(place.glob("downstream/*/result.json"))}


def viewed(*names: str) -> set[str]:
    """These scores, by each of the views of a fine-tuning."""
    return {view + name for view in exams.VIEWS for name in names}


# ---------------------------------------------------------------- names and points


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo", "demo"),
        ("demo:acceptability", "acceptability"),
        ("hub:nyu-mll/glue/cola", "cola"),
        ("hub:nyu-mll/glue/mrpc@refs/pr/3", "mrpc"),
        ("hub:stanfordnlp/sst2", "sst2"),
        ("data/rte", "rte"),
        ("/data/of mine/mrpc/", "mrpc"),
        ("order:/data/of mine/mrpc/", "mrpc_order"),
        ("order:hub:clinc/clinc_oos/plus", "plus_order"),
    ],
)
def test_a_task_is_called_by_the_last_part_of_its_source(source, name):
    assert task_name(source) == name


@pytest.mark.parametrize(
    ("name", "points"),
    [("cola", -25.0), ("mrpc", 70.0), ("qqp", 70.0), ("sst2", 80.0), ("acceptability", 80.0), ("demo", 80.0)],
)
def test_each_task_is_measured_as_it_is_known(name, points):
    metrics = {"test_loss": 0.4, "test_accuracy": 0.8, "test_f1": 0.6, "test_matthews": -0.25}
    assert points_of(name, metrics) == pytest.approx(points)


@pytest.mark.parametrize(("view", "score"), [("", "test"), ("last_", "last_test"), ("validation_", "validation")])
def test_a_tasks_points_are_the_median_of_its_finetunings_and_the_macro_the_mean(view, score, examined):
    scores, place = examined
    names = ("exam_demo", "exam_acceptability", "exam_macro")
    assert set(scores) == viewed(*names)
    for name in names[:2]:
        accuracies = [results(place)[f"{name}-{number}"][f"{score}_accuracy"] for number in range(3)]
        assert scores[f"{view}{name}"] == pytest.approx(100 * sorted(accuracies)[1])
    assert scores[f"{view}exam_macro"] == pytest.approx((scores[f"{view}{names[0]}"] + scores[f"{view}{names[1]}"]) / 2)


def test_both_selections_of_a_finetuning_are_tested_and_its_validation_is_the_best_of_its_history(examined):
    """The last weights are other weights than the chosen ones just where the last evaluation was not the best."""
    assert {one["validation_update"] == UPDATES for one in results(examined[1]).values()} == {True, False}
    for name, metrics in results(examined[1]).items():
        history = map(json.loads, (examined[1] / "downstream" / name / "history.jsonl").read_text().splitlines())
        found = [row["accuracy"] for row in history if row["kind"] == "eval"]
        best, last = metrics["test_loss"], metrics["last_test_loss"]
        assert metrics["validation_accuracy"] == max(found)
        assert (best == last) == (metrics["validation_update"] == UPDATES)


def test_the_median_is_over_all_of_the_downstream_seeds_and_the_mean_over_all_tasks(tmp_path, monkeypatch):
    found = iter([10.0, 40.0, 90.0, 20.0, 30.0, *[70.0] * 5, 0.0, 1.0, 2.0, 9.0, 9.0])
    views = [of + measure for of in exams.VIEWS.values() for measure in ("accuracy", "matthews")]
    monkeypatch.setattr(exams, "finetune", lambda *a, **k: dict.fromkeys(views, next(found) / 100))
    scores = examine("model", chosen(downstream=["demo", "a/cola", "a/rte"], downstream_seeds=5), 1, tmp_path)
    expected = {"exam_demo": 30.0, "exam_cola": 70.0, "exam_rte": 2.0, "exam_macro": 34.0}
    assert scores == pytest.approx({view + name: points for view in exams.VIEWS for name, points in expected.items()})
    assert next(found, None) is None


def sat(seed: int, macro: float, *downstream: str) -> dict:
    """A record of one arm that has sat these exams."""
    arms = {"ours": {"metrics": {"exam_macro": macro}}}
    return {"seed": seed, "settings": {"downstream": list(downstream)}, "arms": arms}


def test_guessing_is_subtracted_task_by_task_and_seed_by_seed():
    found = exams.above_chance(
        [
            sat(1, 70.0, "demo:acceptability"),
            sat(2, 40.0, "hub:clinc/clinc_oos/plus"),
            sat(3, 60.0, "hub:nyu-mll/glue/sst2", "data/cola", "hub:nyu-mll/glue/mrpc@refs/pr/3"),
            sat(4, 20.0, "data/trec"),
        ],
        "ours",
    )
    assert found == pytest.approx(
        {1: 20.0, 2: 40.0 - 100 * 1000 / 5500, 3: 60.0 - (50.0 + 0.0 + 73.2) / 3, 4: -7.6}, abs=0.02
    )
    assert exams.above_chance([], "ours") == {}


def test_what_guessing_gets_of_an_arm_that_has_sat_no_exam_is_refused_with_one_sentence():
    for record, arm in ((sat(1, 70.0, "demo"), "theirs"), ({**sat(1, 70.0, "demo"), "arms": {"ours": {}}}, "ours")):
        with pytest.raises(UserError) as caught:
            exams.above_chance([record], arm)
        one_sentence(caught.value)


def test_the_chance_of_a_task_is_that_of_its_commonest_class(real_data):
    """Of test sets that lie here, by the measure that each task is known by."""
    for name in ("clinc150", "trec", "ag_news", "mrpc", "cola"):
        rows = exams.Exam.load(
            exams.exam_settings("", str(real_data / name), chosen(downstream_rows=0, downstream_test_rows=0))
        ).splits
        counts = Counter(row["label"] for row in rows["test"])
        share = counts.most_common(1)[0][1] / counts.total()
        wanted = {"mrpc": 50 * (share + 2 * share / (1 + share)), "cola": 0.0}.get(name, 100 * share)
        assert exams.CHANCE[name] == pytest.approx(wanted, abs=0.06), name


def test_finetunings_of_other_numbers_and_seeds_are_other_ones(encoder, examined, tmp_path):
    _, place = examined
    examine(encoder, chosen(), 2, tmp_path)
    losses = [metrics["test_loss"] for name, metrics in results(place).items() if "acceptability" in name]
    losses.append(results(tmp_path)["exam_acceptability-0"]["test_loss"])
    assert len(set(losses)) == 4


def test_one_seed_gives_the_same_points_wherever_it_is_sat(encoder, examined, tmp_path):
    scores, place = examined
    again = examine(encoder, chosen(downstream=["demo:acceptability"]), 1, tmp_path)
    assert results(tmp_path)["exam_acceptability-0"] == results(place)["exam_acceptability-0"]
    assert again["exam_macro"] == pytest.approx(100 * results(place)["exam_acceptability-0"]["test_accuracy"])


# ---------------------------------------------------------------- the settings of an exam


def test_the_exam_takes_its_settings_from_those_of_the_pretraining(encoder):
    task = exam_task(encoder, "demo:acceptability", chosen(
        language="de", max_words=8, downstream_max_length=40, downstream_dropout=0.3, downstream_learning_rate=0.03,
        data_seed=5, width=32,
    ))  # fmt: skip
    s = task.settings
    assert (s.data, s.language, s.max_length, s.dropout, s.learning_rate) == ("demo:acceptability", "de", 40, 0.3, 0.03)
    assert task.corpus.sizes() == {"train": 24, "validation": 24, "test": 24}
    assert max(len(row["text"].split()) for rows in task.corpus.splits.values() for row in rows) <= 8
    assert task.corpus.splits["train"] != exam_task(encoder, "demo:acceptability", chosen(
        language="de", max_words=8)).corpus.splits["train"]  # fmt: skip
    assert task.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(encoder).get_vocab()
    net = task.model(1)
    assert net.config.num_labels == 2 and net.config.hidden_size == 16
    assert {module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}


def test_every_exam_says_itself_how_it_learns_from_a_pretrained_start(encoder):
    s, plain = exam_task(encoder, "demo:acceptability", chosen()).settings, exams.Exam.settings_table.resolve("demo")
    assert (s.weight_decay, s.clip, s.note) == (plain.weight_decay, plain.clip, "") == (1e-4, 0.0, "")
    assert TABLE.resolve("demo").downstream_learning_rate == 1e-3
    assert TABLE.resolve("demo", {"model": "x"}).downstream_learning_rate == 5e-5


def test_the_encoder_is_the_one_in_the_folder_and_only_the_head_is_drawn(encoder):
    task = exam_task(encoder, "demo:acceptability", chosen())
    one, other = task.model(1), task.model(2)
    plain = AutoModelForSequenceClassification.from_pretrained(encoder)
    assert_same_weights(one.bert.encoder, plain.bert.encoder)
    assert_same_weights(one.bert.embeddings, other.bert.embeddings)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)


def test_it_learns_for_so_many_epochs_and_its_rate_falls_to_zero(encoder, examined):
    _, place = examined
    rows = [json.loads(line) for line in (place / "downstream/exam_demo-0/history.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows if row["kind"] == "eval"] == [UPDATES // 2, UPDATES]
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train"]
    assert rates[-1] == pytest.approx(0.0, abs=1e-12) and max(rates) <= chosen().downstream_learning_rate


def test_a_student_without_segments_is_examined_with_its_teachers_tokenizer(segmented, tmp_path):
    assert "token_type_ids" in AutoTokenizer.from_pretrained(segmented)("Anna sleeps.")
    scores = examine(segmented, chosen(), 1, tmp_path, keep=True)
    assert 0 <= scores["exam_macro"] <= 100
    assert type(finetuned(tmp_path, "acceptability", 0)) is DistilBertForSequenceClassification


@pytest.mark.parametrize("name", ["stsb", "cola", "mrpc", "sick"])  # whatever it is called
def test_scores_are_measured_by_both_correlations(name):
    metrics = {"test_loss": 2.0, "test_pearson": 0.8, "test_spearman": 0.6}
    assert points_of(name, metrics) == pytest.approx(70.0)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": "a", "score": 1.5}, exams.ScoreExam),
        ({"text_a": "a", "text_b": "b", "score": 1.5}, exams.ScoreExam),
        ({"text": "a", "label": 1}, exams.Exam),
        ({"text": "a", "label": 1, "score": 0.5}, exams.Exam),
        ({"text": "a"}, exams.Exam),
    ],
)
def test_a_folder_with_scores_is_an_exam_of_scores(columns, expected, tmp_path, monkeypatch):
    write(tmp_path / "mine/train.jsonl", [columns])
    assert exams.exam_class(str(tmp_path / "mine")) is exams.exam_class(f"{tmp_path}/mine/") is expected
    monkeypatch.chdir(tmp_path)
    assert exams.exam_class("mine") is expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert exams.exam_class("~/mine") is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:nyu-mll/glue/stsb", exams.ScoreExam),
        ("hub:nyu-mll/glue/stsb@refs/pr/3", exams.ScoreExam),
        ("hub:nyu-mll/glue/mrpc", exams.Exam),
        ("demo", exams.Exam),
        ("demo:acceptability", exams.Exam),
        ("nowhere", exams.Exam),
    ],
)
def test_sts_b_is_an_exam_of_scores_wherever_it_lies(source, expected, tmp_path, monkeypatch):
    write(tmp_path / "demo/train.jsonl", [{"text": "a", "score": 1.5}])  # a folder of the demo's name is not the demo
    monkeypatch.chdir(tmp_path)
    assert exams.exam_class(source) is expected


def test_an_exam_of_scores_is_fine_tuned_by_squared_errors_and_chosen_by_pearson(encoder, tmp_path, monkeypatch):
    for split, n, start in [("train", 24, 0), ("validation", 6, 100), ("test", 12, 200)]:
        rows = [{"text": row["text"], "score": i % 5 / 2} for i, row in enumerate(labelled(n, start=start))]
        write(tmp_path / f"mine/{split}.jsonl", rows)
    asked, fit = [], training.fit
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: asked.append((a[1], a[3])) or fit(*a, **k))
    settings = chosen(downstream=[str(tmp_path / "mine"), "demo"])
    exams.check(settings)
    scores = examine(encoder, settings, 1, tmp_path / "runs", keep=True)
    assert [type(method) for method, _ in asked] == [SquaredError, Method]
    assert [(recipe.monitor, recipe.larger_is_better) for _, recipe in asked] == [("pearson", True), ("accuracy", True)]
    metrics = results(tmp_path / "runs")["exam_mine-0"]
    assert scores["exam_mine"] == pytest.approx(50 * (metrics["test_pearson"] + metrics["test_spearman"]))
    assert scores["exam_macro"] == pytest.approx((scores["exam_mine"] + scores["exam_demo"]) / 2)
    net = finetuned(tmp_path / "runs", "mine", 0)
    assert net.config.num_labels == 1 and net.config.problem_type == "regression"


def test_an_exam_of_the_real_sts_benchmark(encoder, real_data, tmp_path):
    settings = chosen(downstream=[str(real_data / "stsb")], downstream_epochs=1)
    exams.check(settings)
    scores = examine(encoder, settings, 1, tmp_path, keep=True)
    metrics = results(tmp_path)["exam_stsb-0"]
    assert {name for name in metrics if name.startswith("test_")} == {"test_loss", "test_pearson", "test_spearman"}
    assert scores["exam_stsb"] == pytest.approx(50 * (metrics["test_pearson"] + metrics["test_spearman"]))
    method = SecondDistillation()
    method.teacher = finetuned(tmp_path, "stsb", 0)
    more = examine(encoder, settings, 2, tmp_path, prefix="second_", method=lambda name, number: method)
    assert set(more) == viewed("second_stsb", "second_macro")


@pytest.mark.parametrize(("name", "measure"), [("cola", "matthews"), ("mrpc", "accuracy"), ("rte", "accuracy")])
def test_the_weights_are_chosen_by_the_measure_of_the_task(name, measure, encoder, tmp_path, monkeypatch):
    for split, n, start in [("train", 24, 0), ("validation", 6, 100), ("test", 12, 200)]:
        write(tmp_path / f"{name}/{split}.jsonl", labelled(n, start=start))
    recipes, fit = [], training.fit
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: recipes.append(a[3]) or fit(*a, **k))
    examine(encoder, chosen(downstream=[str(tmp_path / name)]), 1, tmp_path / "runs")
    assert [(recipe.monitor, recipe.larger_is_better) for recipe in recipes] == [(measure, True)]


def test_mnli_is_tested_on_the_split_that_has_labels(encoder, tmp_path):
    for split, start in [("train", 0), ("validation_matched", 100), ("validation_mismatched", 200)]:
        write(tmp_path / f"mnli/{split}.jsonl", labelled(40, start=start))
    task = exam_task(encoder, str(tmp_path / "mnli"), chosen())
    assert all(100 <= int(row["text"].split()[1]) < 140 for row in task.corpus.splits["test"])


def test_an_exam_of_real_data(encoder, real_data, tmp_path):
    sources = [str(real_data / "cola"), str(real_data / "mrpc")]
    scores = examine(encoder, chosen(downstream=sources, downstream_epochs=1), 1, tmp_path)
    metrics = results(tmp_path)
    assert scores["exam_cola"] == pytest.approx(100 * metrics["exam_cola-0"]["test_matthews"])
    two = metrics["exam_mrpc-0"]
    assert scores["exam_mrpc"] == pytest.approx(50 * (two["test_f1"] + two["test_accuracy"]))


# ---------------------------------------------------------------- kept, and nothing twice


def test_what_is_finished_is_loaded(encoder, examined, monkeypatch):
    scores, place = examined
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *a, **k: pytest.fail("trained again"))
    settings = chosen(downstream=["demo", "demo:acceptability"], downstream_seeds=3)
    assert examine(encoder, settings, 1, place, keep=True) == scores
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_a_kept_classifier_is_the_one_that_was_measured(examined):
    _, place = examined
    net = finetuned(place, "acceptability", 2)
    assert isinstance(net, BertForSequenceClassification) and not net.training
    assert net.config.id2label == {0: "unacceptable", 1: "acceptable"}
    folder = finetuning_folder(place, "exam_", "acceptability", 2) / "model"
    task = exam_task(folder, "demo:acceptability", chosen())
    metrics = results(place)["exam_acceptability-2"]
    assert task.test(net) == pytest.approx({name: metrics[name] for name in metrics if name[:5] == "test_"}, rel=1e-6)
    rows = [json.loads(line) for line in (folder.parent / "history.jsonl").read_text().splitlines()]
    best = max((row for row in rows if row["kind"] == "eval"), key=lambda row: row["accuracy"])
    assert task.validate(net)["loss"] == pytest.approx(best["loss"], rel=1e-6)  # chosen on the validation split
    assert_same_weights(AutoModelForSequenceClassification.from_pretrained(folder), net)


def test_without_keep_only_the_result_stays(encoder, examined, tmp_path):
    examine(encoder, chosen(), 1, tmp_path)
    place = finetuning_folder(tmp_path, "exam_", "acceptability", 0)
    assert {path.name for path in place.iterdir()} == {"history.jsonl", "result.json"}
    whole = finetuning_folder(examined[1], "exam_", "acceptability", 0)
    assert {path.name for path in whole.iterdir()} == {"history.jsonl", "result.json", "model"}
    with pytest.raises(UserError, match="no fine-tuned model") as caught:
        finetuned(tmp_path, "acceptability", 0)
    one_sentence(caught.value)


def test_random_numbers_are_as_they_were(encoder, tmp_path):
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    examine(encoder, chosen(), 1, tmp_path)
    assert state == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


# ---------------------------------------------------------------- interrupted


def sit(encoder: str, place: str) -> None:
    examine(encoder, chosen(downstream=["demo", "demo:acceptability"]), 1, Path(place))


@pytest.mark.parametrize(
    ("event", "kill_at", "finished"),
    [
        ("kdutils.training.loop:_Loop._update", 5, []),
        ("kdutils.training.loop:_Loop._update", UPDATES + 5, ["exam_demo-0"]),
        ("kdutils.study.kept:write_json", 1, []),
    ],
)
def test_a_killed_exam_goes_on_to_the_same_points(event, kill_at, finished, encoder, examined, tmp_path):
    killed(sit, kill_at, event, encoder=str(encoder), place=str(tmp_path))
    assert list(results(tmp_path)) == finished
    scores = examine(encoder, chosen(downstream=["demo", "demo:acceptability"]), 1, tmp_path)
    expected = {name: metrics for name, metrics in results(examined[1]).items() if name.endswith("-0")}
    assert results(tmp_path) == expected
    assert scores["exam_macro"] == pytest.approx(statistics.fmean(100 * m["test_accuracy"] for m in expected.values()))


def test_an_exam_that_is_out_of_time_pauses_and_goes_on(encoder, examined, tmp_path):
    for done in range(1, UPDATES):
        with pytest.raises(Paused, match=f"after update {done} of {UPDATES}") as caught:
            examine(encoder, chosen(), 1, tmp_path, until=time.monotonic())
        one_sentence(caught.value)
    examine(encoder, chosen(), 1, tmp_path, until=time.monotonic())
    assert results(tmp_path)["exam_acceptability-0"] == results(examined[1])["exam_acceptability-0"]


def test_a_half_finished_exam_of_other_settings_is_refused(encoder, tmp_path):
    with pytest.raises(Paused):
        examine(encoder, chosen(), 1, tmp_path, until=time.monotonic())
    with pytest.raises(UserError, match="other settings") as caught:
        examine(encoder, chosen(downstream_learning_rate=0.1), 1, tmp_path)
    one_sentence(caught.value)


# ---------------------------------------------------------------- a teacher in the fine-tuning


def test_a_teachers_knowledge_reaches_the_student_through_the_method(encoder, examined, tmp_path):
    asked, (_, taught) = [], examined

    def method(name, number):
        asked.append((name, number))
        found = SecondDistillation(alpha_ce=1.0, alpha_task=0.0)
        found.teacher = finetuned(taught, name, number).train()
        return found

    scores = examine(encoder, chosen(downstream_seeds=2), 1, tmp_path, prefix="second_", method=method, keep=True)
    assert asked == [("acceptability", 0), ("acceptability", 1)]
    assert set(scores) == viewed("second_acceptability", "second_macro")
    for number in range(2):
        place = finetuning_folder(tmp_path, "second_", "acceptability", number)
        rows = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
        assert all(row["soft"] > 0 for row in rows if row["kind"] == "train")
        student, alone = (
            finetuned(tmp_path, "acceptability", number, "second_"),
            finetuned(taught, "acceptability", number),
        )
        assert not torch.equal(student.classifier.weight, alone.classifier.weight)


def test_the_teacher_is_fixed_while_the_student_learns(encoder, examined, tmp_path):
    method = SecondDistillation()
    method.teacher = finetuned(examined[1], "acceptability", 0).train()
    before = {name: tensor.clone() for name, tensor in method.teacher.state_dict().items()}
    examine(encoder, chosen(), 1, tmp_path, prefix="second_", method=lambda name, number: method)
    assert not method.teacher.training and not any(p.requires_grad for p in method.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.teacher.state_dict().items())


# ---------------------------------------------------------------- refused


def test_an_unknown_source_is_refused_with_one_sentence(encoder, tmp_path):
    with pytest.raises(UserError, match="no folder nowhere") as caught:
        examine(encoder, chosen(downstream=["nowhere"]), 1, tmp_path)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"downstream": []}, "downstream is empty"),
        ({"downstream": ["a/mood", "b/mood"]}, r"called alike \(mood, mood\)"),
        ({"downstream": ["hub:nyu-mll/glue/cola", "data/cola"]}, "called alike"),
        ({"downstream_epochs": 0}, "downstream_epochs is 0"),
        ({"downstream_batch": 0}, "downstream_batch is 0"),
        ({"downstream_seeds": -1}, "downstream_seeds is -1"),
        ({"downstream_learning_rate": -0.1}, "downstream_learning_rate is -0.1: it must be at least 0"),
        ({"downstream_max_length": 2}, "downstream_max_length is 2: it must be at least 8"),
        ({"downstream": ["demo", "nowhere"]}, "no folder nowhere"),
        ({"language": "ko"}, "Korean"),
    ],
    ids=str,
)
def test_an_exam_that_cannot_be_held_is_refused_with_one_sentence(wrong, words):
    with pytest.raises(UserError, match=words) as caught:
        exams.check(chosen(**wrong))
    one_sentence(caught.value)
    exams.check(chosen(downstream=["demo", "demo:acceptability"]))


@pytest.mark.parametrize("rate", [-1.0, 1.0, float("nan")])
def test_a_dropout_that_is_no_rate_is_refused_with_one_sentence(rate):
    with pytest.raises(UserError, match=f"downstream_dropout is {rate}") as caught:
        exams.check(chosen().changed(downstream_dropout=rate))
    one_sentence(caught.value)


def test_a_source_that_is_no_text_is_refused_with_one_sentence():
    with pytest.raises(UserError) as caught:
        exams.check(chosen(downstream=[3]))
    one_sentence(caught.value)


def test_texts_that_are_too_long_for_the_encoder_are_cut_or_refused(encoder, tmp_path):
    for split, n, start in [("train", 24, 0), ("validation", 6, 100), ("test", 12, 200)]:
        rows = [{**row, "text": "Anna sleeps. " * 60} for row in labelled(n, start=start)]
        write(tmp_path / f"long/{split}.jsonl", rows)
    try:
        examine(encoder, chosen(downstream=[str(tmp_path / "long")], downstream_max_length=90), 1, tmp_path / "runs")
    except UserError as error:
        one_sentence(error)
