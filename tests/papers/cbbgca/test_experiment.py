"""CBBGCA's experiment: its settings, both stages and what they share, runs that are paused, what is kept."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from kdutils.core.errors import Paused, UserError
from kdutils.papers.cbbgca import experiment
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.experiment import (
    ARMS,
    EXPERIMENTS,
    equal_compute,
    second_stage,
    stage_1,
    stage_1_updates,
    student,
    teacher,
    word_probabilities,
)
from kdutils.papers.cbbgca.method import teacher_scores
from kdutils.study import kept
from kdutils.study.experiment import Trial, resolve
from kdutils.study.running import folder, load_method, load_model, run
from kdutils.tasks.translation import Translation
from tests.tiny import SMALL, assert_same_weights, fingerprint, one_sentence, timeless

EXPERIMENT = EXPERIMENTS[0]
# an untrained model ends no sentence, so they are short; and it gives each of its words about 1/400
TINY = {
    **SMALL, "max_tokens": 200, "vocab_size": 400, "max_length": 20, "validation_rows": 6, "test_rows": 4, "beams": 2,
    "dropout": 0.1, "threshold": 0.0025,
}  # fmt: skip
NAMES = ["baseline", "baseline_compute", "cbbgca", "labels", "multi"]
ABLATIONS = ["random", "all_at_once", "parts", "wrong", "confident", "constant", "mixed", "itself", "unshared"]
TIMES = ("minutes", "seconds_per_update", "peak_memory_mb")


def tiny_settings(**changes):
    return resolve(EXPERIMENTS, "demo", {**TINY, **changes})["translation"]


def trial_of(task, runs, arm="cbbgca", seed=1) -> Trial:
    return Trial(task, arm, seed, runs / "arm", runs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All arms, one seed."""
    runs, settings = tmp_path_factory.mktemp("runs"), tiny_settings()
    (record,) = run(EXPERIMENT, settings, [1], runs, [arm.name for arm in ARMS])
    return {"runs": runs, "settings": settings, "record": record, "task": Translation(settings)}


@pytest.fixture
def first_stages(monkeypatch):
    """The folders in which a stage 1 was trained."""
    found, train = [], experiment._train_stage_1

    def counted(trial, place, shared):
        found.append(place)
        train(trial, place, shared)

    monkeypatch.setattr(experiment, "_train_stage_1", counted)
    return found


