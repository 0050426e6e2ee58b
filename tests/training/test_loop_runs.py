"""When training looks, when it stops and goes on, what it asks of a method, and how processes share it."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdutils.core.errors import Paused, UserError
from kdutils.core.files import read_json
from kdutils.data.batches import Batches
from kdutils.papers.r_drop.method import RDrop
from kdutils.training.loop import fit
from kdutils.training.method import Method, Step
from tests import tiny
from tests.tiny import HOME, Averaged, InOrder, assert_same_weights, fitted, one_sentence, recipe, timeless, train

# ---------------------------------------------------------------- looking


def test_looking_more_often_does_not_change_the_training():
    def evaluate(net):
        random.random(), np.random.rand(), torch.rand(3)
        net.eval()  # and forgets to put it back
        return tiny.scores(net)

    seldom = train(None, "r_drop", evaluate=evaluate, eval_every=12)
    never = train(None, "r_drop", evaluate=None)
    random.seed(0), np.random.seed(0)
    state = random.getstate(), np.random.get_state()[1].tolist()
    often = train(None, "r_drop", evaluate=evaluate, eval_every=1)
    assert_same_weights(seldom.model, often.model)
    assert_same_weights(never.model, often.model)
    assert state == (random.getstate(), np.random.get_state()[1].tolist())
    assert [r for r in timeless(seldom.history) if r["kind"] == "train"] == [
        r for r in timeless(often.history) if r["kind"] == "train"
    ]


def test_the_model_is_evaluated_in_evaluation_mode_with_the_same_numbers_each_time():
    modes, drawn = [], []

    def evaluate(net):
        modes.append(net.training)
        drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))
        return {"loss": 1.0}

    result = train(None, evaluate=evaluate)
    assert modes == [False] * 6 and len(set(drawn)) == 1
    assert result.model.training


def test_logging_more_often_does_not_change_the_training():
    assert_same_weights(train(None, "r_drop", log_every=1).model, train(None, "r_drop", log_every=12).model)


def test_the_history_on_the_disk_is_the_one_returned(tmp_path):
    result = train(tmp_path, "averaged")
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [(row["update"], row["kind"]) for row in lines] == [
        (u, k) for u in (2, 4, 6, 8, 10, 12) for k in ("train", "eval")
    ]
    assert all(row["seconds"] >= 0 and row["epoch"] >= 0 for row in lines)
    assert {"loss", "kl", "learning_rate"} <= lines[0].keys() and {"loss", "accuracy", "kl"} <= lines[1].keys()


def test_the_loss_is_averaged_since_the_last_line_and_the_terms_are_of_the_last_update():
    class Counting(Method):
        def loss(self, model, batch, counts, step):
            real = super().loss(model, batch, counts, step)["loss"] * 0.0
            return {"loss": real + step.update, "term": torch.tensor(10.0 * step.update)}

    rows = fitted(Counting(), tiny.batches(), updates=7, log_every=3).history
    assert [(row["update"], row["loss"], row["term"]) for row in rows] == [
        (3, 2.0, 30.0),
        (6, 5.0, 60.0),
        (7, 7.0, 70.0),
    ]
    rows = fitted(Counting(), tiny.batches(), updates=2, log_every=2, accumulation=2).history
    assert [(row["loss"], row["term"]) for row in rows] == [(3.0, 40.0)]  # the pieces of an update are added


def test_the_best_weights_are_picked_by_the_monitor(tmp_path):
    def evaluate(wanted):
        values = iter(wanted)
        kept.clear()

        def scores(net):
            kept.append(tiny.weights(net))
            return {"loss": 0.0, "score": next(values)}

        return scores

    kept = []
    for number, (wanted, larger, best) in enumerate(
        [
            ([3.0, 1.0, 2.0, 1.0, 4.0, 5.0], False, 1),
            ([3.0, 1.0, 2.0, 9.0, 4.0, 9.0], True, 3),
            ([math.nan, 5.0, 6.0, 7.0, 8.0, math.nan], False, 1),
        ]
    ):
        folder = tmp_path / str(number)
        result = train(folder, evaluate=evaluate(wanted), monitor="score", larger_is_better=larger)
        assert result.best["update"] == 2 * (best + 1) and result.best["score"] == wanted[best]
        for name, tensor in result.model.state_dict().items():
            assert torch.equal(tensor, kept[best][name])
        assert [path.name for path in folder.glob("best-*")] == [result.best["file"]]


def test_without_a_folder_the_last_weights_stay(tmp_path):
    result = train(None, evaluate=lambda net: {"loss": 1.0})
    assert result.best["update"] == 2
    assert_same_weights(result.model, train(None, evaluate=None).model)


def test_best_weights_are_kept_as_long_as_a_checkpoint_needs_them(tmp_path):
    losses = iter([5.0, 4.0, 9.0, 3.0, 9.0, 9.0])
    seen = []

    def evaluate(net):
        seen.append(
            (
                sorted(p.name[5:13] for p in tmp_path.glob("best-*")),
                sorted(p.name[7:] for p in tmp_path.glob("checkpoints/*")),
            )
        )
        return {"loss": next(losses)}

    train(tmp_path, evaluate=evaluate)  # evaluations at 2, 4, ..., checkpoints at 3, 6, 9, 12
    assert seen[2] == (["00000002", "00000004"], ["00000003"])
    assert seen[4] == (["00000004", "00000008"], ["00000006", "00000009"])
    assert [p.name for p in tmp_path.glob("best-*")] == ["best-00000008.safetensors"]


def test_a_score_that_cannot_be_monitored_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'accuracy'") as caught:
        train(tmp_path, monitor="acuracy")
    one_sentence(caught.value)


# ---------------------------------------------------------------- stopping


class Exploding(Method):
    def __init__(self, at: int, value: float = math.nan):
        super().__init__()
        self.at, self.value = at, value

    def loss(self, model, batch, counts, step):
        terms = super().loss(model, batch, counts, step)
        return {"loss": terms["loss"] * (self.value if step.update == self.at else 1.0)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_one_sentence_with_the_remedy(value, tmp_path):
    with pytest.raises(UserError, match="no longer a number at update 6") as caught:
        train(tmp_path, Exploding(5, value))
    text = one_sentence(caught.value)
    assert "learning_rate" in text and "clip" in text
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert {row["update"] for row in rows} == {2, 4}


class Spoiling(Method):
    """Its loss is always a number; after one update the weights are not."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    @torch.no_grad()
    def after_update(self, model, step):
        if step.update == self.at:
            for parameter in model.parameters():
                parameter.fill_(math.nan)


