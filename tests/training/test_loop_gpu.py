"""Training on a GPU, which is a pretend one: half precision, resuming, skipped updates, memory, waiting."""

from __future__ import annotations

import contextlib
import time

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kdutils.core.errors import Paused, UserError
from kdutils.models.forward import counted_logits
from kdutils.papers.lssd.multilingual import language_scores
from kdutils.training.loop import evaluation_context, fit
from kdutils.training.method import Method
from tests import tiny
from tests.papers.test_waits import METHODS as OF_PAPERS
from tests.pretend_gpu import report
from tests.tiny import BESIDE, METHODS, assert_same_weights, fitted, one_sentence, recipe, timeless, train


@pytest.mark.parametrize("capability", [(7, 5), (9, 0)], ids=["fp16", "bf16"])
@pytest.mark.parametrize("method", [*METHODS, *BESIDE])
def test_a_run_in_half_precision_goes_on_to_the_last_bit(method, capability, gpu, tmp_path):
    gpu(*capability)
    whole = train(tmp_path / "whole", method, precision="auto")
    assert all(parameter.is_cuda for parameter in whole.model.parameters())
    ended = None
    while ended is None:
        try:
            ended = train(tmp_path / "pieces", method, precision="auto", until=time.monotonic())
        except Paused:
            torch.manual_seed(time.time_ns())  # what the next piece draws must come from the checkpoint
    assert ended.resumed_at == 11
    assert timeless(ended.history) == timeless(whole.history) and ended.best == whole.best
    assert_same_weights(ended.model, whole.model)


# ---------------------------------------------------------------- skipped updates


class Overflowing(Method):
    """In two updates the gradient is too large for float16; notes after which ones it is told of an update."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def loss(self, model, batch, counts, step):
        terms = super().loss(model, batch, counts, step)
        factor = 1e-3 * (1e30 if step.update in (3, 4) else 1.0)
        return {"loss": terms["loss"] + (factor - 1.0) * (terms["loss"] - terms["loss"].detach())}

    def after_update(self, model, step):
        self.told.append(step.update)


def test_an_update_that_overflows_moves_neither_weights_nor_schedule_nor_averages(gpu):
    gpu(7, 5)
    method = Overflowing()
    rates = [row["learning_rate"] for row in fitted(method, tiny.batches(), updates=8, log_every=1, warmup=8,
                                                    precision="auto").history]  # fmt: skip
    assert method.told == [1, 2, 5, 6, 7, 8]
    assert rates == pytest.approx([0.01 * taken / 8 for taken in (1, 2, 2, 2, 3, 4, 5, 6)])


def test_skipped_updates_are_remembered_over_a_pause(gpu, tmp_path):
    gpu(7, 5)
    method = Overflowing()
    for until in [0.0] * 7 + [None]:
        with contextlib.suppress(Paused):
            train(tmp_path, method, updates=8, log_every=1, precision="auto", until=until)
    whole = Overflowing()
    train(None, whole, updates=8, log_every=1, precision="auto")
    assert method.told == whole.told == [1, 2, 5, 6, 7, 8]


# ---------------------------------------------------------------- devices and memory


def test_a_term_may_be_logged_from_the_cpu(gpu):
    class Telling(Method):
        def loss(self, model, batch, counts, step):
            return {**super().loss(model, batch, counts, step), "share": torch.tensor(0.25)}

    gpu(9, 0)
    rows = fitted(Telling(), tiny.batches(), updates=2, log_every=1, precision="auto").history
    assert [row["share"] for row in rows] == [0.25, 0.25]


class NoDoubles(TorchDispatchMode):
    """As on Apple's GPU, which has no float64."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
                assert tensor.dtype != torch.float64, f"{function} has no float64 there"
        return result


