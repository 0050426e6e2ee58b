"""Intra-Distillation as a training method: its passes in both forms, its weight, R-Drop as a special case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdutils.core.errors import UserError
from kdutils.data.batches import Batches, collate_classification, collate_translation
from kdutils.losses.divergences import x_divergence
from kdutils.models.build import classifier, xavier
from kdutils.models.forward import counted_logits
from kdutils.papers.intra_distillation import method as module
from kdutils.papers.intra_distillation.method import (
    IntraDistillation,
    IntraDistillationRegression,
    recomputed_logits,
)
from kdutils.papers.intra_distillation.objective import adaptive_alpha, intra_distillation_loss
from kdutils.papers.r_drop.method import RDrop
from kdutils.tasks.scores import dropout_scores
from kdutils.training.checkpoints import seeded
from kdutils.training.loop import Fitted, fit
from kdutils.training.method import Method, SquaredError, Step
from tests import tiny
from tests.tiny import assert_same_weights, one_sentence

NOW = Step(update=8, updates=10, epoch=0, logged=True)
SILENT = Step(update=7, updates=10, epoch=0, logged=False)
CONSTANT = {"adaptive": False}


@pytest.fixture
def batch():
    """Five pairs of unequal length, so that there is padding."""
    made = collate_translation()(tiny.examples(5))
    assert made["targets"].numel() < made["labels"].numel()
    return made


def counts(batch):
    return {"targets": batch["targets"].numel()}


def gradients(net: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in net.parameters() if p.requires_grad]


# ---------------------------------------------------------------- the loss of a batch


def test_one_forward_pass_over_k_copies_projects_only_what_counts(batch):
    net, rows, projected = tiny.model(dropout=0.1).train(), [], []
    net.register_forward_pre_hook(lambda m, a, k: rows.append(k["input_ids"].shape[0]), with_kwargs=True)
    net.get_output_embeddings().register_forward_hook(lambda m, i, o: projected.append(tuple(o.shape)))
    n = batch["targets"].numel()
    for passes in (2, 3):
        IntraDistillation(passes=passes).loss(net, batch, counts(batch), NOW)["loss"].backward()
    assert rows == [2 * 5, 3 * 5] and projected == [(2 * n, tiny.VOCABULARY), (3 * n, tiny.VOCABULARY)]


@pytest.mark.parametrize("form", ["together", "recomputed"])
def test_without_dropout_it_is_the_plain_loss_whatever_alpha(form, batch):
    """The mean over the passes, not their sum; X is exactly 0, and so is its gradient."""
    net = tiny.model(dropout=0.0).train()
    plain = Method(epsilon=0.1).loss(net, batch, counts(batch), NOW)["loss"]
    expected = gradients(net, plain)
    for alpha in (0.0, 5.0):
        ours = IntraDistillation(alpha, epsilon=0.1, form=form, **CONSTANT).loss(net, batch, counts(batch), NOW)
        torch.testing.assert_close(ours["loss"], plain)
        assert ours["x"].item() == 0.0
        for actual, right in zip(gradients(net, ours["loss"]), expected, strict=True):
            torch.testing.assert_close(actual, right)


@pytest.mark.parametrize("divergence", ["x", "js", "pairs"])
def test_with_dropout_it_is_the_objective_of_independent_draws(divergence, batch):
    net, options = tiny.model(dropout=0.3).train(), {"epsilon": 0.1, "convention": "others", "divergence": divergence}
    torch.manual_seed(4)
    terms = IntraDistillation(2.0, **options, **CONSTANT).loss(net, batch, counts(batch), NOW)
    torch.manual_seed(4)
    logits = counted_logits(net, batch, copies=3)
    torch.testing.assert_close(terms["loss"], intra_distillation_loss(logits, batch["targets"], 2.0, **options))
    assert terms["x"].item() == pytest.approx(x_divergence(logits).item(), rel=1e-5) and terms["x"] > 1e-3
    assert not any(torch.allclose(logits[i], logits[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_parts_are_only_computed_where_they_are_written_down(batch):
    net = tiny.model(dropout=0.1).train()
    assert set(IntraDistillation().loss(net, batch, counts(batch), SILENT)) == {"loss"}
    terms = IntraDistillation().loss(net, batch, counts(batch), NOW)
    assert set(terms) == {"loss", "nll", "x", "alpha"} and not terms["x"].requires_grad


@pytest.mark.parametrize("form", ["together", "recomputed"])
def test_gradients_reach_the_weights_through_every_pass(form, batch):
    net = tiny.model(dropout=0.2).train()
    reached = []
    method = IntraDistillation(5.0, form=form, **CONSTANT)

    def watched(*arguments):
        logits = module.FORMS[form](*arguments)
        logits.register_hook(lambda slope: reached.append(slope.abs().amax((1, 2))))
        return logits

    method._logits = lambda model, batch: watched(model, batch, 3)
    found = gradients(net, method.loss(net, batch, counts(batch), NOW)["loss"])
    assert (reached[0] > 0).all() and all(one.any() for one in found)


@pytest.mark.parametrize("form", ["together", "recomputed"])
def test_a_batch_in_pieces_is_the_whole(form, batch):
    """Shares of the whole update add up, the logged terms with them: of loss, gradient, X and alpha."""
    net, method = tiny.model(dropout=0.0).double().train(), IntraDistillation(5.0, form=form)
    rows, collate = tiny.examples(5), collate_translation()
    whole = method.loss(net, batch, counts(batch), NOW)
    expected = gradients(net, whole["loss"])
    pieces = [method.loss(net, collate(rows[a:b]), counts(batch), NOW) for a, b in ((0, 1), (1, 4), (4, 5))]
    for name in ("loss", "nll", "alpha"):
        torch.testing.assert_close(sum(piece[name] for piece in pieces), whole[name])
    for actual, right in zip(gradients(net, sum(piece["loss"] for piece in pieces)), expected, strict=True):
        torch.testing.assert_close(actual, right, rtol=1e-10, atol=1e-13)


# ---------------------------------------------------------------- one pass after another, computed again


def remembered(model, batch, copies):
    """What the recomputed form must equal: the same passes, one after another, all of whose graphs are kept."""
    return torch.stack([counted_logits(model, batch) for _ in range(copies)])


def classes():
    rows = [{"input_ids": [1, 5 + n % 7, 9, 2][: 3 + n % 2], "label": n % 2} for n in range(7)]
    return classifier(tiny.VOCABULARY, ("no", "yes"), width=16, layers=2, heads=2, feedforward=16, dropout=0.3), rows


@pytest.mark.parametrize("task", ["translation", "classification"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_recomputed_passes_are_the_remembered_ones_to_the_last_bit(task, autocast, batch):
    torch.manual_seed(0)
    net = tiny.model(dropout=0.3).train()
    if task == "classification":
        net, rows = classes()
        batch = collate_classification()(rows)
        net.train()
    found = []
    for passes in (recomputed_logits, remembered):
        torch.manual_seed(3)
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            logits = passes(net, batch, 3)
            loss = intra_distillation_loss(logits, batch["targets"], 5.0)
        assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])  # fresh draws
        torch.rand(2)  # what is drawn in between changes nothing
        slopes = gradients(net, 1024.0 * loss)  # as a loss scale has it
        found.append([logits.detach(), loss.detach(), torch.rand(3), *slopes])  # the random numbers go on alike
    for ours, right in zip(*found, strict=True):
        assert torch.equal(ours, right)


def test_one_recomputed_pass_is_held_at_a_time(batch):
    """The last pass first: each runs forward again and is gone before the one before it is computed."""
    net, events = tiny.model(dropout=0.3).train(), []
    net.register_forward_pre_hook(lambda *_: events.append("forward"))
    first = net.get_encoder().layers[0].fc1.weight
    logits = recomputed_logits(net, batch, 3)
    assert events == ["forward"] * 3
    first.register_hook(lambda _: events.append("differentiated"))
    intra_distillation_loss(logits, batch["targets"]).backward()
    # the gradient of a weight is one sum, made when the last of the passes is through
    assert events == ["forward"] * 6 + ["differentiated"]
    held = []

    def count(tensor):
        held.append(tensor.numel())
        return tensor

    for copies in (1, 3):  # what the graph remembers does not grow with the passes but for their logits
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            logits = recomputed_logits(net, batch, copies)
        assert sum(held) == 0
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        remembered(net, batch, 1)
    assert sum(held) > 10 * logits[0].numel()


def test_a_run_with_recomputed_passes_is_that_with_remembered_ones(monkeypatch):
    """Over updates with accumulation, clipping and evaluations in between, which draw random numbers themselves."""
    ours = tiny.train(None, IntraDistillation(form="recomputed"))
    monkeypatch.setitem(module.FORMS, "recomputed", remembered)
    right = tiny.train(None, IntraDistillation(form="recomputed"))
    assert_same_weights(ours.model, right.model)
    assert tiny.timeless(ours.history) == tiny.timeless(right.history)


def test_too_little_memory_for_all_passes_names_the_other_form(monkeypatch, batch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for form in ("together", "recomputed"):
        monkeypatch.setitem(module.FORMS, form, full)
    with pytest.raises(UserError, match="set passes_form to recomputed") as caught:
        IntraDistillation().loss(None, batch, counts(batch), NOW)
    one_sentence(caught.value)
    with pytest.raises(torch.OutOfMemoryError):
        IntraDistillation(form="recomputed").loss(None, batch, counts(batch), NOW)


# ---------------------------------------------------------------- the weight


def test_the_weight_counts_the_updates_that_lie_behind():
    method = IntraDistillation(alpha=4.0, p=2.0, q=4.0)
    weights = [method.weight(Step(update, 400, 0, False)) for update in (1, 51, 101, 201, 400)]
    assert weights == pytest.approx([0.0, 0.25, 1.0, 4.0, 4.0])
    constant = IntraDistillation(alpha=4.0, p=2.0, q=4.0, adaptive=False)
    assert constant.weight(Step(1, 400, 0, False)) == 4.0


def test_the_weight_of_a_run_counts_optimiser_steps_not_batches():
    """Two batches an update; what is logged at an update is its one weight, not the sum over its batches."""
    history = tiny.train(None, IntraDistillation(alpha=5.0, p=2.0, q=4.0), updates=12, accumulation=2).history
    logged = {row["update"]: row["alpha"] for row in history if row["kind"] == "train"}
    assert list(logged) == [2, 4, 6, 8, 10, 12]
    assert logged == pytest.approx({u: adaptive_alpha(u - 1, 12, 5.0, 2.0, 4.0) for u in logged}, rel=1e-5)


def test_the_first_update_of_an_adaptive_run_is_the_mean_of_plain_ones(batch):
    net, first = tiny.model(dropout=0.3).train(), Step(1, 100, 0, logged=False)
    found = []
    for alpha in (5.0, 0.0):
        torch.manual_seed(1)
        found.append(IntraDistillation(alpha).loss(net, batch, counts(batch), first)["loss"])
    assert torch.equal(*found)


# ---------------------------------------------------------------- killed and resumed


def rising(folder: str, form: str) -> Fitted:
    """A run whose weight grows until update 9 of 12."""
    return tiny.train(folder, IntraDistillation(5.0, p=1.5, q=6.0, epsilon=0.1, form=form))


@pytest.mark.parametrize("form", ["together", "recomputed"])
def test_a_run_killed_in_the_rise_of_alpha_ends_as_one_that_was_not(form, tmp_path):
    """The weight follows from the update and the length of the run, the draws from the checkpoint's random state."""
    whole = rising(str(tmp_path / "whole"), form)
    tiny.killed(rising, 8, folder=str(tmp_path / "killed"), form=form)
    torch.manual_seed(99)
    again = rising(str(tmp_path / "killed"), form)
    assert again.resumed_at == 6 and tiny.timeless(again.history) == tiny.timeless(whole.history)
    assert_same_weights(again.model, whole.model)