def sound(folder) -> list[str]:
    """The kept checkpoints and best weights, all of whose weights must be numbers."""
    files = [*folder.glob("checkpoints/*/model.safetensors"), *folder.glob("best-*")]
    assert all(tensor.isfinite().all() for file in files for tensor in load_file(file).values())
    return sorted(path.name for path in folder.glob("checkpoints/*"))


@pytest.mark.parametrize("method", [Exploding, Spoiling])
@pytest.mark.parametrize(
    ("at", "changes", "kept"),
    [
        (4, {"eval_every": 2, "patience": 3, "log_every": 100, "checkpoint_every": 100}, []),  # would end "trained"
        (12, {"log_every": 100, "eval_every": 100}, ["update-00000006", "update-00000009"]),  # in the last update
        (7, {"log_every": 100, "eval_every": 100}, ["update-00000003", "update-00000006"]),  # between two log lines
        (7, {"log_every": 100, "eval_every": 8, "checkpoint_every": 1}, ["update-00000005", "update-00000006"]),
    ],
)
def test_what_is_no_number_is_neither_a_result_nor_kept(method, at, changes, kept, tmp_path):
    with pytest.raises(UserError, match="no longer a number") as caught:
        train(tmp_path, method(at), evaluate=lambda net: {"loss": 1.0}, **changes)
    one_sentence(caught.value)
    assert sound(tmp_path) == kept
    with pytest.raises(UserError, match="no longer a number"):  # nor without a folder and an evaluation
        train(None, method(at), evaluate=None, **changes)