# ---------------------------------------------------------------- what cannot work


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"selection_pass": "foo"}, "no pass to select by 'foo'"),
        ({"selection_pass": "cleen"}, "Did you mean 'clean'"),
        ({"kd_schedule": "linaer"}, "Did you mean 'linear'"),
        ({"updates": 1}, "two stages takes at least one update"),
        ({"label_smoothing": 1.0}, "label_smoothing|epsilon"),
        ({"smoothing_convention": "foo"}, "convention"),
        ({"schedule": "foo"}, "no schedule 'foo'"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_one_sentence_before_anything_is_trained(change, words, tmp_path):
    with pytest.raises(UserError, match=words) as caught:
        run(EXPERIMENT, tiny_settings(**change), [1], tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["joint_weight", "threshold", "stage_1_share", "constant_alpha"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "much"])
def test_shares_and_weights_lie_between_0_and_1(name, value, tmp_path):
    with pytest.raises(UserError, match=name) as caught:
        run(EXPERIMENT, tiny_settings(**{name: value}), [1], tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- the arms


def test_all_arms_are_trained_and_the_ablations_only_where_they_are_named(trained):
    assert [arm.name for arm in EXPERIMENT.chosen()] == NAMES
    assert [arm.name for arm in ARMS] == [*NAMES, *ABLATIONS, "rising"] == list(trained["record"]["arms"])
    for arm in trained["record"]["arms"].values():
        metrics = arm["metrics"]
        assert {"validation_bleu", "test_bleu", "test_chrf", "test_loss", "final_train_unconfident"} <= metrics.keys()
        assert all(math.isfinite(one) for one in metrics.values() if isinstance(one, float))


def test_both_stages_together_have_the_updates_of_the_baseline(trained):
    for updates in range(2, 40):
        for share in (0.0, 0.3, 2 / 3, 1.0):
            s = tiny_settings(updates=updates, stage_1_share=share)
            second = second_stage(s)
            assert stage_1_updates(s) == second["behind"] == updates - second["updates"]
            assert 1 <= second["behind"] < updates and abs(second["behind"] - share * updates) <= 1
    found = {name: arm["metrics"]["updates"] for name, arm in trained["record"]["arms"].items()}
    own = {name: found.pop(name) for name in ("baseline", "baseline_compute", "rising")}
    assert own == {"baseline": 6, "baseline_compute": 9, "rising": 6} and set(found.values()) == {2}


def test_the_longer_baseline_has_the_updates_that_both_stages_cost():
    """By hand: a layer has 4 or 8 square matrices and two of its feed-forward block; half the words are hidden."""
    encoder, decoder, words = 4 * 16**2 + 2 * 16 * 16, 8 * 16**2 + 2 * 16 * 16, 400 * 16
    joint = 1 + (decoder + words / 2) / (encoder + decoder + words)
    assert joint == pytest.approx(1.5488, abs=1e-4)
    for updates, first in ((6, 4), (30, 20), (100, 67)):
        expected = round(first * joint + (updates - first) * 4 / 3)
        assert equal_compute(tiny_settings(updates=updates)) == {"updates": expected}
    assert equal_compute(tiny_settings()) == {"updates": 9}  # 4 x 1.5488 + 2 x 4/3
    assert equal_compute(resolve(EXPERIMENTS, "study")["translation"]) == {"updates": 4437}


def test_the_settings_reach_the_methods():
    s = tiny_settings(
        joint_weight=0.6, threshold=0.1, kd_schedule="constant", constant_alpha=0.25, selection_pass="clean",
        label_smoothing=0.2, smoothing_convention="others",
    )  # fmt: skip
    made = {arm.name: arm.method(s) for arm in ARMS}
    assert {(one.epsilon, one.convention) for one in made.values()} == {(0.2, "others")}
    for name in ("multi", "rising"):
        joint = made[name]
        assert (joint.joint_weight, joint.shared_encoder, joint.rising) == (0.6, True, name == "rising")
    which = {"random": "random", "all_at_once": "all", "parts": "parts", "wrong": "wrong", "confident": "confident"}
    for name in ("cbbgca", *ABLATIONS):
        ours = made[name]
        assert (ours.threshold, ours.schedule, ours.selection) == (0.1, "constant", "clean")
        assert ours.which == which.get(name, "unconfident")
        assert ours.alpha == (0.25 if name == "constant" else 1.0)
        assert (ours.mix, ours.speaker) == (
            "all" if name == "mixed" else "selected", "itself" if name == "itself" else "cmlm",
        )  # fmt: skip
    assert EXPERIMENT.arm("constant").method(tiny_settings()).schedule == "constant"
    assert EXPERIMENT.arm("cbbgca").method(tiny_settings()).schedule == "linear"


def test_arms_whose_words_differ_end_with_other_weights(trained):
    """With some of the words selected; an untrained model is sure of none, and gives all of them less than a fifth."""
    nets = {
        name: fingerprint(load_model(EXPERIMENT, trained["settings"], name, 1, trained["runs"]))
        for name in [*NAMES, *ABLATIONS]
    }
    assert nets["confident"] == nets["labels"] and nets["parts"] == nets["all_at_once"]
    assert len(set(nets.values())) == len(nets) - 2
    (first, *_) = [row for row in trained["record"]["arms"]["cbbgca"]["history"] if row["kind"] == "train"]
    assert 0.2 < first["selected"] < 0.8


# ---------------------------------------------------------------- stage 1 is trained once


def test_stage_1_is_trained_once_for_arms_and_for_runs_that_differ_only_behind_it(first_stages, tmp_path):
    task = Translation(tiny_settings())
    run(EXPERIMENT, task.settings, [1], tmp_path, ["cbbgca", "labels", "multi", "random"], task=task)
    run(EXPERIMENT, tiny_settings(threshold=0.01, kd_schedule="constant"), [1], tmp_path, ["cbbgca"])
    assert len(first_stages) == 1
    run(EXPERIMENT, tiny_settings(joint_weight=0.6), [1], tmp_path, ["labels"])
    run(EXPERIMENT, tiny_settings(train_rows=30), [1], tmp_path, ["labels"])
    run(EXPERIMENT, task.settings, [2], tmp_path, ["labels"], task=task)
    assert len(first_stages) == len(set(first_stages)) == 4
    run(EXPERIMENT, task.settings, [1], tmp_path, ["unshared"], task=task)
    assert len(first_stages) == len(set(first_stages)) == 5


def test_what_decides_stage_1_names_its_folder(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "once", lambda *_: None)

    def place(fingerprint="", **changes):
        corpus = SimpleNamespace(fingerprint=fingerprint or trained["task"].corpus.fingerprint)
        return stage_1(trial_of(SimpleNamespace(settings=tiny_settings(**changes), corpus=corpus), tmp_path))

    later = {
        "threshold": 0.1, "kd_schedule": "constant", "constant_alpha": 0.3, "selection_pass": "clean", "beams": 5,
        "eval_every": 1, "log_every": 1, "checkpoint_every": 1, "patience": 3, "select_by": "loss", "threads": 2,
        "data": "elsewhere",  # the texts decide, wherever they lie
    }  # fmt: skip
    assert {place(**{name: value}) for name, value in later.items()} == {place()}
    sooner = {
        "joint_weight": 0.6, "pair": "de-en", "train_rows": 30, "data_seed": 1, "vocab_size": 300,
        "max_length": 21, "max_words": 5, "width": 8, "layers": 2, "heads": 1, "feedforward": 8, "dropout": 0.2,
        "label_smoothing": 0.0, "smoothing_convention": "others", "max_tokens": 100, "accumulation": 2, "updates": 7,
        "stage_1_share": 0.5, "learning_rate": 0.01, "warmup": 1, "schedule": "linear", "weight_decay": 0.0,
        "clip": 1.0, "precision": "bf16",
    }  # fmt: skip
    others = {place(**{name: value}) for name, value in sooner.items()}
    assert len(others | {place(), place("other rows")}) == len(sooner) + 2


def test_both_networks_of_stage_2_are_those_of_stage_1_and_share_nothing(trained):
    trial = trial_of(trained["task"], trained["runs"])
    ours, theirs = student()(trial), teacher()(trial)
    assert_same_weights(ours.get_encoder(), theirs.encoder)
    assert not {one.data_ptr() for one in ours.parameters()} & {one.data_ptr() for one in theirs.parameters()}
    place = stage_1(trial)
    assert_same_weights(ours, AutoModelForSeq2SeqLM.from_pretrained(place / "model"))
    for name, tensor in load_file(place / "beside/cmlm.safetensors").items():
        assert torch.equal(theirs.state_dict()[name], tensor), name
    assert theirs.projection.weight is theirs.encoder.embed_tokens.weight  # tied, as the translator's are


def test_two_encoders_of_stage_1_are_two(trained):
    trial = trial_of(trained["task"], trained["runs"], "unshared")
    ours, theirs = student(False)(trial), teacher(False)(trial)
    with pytest.raises(AssertionError):
        assert_same_weights(ours.get_encoder(), theirs.encoder)
    assert torch.equal(ours.get_input_embeddings().weight, theirs.encoder.embed_tokens.weight)


def test_the_student_alone_is_trained_in_stage_2(tmp_path, monkeypatch):
    fit, seen = kept.fit, {}

    def noted(model, method, *arguments, **options):
        frozen = method.teacher
        before = (fingerprint(model), frozen and fingerprint(frozen))
        fitted = fit(model, method, *arguments, **options)
        seen[options["description"]] = (before, (fingerprint(model), frozen and fingerprint(frozen)))
        return fitted

    monkeypatch.setattr(kept, "fit", noted)
    run(EXPERIMENT, tiny_settings(), [1], tmp_path, ["cbbgca", "multi"])
    (start, knows), (end, knew) = seen["cbbgca, seed 1"]
    assert start != end and knows == knew is not None
    assert seen["stage 1, seed 1"][1][0] == start  # where stage 1 stopped
    (start, knows), (_, goes_on) = seen["multi, seed 1"]
    assert start == seen["stage 1, seed 1"][1][0] and knows and knows == goes_on  # it goes on with a copy


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "linear", "cosine"])
def test_the_learning_rates_of_both_stages_are_those_of_the_baseline(schedule, tmp_path):
    task = Translation(tiny_settings(log_every=1, schedule=schedule, updates=9))
    (record,) = run(EXPERIMENT, task.settings, [1], tmp_path, ["baseline", "labels"], task=task)
    first = kept.result(stage_1(trial_of(task, tmp_path)))["history"]
    rates = [
        [row["learning_rate"] for row in history if row["kind"] == "train"]
        for history in (first, record["arms"]["labels"]["history"], record["arms"]["baseline"]["history"])
    ]
    assert list(map(len, rates)) == [6, 3, 9] and len(set(rates[2])) > 6
    assert rates[0] + rates[1] == pytest.approx(rates[2], rel=1e-12)


