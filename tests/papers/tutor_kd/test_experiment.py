"""Tutor-KD's experiment: arms and recipes, starting weights, what an update costs, judged words, refusals, pauses."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraForMaskedLM,
    ElectraForPreTraining,
)

from kdutils.__main__ import main
from kdutils.core.errors import Paused, UserError
from kdutils.models.build import masked_lm
from kdutils.papers.tutor_kd import experiment
from kdutils.papers.tutor_kd.experiment import (
    ARMS,
    EXPERIMENTS,
    Tutoring,
    equal_compute,
    judged_scores,
    kd,
    passes,
    trained,
    tutored,
)
from kdutils.papers.tutor_kd.method import PlainKD, TutorKD
from kdutils.papers.tutor_kd.student import judging_student, predicting_student, student_config
from kdutils.study.experiment import Trial, resolve
from kdutils.study.running import folder, run
from kdutils.study.teachers import teacher_folder, teacher_of
from kdutils.tasks.truth import Question
from kdutils.training.method import Method, Step
from tests.tiny import SMALL, assert_same_weights, one_sentence, timeless

(EXPERIMENT,) = EXPERIMENTS
TINY = {
    **SMALL, "model": "", "train_rows": 60, "validation_rows": 12, "test_rows": 12, "vocab_size": 300, "max_words": 6,
    "max_tokens": 200, "layers": 2, "student_layers": 1, "student_width": 8, "student_embedding": 6, "feedforward": 24,
    "teacher_updates": 4, "updates": 4, "log_every": 1, "downstream_rows": 16, "downstream_test_rows": 12,
    "downstream_epochs": 1, "downstream_batch": 8,
}  # fmt: skip
TIMES = {"minutes", "seconds_per_update", "peak_memory_mb"}
NAMES = ["teacher", "baseline", "kd", "tutor_kd", "sampled"]
BESIDES = ["alternating", "no_attention"]

pytestmark = pytest.mark.usefixtures("few_questions")


def chosen(**changes):
    return resolve(EXPERIMENTS, "demo", {**TINY, **changes})["masked_lm"]


@pytest.fixture(scope="module")
def task():
    return Tutoring(chosen())


@pytest.fixture(scope="module")
def runs(task, tmp_path_factory):
    """The folder of a run that nothing interrupted: all that is not optional, and two ablations."""
    place = tmp_path_factory.mktemp("runs")
    run(EXPERIMENT, task.settings, [1], place, [*NAMES, *BESIDES], task=task)
    return place


@pytest.fixture(scope="module")
def record(task, runs):
    return run(EXPERIMENT, task.settings, [1], runs, [*NAMES, *BESIDES], task=task)[0]


def started(task, runs, arm: str, seed: int = 1):
    return EXPERIMENT.arm(arm).start(Trial(task, arm, seed, Path("unused"), runs))


# ---------------------------------------------------------------- the arms


def test_the_ablations_are_trained_only_where_they_are_named():
    assert [arm.name for arm in EXPERIMENT.chosen()] == NAMES
    assert {"baseline_compute", "kd_compute", *DIFFERENT}.issuperset(arm.name for arm in ARMS if arm.optional)
    assert {arm.name for arm in ARMS if arm.teacher is None} == {"teacher", "baseline", "baseline_compute"}


WEIGHTS = (0.25, 20.0, 2.0, 3.0)
# each arm under Tutor-KD: what is different in its method
DIFFERENT = {
    "tutor_kd": {}, "sampled": {"sampler": "teacher"}, "argmax": {"sampler": "argmax"}, "random": {"sampler": "random"},
    "no_teacher_reward": {"rewards": (0.0, 1.0)}, "no_student_reward": {"rewards": (1.0, 0.0)},
    "plain_logit": {"logits": "plain"}, "no_tutor_kl": {"weights": (*WEIGHTS[:3], 0.0)},
    "kl_only": {"weights": (*WEIGHTS[:2], 0.0, WEIGHTS[3])}, "no_attention": {"attention": False},
    "alternating": {"steps": "alternating"}, "running_mean": {"decay": 0.99},
}  # fmt: skip


def test_each_arms_method_is_what_its_name_says():
    """All from settings that differ from the defaults, so that they are seen to arrive."""
    names = ("representation", "logit", "policy", "tutor")
    changes = {f"{name}_weight": weight for name, weight in zip(names, WEIGHTS, strict=True)}
    s = chosen(**changes, reward_baseline=0.5, inverted_mask=True)
    common = {
        "weights": WEIGHTS, "sampler": "tutor", "rewards": (1.0, 1.0), "steps": "joint", "decay": 0.5,
        "logits": "modified", "attention": True, "inverted_mask": True, "passes": passes(s, "tutor_kd"),
    }  # fmt: skip
    others = {"teacher", "baseline", "baseline_compute", "kd", "kd_compute"}
    for name in (arm.name for arm in ARMS if arm.name not in others):
        method = EXPERIMENT.arm(name).method(s)
        assert type(method) is TutorKD
        assert {key: getattr(method, key) for key in common} == common | DIFFERENT[name], name
    for name in ("kd", "kd_compute"):
        method = EXPERIMENT.arm(name).method(s)
        assert type(method) is PlainKD and (method.weights, method.inverted_mask) == (WEIGHTS, True)
        assert method.passes == passes(s, "kd") and method.attention
    assert all(type(EXPERIMENT.arm(name).method(s)) is Method for name in others - {"kd", "kd_compute"})
    assert EXPERIMENT.arm("tutor_kd").method(chosen(steps="alternating")).steps == "alternating"


def test_the_recipes_differ_in_the_updates_alone(task):
    s = task.settings
    recipes = {arm.name: arm.recipe(s) for arm in ARMS}
    longer = {name: recipes.pop(name) for name in ("baseline_compute", "kd_compute")}
    assert recipes.pop("teacher") == {"updates": 0} and all(recipe == {} for recipe in recipes.values())
    assert longer == {
        "baseline_compute": {"updates": round(4 * passes(s, "tutor_kd"))},
        "kd_compute": {"updates": round(4 * passes(s, "tutor_kd") / passes(s, "kd"))},
    }
    recipe = task.recipe()
    assert recipe.betas == (0.9, 0.999) and recipe.updates == 4


def test_a_seed_has_one_encoder_to_start_from_under_every_head(task, runs):
    kinds = {"baseline": ElectraForMaskedLM, "kd": ElectraForMaskedLM, "plain_logit": ElectraForMaskedLM}
    first = started(task, runs, "tutor_kd").base_model
    for arm in ARMS:
        if arm.name == "teacher":
            continue
        net = started(task, runs, arm.name)
        wanted = kinds.get(arm.name.removesuffix("_compute"), ElectraForPreTraining)
        assert type(net) is wanted, arm.name
        assert_same_weights(net.base_model, first)
    assert not torch.equal(
        started(task, runs, "tutor_kd", seed=2).base_model.embeddings.word_embeddings.weight,
        first.embeddings.word_embeddings.weight,
    )
    config = first.config
    assert (config.hidden_size, config.embedding_size, config.num_hidden_layers) == (8, 6, 1)
    assert config.intermediate_size == 12  # as many widths as the teacher's: 24 of 16


# ---------------------------------------------------------------- what an update costs


def test_passes_by_hand():
    """Layers of 28 and 56 weights for student and teacher; 10 words, half of which are asked for."""
    shape = {"width": 2, "heads": 1, "feedforward": 3, "layers": 2, "student_layers": 1, "vocab_size": 10,
             "mask_probability": 0.5, "student_width": 0, "student_embedding": 0}  # fmt: skip
    s, plain, teacher = chosen(**shape), 3 * (28 + 10), 56 + 10
    assert passes(s, "kd") == pytest.approx((plain + teacher) / plain)
    assert passes(s, "tutor_kd") == pytest.approx((3 * 28 + 2 * teacher + 3 * 10) / plain)
    narrow = chosen(**{**shape, "student_width": 4, "student_embedding": 1})  # 4 * 16 + 2 * 4 * 6 weights, 5 projected
    assert passes(narrow, "kd") == pytest.approx((3 * (112 + 5) + teacher) / (3 * (112 + 5)))
    wide = chosen(**{**shape, "student_feedforward": 5})
    assert passes(wide, "kd") == pytest.approx((3 * (36 + 10) + teacher) / (3 * (36 + 10)))


def test_passes_take_the_shape_of_a_teacher_in_a_folder():
    demo = resolve(EXPERIMENTS, "demo")["masked_lm"]
    spelt = demo.changed(model="", width=128, layers=4, feedforward=256, vocab_size=1000)
    for kind in ("kd", "tutor_kd"):
        assert passes(demo.changed(width=7, layers=40), kind) == passes(spelt, kind) > 1


def flops(method: Method, student: nn.Module, teacher: nn.Module, length: int, share: float) -> int:
    """Of a forward and a backward pass over eight rows, by torch's own counter."""
    torch.manual_seed(0)
    ids = torch.randint(5, teacher.config.vocab_size, (8, length))
    positions = torch.randperm(ids.numel())[: round(share * ids.numel())].sort().values
    batch = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids, "positions": positions,
        "targets": ids.flatten()[positions], "tokens": torch.arange(ids.numel()),
    }  # fmt: skip
    method.teacher = teacher
    method.attach(student)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # fused attention is not counted
        method.loss(student, batch, method.count(batch), Step(1, 1, 0, logged=False))["loss"].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("narrower", [{}, {"student_width": 32, "student_embedding": 16}], ids=["as_wide", "narrower"])
