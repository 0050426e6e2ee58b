"""LSSD's experiment: its settings and arms, runs that are killed, what is exported, and its claims from records."""

from __future__ import annotations

import copy
import math
import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from kdutils.__main__ import main
from kdutils.core.errors import Paused, UserError
from kdutils.papers.lssd.claims import CLAIMS
from kdutils.papers.lssd.experiment import ARMS, EXPERIMENTS, REMEMBER, third_more
from kdutils.papers.lssd.method import LSSD, BestStudents
from kdutils.papers.lssd.multilingual import ManyToOne, OneToMany, tag
from kdutils.papers.lssd.objective import FORMS
from kdutils.study import claims
from kdutils.study.experiment import resolve
from kdutils.study.running import finished, folder, load_model, run
from kdutils.training.loop import fit
from tests import tiny
from tests.corpus_files import write
from tests.tiny import SMALL, assert_same_weights, fingerprint, one_sentence, timeless

TINY = {
    **SMALL, "languages": ["es", "ko"], "train_rows": [12, 30], "test_rows": 4, "vocab_size": 260, "max_tokens": 150,
    "updates": 12, "eval_every": 0, "accumulation": 2, "epoch_rows": 16, "schedule": "constant_with_warmup",
    "learning_rate": 0.4, "dropout": 0.1,
}  # fmt: skip
TASKS = {experiment.name: experiment for experiment in EXPERIMENTS}
INTO, OUT_OF = TASKS["many_to_one"], TASKS["one_to_many"]
NAMES = [arm.name for arm in ARMS]
TAUGHT = ("lssd", "whole", "selective", "adaptive", "released", "overall")  # by their own past