# ---------------------------------------------------------------- paused, damaged


def outcome(record: dict, arm: str) -> tuple:
    result = record["arms"][arm]
    metrics = {name: value for name, value in result["metrics"].items() if name not in TIMES}
    return metrics, timeless(result["history"])


@pytest.mark.parametrize("arm", ["cbbgca", "multi", "unshared"])
def test_a_run_that_is_paused_in_both_stages_ends_as_one_in_one_piece(arm, trained, tmp_path):
    paused = 0
    while True:
        try:
            (record,) = run(
                EXPERIMENT, trained["settings"], [1], tmp_path, [arm], max_minutes=1e-9, task=trained["task"]
            )
            break
        except Paused as pause:
            one_sentence(pause)
            paused += 1
            torch.rand(paused)  # what comes next must not depend on what was drawn here
    assert (
        paused == 3 + 1
    )  # an update a time: in stage 1 after each of 4 but the last, in stage 2 after each of 2 but it
    assert outcome(record, arm) == outcome(trained["record"], arm)
    nets = [load_model(EXPERIMENT, trained["settings"], arm, 1, runs) for runs in (tmp_path, trained["runs"])]
    assert_same_weights(*nets)
    firsts = [trial_of(trained["task"], runs, arm) for runs in (tmp_path, trained["runs"])]
    places = [stage_1(trial, arm != "unshared") for trial in firsts]
    assert kept.result(places[0])["weights"] == kept.result(places[1])["weights"]
    assert not list(tmp_path.rglob("checkpoints"))