def test_patience_stops_and_the_best_weights_are_there(tmp_path):
    losses = iter([5.0, 4.0, 4.0, 4.5, 4.1, 1.0])
    result = train(tmp_path, evaluate=lambda net: {"loss": next(losses)}, patience=3)
    assert result.updates == 10 and result.best["update"] == 4
    again = train(tmp_path, evaluate=lambda net: {"loss": 4.1}, patience=3)
    assert again.updates == 10 and again.best == result.best
    assert_same_weights(result.model, again.model)


def test_a_pause_is_clean_and_the_run_goes_on_to_the_same_numbers(tmp_path):
    whole = train(tmp_path / "whole", "averaged")
    pauses, result = 0, None
    while result is None:
        try:
            result = train(tmp_path / "paused", "averaged", until=time.monotonic())
        except Paused as pause:
            pauses += 1
            text = one_sentence(pause)
            assert f"after update {pauses} of 12" in text and "run the same again to go on" in text
    assert pauses == 11 and result.resumed_at == 11  # each call got one update further
    assert timeless(result.history) == timeless(whole.history) and result.best == whole.best
    assert_same_weights(result.model, whole.model)
    assert result.seconds == pytest.approx(result.history[-1]["seconds"], abs=1e-3)


def test_a_pause_needs_a_folder():
    with pytest.raises(UserError, match="needs a folder") as caught:
        train(None, until=time.monotonic() + 60)
    one_sentence(caught.value)


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(tmp_path, "r_drop")

    class Untouchable(RDrop):
        def loss(self, *arguments):
            raise AssertionError("trained again")

    again = train(tmp_path, Untouchable(alpha=2.0, k=2, epsilon=0.1))
    assert again.history == first.history and again.updates == again.resumed_at == 12
    assert_same_weights(first.model, again.model)


def test_a_checkpoint_of_other_settings_is_refused_and_left_alone(tmp_path):
    train(tmp_path, identity="one")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match="other settings") as caught:
        train(tmp_path, identity="another")
    assert str(tmp_path) in one_sentence(caught.value)
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    train(tmp_path, identity="one")


def test_a_full_disk_while_training_is_one_sentence_and_the_run_goes_on_afterwards(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    real, calls = os.replace, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) == 12:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="disk is full") as caught:
            train(tmp_path / "full")
    one_sentence(caught.value)
    result = train(tmp_path / "full")
    assert 0 < result.resumed_at < 12
    assert timeless(result.history) == timeless(whole.history)
    assert_same_weights(whole.model, result.model)


def test_a_file_in_the_way_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file stands in its way") as caught:
        train(tmp_path / "file" / "run")
    one_sentence(caught.value)


# ---------------------------------------------------------------- the hooks of a method


def test_the_hooks_are_called_in_order_with_the_step():
    calls = []

    class Spy(Method):
        def attach(self, model):
            calls.append(("attach", next(model.parameters()).device.type))

        def modules(self):
            calls.append(("modules",))
            return {}

        def count(self, batch):
            calls.append(("count",))
            return super().count(batch)

        def loss(self, model, batch, counts, step):
            calls.append(("loss", step, counts["targets"]))
            return super().loss(model, batch, counts, step)

        def after_update(self, model, step):
            calls.append(("after_update", step))

        def after_evaluation(self, model, scores, step):
            calls.append(("after_evaluation", step, scores["loss"]))

    plan = InOrder([0, 1], [2, 3], [4, 5])
    spy_recipe = recipe(updates=4, accumulation=2, log_every=3, eval_every=3)
    fit(tiny.model(), Spy(), plan, spy_recipe, evaluate=lambda net: {"loss": 9})
    names = [call[0] for call in calls]
    update = ["count", "count", "loss", "loss", "after_update"]
    assert names == ["attach", "modules", *update, *update, *update, "after_evaluation", *update, "after_evaluation"]
    steps = [call[1] for call in calls if call[0] == "after_update"]
    assert [(one.update, one.updates, one.logged) for one in steps] == [
        (1, 4, False),
        (2, 4, False),
        (3, 4, True),
        (4, 4, True),
    ]
    assert all(isinstance(one, Step) for one in steps)
    evaluated = [call for call in calls if call[0] == "after_evaluation"]
    assert [(call[1].update, call[2]) for call in evaluated] == [(3, 9.0), (4, 9.0)]
    both = [sum(plan.batch(0, i)["targets"].numel() for i in pair) for pair in [(0, 1), (2, 0), (1, 2), (0, 1)]]
    assert [call[2] for call in calls if call[0] == "loss"] == [n for n in both for _ in range(2)]


