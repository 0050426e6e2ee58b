"""What a plan counts, against numbers worked out by hand; and every study preset against its limits."""

from __future__ import annotations

import ast
import contextlib
import json
from pathlib import Path

import pytest
import torch

from kdutils import runner
from kdutils.core.errors import UserError
from kdutils.models.build import translation_model
from kdutils.papers import cbbgca, distilbert, lssd, r_drop, self_distillation, tutor_kd
from kdutils.papers.cbbgca.cmlm import CMLM
from kdutils.papers.cbbgca.method import joint_passes
from kdutils.study import plan
from kdutils.study.experiment import resolve
from kdutils.study.plan import GPUS, Cost, Meter, planned
from kdutils.tasks.translation import Translation
from tests.tiny import one_sentence

ROOT = Path(__file__).resolve().parents[2]
TINY = {"train_rows": 60, "validation_rows": 20, "test_rows": 24, "updates": 10, "eval_every": 4, "width": 16,
        "heads": 2, "layers": 1, "feedforward": 32, "vocab_size": 400, "max_tokens": 100}  # fmt: skip
TRANSLATION = r_drop.EXPERIMENTS[0]


def translation(**changes):
    return resolve([TRANSLATION], "demo", {**TINY, **changes})["translation"]


def of_arm(found: plan.Plan, name: str) -> plan.ArmPlan:
    return next(arm for arm in found.arms if arm.name == name)


# --- counting ----------------------------------------------------------------------------------------------------


def test_a_matrix_product_is_counted_and_weighted():
    meter, a = Meter(), torch.ones(3, 5)

    def run():
        a @ torch.ones(5, 7)
        with meter.weighted(10, 4):
            a @ torch.ones(5, 7)

    cost = meter.cost(run, False, contextlib.nullcontext())
    assert cost.flops == 2 * 3 * 5 * 7 * 11  # once, and once for ten
    assert cost.launches == 2 * 5 and cost.seconds == 0.0  # a product and the ones it is made with; four times again


def test_the_fused_attention_of_a_cpu_is_counted():
    q = torch.ones(1, 2, 6, 4)
    cost = Meter().cost(
        lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q), False, contextlib.nullcontext()
    )
    assert cost.flops == 2 * (2 * 2 * 6 * 6 * 4)  # scores and values, two heads of 6 x 6 x 4


def test_minutes_are_those_of_the_operations_or_of_starting_them():
    gpu = GPUS["T4"]
    assert gpu["peak"] / gpu["bandwidth"] == pytest.approx(203.1, abs=0.1)
    share = 0.25 * 768 / (768 + 2.5 * 65e12 / 320e9)
    assert share == pytest.approx(0.150, abs=0.001)
    assert Cost(flops=60 * 65e12 * share).minutes("T4", 768) == pytest.approx(1.0)
    assert Cost(launches=60 / 1.5e-5).minutes("T4", 768) == pytest.approx(1.0)
    assert Cost(traffic=60 * 320e9).minutes("T4", 768) == pytest.approx(1.0)
    assert Cost(1.0, 2.0, 3.0, 4.0).times(2.0, 3.0) + Cost(1.0) == Cost(3.0, 6.0, 6.0, 12.0)


def test_the_sentences_below_a_plan_name_the_numbers_that_it_counts_with():
    said = " ".join(one["why"] for one in plan.FACTS["assumed"].values() if "why" in one)
    rates = ", ".join(f"{name} {gpu['peak'] / 1e12:.0f}" for name, gpu in GPUS.items())
    a = plan.ASSUMED
    for words in (
        rates, f"reaches {100 * a['largest_share']:.0f} %", f"{a['balance']} peak", f"{1e6 * a['launch']:.0f} micro",
        f"{a['generated']} times that", f"{a['optimizer_bytes']} bytes", f"{a['slope']} times its source's tokens",
        f"and {a['offset']} more", f"{a['part']} pieces", f"{a['tokenised']:,.0f} tokens",
        f"{a['process_gb']} GB of lib",
        f"the texts {a['texts']} times",
        f"{a['row_bytes']} a row", f"{a['context_gb']:.0f} GB of CUDA", f"{a['counted'] / 1e9:.0f} billion",
        f"{a['timed'] / 1e9:.0f} billion",
    ):  # fmt: skip
        assert words in said, words
    assert a["fragments"] == 1.2 and "a fifth more" in said