# ---------------------------------------------------------------- regression


def scores(dropout: float = 0.3, n: int = 7):
    """A model with one output, and texts of unequal length with scores from 0 to 5."""
    rows = [{"input_ids": [1, 5 + i % 7, 9, 12, 2][: 3 + i % 3], "label": i % 11 / 2} for i in range(n)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = classifier(tiny.VOCABULARY, ("score",), width=16, layers=2, heads=2, feedforward=16, dropout=dropout)
        xavier(net)  # so that dropout moves a score by more than a rounding error
    return net.train(), rows


@pytest.mark.parametrize("form", ["together", "recomputed"])
@pytest.mark.parametrize("passes", [2, 3])
def test_scores_of_k_real_passes_are_pulled_to_the_right_one_and_to_each_other(form, passes):
    """Value and gradient against the equation written out pass by pass, with the very same dropout."""
    net, rows = scores()
    net, batch = net.double(), collate_classification()(rows)
    method = IntraDistillationRegression(0.7, passes=passes, form=form)
    torch.manual_seed(4)
    terms = method.loss(net, batch, counts(batch), NOW)
    found = gradients(net, terms["loss"])
    torch.manual_seed(4)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if form == "together":
        together = net(**{name: one.repeat(passes, 1) for name, one in inputs.items()}).logits
        y = [together[k * 7 : (k + 1) * 7, 0] for k in range(passes)]
    else:
        y = [net(**inputs).logits[:, 0] for _ in range(passes)]
    right, mean = batch["targets"].double(), sum(y) / passes
    error, apart = (sum(((one - to) ** 2).mean() for one in y) / passes for to in (right, mean))
    torch.testing.assert_close(terms["loss"], error + 0.7 * apart)
    for actual, expected in zip(found, gradients(net, error + 0.7 * apart), strict=True):
        torch.testing.assert_close(actual, expected)
    assert apart > 1e-3 and terms["variance"].item() == pytest.approx(apart.item(), rel=1e-5)
    assert terms["mse"].item() == pytest.approx(((y[0] - right) ** 2).mean().item())
    assert terms["alpha"].item() == pytest.approx(0.7) and not terms["variance"].requires_grad
    assert set(method.loss(net, batch, counts(batch), SILENT)) == {"loss"}


def test_without_dropout_it_is_the_mean_squared_error_whatever_alpha():
    net, rows = scores(dropout=0.0)
    batch = collate_classification()(rows)
    plain = SquaredError().loss(net, batch, counts(batch), NOW)["loss"]
    expected = gradients(net, plain)
    for alpha in (0.0, 1.0):
        ours = IntraDistillationRegression(alpha).loss(net, batch, counts(batch), NOW)
        torch.testing.assert_close(ours["loss"], plain)
        assert ours["variance"] < 1e-10
        for actual, right in zip(gradients(net, ours["loss"]), expected, strict=True):
            torch.testing.assert_close(actual, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["together", "recomputed"])
def test_a_batch_of_scores_in_pieces_is_the_whole(form):
    net, rows = scores(dropout=0.0)
    net, collate, method = net.double(), collate_classification(), IntraDistillationRegression(1.0, form=form)
    batch = collate(rows)
    whole = method.loss(net, batch, counts(batch), NOW)
    expected = gradients(net, whole["loss"])
    pieces = [method.loss(net, collate(rows[a:b]), counts(batch), NOW) for a, b in ((0, 1), (1, 4), (4, 7))]
    for name in ("loss", "mse", "alpha"):
        torch.testing.assert_close(sum(piece[name] for piece in pieces), whole[name])
    for actual, right in zip(gradients(net, sum(piece["loss"] for piece in pieces)), expected, strict=True):
        torch.testing.assert_close(actual, right, rtol=1e-10, atol=1e-13)


def test_two_passes_of_scale_two_and_alpha_two_are_r_drops_form_for_scores():
    """MSE(y1, y) + MSE(y2, y) + MSE(y1, y2), as in R-Drop's code."""
    net, rows = scores()
    batch = collate_classification()(rows)
    torch.manual_seed(6)
    ours = IntraDistillationRegression(2.0, passes=2, scale=2.0, **CONSTANT).loss(net, batch, counts(batch), NOW)
    torch.manual_seed(6)
    y = counted_logits(net, batch, copies=2)[..., 0]
    mse = nn.functional.mse_loss
    right = mse(y[0], batch["targets"]) + mse(y[1], batch["targets"]) + mse(y[0], y[1])
    torch.testing.assert_close(ours["loss"], right)


@pytest.mark.parametrize("method", [SquaredError, IntraDistillationRegression])
def test_the_loss_of_scores_is_in_full_precision_under_autocast(method):
    net, rows = scores(dropout=0.0)
    batch = collate_classification()(rows)
    with torch.autocast("cpu", torch.bfloat16):
        logits, loss = counted_logits(net, batch)[:, 0], method().loss(net, batch, counts(batch), NOW)["loss"]
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(loss, (logits.float() - batch["targets"]).square().mean())


def of_scores(folder: str, form: str) -> Fitted:
    net, rows = scores(n=24)
    with seeded(7):
        plan = Batches(rows, collate_classification(), batch_size=4)
        method = IntraDistillationRegression(4.0, p=1.5, q=6.0, form=form)
        found = fit(net, method, plan, tiny.recipe(), folder=folder)
    found.model = net
    return found


@pytest.mark.parametrize("form", ["together", "recomputed"])
def test_a_killed_run_of_scores_ends_as_one_that_was_not(form, tmp_path):
    whole = of_scores(str(tmp_path / "whole"), form)
    tiny.killed(of_scores, 8, folder=str(tmp_path / "killed"), form=form)
    torch.manual_seed(99)
    again = of_scores(str(tmp_path / "killed"), form)
    assert 0 < again.resumed_at < 12 and tiny.timeless(again.history) == tiny.timeless(whole.history)
    assert_same_weights(again.model, whole.model)


# ---------------------------------------------------------------- R-Drop


def test_two_passes_and_a_constant_alpha_are_half_of_r_drops_loss(batch):
    net, options = tiny.model(dropout=0.3).train(), {"epsilon": 0.1, "convention": "others"}
    for alpha in (0.0, 5.0):
        found = []
        for method in (IntraDistillation(alpha, passes=2, **CONSTANT, **options), RDrop(alpha, **options)):
            torch.manual_seed(6)
            loss = method.loss(net, batch, counts(batch), NOW)["loss"]
            found.append([loss.detach(), *gradients(net, loss)])
        for half, whole in zip(*found, strict=True):
            torch.testing.assert_close(2 * half, whole, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_with_scale_two_the_run_is_r_drops_to_the_last_bit(clip):
    """Same seed, same masks: every weight, every score. Clipping, too, sees the loss in R-Drop's size."""
    options = {"clip": clip, "updates": 12}
    ours = tiny.train(None, IntraDistillation(5.0, passes=2, scale=2.0, epsilon=0.1, **CONSTANT), **options)
    r_drop = tiny.train(None, RDrop(5.0, epsilon=0.1), **options)
    assert_same_weights(ours.model, r_drop.model)
    for a, b in zip(ours.history, r_drop.history, strict=True):
        shared = ("loss", "nll") if a["kind"] == "train" else ("loss", "accuracy", "kl")
        assert [a[name] for name in shared] == [b[name] for name in shared]


def test_without_the_scale_only_adams_epsilon_tells_the_runs_apart():
    """So the losses go on together; a parameter whose gradient is rounding alone, such as a key's bias, does not."""
    options = {"clip": 0.0, "updates": 8, "evaluate": None}
    ours = tiny.train(None, IntraDistillation(5.0, passes=2, epsilon=0.1, **CONSTANT), **options)
    r_drop = tiny.train(None, RDrop(5.0, epsilon=0.1), **options)
    ratios = [b["loss"] / a["loss"] for a, b in zip(ours.history, r_drop.history, strict=True)]
    assert ratios == pytest.approx([2.0] * 4, rel=1e-3)


# ---------------------------------------------------------------- what it does, and what it refuses


def test_it_brings_the_passes_together():
    """On the same updates, the KL between two dropout passes ends lower with alpha than without."""
    kl = {}
    for alpha in (0.0, 5.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = tiny.model(dropout=0.2)
            fit(net, IntraDistillation(alpha), tiny.batches(), tiny.recipe(updates=80, log_every=80))
        kl[alpha] = dropout_scores(net, tiny.batches(), passes=4)["kl"]
    assert kl[5.0] < 0.6 * kl[0.0]


def test_the_cost_is_told_for_each_form():
    assert [IntraDistillation(passes=k).passes for k in (2, 3)] == [2.0, 3.0]
    assert IntraDistillation(form="recomputed").passes == pytest.approx(4.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"passes": 1},
        {"passes": 0},
        {"alpha": -0.1},
        {"alpha": float("nan")},
        {"p": 10.0, "q": 5.0},
        {"p": 0.0},
        {"divergence": "kl"},
        {"form": "twice"},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"epsilon": 1.0},
        {"convention": "fairseq"},
    ],
)
def test_what_means_nothing_is_refused_before_any_training(wrong):
    with pytest.raises(UserError) as caught:
        IntraDistillation(**wrong)
    one_sentence(caught.value)