def test_a_method_must_give_back_what_it_changes_in_state(tmp_path):
    """The state of the toy method really is needed: without it, a resumed run ends elsewhere."""

    class Forgetful(Averaged):
        def state(self):
            return {}

        def restore(self, state):
            assert state == {}

    whole = train(None, "averaged")
    for _ in range(3):
        with pytest.raises(Paused):
            train(tmp_path, Forgetful(), until=time.monotonic())
    assert timeless(train(tmp_path, Forgetful()).history) != timeless(whole.history)


# ---------------------------------------------------------------- two processes

SCRIPT = """
import sys, time
from tests import tiny
from kdutils.core.errors import Paused

rank = tiny.os.environ["RANK"]
# only one process finds that the time is over; both must stop after the same update
until = time.monotonic() + (0 if rank == "1" else 1000)
changes = {"dropout": 0.0, "updates": 4, "evaluate": lambda net: {"loss": 0.0}}
for method, accumulation in (("r_drop", 4), ("averaged", 4), ("r_drop", 1), ("averaged", 3), ("seer_forcing", 1)):
    changes["accumulation"] = accumulation
    for name in ("whole", "paused"):
        folder = f"{sys.argv[1]}/{method}-{accumulation}-{name}"
        if name == "paused":
            try:
                tiny.train(folder, method, until=until, **changes)
            except Paused:
                pass
        fitted = tiny.train(folder, method, **changes)
        tiny.write_json(f"{folder}-{rank}.json", {
            "losses": [row["loss"] for row in fitted.history if row["kind"] == "train"],
            "resumed_at": fitted.resumed_at,
            "weights": {name: tensor.tolist() for name, tensor in fitted.model.state_dict().items()},
            "beside": {n: p.tolist() for m in fitted.method.modules().values() for n, p in m.named_parameters()},
        })
"""


def launch(script, *arguments) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script), *arguments], env=environment, cwd=HOME, capture_output=True, text=True, timeout=240
    )
    if any(word in done.stderr for word in ("RendezvousConnectionError", "Gloo connect", "Address already in use")):
        pytest.skip("Two processes cannot talk to each other here.")
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path):
    """Also where an update has fewer batches than there are processes, or they do not go round."""
    (tmp_path / "script.py").write_text(SCRIPT)
    launch(tmp_path / "script.py", str(tmp_path))
    for method, accumulation in (("r_drop", 4), ("averaged", 4), ("r_drop", 1), ("averaged", 3), ("seer_forcing", 1)):
        # with scores that never improve, the first evaluation is the best, and a folder brings its weights back
        changes = {"dropout": 0.0, "updates": 4, "evaluate": lambda net: {"loss": 0.0}}
        one = train(tmp_path / f"{method}-{accumulation}", method, accumulation=accumulation, **changes)
        losses = [row["loss"] for row in one.history if row["kind"] == "train"]
        beside = {n: p for module in one.method.modules().values() for n, p in module.named_parameters()}
        for name, rank in itertools.product(("whole", "paused"), (0, 1)):
            found = read_json(tmp_path / f"{method}-{accumulation}-{name}-{rank}.json")
            assert found["resumed_at"] == (1 if name == "paused" else 0)
            assert found["losses"] == pytest.approx(losses, rel=1e-5)
            assert found["weights"].keys() == one.model.state_dict().keys() and found["beside"].keys() == beside.keys()
            for key, tensor in [*one.model.state_dict().items(), *beside.items()]:
                # the bias of the keys has no gradient but rounding errors, of which AdamW makes steps
                loose = 1e-3 if accumulation % 2 and key.endswith("k_proj.bias") else 1e-5
                ours = torch.tensor((found["weights"] | found["beside"])[key])
                torch.testing.assert_close(ours, tensor.detach(), rtol=1e-4, atol=loose)


def test_batches_of_the_house_are_a_plan():
    assert isinstance(tiny.batches(), Batches)
    assert len(tiny.batches()) > 3
