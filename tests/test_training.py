"""The loop that every method trains in: pieces and wholes, precision, when it looks, when it stops, what it says."""

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
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdutils.batches import Batches, collate_translation
from kdutils.errors import Paused, UserError
from kdutils.files import read_json
from kdutils.methods import Method, Moment
from kdutils.models import counted_logits
from kdutils.papers.r_drop import RDrop
from kdutils.training import SCHEDULES, Recipe, choose_precision, fit
from tests import tiny
from tests.tiny import HOME, Averaged, assert_same_weights, one_sentence, recipe, timeless, train


class InOrder:
    """Batches of given examples in the order given: a stream whose pieces can be glued."""

    def __init__(self, *groups: list[int]) -> None:
        self.groups, self.rows, self.collate = groups, tiny.examples(), collate_translation()

    def plan(self, epoch):
        return list(self.groups)

    def batch(self, epoch, index):
        return self.collate([self.rows[i] for i in self.groups[index]])


@pytest.fixture(autouse=True)
def single_precision():
    yield
    torch.set_default_dtype(torch.float32)


def fitted(method, plan, dropout=0.0, dtype=torch.float32, **changes):
    net = tiny.model(dropout).to(dtype)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        result = fit(net, method, plan, recipe(**{"accumulation": 1, **changes}))
    result.model = net
    return result


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize("method", [Method, lambda: Method(0.1, "others"), lambda: RDrop(3.0, epsilon=0.1), Averaged])
@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (1, 3, 20, 8)])
def test_four_pieces_are_the_same_update_as_the_whole(method, sizes):
    """Also where the pieces count different numbers of targets: a mean of means would differ."""
    ends = [sum(sizes[: i + 1]) for i in range(4)]
    pieces = InOrder(*(list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)))
    whole = InOrder(list(range(32)))
    # in float64, because AdamW makes steps of the rounding errors where the gradient is 0 (a bias of the keys)
    torch.set_default_dtype(torch.float64)
    one = fitted(method(), whole, updates=3, log_every=1, dtype=torch.float64)
    four = fitted(method(), pieces, updates=3, log_every=1, dtype=torch.float64, accumulation=4)
    assert_same_weights(one.model, four.model, atol=1e-7)
    for a, b in zip(one.history, four.history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a.get("kl", 0.0) == pytest.approx(b.get("kl", 0.0), rel=1e-3, abs=1e-6)


def test_the_gradient_of_the_pieces_is_that_of_the_whole(monkeypatch):
    gradients = []

    def look(optimizer, *_):
        gradients.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    handle = register_optimizer_step_pre_hook(look)
    try:
        fitted(RDrop(3.0), InOrder(list(range(32))), updates=1, clip=0.0)
        fitted(RDrop(3.0), InOrder([0], [1, 2, 3], list(range(4, 32))), updates=1, clip=0.0, accumulation=3)
    finally:
        handle.remove()
    for one, three in zip(*gradients, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)


def test_an_update_may_reach_over_the_end_of_an_epoch():
    plan = InOrder([0, 1], [2, 3], [4, 5])
    taken = []
    plan.batch = lambda epoch, index: taken.append((epoch, index)) or InOrder.batch(plan, epoch, index)
    fitted(Method(), plan, updates=2, accumulation=4)
    assert taken == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_batches_that_count_nothing_change_nothing_and_break_nothing():
    class Empty(InOrder):
        def batch(self, epoch, index):
            batch = super().batch(epoch, index)
            if index in self.silent:
                batch |= {"positions": batch["positions"][:0], "targets": batch["targets"][:0]}
            return batch

    for method in (Method, lambda: RDrop(2.0)):
        half, full = Empty([0, 1], [2, 3, 4]), InOrder([0, 1])
        half.silent = {1}
        with_silence = fitted(method(), half, updates=3, accumulation=2, log_every=1)
        without = fitted(method(), full, updates=3, log_every=1)
        assert_same_weights(with_silence.model, without.model, atol=1e-6)
        half.silent = {0, 1}
        still = fitted(method(), half, updates=2, weight_decay=0.0, log_every=1)
        assert_same_weights(still.model, tiny.model(0.0))
        assert [row["loss"] for row in still.history] == [0.0, 0.0]


# ---------------------------------------------------------------- precision


class Watching(Method):
    """Plain training that notes what reaches the loss."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def loss(self, model, batch, counts, moment):
        logits = counted_logits(model, batch)
        self.seen.add(logits.dtype)
        self.weights = {p.dtype for p in model.parameters()}
        total = torch.nn.functional.cross_entropy(logits.float(), batch["targets"], reduction="sum")
        return {"loss": total / counts["targets"]}


def test_bf16_reaches_the_loss_without_a_copy_and_trains():
    watching = Watching()
    result = fitted(watching, tiny.batches(), updates=30, precision="bf16", log_every=10)
    assert watching.seen == {torch.bfloat16} and watching.weights == {torch.float32}
    losses = [row["loss"] for row in result.history]
    assert losses[-1] < losses[0] - 0.3


def test_fp32_after_bf16_and_the_other_way_round_in_one_process():
    before = fitted(Method(), tiny.batches(), updates=3)
    half = fitted(Method(), tiny.batches(), updates=3, precision="bf16")
    after = fitted(Method(), tiny.batches(), updates=3)
    assert_same_weights(before.model, after.model)
    with pytest.raises(AssertionError):
        assert_same_weights(before.model, half.model)
    watching = Watching()
    fit(half.model, watching, tiny.batches(), recipe(updates=2))  # the very model that was trained in bf16
    assert watching.seen == {torch.float32}


def test_evaluation_uses_the_precision_of_the_training():
    seen = []

    def evaluate(net):
        batch = tiny.batches().batch(0, 0)
        seen.append(counted_logits(net, batch).dtype)
        return {"loss": 1.0}

    for precision in ("bf16", "fp32"):
        fit(tiny.model(), Method(), tiny.batches(), recipe(updates=2, precision=precision), evaluate)
    assert seen == [torch.bfloat16, torch.float32]


def test_the_precision_is_chosen_by_the_device_and_says_why():
    assert choose_precision("cpu") == ("no", choose_precision("cpu")[1])
    assert "no GPU" in choose_precision("cpu")[1]
    assert choose_precision("cpu", "bf16")[0] == "bf16" and choose_precision("cpu", "fp32")[0] == "no"
    with pytest.raises(UserError, match="Did you mean 'bf16'"):
        choose_precision("cpu", "bf61")


def test_fp16_without_a_gpu_trains_or_is_one_sentence():
    try:
        result = fitted(Method(), tiny.batches(), updates=2, precision="fp16", log_every=1)
    except UserError as error:
        assert "cannot train as asked" in one_sentence(error)
    else:
        assert math.isfinite(result.history[-1]["loss"])


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "linaer"}, "Did you mean 'linear'"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"updates": 0}, "updates is 0"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"log_every": -1}, "log_every is -1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"clip": -1.0}, "clip is -1"),
        ({"warmup": -1}, "warmup is -1"),
    ],
)
def test_an_impossible_recipe_is_refused_at_once(change, words):
    with pytest.raises(UserError, match=words) as caught:
        Recipe(**change)
    one_sentence(caught.value)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_warms_up_to_the_rate_and_starts_there(schedule):
    result = fitted(Method(), tiny.batches(), updates=8, warmup=4, log_every=1, schedule=schedule)
    rates = [row["learning_rate"] for row in result.history]  # the rate that the next update will take
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert all(a >= b for a, b in zip(rates[3:], rates[4:], strict=False))
    assert rates[-1] == pytest.approx(
        {"linear": 0.0, "cosine": 0.0, "constant_with_warmup": 0.01}.get(schedule, 0.01 / 2**0.5)
    )


def test_the_gradient_is_clipped_and_only_if_asked():
    norms = {}
    for clip in (0.0, 0.05):

        def look(optimizer, *_, clip=clip):
            grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
            norms.setdefault(clip, []).append(torch.stack([g.norm() for g in grads]).norm().item())

        handle = register_optimizer_step_pre_hook(look)
        fitted(Method(), tiny.batches(), updates=3, clip=clip)
        handle.remove()
    assert min(norms[0.0]) > 0.1
    assert norms[0.05] == pytest.approx([0.05] * 3, rel=1e-3)


def test_only_matrices_decay():
    class Nothing(Method):
        def loss(self, model, batch, counts, moment):
            return {"loss": super().loss(model, batch, counts, moment)["loss"] * 0.0}

    net, start = tiny.model(0.0), tiny.model(0.0)
    fit(net, Nothing(), tiny.batches(), recipe(updates=3, warmup=0, weight_decay=0.5, schedule="constant_with_warmup"))
    for (name, new), (_, old) in zip(net.named_parameters(), start.named_parameters(), strict=True):
        expected = old * (1 - 0.01 * 0.5) ** 3 if old.ndim > 1 else old
        torch.testing.assert_close(new, expected, msg=name)


def test_frozen_parameters_stay_and_shared_ones_are_trained_once():
    class Sharing(Method):
        def attach(self, model):
            self.second = nn.Linear(16, tiny.VOCABULARY, bias=False)
            self.second.weight = model.lm_head.weight

        def modules(self):
            return {"second": self.second}

    net = tiny.model(0.0)
    frozen = net.model.encoder.layers[0].fc1.weight.requires_grad_(False).clone()
    fit(net, Sharing(), tiny.batches(), recipe(updates=3))
    assert torch.equal(net.model.encoder.layers[0].fc1.weight, frozen)
    plain = tiny.model(0.0)
    plain.model.encoder.layers[0].fc1.weight.requires_grad_(False)
    fit(plain, Method(), tiny.batches(), recipe(updates=3))
    assert_same_weights(net, plain)


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
        def loss(self, model, batch, counts, moment):
            real = super().loss(model, batch, counts, moment)["loss"] * 0.0
            return {"loss": real + moment.update, "term": torch.tensor(10.0 * moment.update)}

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

    def loss(self, model, batch, counts, moment):
        terms = super().loss(model, batch, counts, moment)
        return {"loss": terms["loss"] * (self.value if moment.update == self.at else 1.0)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_one_sentence_with_the_remedy(value, tmp_path):
    with pytest.raises(UserError, match="no longer a number at update 6") as caught:
        train(tmp_path, Exploding(5, value))
    text = one_sentence(caught.value)
    assert "learning_rate" in text and "clip" in text
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert {row["update"] for row in rows} == {2, 4}


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


def test_the_hooks_are_called_in_order_with_the_moment():
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

        def loss(self, model, batch, counts, moment):
            calls.append(("loss", moment, counts["targets"]))
            return super().loss(model, batch, counts, moment)

        def after_update(self, model, moment):
            calls.append(("after_update", moment))

        def after_evaluation(self, model, scores, moment):
            calls.append(("after_evaluation", moment, scores["loss"]))

    plan = InOrder([0, 1], [2, 3], [4, 5])
    spy_recipe = recipe(updates=4, accumulation=2, log_every=3, eval_every=3)
    fit(tiny.model(), Spy(), plan, spy_recipe, evaluate=lambda net: {"loss": 9})
    names = [call[0] for call in calls]
    update = ["count", "count", "loss", "loss", "after_update"]
    assert names == ["attach", "modules", *update, *update, *update, "after_evaluation", *update, "after_evaluation"]
    moments = [call[1] for call in calls if call[0] == "after_update"]
    assert [(m.update, m.updates, m.logged) for m in moments] == [
        (1, 4, False),
        (2, 4, False),
        (3, 4, True),
        (4, 4, True),
    ]
    assert all(isinstance(m, Moment) for m in moments)
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
from kdutils.errors import Paused

rank = tiny.os.environ["RANK"]
# only one process finds that the time is over; both must stop after the same update
until = time.monotonic() + (0 if rank == "1" else 1000)
changes = {"dropout": 0.0, "updates": 4, "accumulation": 4, "evaluate": lambda net: {"loss": 0.0}}
for method in ("r_drop", "averaged"):
    for name in ("whole", "paused"):
        folder = f"{sys.argv[1]}/{method}-{name}"
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
            "beside": [p.tolist() for m in fitted.method.modules().values() for p in m.parameters()],
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
    (tmp_path / "script.py").write_text(SCRIPT)
    launch(tmp_path / "script.py", str(tmp_path))
    for method in ("r_drop", "averaged"):
        # with scores that never improve, the first evaluation is the best, and a folder brings its weights back
        changes = {"dropout": 0.0, "updates": 4, "accumulation": 4, "evaluate": lambda net: {"loss": 0.0}}
        one = train(tmp_path / method, method, **changes)
        losses = [row["loss"] for row in one.history if row["kind"] == "train"]
        beside = [p for module in one.method.modules().values() for p in module.parameters()]
        for name, rank in itertools.product(("whole", "paused"), (0, 1)):
            found = read_json(tmp_path / f"{method}-{name}-{rank}.json")
            assert found["resumed_at"] == (1 if name == "paused" else 0)
            assert found["losses"] == pytest.approx(losses, rel=1e-5)
            for key, tensor in one.model.state_dict().items():
                torch.testing.assert_close(torch.tensor(found["weights"][key]), tensor, rtol=1e-4, atol=1e-5)
            for ours, theirs in zip(found["beside"], beside, strict=True):
                torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-4, atol=1e-5)


def test_accumulation_must_suit_the_processes(monkeypatch):
    from kdutils import training

    real = training._accelerator

    def pretended(*arguments):
        accelerator = real(*arguments)
        monkeypatch.setattr(type(accelerator), "num_processes", 3)
        return accelerator

    monkeypatch.setattr(training, "_accelerator", pretended)
    with pytest.raises(UserError, match="multiple of 3") as caught:
        fit(tiny.model(), Method(), tiny.batches(), recipe(accumulation=4))
    one_sentence(caught.value)


def test_batches_of_the_house_are_a_plan():
    assert isinstance(tiny.batches(), Batches)
    assert len(tiny.batches()) > 3