def test_a_step_takes_six_operations_a_weight_and_token():
    settings = translation()
    arm = planned(TRANSLATION, settings, 1, ["baseline"], timed=False).arms[0]
    outline, width, inner = plan._outline(Translation, settings), 16, 32
    # a layer a side: four and eight square matrices, two feed-forward blocks; the projection onto the vocabulary
    weights = 12 * width**2 + 2 * (2 * width * inner) + len(outline.tokenizer) * width
    size = outline.split_sizes["train"]
    assert arm.train.flops == pytest.approx(10 * 6 * weights * size.cells / size.batches, rel=0.15)  # and attention


# --- an experiment -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> plan.Plan:
    return planned(TRANSLATION, translation(), 3, timed=False)


def test_updates_evaluations_and_translations_are_counted(small):
    base, double = of_arm(small, "baseline"), of_arm(small, "baseline_2x")
    assert (base.updates, double.updates) == (10, 20)
    assert (base.evaluations, double.evaluations) == (3, 5)  # after 4, 8 and 10; after 4, 8, ..., 20
    assert (base.greedy, base.searched) == (3 * 20, 2 * 24)  # both selections of weights are tested
    assert double.passes == 2 * base.passes
    task = Translation(translation())
    assert base.passes == 10 / len(task.training_batches(0))
    by_loss = planned(TRANSLATION, translation(select_by="loss"), 3, ["baseline"], timed=False)
    assert by_loss.arms[0].greedy == 0 and by_loss.arms[0].searched == 48


def test_r_drop_computes_twice_what_the_baseline_does(small):
    ratio = of_arm(small, "r_drop").train.flops / of_arm(small, "baseline").train.flops
    assert ratio == pytest.approx(2.0, abs=0.05)


def test_the_memory_of_a_large_corpus_is_that_of_its_texts_rows_and_ids():
    experiment = distilbert.EXPERIMENTS[0]
    settings = resolve([experiment], "study", {"train_rows": 0, "model": "sentence-transformers/all-MiniLM-L6-v2"})
    outline = plan._outline(experiment.task, settings["masked_lm"])
    assert outline.text == 1_165_029 * (462 + 400)  # WikiText-103: texts, and what Python takes for a row
    size = outline.split_sizes["train"]
    assert size.tokens == pytest.approx(1_165_029 * 99, rel=0.01) and size.rows == pytest.approx(1.6e6, rel=0.02)
    assert 4.0 * outline.text + 300 * size.rows + 4 * size.tokens < 5.5e9  # of the 12 GB, beside the libraries


def test_the_totals_are_those_of_the_arms(small):
    a_seed = sum(row["T4"] for row in small.table())
    assert small.minutes("T4", 1) - small.preparing == pytest.approx(a_seed, rel=0.01)
    assert small.minutes("T4") - small.preparing == pytest.approx(3 * a_seed, rel=0.01)
    assert small.minutes("H100") <= small.minutes("A100") <= small.minutes("T4")
    text = small.text()
    assert "one seed, minutes: T4" in text and "3 seeds, minutes: T4" in text and "baseline_2x" in text
    assert "here" not in small.table()[0]
    assert max(map(len, text.splitlines())) < 130


def test_more_rows_cost_in_proportion_also_where_few_stand_for_them():
    few, many = (planned(TRANSLATION, translation(validation_rows=n), 1, ["baseline"], timed=False) for n in (20, 200))
    looks = [one.arms[0].look for one in (few, many)]
    tests = 2  # of the same test split: what differs are three evaluations
    assert tests and looks[1].flops > 3 * looks[0].flops


def test_this_machine_is_timed_on_three_steps():
    found = planned(TRANSLATION, translation(), 1, ["baseline"], timed=True)
    assert found.minutes("here") > found.preparing and found.arms[0].train.seconds > 0
    assert found.table()[0]["here"] > 0 and "here" in found.text()


