"""Arms that rest on arms: who is trained first, whose model is given, where a student starts, what it all costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdutils.core.errors import Paused, UserError
from kdutils.losses.distillation import soft_target_loss
from kdutils.models.forward import counted_logits
from kdutils.papers.r_drop.experiment import TRANSLATION
from kdutils.study import kept
from kdutils.study.experiment import Arm, Experiment, Trial, fresh_start, plain, resolve, same_start
from kdutils.study.plan import planned
from kdutils.study.running import folder, load_model, run
from kdutils.tasks.translation import Translation
from kdutils.training.method import Method
from tests import tiny
from tests.tiny import SMALL, assert_same_weights, one_sentence


class Taught(Method):
    """The divergence from the teacher alone; it remembers every teacher that it was given."""

    passes = 4 / 3
    teachers: list = []

    def loss(self, model, batch, counts, step):
        if all(self.teacher is not one for one in self.teachers):
            self.teachers.append(self.teacher)
        with torch.no_grad():
            teacher = counted_logits(self.teacher, batch)
        total = soft_target_loss(counted_logits(model, batch), teacher, reduction="sum")
        return {"loss": total / counts["targets"]}


def taught(settings) -> Taught:
    return Taught()


def generation(name: str, teacher: str, stream: int, **more) -> Arm:
    return Arm(name, name, taught, start=fresh_start(stream), teacher=lambda t: t.model_of(teacher), needs=(teacher,),
               **more)  # fmt: skip


ARMS = (
    Arm("baseline", "baseline", plain),
    generation("second", "baseline", 1),
    generation("third", "second", 2, optional=True),
    replace(generation("both", "third", 3, optional=True), needs=("second", "third")),
)
BORN_AGAIN = Experiment("born_again", Translation, TRANSLATION, ARMS)
SETTINGS = resolve([BORN_AGAIN], "demo", {**SMALL, "max_tokens": 200, "vocab_size": 400})["translation"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    run(BORN_AGAIN, SETTINGS, [1], place, ["both"])
    return place


def timeless(record: dict) -> dict:
    return {
        name: (tiny.timeless(arm["history"]), {k: v for k, v in arm["metrics"].items() if k.startswith("test_")})
        for name, arm in record["arms"].items()
    }


# ---------------------------------------------------------------- who is trained, in which order


def test_an_arm_brings_in_those_that_it_needs_in_the_order_of_the_experiment():
    assert [arm.name for arm in BORN_AGAIN.chosen(["third"])] == ["baseline", "second", "third"]
    assert [arm.name for arm in BORN_AGAIN.chosen(["second"])] == ["baseline", "second"]
    assert [arm.name for arm in BORN_AGAIN.chosen()] == ["baseline", "second"]
    assert [arm.name for arm in BORN_AGAIN.chosen(["baseline"])] == ["baseline"]


def test_one_that_is_not_optional_brings_in_an_ablation():
    arms = (ARMS[0], replace(ARMS[1], optional=True), replace(ARMS[2], optional=False))
    assert [arm.name for arm in replace(BORN_AGAIN, arms=arms).chosen()] == ["baseline", "second", "third"]


def test_who_is_brought_in_is_said(runs, capsys):
    run(BORN_AGAIN, SETTINGS, [1], runs, ["third"])
    said = capsys.readouterr().out
    assert "translation: with baseline, which another arm needs" in said
    assert "translation: with second, which another arm needs" in said and "with third" not in said
    run(BORN_AGAIN, SETTINGS, [1], runs, ["baseline", "second"])
    assert "with" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "arms",
    [
        (generation("second", "basline", 1),),
        (generation("second", "second", 1),),
        (generation("a", "b", 1), generation("b", "a", 2)),
        (ARMS[1], ARMS[0]),
    ],
    ids=["unknown", "itself", "a circle", "behind it"],
)
def test_what_is_needed_must_stand_before(arms):
    with pytest.raises(UserError, match="must stand before it") as caught:
        Experiment("born_again", Translation, TRANSLATION, arms)
    one_sentence(caught.value)


# ---------------------------------------------------------------- where a student starts


def test_an_arm_with_needs_says_where_it_starts():
    with pytest.raises(UserError, match=r"start=fresh_start\(\)") as caught:
        Arm("second", "second", taught, teacher=lambda trial: trial.model_of("baseline"), needs=("baseline",))
    one_sentence(caught.value)
    assert Arm("baseline", "baseline", plain).start is same_start
    assert Arm("second", "second", taught, start=same_start, needs=("baseline",)).start is same_start


def test_a_fresh_start_is_another_one_which_the_seed_decides():
    task = Translation(SETTINGS)
    starts = [same_start, fresh_start(), fresh_start(2)]
    one, two = ([start(Trial(task, "any", s, Path(), Path())) for start in starts] for s in (1, 2))
    first = [net.get_input_embeddings().weight for net in (*one, *two)]
    assert all(not torch.equal(a, b) for n, a in enumerate(first) for b in first[:n])
    assert_same_weights(one[1], fresh_start(1)(Trial(task, "other", 1, Path(), Path())))
    assert_same_weights(one[0], task.model(1))


# ---------------------------------------------------------------- whose model it is


def test_every_generation_is_taught_by_the_finished_one_before_it(tmp_path, runs):
    Taught.teachers.clear()
    run(BORN_AGAIN, SETTINGS, [1], tmp_path, ["third"])
    assert len(Taught.teachers) == 2  # none of them the network of another generation
    for teacher, arm in zip(Taught.teachers, ("baseline", "second"), strict=True):
        assert_same_weights(teacher, load_model(BORN_AGAIN, SETTINGS, arm, 1, tmp_path))
        assert not any(p.requires_grad for p in teacher.parameters())


def test_a_model_that_was_not_asked_for_beforehand_is_refused(runs):
    place = folder(BORN_AGAIN, SETTINGS, runs) / "seed-1" / "second"
    trial = Trial(Translation(SETTINGS), "second", 1, place, runs, needs=("baseline", "lost"))
    assert not trial.model_of("baseline").training
    with pytest.raises(UserError, match=r'give it needs=\("third",\)') as caught:
        trial.model_of("third")
    one_sentence(caught.value)
    with pytest.raises(UserError, match="run the arm 'lost' first") as caught:
        trial.model_of("lost")
    one_sentence(caught.value)


def test_a_teacher_whose_file_was_changed_is_refused(tmp_path):
    run(BORN_AGAIN, SETTINGS, [1], tmp_path, ["baseline"])
    weights = folder(BORN_AGAIN, SETTINGS, tmp_path) / "seed-1/baseline/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="missing or damaged") as caught:
        run(BORN_AGAIN, SETTINGS, [1], tmp_path, ["second"])
    one_sentence(caught.value)


def test_an_interrupted_chain_goes_on_and_ends_with_the_same_numbers(runs, tmp_path):
    pauses, records = 0, None
    while records is None:
        try:
            records = run(BORN_AGAIN, SETTINGS, [1], tmp_path, ["second"], max_minutes=1e-9)
        except Paused:
            pauses += 1
    assert pauses == 10  # every call takes one update of one arm
    whole = timeless(run(BORN_AGAIN, SETTINGS, [1], runs, ["both"])[0])
    assert timeless(records[0]) == {name: whole[name] for name in ("baseline", "second")}


# ---------------------------------------------------------------- what it costs


def test_a_record_says_what_was_spent_before(runs):
    place = folder(BORN_AGAIN, SETTINGS, runs) / "seed-1"
    found = {name: kept.result(place / name)["metrics"] for name in ("baseline", "second", "third", "both")}
    assert "updates_before" not in found["baseline"] and "minutes_before" not in found["baseline"]
    assert [found[name]["updates_before"] for name in ("second", "third")] == [6, 12]
    assert found["both"]["updates_before"] == 18  # what two others need is spent once
    assert found["third"]["minutes_before"] == found["baseline"]["minutes"] + found["second"]["minutes"]


def test_a_plan_counts_what_is_trained_first():
    found = planned(BORN_AGAIN, SETTINGS, 1, ["third"], timed=False)
    assert [arm.name for arm in found.arms] == ["baseline", "second", "third"]
    base, second, third = found.arms
    assert base.updates == second.updates == third.updates == 6
    assert second.train.flops / base.train.flops == pytest.approx(4 / 3, abs=0.02)  # the teacher is passed forward
    assert third.train.flops == pytest.approx(second.train.flops)
    assert second.gpu_gb > base.gpu_gb
    assert "third rests on second, so that their rows are part of its cost." in found.assumptions


def test_a_plan_refuses_what_a_run_would_refuse():
    arms = (ARMS[0], replace(ARMS[1], teacher=lambda trial: trial.model_of("third")))
    with pytest.raises(UserError, match="give it needs="):
        planned(replace(BORN_AGAIN, arms=arms), SETTINGS, 1, timed=False)