@pytest.mark.parametrize("method", [*METHODS, *BESIDE])
def test_nothing_is_computed_in_float64_on_the_device(method, gpu):
    gpu(7, 5)
    with NoDoubles():
        result = train(None, method, updates=2, precision="fp32")
        batches = [{**batch, "language": "ko"} for batch in tiny.held_out()]
        scores = language_scores(result.model, batches)
    assert scores["loss"] == pytest.approx(result.best["loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["two decoders", "cbbgca", "kd", "tutor_kd", "with a running mean", "plain logits"])
def test_no_paper_with_networks_beside_the_model_computes_in_float64_on_the_device(name, gpu):
    gpu(7, 5)
    make, data, _ = OF_PAPERS[name]
    (net, batches), method = data(), make()

    def evaluate(current):
        some = [batches.batch(0, 0), batches.batch(0, 1)]
        return {"loss": 1.0, **method.extra_scores(current, some)}

    with NoDoubles():
        history = fit(net, method, batches, recipe(updates=2, precision="fp32"), evaluate).history
    (look,) = [row for row in history if row["kind"] == "eval"]
    assert len(look) > 4 or name == "kd"  # there were scores besides


@pytest.mark.parametrize("where", ["train on this batch", "evaluate"])
def test_too_little_memory_is_one_sentence_wherever_it_ends(where, gpu):
    def much(net):
        torch.zeros(10**7, device="cuda")
        return {"loss": 1.0}

    class Wide(Method):
        def loss(self, model, batch, counts, step):
            much(model)

    gpu(7, 5, memory=0.03)
    method = Method() if where == "evaluate" else Wide()
    with pytest.raises(UserError, match=f"The GPU's memory .* is too small to {where}: halve max_tokens") as caught:
        fit(tiny.model(), method, tiny.batches(), recipe(updates=2, precision="auto"), evaluate=much)
    assert "batch_size" in one_sentence(caught.value)
    with pytest.raises(UserError, match="too small to evaluate"), evaluation_context():
        much(None)


def test_main_memory_that_ends_is_one_sentence_and_other_faults_stay_what_they_are():
    with pytest.raises(UserError, match="main memory is too small to evaluate"), evaluation_context():
        torch.zeros(2**55)
    with pytest.raises(RuntimeError, match="size mismatch|must match"), evaluation_context():
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.parametrize(("capability", "kind"), [((7, 5), torch.float16), ((9, 0), torch.bfloat16)])
def test_a_model_is_tested_in_the_precision_that_it_is_validated_in(capability, kind, gpu):
    gpu(*capability)
    seen = []

    def evaluate(net):
        batch = {name: tensor.to("cuda") for name, tensor in tiny.batches().batch(0, 0).items()}
        seen.append(counted_logits(net, batch).dtype)
        return {"loss": 1.0}

    net = tiny.model()
    fit(net, Method(), tiny.batches(), recipe(updates=2, precision="auto"), evaluate)
    with evaluation_context("auto"):
        evaluate(net)
    with evaluation_context("bf16"), evaluation_context("fp32"):  # the inner one counts
        evaluate(net)
    assert seen == [kind, kind, torch.float32]


# ---------------------------------------------------------------- how often the host waits


class Waits(Method):
    """A model of two layers and nothing that waits; the loop's own waits are counted update by update."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[int] = []

    def loss(self, model, batch, counts, step):
        self.counted.append(report()["stops"])
        logits = model(batch["input_ids"])[:, 0]
        return {"loss": nn.functional.cross_entropy(logits, batch["targets"], reduction="sum") / counts["targets"]}


class Pairs:
    def plan(self, epoch):
        return [[0, 1]] * 5

    def batch(self, epoch, index):
        return {"input_ids": torch.tensor([[1, 2], [3, 4]]), "targets": torch.tensor([index, 1])}


@pytest.mark.parametrize(("capability", "each"), [((7, 5), 1), ((9, 0), 0)], ids=["fp16", "bf16"])
def test_the_loop_waits_at_log_lines_and_for_the_loss_scale_alone(capability, each, gpu):
    """Under a loss scale the host must learn whether an update was skipped: once an update, whatever the pieces."""
    gpu(*capability)
    method = Waits()
    net = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6))
    fit(net, method, Pairs(), recipe(updates=12, accumulation=1, log_every=6, precision="auto", clip=1.0))
    between = [after - before for before, after in zip(method.counted, method.counted[1:], strict=False)]
    logged = between.pop(5)
    assert set(between) == {each} and logged <= each + 2
    pieces = Waits()
    fit(net, pieces, Pairs(), recipe(updates=4, accumulation=3, log_every=6, precision="auto", clip=1.0))
    assert pieces.counted[-1] - pieces.counted[0] == 3 * each