def test_passes_count_what_torch_counts_but_for_the_small_products(narrower):
    """Left out are attention itself, the projections between widths and the square layer of a head: a tenth at most."""
    sizes = {"width": 64, "layers": 4, "feedforward": 256, "heads": 2}
    s = chosen(**{**sizes, "vocab_size": 2560, "student_layers": 2, "student_width": 0, "student_embedding": 0,
                  "mask_probability": 0.15, "student_feedforward": 0, **narrower})  # fmt: skip
    teacher = masked_lm(2560, **sizes).eval().requires_grad_(False)
    shape = student_config(teacher.config, 2, s.student_width, s.student_embedding)
    plain = flops(Method(), predicting_student(shape, 1), teacher, 8, 0.15)
    counted = {
        "kd": flops(kd(s), predicting_student(shape, 1), teacher, 8, 0.15) / plain,
        "tutor_kd": flops(tutored()(s), judging_student(shape, 1), teacher, 8, 0.15) / plain,
    }
    for kind, ratio in counted.items():
        assert 0.9 * ratio < passes(s, kind) <= ratio, (kind, ratio)
    # what KD may compute more, at equal compute, is not less than is its due
    due, given = counted["tutor_kd"] / counted["kd"], passes(s, "tutor_kd") / passes(s, "kd")
    assert due <= given < 1.05 * due