def tiny_settings(experiment=OUT_OF, **changes):
    return resolve([experiment], "demo", {**TINY, **changes})[experiment.name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All arms out of the pivot, at a learning rate at which losses rise and fall, so that somebody is taught."""
    runs, settings = tmp_path_factory.mktemp("runs"), tiny_settings()
    (record,) = run(OUT_OF, settings, [1], runs, NAMES)
    return {"runs": runs, "settings": settings, "record": record, "task": OneToMany(settings)}


# ---------------------------------------------------------------- what cannot work

IMPOSSIBLE = [
    {"gate": "hard"}, {"level": "word"}, {"form": "official"}, {"alpha": -1}, {"select_by": "bleu"},
    {"alpha": math.nan}, {"alpha": math.inf}, {"teacher_age": 0},
    {"languages": []}, {"languages": ["es", "en"]}, {"languages": ["es", "es"]},
    {"languages": ["es", "xx"]}, {"languages": [["es"], ["ko"]]}, {"pivot": "es"}, {"pivot": "xx"}, {"pivot": ""},
    {"train_rows": []}, {"train_rows": [1, 2, 3]}, {"train_rows": [0]}, {"train_rows": [5, -1]},
    {"train_rows": [1.5]}, {"train_rows": [True]}, {"validation_rows": 0}, {"test_rows": 0}, {"validation_rows": -1},
    {"temperature": 0}, {"temperature": -1}, {"temperature": math.nan}, {"epoch_rows": -1}, {"eval_every": -1},
    {"max_length": 1}, {"max_length": 3}, {"max_words": 1}, {"label_smoothing": 1.0}, {"smoothing_convention": "foo"},
    {"data": "/nowhere"}, {"data": "/nowhere/{pair}"}, {"beams": 0}, {"updates": 0}, {"accumulation": 0},
]  # fmt: skip


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_settings_that_cannot_work_are_one_sentence_before_anything_is_trained(change, tmp_path):
    with pytest.raises(UserError) as caught:
        run(INTO, tiny_settings(INTO, **change), [1], tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["gate=hard"], "no gate 'hard'"), (["teacher_agee=3"], "Did you mean 'teacher_age'"),
        (["languages=es"], "takes a list"), (['languages=["es","es"]'], "must be different"),
        (["train_rows=100"], "takes a list"), (["form=official"], "no form 'official'"),
        (["many_to_one.language_aware=true"], "language_aware"), (["temperature=0"], "above 0"),
        (["one_to_many.gate=hard"], "no gate 'hard'"),
    ],
    ids=str,
)  # fmt: skip
def test_the_command_line_refuses_in_one_sentence_and_writes_nothing(changes, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("kdutils.study.kept.fit", lambda *_, **__: pytest.fail("It was trained."))
    small = [f"{name}={value}" for name, value in SMALL.items() if name != "train_rows"] + ["train_rows=[12]"]
    options = ["--runs", str(tmp_path / "runs"), "--seeds", "1", "--set", *small, *changes]
    assert main(["train", "lssd", *options]) == 1
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and err.startswith("kdutils: ") and err.endswith(".\n")
    assert not (tmp_path / "runs").exists()


def test_only_the_released_form_out_of_the_pivot_knows_the_language():
    assert "language_aware" not in INTO.settings.settings and OUT_OF.settings.settings["language_aware"].demo
    for aware in (True, False):
        settings = tiny_settings(language_aware=aware)
        made = {arm.name: arm.method(settings).language_aware for arm in ARMS[2:]}
        assert made == {**dict.fromkeys(NAMES[2:], False), "released": aware}
        assert OUT_OF.arm("lssd").method(tiny_settings(language_aware=aware, form="released")).language_aware == aware
    assert not any(arm.method(tiny_settings(INTO)).language_aware for arm in ARMS[2:])
    assert "target_words" not in next(iter(ManyToOne(tiny_settings(INTO)).fixed_batches("test")))


# ---------------------------------------------------------------- the arms


def test_the_settings_reach_the_methods():
    s = tiny_settings(
        INTO, alpha=1.5, gate="whole", level="token", released_alpha=3.5, teacher_age=4, label_smoothing=0.2,
        smoothing_convention="uniform",
    )  # fmt: skip
    made = {arm.name: arm.method(s) for arm in ARMS}
    shared = {"alpha": 1.5, "kind": "whole", "level": "token", "top_k": 0, **FORMS["paper"]}
    expected = dict.fromkeys(("lssd", "whole", "overall", "individual"), shared)
    expected |= {name: {**shared, "kind": name} for name in ("selective", "adaptive")}
    expected["released"] = {**shared, "kind": "adaptive", "alpha": 3.5, **FORMS["released"]}
    assert {name: one.options for name, one in made.items() if name in expected} == expected
    for name in expected:
        assert made[name].kind == (name if name in ("overall", "individual") else "language")
        assert (made[name].bank.age, made[name].languages) == (4, ["es", "ko"])
    assert {(one.epsilon, one.convention) for one in made.values()} == {(0.2, "uniform")}
    assert INTO.arm("lssd").method(tiny_settings(INTO, form="released")).options["combine"] == "halved"
    assert [arm.name for arm in INTO.chosen()] == ["baseline", "lssd"]


def test_the_longer_baseline_has_a_third_more_updates(trained):
    assert LSSD.passes == pytest.approx(4 / 3)
    assert [third_more(tiny_settings(updates=n))["updates"] for n in (1, 2, 3, 100, 600)] == [1, 3, 4, 133, 800]
    updates = {name: arm["metrics"]["updates"] for name, arm in trained["record"]["arms"].items()}
    assert updates == {**dict.fromkeys(NAMES, 12), "baseline_compute": 16}


def test_the_arms_of_a_seed_start_from_equal_weights_and_have_equal_batches(tmp_path, monkeypatch):
    seen = {}

    def instead(model, method, batches, recipe, **options):
        if " alone" in options["description"]:  # a teacher of one language, not the arm
            return fit(model, method, batches, recipe, **options)
        plan = [batches.plan(epoch) for epoch in range(3)]
        seen.setdefault(options["description"].split(",")[0], []).append((fingerprint(model), plan))
        raise Paused("Enough was seen.")

    monkeypatch.setattr("kdutils.study.kept.fit", instead)
    for seed in (1, 2):
        for arm in NAMES:
            with pytest.raises(Paused):
                run(OUT_OF, tiny_settings(updates=1), [seed], tmp_path, [arm])
    assert list(seen) == NAMES and all(found == seen["baseline"] for found in seen.values())
    assert seen["baseline"][0] != seen["baseline"][1]


def evaluations(record: dict, arm: str) -> list[dict]:
    return [row for row in record["arms"][arm]["history"] if row["kind"] == "eval"]


def test_every_epoch_is_looked_at_and_says_who_was_taught(trained):
    """By the rule, from the losses in the record: this repeats no code of the method."""
    for arm in NAMES:
        rows = evaluations(trained["record"], arm)
        assert len(rows) > 6 and rows[-1]["update"] == trained["record"]["arms"][arm]["metrics"]["updates"]
        assert ("taught_es" in rows[0]) == (arm not in ("baseline", "baseline_compute"))
    for arm in TAUGHT:
        for language in ("es", "ko"):
            best, since, count = math.inf, 0, 0
            name = "smoothed_loss" if arm == "overall" else f"smoothed_loss_{language}"
            for epoch, row in enumerate(evaluations(trained["record"], arm), start=1):
                count += epoch > 1 and epoch - since >= 2  # Algorithm 1
                assert row[f"taught_{language}"] <= count  # a short last epoch may have no batch of a language
                if row[name] < best:
                    best, since = row[name], epoch
            assert count - 1 <= row[f"taught_{language}"]
    assert min(evaluations(trained["record"], "lssd")[-1][f"taught_{one}"] for one in ("es", "ko")) > 0
    for row in evaluations(trained["record"], "individual"):
        assert row["taught_es"] + row["taught_ko"] > 0


def test_evaluations_come_at_the_ends_of_the_epochs(trained):
    plan, every, taken, epoch = trained["task"].training_batches(1), [], 0, 0
    while taken < 24:
        taken, epoch = taken + len(plan.plan(epoch)), epoch + 1
        every.append(-(-taken // 2))
    updates = [row["update"] for row in evaluations(trained["record"], "lssd")]
    assert updates == sorted({update for update in every if update < 12} | {12})


# ---------------------------------------------------------------- what is exported


@pytest.mark.parametrize("arm", ["lssd", "individual"])
def test_the_exported_student_is_the_baselines_kind(arm, trained):
    place = folder(OUT_OF, trained["settings"], trained["runs"]) / "seed-1"
    names = [set(load_file(place / one / "model/model.safetensors")) for one in (arm, "baseline")]
    files = [(place / one / "model").iterdir() for one in (arm, "baseline")]
    sizes = [{path.name: path.stat().st_size for path in some if path.name != "README.md"} for some in files]
    assert names[0] == names[1] and sizes[0] == sizes[1]
    assert not (place / arm / "beside").exists() and not (place / arm / "checkpoints").exists()
    metrics = {one: trained["record"]["arms"][one]["metrics"] for one in (arm, "baseline")}
    assert metrics[arm]["parameters"] == metrics["baseline"]["parameters"]


def test_plain_transformers_translate_as_the_task_does(trained):
    place = folder(OUT_OF, trained["settings"], trained["runs"]) / "seed-1/lssd/model"
    net, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(place).eval(), AutoTokenizer.from_pretrained(place)
    assert_same_weights(net, load_model(OUT_OF, trained["settings"], "lssd", 1, trained["runs"]))
    for language in ("es", "ko"):
        own = tokenizer.convert_tokens_to_ids(tag(language))
        for row in trained["task"].corpus.splits["test"][:3]:
            source = torch.tensor([[own, *tokenizer(row["src"])["input_ids"]]])
            limit = min(48, 2 * source.shape[1] + 10)
            ids = net.generate(source, forced_bos_token_id=own, num_beams=1, do_sample=False, max_length=limit)
            assert ids[0, 1] == own
            text = tokenizer.decode(ids[0], skip_special_tokens=True)
            (found,) = trained["task"].translate(net, [row["src"]], language=language)
            assert found == text or found.startswith(text) or text.startswith(found)  # the limits differ by the tag


def test_the_record_is_that_of_the_best_epoch(trained):
    metrics = trained["record"]["arms"]["lssd"]["metrics"]
    losses = [row["smoothed_loss"] for row in evaluations(trained["record"], "lssd")]
    assert metrics["validation_smoothed_loss"] == min(losses)
    net = load_model(OUT_OF, trained["settings"], "lssd", 1, trained["runs"])
    assert trained["task"].validate(net)["smoothed_loss"] == pytest.approx(min(losses), rel=1e-6)
    bleu = [metrics[f"test_bleu_{one}"] for one in ("es", "ko")]
    assert metrics["test_bleu"] == pytest.approx(sum(bleu) / 2)


def test_the_exam_scores_each_languages_own_best_student_and_the_mean_of_them(trained, tmp_path):
    """A second run of the baseline is stopped at the end, and its own best students are scored by hand."""
    task, kept_students = trained["task"], {}
    for arm in NAMES:
        metrics = trained["record"]["arms"][arm]["metrics"]
        assert ("own_best_bleu" in metrics) == ("average_bleu" in metrics) == (arm in REMEMBER)
    students, best = [], {"es": math.inf, "ko": math.inf}

    def watched(method, model, scores, step):
        students.append(copy.deepcopy(model))
        for one in best:
            if scores[f"smoothed_loss_{one}"] < best[one]:
                best[one], kept_students[one] = scores[f"smoothed_loss_{one}"], students[-1]

    with pytest.MonkeyPatch.context() as patch:
        own = BestStudents.after_evaluation
        patch.setattr(BestStudents, "after_evaluation", lambda *given: [watched(*given), own(*given)])
        (record,) = run(OUT_OF, trained["settings"], [1], tmp_path, ["baseline"])
    metrics = record["arms"]["baseline"]["metrics"]
    for network in kept_students.values():
        for p in network.parameters():
            p.data = p.data.half().float()
    by_hand = {one: task.tested(kept_students[one].eval(), one)[2]["bleu"] for one in best}
    assert {one: metrics[f"own_best_bleu_{one}"] for one in best} == pytest.approx(by_hand)
    assert metrics["own_best_bleu"] == pytest.approx(sum(by_hand.values()) / 2)
    mean = kept_students["es"]
    for p, q in zip(mean.parameters(), kept_students["ko"].parameters(), strict=True):
        p.data = (p.data + q.data) / 2
    assert metrics["average_bleu"] == pytest.approx(sum(task.tested(mean, one)[2]["bleu"] for one in best) / 2)


# ---------------------------------------------------------------- runs that are killed


def run_lssd(
    runs: str, arm: str, changes: dict | None = None, events: list[str] | None = None, kill_at: int = 0
) -> None:
    """One arm out of the pivot for seed 1; with `kill_at`, the process dies at the so many-th of the events."""
    tiny._die_at(kill_at, events)
    run(OUT_OF, tiny_settings(**(changes or {})), [1], runs, [arm])


@pytest.fixture(scope="module")
def processes():
    """Those of `tiny`, which know the function above, too."""
    serve = f"from tests import tiny; from {__name__} import run_lssd; tiny.run_lssd = run_lssd; tiny.serve()"
    start = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda command, **options: start([*command[:2], serve], **options))
        started = tiny.Processes()
    yield started
    started.close()


def outcome(runs, arm: str, **changes) -> tuple:
    """All that a run finds but times, and one word for its weights."""
    (record,) = finished(OUT_OF, tiny_settings(**changes), runs)
    result = record["arms"][arm]
    timed = ("minutes", "seconds_per_update", "peak_memory_mb")
    metrics = {name: value for name, value in result["metrics"].items() if name not in timed}
    net = load_model(OUT_OF, tiny_settings(**changes), arm, 1, runs)
    return metrics, timeless(result["history"]), fingerprint(net)


def left_over(runs) -> list[str]:
    """What a finished run should not leave: checkpoints, best weights, files with temporary names."""
    patterns = ("checkpoints", "best-*", ".*.tmp", ".best-*")
    return sorted(str(path.relative_to(runs)) for pattern in patterns for path in runs.rglob(pattern))


# Of the 88 events of LSSD, and of the 283 of the student with the two teachers that are trained before it.
@pytest.mark.parametrize(("arm", "kills"), [("lssd", (40, 33)), ("individual", (90, 150)), ("overall", (61,))])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(arm, kills, trained, processes, tmp_path):
    """The kills fall into the third and the last third of LSSD's updates; into a teacher's, and then the student's."""
    for number in kills:
        assert processes.run(run_lssd, runs=str(tmp_path), arm=arm, kill_at=number) == -signal.SIGKILL
    assert processes.run(run_lssd, runs=str(tmp_path), arm=arm) == 0
    assert outcome(tmp_path, arm) == outcome(trained["runs"], arm)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("damage", ["newest", "all"])
def test_a_damaged_checkpoint_is_passed_over(damage, trained, processes, tmp_path):
    """Its training.pt holds the teachers' weights."""
    at = {"events": ["kdutils.training.loop:_Loop._update"], "kill_at": 11}
    assert processes.run(run_lssd, runs=str(tmp_path), arm="lssd", **at) == -signal.SIGKILL
    files = sorted(tmp_path.rglob("training.pt"))
    assert len(files) == 2
    for file in files[-1:] if damage == "newest" else files:
        file.write_bytes(file.read_bytes()[:-100])
    assert processes.run(run_lssd, runs=str(tmp_path), arm="lssd") == 0
    assert outcome(tmp_path, "lssd") == outcome(trained["runs"], "lssd")


def test_the_teachers_come_back_from_the_checkpoint(processes, tmp_path):
    at = {"events": ["kdutils.training.loop:_Loop._update"], "kill_at": 11}
    assert processes.run(run_lssd, runs=str(tmp_path), arm="lssd", **at) == -signal.SIGKILL
    newest = sorted(tmp_path.rglob("training.pt"))[-1]
    state = torch.load(newest, weights_only=True)["method"]
    in_use = {str(epoch) for _, epoch in state["bank"]["best"].values()}
    assert set(state["copies"]) == in_use and sum(state["taught"].values()) > 0
    assert {one.dtype for copy in state["copies"].values() for one in copy.values()} == {torch.float16}
    method = next(arm for arm in ARMS if arm.name == "lssd").method(tiny_settings())
    method.restore(state)
    assert method.bank.state() == state["bank"] and set(method.copies.weights) == in_use


def test_a_teacher_killed_before_it_was_tidied_up_is_tidied_up_later(trained, processes, tmp_path):
    at = {"events": ["kdutils.study.kept:clear_run"], "kill_at": 1}
    assert processes.run(run_lssd, runs=str(tmp_path), arm="individual", **at) == -signal.SIGKILL
    assert processes.run(run_lssd, runs=str(tmp_path), arm="individual") == 0
    assert outcome(tmp_path, "individual") == outcome(trained["runs"], "individual")
    assert left_over(tmp_path) == []


# ---------------------------------------------------------------- other languages, corpora of one's own


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda experiment: experiment.name)
@pytest.mark.parametrize(("pivot", "languages"), [("ko", ["en", "fr", "de"]), ("en", ["fr"])])
def test_any_languages_and_any_pivot(experiment, pivot, languages, tmp_path):
    settings = tiny_settings(experiment, pivot=pivot, languages=languages, train_rows=[20], updates=4)
    (record,) = run(experiment, settings, [1], tmp_path, ["lssd", "individual"])
    for arm in record["arms"].values():
        assert {f"test_bleu_{one}" for one in languages} <= arm["metrics"].keys()
    for claim in claims.about(CLAIMS, experiment.name):
        grade = claims.grade(claim, [record])
        assert grade.verdict != claims.CONTRADICTED, grade.reason  # by one seed of a few updates, nothing is