@pytest.mark.parametrize("file", ["model/model.safetensors", "beside/cmlm.safetensors"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damaged_weights_of_stage_1_are_one_sentence(file, damage, tmp_path):
    task = Translation(tiny_settings())
    place = stage_1(trial_of(task, tmp_path))
    if damage == "gone":
        (place / file).unlink()
    else:
        content = bytearray((place / file).read_bytes())
        content[-1] ^= 1
        (place / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file} is missing or damaged: delete the folder .*seed-1 and") as caught:
        run(EXPERIMENT, task.settings, [1], tmp_path, ["cbbgca"], task=task)
    one_sentence(caught.value)


# ---------------------------------------------------------------- what is measured and exported


def test_plain_transformers_load_the_student_which_is_the_baselines_kind(trained):
    place = folder(EXPERIMENT, trained["settings"], trained["runs"]) / "seed-1"
    baseline = load_file(place / "baseline/model/model.safetensors")
    for arm in ("cbbgca", "multi", "unshared"):
        net = AutoModelForSeq2SeqLM.from_pretrained(place / arm / "model").eval()
        assert load_file(place / arm / "model/model.safetensors").keys() == baseline.keys()
        assert_same_weights(net, load_model(EXPERIMENT, trained["settings"], arm, 1, trained["runs"]))
        metrics = trained["record"]["arms"][arm]["metrics"]
        assert metrics["parameters"] == trained["record"]["arms"]["baseline"]["metrics"]["parameters"]
        assert trained["task"].test(net)["test_loss"] == pytest.approx(metrics["test_loss"], rel=1e-6)
        ids = AutoTokenizer.from_pretrained(place / arm / "model")("a house")["input_ids"]
        assert ids == trained["task"].tokenizer("a house")["input_ids"]
    assert (place / "multi/beside/cmlm.safetensors").exists() and not (place / "cbbgca/beside").exists()


def test_the_masked_model_of_an_arm_is_found_beside_it(trained):
    net = load_model(EXPERIMENT, trained["settings"], "multi", 1, trained["runs"])
    method = load_method(EXPERIMENT, trained["settings"], "multi", net, 1, trained["runs"])
    seen = method.extra_scores(net, trained["task"].fixed_batches("test"))
    metrics = trained["record"]["arms"]["multi"]["metrics"]
    assert seen == pytest.approx({name: metrics[f"test_{name}"] for name in seen}, rel=1e-6) and len(seen) == 6


def by_hand(task, net, rows: int) -> list[float]:
    """The probability of each training word, one sentence a time; a sentence's end is no word."""
    found = []
    for row in task.examples["train"][:rows]:
        target = torch.tensor(row["target"])
        start = torch.cat([torch.tensor([net.config.decoder_start_token_id]), target[:-1]])
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([row["source"]]), decoder_input_ids=start[None]).logits[0]
        found += logits.softmax(-1).gather(1, target[:, None])[:-1, 0].tolist()
    return found


def test_the_exam_is_the_histogram_of_figure_1(trained):
    task, settings = trained["task"], trained["settings"]
    for arm in ("baseline", "cbbgca"):
        net, metrics = (
            load_model(EXPERIMENT, settings, arm, 1, trained["runs"]),
            trained["record"]["arms"][arm]["metrics"],
        )
        p = by_hand(task, net, 40)
        assert sorted(p) == pytest.approx(sorted(word_probabilities(task, net, "train", 1000).tolist()), rel=1e-4)
        tenths = [metrics[f"train_p_{number}"] for number in range(10)]
        assert sum(tenths) == pytest.approx(1.0) and tenths[0] == 1.0  # untrained: below 0.1
        unconfident = sum(one <= settings.threshold for one in p) / len(p)
        assert metrics["validation_train_unconfident"] == pytest.approx(unconfident) and 0 < unconfident < 1


def test_the_tenths_are_shares_of_the_words_in_each(trained, monkeypatch):
    p = torch.tensor([0.0, 0.05, 0.15, 0.95, 1.0, 0.33, 0.39, 0.999])
    monkeypatch.setattr(experiment, "word_probabilities", lambda *_: p)
    trial = trial_of(trained["task"], trained["runs"], "baseline")
    found = experiment.exam(trial, trained["task"].model(1))
    assert list(found.values()) == pytest.approx([2 / 8, 1 / 8, 0, 2 / 8, 0, 0, 0, 0, 0, 3 / 8])


@pytest.mark.parametrize("arm", ["cbbgca", "unshared"])
def test_the_start_is_what_both_networks_of_stage_1_score(arm, trained):
    task, metrics = trained["task"], trained["record"]["arms"][arm]["metrics"]
    place = stage_1(trial_of(task, trained["runs"], arm), arm == "cbbgca")
    net = AutoModelForSeq2SeqLM.from_pretrained(place / "model").eval()
    cmlm = CMLM(AutoModelForSeq2SeqLM.from_pretrained(place / "model"), arm == "cbbgca")
    cmlm.load_state_dict(load_file(place / "beside/cmlm.safetensors"), strict=False)
    for split in ("train", "validation"):
        known = teacher_scores(net, cmlm, task.fixed_batches(split), TINY["threshold"], training=True)
        assert known == pytest.approx({name: metrics[f"start_{split}_{name}"] for name in known}, rel=1e-6)
        assert 0 < known["selected_share"] < 1 and known["teacher_kl"] > 0 and len(known) == 8
    scores = task.validate(net)
    assert scores == pytest.approx({name: metrics[f"start_{name}"] for name in scores}, rel=1e-6)
    assert {"bleu", "loss"} <= scores.keys()


def test_the_start_is_scored_as_the_run_that_asks_wants_it(tmp_path):
    """Stage 1 may have been trained by a run that validates otherwise."""
    for select_by in ("loss", "bleu"):
        settings = tiny_settings(select_by=select_by)
        (record,) = run(EXPERIMENT, settings, [1], tmp_path, ["cbbgca"])
        assert ("start_bleu" in record["arms"]["cbbgca"]["metrics"]) == (select_by == "bleu")
    assert len(list((tmp_path / "cbbgca").glob("stage_1-*"))) == 1


def test_only_the_paper_and_its_two_encoders_score_their_start(trained):
    for name, arm in trained["record"]["arms"].items():
        started = [metric for metric in arm["metrics"] if metric.startswith("start_")]
        assert bool(started) == (name in ("cbbgca", "unshared")), name


# ---------------------------------------------------------------- the paper's values


def test_the_papers_own_settings_are_in_the_table():
    s = resolve(EXPERIMENTS, "paper")["translation"]
    expected = {
        "joint_weight": 0.7, "threshold": 0.2, "stage_1_share": 2 / 3, "kd_schedule": "linear",
        "selection_pass": "training", "width": 512, "feedforward": 2048, "heads": 8, "layers": 6, "dropout": 0.1,
        "label_smoothing": 0.1, "learning_rate": 7e-4, "warmup": 4000, "schedule": "inverse_sqrt", "clip": 0.0,
        "weight_decay": 0.0, "updates": 300_000, "beams": 5, "pair": "en-de", "data": "hub:wmt/wmt14/de-en",
        "vocab_size": 32_000, "smoothing_convention": "uniform",
    }  # fmt: skip
    assert {name: s[name] for name in expected} == expected
    assert s.max_tokens * s.accumulation == 32_768  # about 32,000 tokens a batch
    assert s.learning_rate == pytest.approx((512 * 4000) ** -0.5, rel=0.01)  # the peak of Vaswani's schedule
    assert stage_1_updates(s) == 200_000 and second_stage(s) == {"updates": 100_000, "behind": 200_000}
    for name in [*expected, "max_tokens", "accumulation", "constant_alpha", "max_length", "eval_every", "precision"]:
        assert EXPERIMENT.settings.settings[name].source, name
    for setting in EXPERIMENT.settings.settings.values():
        assert setting.meaning, setting.name


def test_other_presets_have_the_papers_method():
    """But for the threshold of the beds, which was chosen on their validation data."""
    for preset, threshold in (("demo", 0.1), ("grammar", 0.1), ("small", 0.1), ("study", 0.2)):
        s = resolve(EXPERIMENTS, preset)["translation"]
        assert (s.joint_weight, s.threshold, s.kd_schedule, s.selection_pass) == (0.7, threshold, "linear", "training")
        assert stage_1_updates(s) == pytest.approx(2 / 3 * s.updates, abs=0.5)
        assert s.warmup < stage_1_updates(s)


def test_real_data(real_data, tmp_path):
    settings = tiny_settings(data=str(real_data / "multi30k"), test_split="test_2016_flickr", max_tokens=600)
    (record,) = run(EXPERIMENT, settings, [1], tmp_path, ["baseline", "cbbgca"])
    metrics = record["arms"]["cbbgca"]["metrics"]
    assert metrics["start_train_teacher_loss"] > 0 and metrics["test_loss"] > 0
    assert sum(metrics[f"train_p_{number}"] for number in range(10)) == pytest.approx(1.0)
