"""The update that every method trains by: pieces and wholes, precision, and what a recipe may say."""

from __future__ import annotations

import contextlib
import math
import time
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdutils.core.errors import Paused, UserError
from kdutils.core.machine import choose_precision
from kdutils.data.batches import Batches, collate_classification
from kdutils.models.build import classifier, masked_lm, translation_model
from kdutils.models.forward import counted_logits
from kdutils.papers.r_drop.method import RDrop
from kdutils.training.checkpoints import seeded
from kdutils.training.loop import SCHEDULES, Recipe, _groups, fit
from kdutils.training.method import Method
from tests import tiny
from tests.tiny import Averaged, InOrder, assert_same_weights, fitted, one_sentence, recipe


@pytest.fixture(autouse=True)
def single_precision():
    yield
    torch.set_default_dtype(torch.float32)


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

    def loss(self, model, batch, counts, step):
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


def test_fp16_without_a_gpu_would_be_float32_and_is_refused():
    with pytest.raises(UserError, match="precision is fp16, which needs a GPU") as caught:
        recipe(precision="fp16")
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["AMX", "AVX512-BF16"])
def test_a_cpu_with_bfloat16_in_hardware_takes_it_for_wide_models(name, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: name == "AMX")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: name != "AMX")
    for width, expected in [(0, "no"), (64, "no"), (255, "no"), (256, "bf16"), (768, "bf16")]:
        chosen, why = choose_precision("cpu", width=width)
        assert chosen == expected and "no GPU" in why and f"in hardware ({name})" in why
        assert why.startswith("bfloat16: " if expected == "bf16" else "float32: ")
    assert choose_precision("cpu", "fp32", width=768)[0] == "no"
    assert choose_precision("mps", width=768)[0] == "no"


def test_a_cpu_without_it_computes_in_float32_however_wide_the_model(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported")  # a torch that cannot be asked
    assert choose_precision("cpu", width=768) == choose_precision("cpu")
    assert choose_precision("cpu")[0] == "no"


@pytest.mark.parametrize(("kind", "wide"), [("translation", 256), ("masked_lm", 256), ("translation", 16)])
def test_the_loop_asks_with_the_width_of_its_model(kind, wide, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr("kdutils.core.machine.device", lambda: torch.device("cpu"))
    make, seen = {"translation": translation_model, "masked_lm": masked_lm}[kind], []

    class Looking(Method):
        def loss(self, model, batch, counts, step):
            seen.append(torch.is_autocast_enabled("cpu"))
            return {"loss": model.get_output_embeddings().weight.sum()}

    net = make(tiny.VOCABULARY, width=wide, layers=1, heads=2, feedforward=16, max_length=16)
    fit(net, Looking(), tiny.batches(), recipe(updates=1, precision="auto"))
    assert seen and set(seen) == {wide >= 256}


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "linaer"}, "Did you mean 'linear'"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"updates": -1}, "updates is -1"),
        ({"accumulation": 0}, "accumulation is 0"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"log_every": -1}, "log_every is -1"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"head_learning_rate": -1e-3}, "head_learning_rate is -0.001"),
        ({"head_learning_rate": math.inf}, "head_learning_rate is inf"),
        ({"clip": -1.0}, "clip is -1"),
        ({"warmup": -1}, "warmup is -1"),
        ({"behind": -1}, "behind is -1"),
        ({"behind": math.inf}, "behind is inf"),
        ({"learning_rate": math.inf}, "learning_rate is inf"),
        ({"weight_decay": math.inf}, "weight_decay is inf"),
        ({"updates": math.inf}, "updates is inf"),
        ({"accumulation": math.nan}, "accumulation is nan"),
        ({"log_every": math.inf}, "log_every is inf"),
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


def rates_of(folder=None, until=None, **changes) -> tuple[list[float], object]:
    """The learning rates that the updates of a run take, and what came of it."""
    rates = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    net = tiny.model(0.1)
    try:
        with seeded(1):
            result = fit(net, Method(), tiny.batches(), recipe(warmup=4, **changes), folder=folder, until=until)
    finally:
        handle.remove()
    result.model = net
    return rates, result