def test_an_arm_whose_teachers_are_trained_first_counts_them():
    experiment = lssd.EXPERIMENTS[0]
    tiny = {**TINY, "train_rows": [20, 30], "languages": ["es", "de"], "eval_every": 5}
    chosen = ["baseline", "lssd", "individual"]
    found = planned(experiment, resolve([experiment], "demo", tiny)["many_to_one"], 1, chosen, timed=False)
    base, taught, individual = (of_arm(found, name) for name in ("baseline", "lssd", "individual"))
    assert individual.teachers.flops == pytest.approx(2 * base.train.flops)  # two languages, as many updates
    assert base.teachers == taught.teachers == Cost()
    assert taught.train.flops / base.train.flops == pytest.approx(4 / 3, abs=0.05)  # every batch has a teacher
    assert individual.train.flops / base.train.flops == pytest.approx(4 / 3)


@pytest.fixture(scope="module")
def staged() -> plan.Plan:
    experiment = cbbgca.EXPERIMENTS[0]
    settings = resolve([experiment], "demo", {**TINY, "updates": 12, "width": 64, "layers": 2})["translation"]
    return planned(experiment, settings, 1, [arm.name for arm in experiment.arms], timed=False)


def test_a_stage_that_arms_share_is_counted_once(staged):
    """Stage 1 is 8 of 12 updates; `rising` shows what one of them takes, for it needs nothing that is trained first."""
    of = {arm.name: arm for arm in staged.arms}
    base, joint = of["baseline"].train.flops / 12, of["rising"].train.flops / 12
    assert 1.4 < joint / base < 1.8
    assert of["multi"].train.flops == pytest.approx(4 * joint, rel=0.05)
    assert of["cbbgca"].teachers.flops == pytest.approx(8 * joint, rel=0.05)
    more = (joint_passes(2, 64, 32, 400, shared) for shared in (False, True))
    ratio = of["unshared"].teachers.flops / of["cbbgca"].teachers.flops
    assert ratio == pytest.approx(next(more) / next(more)) and ratio > 1.1
    assert all(arm.teachers == Cost() for name, arm in of.items() if name not in ("cbbgca", "unshared"))
    stage_2 = {name: arm.train.flops / (4 * base) for name, arm in of.items() if arm.updates == 4}
    assert stage_2.pop("multi") == pytest.approx(joint / base, rel=0.05)
    assert stage_2.pop("labels") == pytest.approx(1.0) and stage_2.pop("parts") == pytest.approx(8 / 3)
    assert stage_2 == pytest.approx(dict.fromkeys(stage_2, 4 / 3)) and len(stage_2) == 9


def test_the_memory_of_networks_that_are_not_there_is_counted(staged):
    """A second decoder that is trained, or a frozen teacher; what two networks share is held once."""
    of = {arm.name: (arm.gpu_gb - 1.0) / 1.2 for arm in staged.arms}
    assert of["multi"] == pytest.approx(of["rising"], rel=0.15) and of["multi"] > 1.3 * of["baseline"]
    assert of["labels"] == pytest.approx(of["baseline"]) and of["baseline"] < of["cbbgca"] < of["multi"]
    model = translation_model(400, width=64, layers=2, heads=2, feedforward=32, max_length=96)
    second = CMLM(model)
    own = {id(one): one.numel() for net in (model, second) for one in net.parameters()}
    assert sum(own.values()) < sum(one.numel() for net in (model, second) for one in net.parameters())
    assert 16 * sum(own.values()) / 1e9 < of["rising"] < 2.2 * of["baseline"]


FINE_TUNED = self_distillation.EXPERIMENTS[0]


@pytest.fixture(scope="module")
def fine_tuned() -> plan.Plan:
    changes = {"train_rows": 40, "validation_rows": 20, "test_rows": 20, "updates": 10, "accumulation": 2}
    settings = resolve([FINE_TUNED], "demo", {**changes, "teacher_size": 4, "members": 3})["classification"]
    return planned(FINE_TUNED, settings, 3, [arm.name for arm in FINE_TUNED.arms], timed=False)