def corpus(place, shift: int = 0, missing: str = ""):
    """Spanish and Korean files; without that of `missing`, such as "ko-en.train". A shift changes who means what."""
    for language in ("es", "ko"):
        for split, first, count in (("train", 0, 30), ("validation", 100, 5), ("test", 200, 6)):
            rows = [
                {"src": f"{language} {first + n}", "tgt": f"Sentence {first + (n + shift) % count}."}
                for n in range(count)
            ]
            if f"{language}-en.{split}".startswith(missing or "-"):
                continue
            write(place / f"{language}-en.{split}.jsonl", rows)
    return place


OWN = {"train_rows": [0], "validation_rows": 0, "test_rows": 0, "updates": 4}


@pytest.mark.parametrize(("missing", "words"), [("ko-en", "ko-en"), ("ko-en.train", "no train split")])
def test_a_corpus_without_a_languages_file_is_one_sentence(missing, words, tmp_path):
    settings = tiny_settings(data=str(corpus(tmp_path / "own", missing=missing)), **OWN)
    with pytest.raises(UserError, match=words) as caught:
        run(OUT_OF, settings, [1], tmp_path / "runs")
    one_sentence(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("stopped", ["while its teachers are trained", "before its own training"])
def test_teachers_of_other_data_are_not_taken(stopped, tmp_path, monkeypatch):
    """The sentences change meanwhile, and the vocabulary does not: refused, or the same as without those teachers."""
    settings = tiny_settings(data=str(corpus(tmp_path / "own")), **OWN)
    minutes = 1e-9 if stopped.startswith("while") else 0.0
    with monkeypatch.context() as patch:
        patch.setattr("kdutils.study.kept.fit", lambda *_, **__: (_ for _ in ()).throw(Paused("Stopped.")))
        with pytest.raises(Paused):
            run(OUT_OF, settings, [1], tmp_path / "runs", ["individual"], max_minutes=minutes)
    corpus(tmp_path / "own", shift=1)
    fresh = run(OUT_OF, settings, [1], tmp_path / "fresh", ["individual"])
    try:
        run(OUT_OF, settings, [1], tmp_path / "runs", ["individual"])
    except UserError as error:
        one_sentence(error)
    else:
        assert finished(OUT_OF, settings, tmp_path / "runs")[0]["seed"] == fresh[0]["seed"] == 1
        weights = [load_model(OUT_OF, settings, "individual", 1, tmp_path / one) for one in ("runs", "fresh")]
        assert fingerprint(weights[0]) == fingerprint(weights[1])