def test_equal_compute_is_in_updates():
    s = chosen(updates=100)
    ours, theirs = passes(s, "tutor_kd"), passes(s, "kd")
    assert ours > theirs > 1
    assert equal_compute("plain")(s) == {"updates": round(100 * ours)}
    assert equal_compute("kd")(s) == {"updates": round(100 * ours / theirs)}
    assert equal_compute("tutor_kd")(s) == {"updates": 100}


# ---------------------------------------------------------------- what is judged


class Said(nn.Module):
    """A model whose output is a table; it notes the texts that it is asked about."""

    device = torch.device("cpu")

    def __init__(self, logits: torch.Tensor, predicts: bool) -> None:
        super().__init__()
        self.logits, self.predicts, self.asked, self.weight = logits, predicts, [], nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(vocab_size=5, pad_token_id=0)

    def get_output_embeddings(self):
        return self.predicts or None

    def forward(self, input_ids, attention_mask):
        self.asked.append((input_ids.clone(), attention_mask.clone()))
        return SimpleNamespace(logits=self.logits)


# the words 1 to 4; 9 is the mask. The grammar allows 1 and 2 in the first, 2, 3 and 4 in the second.
ASKED = [
    Question(("a", "b"), 0, (9, 3), 0, {1: 0.75, 2: 0.25}),
    Question(("a", "b", "c"), 2, (4, 3, 9), 2, {2: 0.2, 3: 0.4, 4: 0.4}),
]
TRUE = [{0: 0.0, 1: 0.75, 2: 0.25, 3: 0.0, 4: 0.0}, {0: 0.0, 1: 0.0, 2: 0.2, 3: 0.4, 4: 0.4}]
ORIGINAL = [1, 3]


def by_hand(written: list[int], judged: list[float]) -> float:
    right = [min(1.0, p[new] / p[old]) for p, new, old in zip(TRUE, written, ORIGINAL, strict=True)]
    return sum(abs(a - found) for a, found in zip(right, judged, strict=True)) / 2