def test_earlier_selves_cost_a_forward_pass_each_and_an_average_of_them_one(fine_tuned):
    base = of_arm(fine_tuned, "baseline").train.flops
    for name, passes in {"sda_1": 4, "sda": 4, "sda_all": 4, "ema": 4, "itself": 4, "sdv": 3 + 4, "members": 3}.items():
        assert of_arm(fine_tuned, name).train.flops / base == pytest.approx(passes / 3, abs=0.01), name
    assert of_arm(fine_tuned, "frozen").train.flops / base == pytest.approx(1 / 3, abs=0.02)  # no way back through it


def test_the_members_of_an_ensemble_are_counted_and_not_trained(fine_tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = resolve([FINE_TUNED], "demo", {"updates": 10, "accumulation": 2, "members": 3})["classification"]
    members = of_arm(planned(FINE_TUNED, settings, 1, ["members"], timed=False), "members")
    assert members.teachers.flops == pytest.approx(2 * members.train.flops) and not list(tmp_path.iterdir())


def test_the_memory_of_earlier_selves_is_counted():
    """Of P parameters: K + 1 sets of 4 bytes, and for an average a sum of 8 and the teacher; for K = 1 no sum."""
    task = FINE_TUNED.task(resolve([FINE_TUNED], "demo", {"train_rows": 40})["classification"])
    model = task.model(1)
    size = sum(one.numel() for one in model.parameters())
    held = {"baseline": 8 + 2 * 4, "sda_1": 3 * 4, "sda": 6 * 4 + 8, "sda_all": 2 * 4 + 8, "sdv": 5 * 4, "ema": 2 * 4}
    for name, wanted in {**held, "itself": 0, "members": 0}.items():
        method = FINE_TUNED.arm(name).method(task.settings.changed(teacher_size=4))
        method.attach(model)
        assert method.held_bytes() == wanted * size, name
    few, many = (
        planned(FINE_TUNED, task.settings.changed(teacher_size=count), 1, ["sda"], timed=False).gpu_gb
        for count in (4, 64)
    )
    assert many - few == pytest.approx(1.2 * 60 * 4 * size / 1e9, rel=0.1)  # what a batch keeps is counted roughly


def test_the_demos_encoder_is_counted_in_its_own_shape_and_in_float32(fine_tuned):
    outline = plan._outline(FINE_TUNED.task, resolve([FINE_TUNED], "demo", {"train_rows": 40})["classification"])
    assert {one.dtype for one in outline.model(1).parameters()} == {torch.float32}  # it is kept in half of that
    assert fine_tuned.width == 128 and of_arm(fine_tuned, "baseline").passes == pytest.approx(20 / 3)


@pytest.mark.usefixtures("few_questions")
def test_an_exam_of_scores_is_counted_as_one_of_classes_is(monkeypatch):
    experiment, costs, facts = distilbert.EXPERIMENTS[0], [], plan.FACTS["data"]
    monkeypatch.setitem(facts, "nyu-mll/glue/rte", facts["nyu-mll/glue/stsb"])
    for source in ("hub:nyu-mll/glue/stsb", "hub:nyu-mll/glue/rte"):
        changes = {"train_rows": 80, "validation_rows": 20, "test_rows": 20, "updates": 2, "teacher_updates": 2,
                   "width": 16, "heads": 2, "layers": 2, "student_layers": 1, "feedforward": 32, "vocab_size": 400,
                   "downstream_rows": 40, "downstream_test_rows": 20, "downstream": [source]}  # fmt: skip
        found = planned(experiment, resolve([experiment], "demo", changes)["masked_lm"], 1, timed=False)
        costs.append(of_arm(found, "baseline").exams.flops)
    assert costs[0] == pytest.approx(costs[1], rel=0.01)  # but for the head, of one output and not of two


def test_exams_and_a_teacher_that_is_trained_once_are_counted():
    experiment = distilbert.EXPERIMENTS[0]
    changes = {"model": "", "train_rows": 80, "validation_rows": 20, "test_rows": 20, "updates": 10,
               "teacher_updates": 30, "width": 16, "heads": 2, "layers": 2, "student_layers": 1, "feedforward": 32,
               "vocab_size": 400, "downstream_rows": 40, "downstream_test_rows": 20}  # fmt: skip
    found = planned(experiment, resolve([experiment], "demo", changes)["masked_lm"], 3, timed=False)
    teacher, base, student = (of_arm(found, name) for name in ("teacher", "baseline", "distilbert"))
    assert teacher.updates == 0 and teacher.train == Cost() and teacher.exams.flops > student.exams.flops / (8 / 3)
    assert student.exams.flops == pytest.approx(base.exams.flops * 8 / 3)  # a second distillation, at 5/3 of one
    assert student.train.flops > base.train.flops
    assert found.shared.flops > 0
    once, thrice = found.minutes("T4", 1), found.minutes("T4", 3)
    a_seed = (thrice - once) / 2
    assert once - a_seed == pytest.approx(found.preparing + found.shared.minutes("T4", found.width))


# --- data and models that are not here ---------------------------------------------------------------------------


def test_a_folder_is_counted_row_by_row(translation_folder):
    settings = translation(data=str(translation_folder), pair="de-en", train_rows=0, validation_rows=0, test_rows=0)
    found = planned(TRANSLATION, settings, 1, ["baseline"], timed=False)
    assert found.arms[0].greedy == 3 * 5 and found.arms[0].searched == 2 * 6
    assert found.assumptions[0].startswith("translation: 40 training rows") and any(
        "counted" in words for words in found.assumptions
    )


def test_a_folder_is_counted_with_another_tokenizer_where_the_models_own_is_not_here(classification_folder):
    experiment = r_drop.EXPERIMENTS[1]
    settings = resolve([experiment], "study", {"data": str(classification_folder), "updates": 5})["classification"]
    small = settings.changed(model="sentence-transformers/all-MiniLM-L6-v2")
    found = planned(experiment, small, 1, ["baseline"], timed=False)
    assert found.width == 384 and found.arms[0].passes == 5 / 2  # forty rows are two batches


def test_a_missing_split_is_made_as_the_corpora_make_it():
    assert plan.FACTS["data"]["stanfordnlp/sst2"]["rows"][2] == 0
    experiment = r_drop.EXPERIMENTS[1]
    settings = resolve([experiment], "study", {"model": "sentence-transformers/all-MiniLM-L6-v2"})["classification"]
    outline = plan._outline(experiment.task, settings.changed(train_rows=0))
    assert {split: size.rows for split, size in outline.split_sizes.items()} == {
        "train": 67_349 - 1000,
        "validation": 1000,
        "test": 872,
    }
    imdb = plan._outline(FINE_TUNED.task, resolve([FINE_TUNED], "paper")["classification"])  # which has a test split
    assert {split: size.rows for split, size in imdb.split_sizes.items()} == {
        "train": 24_000,
        "validation": 1000,
        "test": 25_000,
    }


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        (0, {"data": "hub:owner/unheard"}, "The size of 'owner/unheard' is not known here: give a folder"),
        (1, {"model": "owner/unheard"}, "The shape of 'owner/unheard' is not known here: give its folder"),
    ],
)
def test_what_is_not_known_is_one_sentence(task, changes, words):
    experiment = r_drop.EXPERIMENTS[task]
    settings = resolve([experiment], "study", changes)[experiment.name]
    with pytest.raises(UserError, match=words) as caught:
        planned(experiment, settings, 1, timed=False)
    one_sentence(caught.value)