@pytest.mark.parametrize("behind", [2, 7])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_later_stage_takes_the_rates_that_one_long_run_takes_from_there(schedule, behind):
    """Also where the earlier stage ends before the rate has warmed up; the length of a schedule is that of both."""
    whole, _ = rates_of(updates=12, schedule=schedule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        later, _ = rates_of(updates=12 - behind, behind=behind, schedule=schedule)
    assert later == whole[behind:]
    if schedule in ("inverse_sqrt", "constant_with_warmup"):  # the earlier stage need not know of the later one
        assert rates_of(updates=behind, schedule=schedule)[0] == whole[:behind]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_later_stage_that_was_stopped_goes_on_at_the_same_rates(schedule, tmp_path):
    stage = {"updates": 5, "behind": 7, "schedule": schedule, "log_every": 1}
    expected, whole = rates_of(tmp_path / "whole", **stage)
    pieces = None
    while pieces is None:
        with contextlib.suppress(Paused):
            _, pieces = rates_of(tmp_path / "pieces", until=time.monotonic(), **stage)
    assert pieces.resumed_at == 4 and tiny.timeless(pieces.history) == tiny.timeless(whole.history)
    rates = [row["learning_rate"] for row in pieces.history if row["kind"] == "train"]
    assert rates[:4] == expected[1:]  # written down is the rate that the next update will take
    assert_same_weights(pieces.model, whole.model)


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
        def loss(self, model, batch, counts, step):
            return {"loss": super().loss(model, batch, counts, step)["loss"] * 0.0}

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


# ---------------------------------------------------------------- a head with a learning rate of its own


def an_encoder():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return classifier(tiny.VOCABULARY, ("no", "yes"), width=16, layers=1, heads=2, feedforward=16)


def texts() -> Batches:
    rows = [{"input_ids": [1, 5 + n % 7, 9, 2][: 3 + n % 2], "label": n % 2} for n in range(20)]
    return Batches(rows, collate_classification(), batch_size=5)


def tuned(folder=None, net=None, until=None, **changes):
    """An encoder that is fine-tuned, on the CPU and from one random state."""
    net = net or an_encoder()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        result = fit(net, Method(), texts(), recipe(updates=6, **changes), folder=folder, until=until)
    result.model = net
    return result


def test_the_head_is_what_lies_outside_the_encoder():
    net = an_encoder()
    groups = _groups(list(net.parameters()), net, Recipe(learning_rate=0.01, head_learning_rate=0.2, weight_decay=0.5))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = [([names[id(one)] for one in group["params"]], group["lr"], group["weight_decay"]) for group in groups]
    assert found[2:] == [(["classifier.weight"], 0.2, 0.5), (["classifier.bias"], 0.2, 0.0)]
    encoder = [name for name, _ in net.named_parameters() if name.startswith("bert.")]  # the pooler is part of it
    matrices = [name for name in encoder if net.get_parameter(name).ndim > 1]
    assert found[:2] == [(matrices, 0.01, 0.5), ([name for name in encoder if name not in matrices], 0.01, 0.0)]


def test_without_a_rate_of_its_own_the_head_is_grouped_as_ever():
    net = an_encoder()
    parameters = list(net.parameters())
    groups = _groups(parameters, net, Recipe(learning_rate=0.01, weight_decay=0.5))
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) == wanted] for wanted in (True, False))
    assert [[id(p) for p in group["params"]] for group in groups] == [[*map(id, matrices)], [*map(id, vectors)]]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.01, 0.5), (0.01, 0.0)]
    assert_same_weights(tuned().model, tuned(head_learning_rate=0.01).model)  # the rate of all, which is tiny's


def test_a_head_learns_at_its_own_rate_and_a_frozen_encoder_not_at_all():
    slow = tuned(learning_rate=0.0, head_learning_rate=0.1, clip=0.0).model
    fast = tuned(head_learning_rate=0.1).model
    start = an_encoder()
    assert_same_weights(slow.bert, start.bert)
    assert not torch.equal(slow.classifier.weight, start.classifier.weight)
    assert not torch.equal(fast.bert.pooler.dense.weight, start.bert.pooler.dense.weight)
    net = an_encoder()
    net.bert.requires_grad_(False)
    assert_same_weights(tuned(net=net, head_learning_rate=0.1, clip=0.0).model, slow)


def test_a_model_without_a_head_of_its_own_has_one_rate():
    """A translator projects onto the words by the matrix that embeds them."""
    net = tiny.model()
    groups = _groups(list(net.parameters()), net, Recipe(head_learning_rate=0.2, learning_rate=0.01))
    assert [group["lr"] for group in groups] == [0.01, 0.01]
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_schedule_scales_both_rates(schedule):
    rates = []

    def look(optimizer, *_):
        rates.append([group["lr"] for group in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(look)
    try:
        result = tuned(schedule=schedule, head_learning_rate=0.2, log_every=1)
    finally:
        handle.remove()
    assert len(rates) == 6 and rates[3] == pytest.approx([0.01, 0.01, 0.2, 0.2])  # warmed up
    for encoder, same, head, its in rates:
        assert encoder == same and head == its == pytest.approx(20 * encoder)
    assert result.history[0]["learning_rate"] == pytest.approx(rates[1][0])  # the encoder's is the one written down


def test_a_run_with_two_rates_that_stopped_goes_on_to_the_same_numbers(tmp_path):
    whole = tuned(tmp_path / "whole", head_learning_rate=0.2, checkpoint_every=9)
    with pytest.raises(Paused):
        tuned(tmp_path / "pieces", head_learning_rate=0.2, checkpoint_every=9, until=time.monotonic())
    pieces = tuned(tmp_path / "pieces", head_learning_rate=0.2, checkpoint_every=9)
    assert pieces.resumed_at == 1 and tiny.timeless(pieces.history) == tiny.timeless(whole.history)
    assert_same_weights(pieces.model, whole.model)