def test_a_judging_model_is_asked_with_the_written_word_in_its_place():
    said = torch.zeros(2, 3) + 7.0
    said[0, 0], said[1, 2] = math.log(3), -math.log(4)  # sigmoid: 0.75 and 0.2
    model = Said(said, predicts=False)
    found = judged_scores(model, ASKED, torch.tensor(ORIGINAL))
    errors = []
    for ids, mask in model.asked:
        written = [int(ids[0, 0]), int(ids[1, 2])]
        assert ids.tolist() == [[written[0], 3, 0], [4, 3, written[1]]] and mask.tolist() == [[1, 1, 0], [1, 1, 1]]
        errors.append(by_hand(written, [0.75, 0.2]))
    assert int(model.asked[0][0][0, 0]) in (1, 2) and int(model.asked[0][0][1, 2]) in (2, 3, 4)
    assert [found["judged_possible"], found["judged_random"]] == pytest.approx(errors, rel=1e-5)
    assert found["judged_error"] == pytest.approx(sum(errors) / 2, rel=1e-5) and found.keys() == {
        "judged_possible", "judged_random", "judged_error",
    }  # fmt: skip


def test_a_predicting_model_judges_by_the_ratio_of_its_own_probabilities():
    theirs = [{0: 0.1, 1: 0.4, 2: 0.2, 3: 0.2, 4: 0.1}, {0: 0.2, 1: 0.1, 2: 0.4, 3: 0.1, 4: 0.2}]
    logits = torch.full((2, 3, 5), 7.0)
    for row, (place, table) in enumerate(zip((0, 2), theirs, strict=True)):
        logits[row, place] = torch.tensor(list(table.values())).log() + 3.0  # up to a constant
    judge, model = Said(torch.zeros(2, 3), predicts=False), Said(logits, predicts=True)
    judged_scores(judge, ASKED, torch.tensor(ORIGINAL))
    found = judged_scores(model, ASKED, torch.tensor(ORIGINAL))
    for name, (ids, _) in zip(("judged_possible", "judged_random"), judge.asked, strict=True):
        written = [int(ids[0, 0]), int(ids[1, 2])]  # the same words for both kinds of models
        own = [min(1.0, q[new] / q[old]) for q, new, old in zip(theirs, written, ORIGINAL, strict=True)]
        assert found[name] == pytest.approx(by_hand(written, own), rel=1e-5)
    assert all(ids.tolist() == [[9, 3, 0], [4, 3, 9]] for ids, _ in model.asked)  # it sees the mask


def test_the_words_that_are_hidden_are_those_of_the_text(task, runs, monkeypatch):
    seen = {}
    monkeypatch.setattr(experiment, "judged_scores", lambda _, asked, old: seen.update(asked=asked, old=old) or {})
    for arm, known in (("tutor_kd", False), ("kd", True)):
        scores = task.truth(started(task, runs, arm), "test")
        assert ("truth_kl" in scores) == known
    for one, old in zip(seen["asked"], seen["old"].tolist(), strict=True):
        assert task.tokenizer.decode([old]).strip() == one.words[one.hidden].rstrip(".,") and one.truth[old] > 0


# ---------------------------------------------------------------- what a run leaves


def test_every_arm_ends_with_finite_metrics(record):
    assert list(record["arms"]) == [*NAMES, *BESIDES[::-1]]
    for name, arm in record["arms"].items():
        metrics = arm["metrics"]
        assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, int | float)), name
        assert {"exam_macro", "exam_acceptability", "test_judged_error", "test_judged_random"} <= metrics.keys()
        assert ("test_truth_kl" in metrics) == (name in ("teacher", "baseline", "kd"))
        writers = {"sampled"} if name == "sampled" else {"sampled", "tutor"} if name in DIFFERENT else set()
        for who in ("sampled", "tutor"):
            assert (f"test_{who}_teacher_reward" in metrics) == (f"final_{who}_easy" in metrics) == (who in writers)
    assert record["arms"]["teacher"]["metrics"]["updates"] == 0
    rows = [row for row in record["arms"]["no_attention"]["history"] if row["kind"] == "train"]
    assert all("attention" not in row and "hidden" in row for row in rows) and len(rows) == 4


def test_the_tutor_is_trained_in_odd_updates_and_the_student_in_even_ones(record):
    rows = [row for row in record["arms"]["alternating"]["history"] if row["kind"] == "train"]
    assert [row["tutor"] > 0 for row in rows] == [True, False, True, False]
    joint = [row for row in record["arms"]["tutor_kd"]["history"] if row["kind"] == "train"]
    assert all(row["tutor"] > 0 for row in joint)