def test_the_presets_name_nothing_that_is_not_known():
    for name in runner.names():
        for experiment in runner.load(name).EXPERIMENTS:
            for preset in ("small", "study", "paper"):
                s = resolve([experiment], preset)[experiment.name]
                for data in [s.data, *(s.get("downstream") or [])]:
                    address = str(data).removeprefix("order:").removeprefix("hub:")
                    assert address.startswith(("demo", *plan.FACTS["data"])), (name, preset, data)
                assert s.get("model", "") in ("", *plan.FACTS["models"]), (name, preset)


# --- the study presets -------------------------------------------------------------------------------------------

T4_MINUTES, MAIN_GB, GPU_GB = 45, 12, 15


def asked_for(name: str) -> dict[str, list[str]]:
    """The tasks, seeds and arms of a notebook's parameters."""
    node = json.loads(runner.notebook_of(name).read_text(encoding="utf-8"))
    (cell,) = [cell for cell in node["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    lines = ast.parse("".join(cell["source"])).body
    return {line.target.id: ast.literal_eval(line.value) for line in lines}


@pytest.fixture(scope="module")
def studies() -> dict[str, dict[str, plan.Plan]]:
    """For each paper and task the plan of the preset study for three seeds, with the arms of its notebook.

    Where the notebook's parameters name no more than the demo trains live, a study takes all tasks and arms.
    """
    found: dict[str, dict[str, plan.Plan]] = {}
    for name in runner.names():
        asked, paper = asked_for(name), runner.load(name)
        if len(asked["seeds"]) == 1:
            asked |= {"tasks": [one.name for one in paper.EXPERIMENTS], "arms": None}
        for task, settings in resolve(paper.EXPERIMENTS, "study", {}, asked["tasks"]).items():
            experiment = next(one for one in paper.EXPERIMENTS if one.name == task)
            found.setdefault(name, {})[task] = planned(experiment, settings, 3, asked.get("arms"), timed=False)
    return found


@pytest.mark.parametrize("name", runner.names())
def test_a_study_preset_fits_its_time_and_its_memory(studies, name):
    plans = studies[name].values()
    assert sum(one.minutes("T4") for one in plans) <= T4_MINUTES
    assert max(one.main_gb for one in plans) <= MAIN_GB
    assert max(one.gpu_gb for one in plans) <= GPU_GB


def test_the_three_arms_that_decide_on_tutor_kd_fit_three_seeds():
    """Whatever the notebook names: KD, the tutor, and the teacher's own samples."""
    (experiment,) = tutor_kd.EXPERIMENTS
    settings = resolve([experiment], "study")["masked_lm"]
    found = planned(experiment, settings, 3, ["kd", "tutor_kd", "sampled"], timed=False)
    assert found.minutes("T4") <= T4_MINUTES and found.main_gb <= MAIN_GB and found.gpu_gb <= GPU_GB
    assert [arm.updates for arm in found.arms] == [settings.updates] * 3 and settings.warmup <= settings.updates / 5
    assert min(arm.passes for arm in found.arms) >= 1.0 and min(arm.evaluations for arm in found.arms) >= 4
    of = {arm.name: arm.train.flops for arm in found.arms}
    ratio = tutor_kd.passes(settings, "tutor_kd") / tutor_kd.passes(settings, "kd")
    assert of["tutor_kd"] / of["kd"] == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize("name", runner.names())
def test_a_study_preset_does_what_its_paper_needs(studies, name):
    least = {
        "r_drop": 3.0,
        "seer_forcing": 3.0,
        "lssd": 15.0,
        "distilbert": 1.0,
        "intra_distillation": 3.0,
        "cbbgca": 3.0,  # in stage 2 alone
        "self_distillation": 6.0,  # the epochs of its Figure 5
        "tutor_kd": 1.0,
    }[name]
    for task, found in studies[name].items():
        (experiment,) = [one for one in runner.load(name).EXPERIMENTS if one.name == task]
        settings = resolve([experiment], "study")[task]
        trained = [arm for arm in found.arms if arm.updates]
        assert min(arm.passes for arm in trained) >= least, task
        assert settings.warmup <= settings.updates / 5, task
        assert min(arm.evaluations for arm in trained) >= 4, task
        if (
            name == "lssd"
        ):  # a language must get past its best epoch, and its teacher be old enough, long before the end
            assert found.arms[0].evaluations >= 15 and settings.teacher_age <= 2 and settings.epoch_rows <= 20_000
            assert settings.warmup / settings.updates * found.arms[0].evaluations <= 5  # epochs of warm-up