def test_student_and_tutor_are_loaded_as_they_were(task, runs, record):
    student, method = trained(EXPERIMENT, task, "tutor_kd", 1, runs)
    place = folder(EXPERIMENT, task.settings, runs) / "seed-1/tutor_kd"
    assert_same_weights(student, ElectraForPreTraining.from_pretrained(place / "model"))
    assert not student.training and not any(net.training for net in method.modules().values())
    assert sorted(method.modules()) == ["projection", "tutor"]
    assert_same_weights(method.teacher, teacher_of(task, runs))
    scores = method.extra_scores(student, task.fixed_batches("test"))  # of both, and of the projection's teacher
    metrics = record["arms"]["tutor_kd"]["metrics"]
    assert len(scores) == 13
    for name, score in scores.items():
        assert score == pytest.approx(metrics[f"test_{name}"], rel=1e-5), name
    predicting, method = trained(EXPERIMENT, task, "kd", 1, runs)
    assert type(predicting) is ElectraForMaskedLM and sorted(method.modules()) == ["projection"]
    assert task.test(predicting)["test_loss"] == pytest.approx(record["arms"]["kd"]["metrics"]["test_loss"], rel=1e-5)


def test_an_arm_that_is_not_finished_or_is_damaged_is_one_sentence(task, runs, tmp_path):
    with pytest.raises(UserError, match="no finished model") as caught:
        trained(EXPERIMENT, task, "random", 1, runs)
    one_sentence(caught.value)
    place = tmp_path / "runs"
    run(EXPERIMENT, task.settings, [1], place, ["sampled"], task=task)
    (damaged,) = place.glob("**/sampled/model/model.safetensors")
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="missing or damaged") as caught:
        trained(EXPERIMENT, task, "sampled", 1, place)
    one_sentence(caught.value)


# ---------------------------------------------------------------- paused


def test_a_run_that_stops_in_the_middle_goes_on_to_the_last_bit(tmp_path):
    """With a running mean of the reward, which a checkpoint must keep."""
    settings = chosen(reward_baseline=0.9, checkpoint_every=1)
    task, paused = Tutoring(settings), 0
    (whole,) = run(EXPERIMENT, settings, [1], tmp_path / "whole", ["tutor_kd"], task=task)
    while True:
        try:
            (pieces,) = run(EXPERIMENT, settings, [1], tmp_path / "pieces", ["tutor_kd"], max_minutes=1e-9, task=task)
            break
        except Paused as pause:
            one_sentence(pause)
            paused += 1
            torch.rand(paused)  # what comes next must not depend on what was drawn here
    assert paused >= 3 + 3  # the teacher's four updates and the student's four, one at a time
    one, other = (record["arms"]["tutor_kd"] for record in (whole, pieces))
    assert timeless(one["history"]) == timeless(other["history"])
    for name in one["metrics"].keys() - TIMES:
        assert one["metrics"][name] == other["metrics"][name], name
    nets = [trained(EXPERIMENT, task, "tutor_kd", 1, tmp_path / place) for place in ("whole", "pieces")]
    assert_same_weights(nets[0][0], nets[1][0])
    assert_same_weights(nets[0][1].networks, nets[1][1].networks)
    (without,) = run(EXPERIMENT, chosen(), [1], tmp_path / "without", ["tutor_kd"])
    assert timeless(without["arms"]["tutor_kd"]["history"]) != timeless(one["history"])


def test_what_a_skipped_update_has_earned_survives_a_pause():
    """Under a loss scale an update may be skipped, and is not settled then; the next one settles both."""
    method, other = TutorKD(baseline=0.9), TutorKD(baseline=0.9)
    method.baseline, method.earned = torch.tensor(0.5), torch.tensor([6.0, 4.0])  # four words earned 1.5 each
    other.restore(method.state())
    for one in (method, other):
        one.earned = one.earned + torch.tensor([0.0, 2.0])  # and two nothing: 1.0 on average
        one.after_update(nn.Identity(), Step(2, 4, 0, logged=False))
        assert float(one.baseline) == pytest.approx(0.9 * 0.5 + 0.1 * 1.0)


# ---------------------------------------------------------------- refused before anything is trained


def refused(changes: dict, place: Path, arms=None) -> str:
    """The sentence with which a run is refused that has written nothing."""
    with pytest.raises(UserError) as caught:
        run(EXPERIMENT, chosen(**changes), [1], place, arms)
    assert not place.exists()
    return one_sentence(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 4, "student_layers": 3}, "student of 3 layers cannot follow a teacher of 4"),
        ({"student_layers": 3}, "student of 3 layers cannot follow a teacher of 2"),
        ({"student_layers": 0}, "student_layers is 0"),
        ({"student_width": 9}, "a multiple of the 2 heads"),
        ({"student_width": -8}, "student_width is -8"),
        ({"student_feedforward": -8}, "student_feedforward is -8"),
        ({"student_embedding": -1}, "student_embedding"),
        ({"logit_weight": -1.0}, "weight"),
        ({"policy_weight": math.nan}, "weight"),
        ({"steps": "jiont"}, "Did you mean 'joint'"),
        ({"reward_baseline": 1.0}, "reward_baseline"),
        ({"downstream": []}, "downstream is empty"),
        ({"model": "nowhere-at-all"}, "could not be loaded"),
        ({"teacher_start": "nowhere-at-all"}, "could not be loaded"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_one_sentence_before_anything_is_trained(change, words, tmp_path):
    assert words in refused(change, tmp_path / "runs")


def another(task, place: Path, kind: str) -> str:
    """The folder of a small model that is no BERT, with a tokenizer that fits."""
    config = DistilBertConfig(vocab_size=len(task.tokenizer), dim=16, n_layers=2, n_heads=2, hidden_dim=24,
                              max_position_embeddings=48, pad_token_id=0)  # fmt: skip
    net = DistilBertForMaskedLM(config)
    if kind == "electra":
        teacher = masked_lm(len(task.tokenizer), width=16, layers=2, heads=2, feedforward=24, max_length=48)
        net = predicting_student(student_config(teacher.config, 2), 1)
    net.save_pretrained(place)
    task.tokenizer.save_pretrained(place)
    return str(place)


@pytest.mark.parametrize("kind", ["distilbert", "electra"])
@pytest.mark.parametrize("setting", ["model", "teacher_start"])
def test_a_teacher_that_is_not_a_bert_is_refused(setting, kind, task, tmp_path):
    told = refused({setting: another(task, tmp_path / kind, kind)}, tmp_path / "runs")
    assert f"teacher is a BERT, not a model of type '{kind}'" in told


def test_a_mistyped_setting_is_refused_where_runs_begin():
    with pytest.raises(UserError, match="Did you mean 'reward_baseline'") as caught:
        chosen(reward_basline=0.5)
    one_sentence(caught.value)


def test_the_command_refuses_a_mistyped_setting(tmp_path, capsys):
    assert main(["train", "tutor_kd", "--set", "reward_basline=0.5", "--runs", str(tmp_path / "runs")]) == 1
    told = one_sentence(capsys.readouterr().err.strip())
    assert "no setting 'reward_basline'. Did you mean 'reward_baseline'?" in told
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------- a teacher that starts from an encoder without a head


def test_a_teacher_may_start_from_an_encoder_without_a_head(task, tmp_path):
    torch.manual_seed(3)
    config = BertConfig(vocab_size=len(task.tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=24, max_position_embeddings=48, pad_token_id=0)  # fmt: skip
    encoder = BertModel(config)
    encoder.save_pretrained(tmp_path / "encoder")
    task.tokenizer.save_pretrained(tmp_path / "encoder")
    settings = chosen(teacher_start=str(tmp_path / "encoder"), width=8, layers=40)  # whose shape does not count
    started_from = Tutoring(settings)
    before = started_from.model(0)
    assert_same_weights(before.bert.encoder, encoder.encoder)
    assert_same_weights(before.bert.embeddings, encoder.embeddings)
    assert experiment.teacher_shape(settings) == (2, 16, 24, len(task.tokenizer))
    (record,) = run(EXPERIMENT, settings, [1], tmp_path / "runs", ["kd"], task=started_from)
    assert math.isfinite(record["arms"]["kd"]["metrics"]["exam_macro"])
    teacher = teacher_of(started_from, tmp_path / "runs")
    moved = teacher.bert.encoder.layer[0].output.dense.weight - encoder.encoder.layer[0].output.dense.weight
    assert 0 < moved.abs().max() < 0.2  # pre-trained in a few updates, from there
    with pytest.raises(UserError, match="has no weights for .*, which would be random"):
        Tutoring(chosen(model=str(tmp_path / "encoder"))).model(0)


def test_another_start_is_another_teacher(task, tmp_path):
    places = {teacher_folder(Tutoring(chosen(teacher_start=start)), tmp_path) for start in ("", "demo", "demo:teacher")}
    assert len(places) == 3
