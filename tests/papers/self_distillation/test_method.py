"""Self-distillation as training methods: who teaches in which update, in how many passes, and what is kept of it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertForSequenceClassification

from kdutils.core.errors import Paused, UserError
from kdutils.data.batches import Batches, collate_classification
from kdutils.models.build import classifier, xavier
from kdutils.models.forward import counted_logits
from kdutils.papers.self_distillation.method import EMA, SDA, SDV, Itself, SelfEnsemble
from kdutils.papers.self_distillation.objective import sda_loss
from kdutils.tasks.scores import label_scores
from kdutils.training.checkpoints import seeded
from kdutils.training.loop import Fitted, fit
from kdutils.training.method import Method, Step
from tests import tiny
from tests.tiny import assert_same_weights, one_sentence

NOW = Step(update=3, updates=10, epoch=0, logged=True)
SILENT = Step(update=4, updates=10, epoch=0, logged=False)
COUNTS = {"targets": 7}
METHODS = {
    "sda_1": lambda: SDA(1, 1.5, epsilon=0.1),
    "sda_2": lambda: SDA(2),
    "sda_3": lambda: SDA(3),
    "sda_all": lambda: SDA(0),
    "sdv_1": lambda: SDV(1),
    "sdv_3": lambda: SDV(3, 1.5, epsilon=0.1),
    "ema": lambda: EMA(0.3),
    "itself": lambda: Itself(),
    "ensemble": lambda: SelfEnsemble(),
}
OLDER = ["sda_1", "sda_3", "sda_all", "sdv_3", "ema"]
AT_ONCE = ("ema", "itself")  # who has a teacher in the first update


def model(dropout: float = 0.2) -> BertForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = classifier(tiny.VOCABULARY, ("no", "yes", "so"), 16, heads=2, feedforward=16, dropout=dropout)
        xavier(net)  # so that dropout and age move a logit by more than a rounding error
    return net.train()


def rows(n: int = 40) -> list[dict]:
    """Texts of unequal length, so that there is padding."""
    return [{"input_ids": [1, 5 + i % 7, 9 + i % 5, 12, 6, 2][: 3 + i % 4], "label": i % 3} for i in range(n)]


def batch() -> dict[str, Tensor]:
    return collate_classification()(rows(7))


def plan(size: int = 8, **options) -> Batches:
    return Batches(rows(), collate_classification(), batch_size=size, **options)


def plain_scores(net: nn.Module) -> dict[str, float]:
    return label_scores(net, plan(), None)


def trained(
    folder: str | None, what: str | Method, net: nn.Module | None = None, data: Batches | None = None, **changes
):
    """The same net on the same batches from the same random state; its weights change in the first update already."""
    net, method = net or model(), METHODS[what]() if isinstance(what, str) else what
    own = {key: changes.pop(key) for key in ("evaluate", "until") if key in changes}
    own.setdefault("evaluate", lambda one: {**plain_scores(one), **method.extra_scores(one, plan())})
    recipe = tiny.recipe(**{"accumulation": 1, "warmup": 0, "schedule": "constant_with_warmup", **changes})
    with seeded(7):
        found = fit(net, method, data or plan(), recipe, folder=folder, **own)
    found.model, found.method = net, method
    return found


def vector(net: nn.Module) -> Tensor:
    return parameters_to_vector(net.parameters()).detach().clone()


def with_parameters(parameters: Tensor) -> nn.Module:
    net = model().eval()
    vector_to_parameters(parameters.float(), net.parameters())
    return net


@torch.no_grad()
def says(parameters: Tensor, one: dict[str, Tensor]) -> Tensor:
    """The logits of a network with these parameters, without dropout, by a plain call."""
    return with_parameters(parameters)(input_ids=one["input_ids"], attention_mask=one["attention_mask"]).logits


@contextlib.contextmanager
def passes():
    """Every forward pass of a classifier: (network, in training mode, with gradients, logits)."""
    seen = []

    def note(module, _inputs, output):
        if isinstance(module, BertForSequenceClassification):
            ((training),) = {one.training for one in module.modules()}
            seen.append((module, training, torch.is_grad_enabled(), output.logits.detach()))

    handle = register_module_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def watched(method: Method) -> list[tuple]:
    """Of every batch of a coming run: the student before it, the batch, the passes and the terms."""
    calls, original = [], method.loss

    def loss(net, one, counts, step):
        before = vector(net)
        with passes() as seen:
            terms = original(net, one, counts, step)
        assert net.training and torch.equal(vector(net), before)
        calls.append((before, one, seen, {name: term.item() for name, term in terms.items()}))
        return terms

    method.loss = loss
    return calls


def teachers(name: str, students: list[Tensor]) -> list[Tensor]:
    """By the paper: whose logits are averaged in the update of the last of these students, theta_0 first."""
    kind, _, size = name.partition("_")
    *past, present = [one.double() for one in students]
    if kind == "itself":
        return [present]
    if kind == "ema":
        mean = students[0].double()
        for s, after in enumerate([*past[1:], present] if past else [], start=1):
            decay = min(0.3, (1 + s) / (10 + s))  # 2/11, 3/12, then 0.3
            mean = decay * mean + (1 - decay) * after
        return [mean]
    past = [] if kind == "ensemble" else past if size == "all" else past[-int(size) :]
    return past if kind == "sdv" or not past else [torch.stack(past).mean(0)]


# ---------------------------------------------------------------- who teaches in which update


@pytest.mark.parametrize("name", METHODS)
def test_in_every_update_the_teacher_is_the_right_mean_of_earlier_selves(name):
    """A run against the equations, from the students that it passed through: loss, history and forward passes.

    The teacher at update t, whose student is theta_{t-1}, has the mean of theta_{t-2} to theta_{t-1-K}; at update 1
    there is none. All teachers are one pass; another, of the student without dropout, is for what is logged.
    """
    method, net, students = METHODS[name](), model(), []
    calls = watched(method)
    history = {row["update"]: row for row in trained(None, method, net, updates=8, log_every=2, evaluate=None).history}
    for t, (student, one, seen, terms) in enumerate(calls, start=1):
        assert not students or not torch.equal(students[-1], student)
        students.append(student)
        (network, *mode, logits), *others = seen
        assert network is net and mode == [True, True]  # with dropout and gradients, and the others with neither
        assert all((training, learns) == (False, False) for _, training, learns, _ in others)
        selves = [says(parameters, one) for parameters in teachers(name, students)]
        assert bool(selves) == (name != "ensemble" and (t > 1 or name in AT_ONCE))
        assert [other[0] is net for other in others] == [name == "itself", True][: bool(selves) * (2 - t % 2)]
        ce = F.cross_entropy(logits, one["targets"], label_smoothing=method.epsilon).item()
        mse = F.mse_loss(logits, torch.stack(selves).mean(0)).item() if selves else 0.0
        assert terms["loss"] == pytest.approx(ce + getattr(method, "weight", 0.0) * mse, rel=1e-5)
        assert mse > 1e-3 or not selves
        if t in history and name != "ensemble":
            assert history[t]["mse"] == pytest.approx(mse, rel=1e-4)
            assert history[t]["nll"] == pytest.approx(F.cross_entropy(logits, one["targets"]).item(), rel=1e-5)
    assert len(students) == 8 and sorted(history) == [2, 4, 6, 8]
    assert method.passes == pytest.approx({"sdv_3": 2.0, "ensemble": 1.0}.get(name, 4 / 3))


# ---------------------------------------------------------------- the loss of a batch


def taught(name: str, updates: int = 4, dropout: float = 0.2) -> tuple[Method, nn.Module]:
    """A method and its student after some updates, which are noise."""
    net, method, draw = model(dropout), METHODS[name](), torch.Generator().manual_seed(1)
    method.attach(net)
    for update in range(1, updates + 1):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
        method.after_update(net, Step(update, 10, 0, False))
    return method, net


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    net.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


@pytest.mark.parametrize("name", [*OLDER, "itself"])
def test_the_student_learns_from_a_fixed_teacher_which_draws_no_random_numbers(name):
    method, net = taught(name)
    state = torch.get_rng_state()
    with torch.no_grad():
        theirs = method.teacher_logits(net, batch())
        assert torch.equal(theirs, method.teacher_logits(net, batch())) and torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    found = gradients(net, method.loss(net, batch(), COUNTS, SILENT)["loss"])
    torch.manual_seed(3)
    logits, targets = counted_logits(net, batch()), batch()["targets"]
    right = sda_loss(logits, theirs, targets, method.weight, epsilon=method.epsilon)
    for actual, expected in zip(found, gradients(net, right), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
        assert actual.any()
    held = [one for part in vars(method).values() if isinstance(part, nn.Module) for one in part.parameters()]
    held += [one for one in method.state().values() if isinstance(one, Tensor)]
    assert not any(one.requires_grad or one.grad is not None for one in held)
    memory = {one.untyped_storage().data_ptr() for one in held if not one.is_meta}
    assert memory.isdisjoint(one.untyped_storage().data_ptr() for one in net.parameters())  # copies of the student


@pytest.mark.parametrize("name", [*OLDER, "itself"])
def test_what_is_logged_of_the_mse(name):
    method, net = taught(name)
    torch.manual_seed(3)
    terms = method.loss(net, batch(), COUNTS, NOW)
    torch.manual_seed(3)
    logits, calm = counted_logits(net, batch()).detach(), says(vector(net), batch())
    theirs = method.teacher_logits(net, batch())
    right = {"mse": (logits, theirs), "mse_dropout": (logits, calm), "mse_age": (calm, theirs)}
    for part, pair in right.items():
        assert terms[part].item() == pytest.approx(F.mse_loss(*pair).item(), rel=1e-4, abs=1e-9)
        assert (terms[part] > 1e-3) == (part != "mse_age" or name != "itself") and not terms[part].requires_grad
    assert set(terms) == {"loss", "nll", *right} and set(method.loss(net, batch(), COUNTS, SILENT)) == {"loss"}
    method, net = taught(name, dropout=0.0)
    terms = method.loss(net, batch(), COUNTS, NOW)
    assert terms["mse_dropout"] == 0.0 and (terms["mse_age"] > 1e-3 if name != "itself" else terms["mse_age"] == 0.0)
    torch.testing.assert_close(terms["mse"], terms["mse_age"], rtol=1e-6, atol=0)


@pytest.mark.parametrize(("autocast", "tolerance"), [(None, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("updates", [1, 3, 5])
def test_the_batched_pass_of_all_selves_is_a_loop_over_them(updates, autocast, tolerance):
    """Also where there are fewer than K, and whatever stands where there is padding."""
    method, net = taught("sdv_3", updates)
    one = batch()
    padding = one["attention_mask"] == 0
    with torch.no_grad(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        found = method.each(one)
        mean = method.teacher_logits(net, {**one, "input_ids": one["input_ids"].masked_fill(padding, 17)})
    right = torch.stack([says(parameters, one) for parameters in method.window.sets()])
    order = [number % 3 for number in range(max(0, updates - 3), updates)]  # where the selves lie, the oldest first
    torch.testing.assert_close(found[order].float(), right, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(mean, right.mean(0), rtol=tolerance, atol=tolerance)
    assert padding.any() and mean.dtype == torch.float32 and (updates == 1 or (right[0] - right[1]).abs().max() > 0.1)


def test_more_selves_are_no_more_operations():
    class Operations(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            self.seen += 1
            return function(*arguments, **(options or {}))

    counted = []
    for updates in (2, 3):
        method, _ = taught("sdv_3", updates)
        with torch.no_grad(), Operations() as operations:
            method.each(batch())
        counted.append(operations.seen)
    assert counted[0] == counted[1] > 50


@pytest.mark.parametrize("name", [*OLDER, "itself", "ensemble"])
def test_four_quarters_are_one_batch_and_a_time_step_is_an_update(name):
    """Counted by batches, the teacher of K = 1 would be the student itself in three of four."""
    whole, pieces = (
        trained(None, name, model(0.0), plan(size, shuffle=False), accumulation=count, log_every=1, evaluate=None)
        for size, count in ((8, 1), (2, 4))
    )
    for one, other in zip(whole.history, pieces.history, strict=True):
        for term in {"loss", "nll", "mse", "mse_age"} & one.keys():
            assert other[term] == pytest.approx(one[term], rel=2e-3, abs=1e-6), (one["update"], term)
    assert name not in OLDER or all(row["mse"] > 1e-4 for row in pieces.history[1:])
    state = pieces.method.state()
    assert name in AT_ONCE or state["count" if name == "ensemble" else "pushed"] == 12


# ---------------------------------------------------------------- killed and resumed


@pytest.mark.parametrize("kill_at", [5, 11])
@pytest.mark.parametrize("name", [*OLDER, "ensemble"])
def test_a_killed_run_ends_as_one_that_was_not(name, kill_at, tmp_path):
    """From checkpoints in which the window has its first three selves, and in which it has long been full."""
    whole = trained(str(tmp_path / "whole"), name)
    tiny.killed(trained, kill_at, folder=str(tmp_path / "killed"), what=name)
    torch.manual_seed(99)
    again = trained(str(tmp_path / "killed"), name)
    assert again.resumed_at == kill_at - 2 and tiny.timeless(again.history) == tiny.timeless(whole.history)
    assert_same_weights(again.model, whole.model)
    torch.testing.assert_close(again.method.state(), whole.method.state(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sda_3", "sda_all", "sdv_3", "ema", "ensemble"])
def test_in_half_precision_it_goes_on_and_an_update_that_overflows_makes_nobody_older(name, gpu, tmp_path):
    def run(folder: str, until: float | None) -> Fitted:
        method = METHODS[name]()
        loss, hook = method.loss, method.after_update

        def overflowing(net, one, counts, step):
            terms = loss(net, one, counts, step)
            return {**terms, "loss": terms["loss"] * (1e30 if step.update in (3, 4) else 1.0)}

        method.loss = overflowing
        method.after_update = lambda net, step: (told[folder].append(step.update), hook(net, step))
        return trained(tmp_path / folder, method, updates=6, precision="auto", until=until)

    gpu(7, 5)
    told = {"whole": [], "pieces": []}
    whole = run("whole", None)
    for until in (0.0, 0.0, 0.0, 0.0, 0.0, None):
        with contextlib.suppress(Paused):
            again = run("pieces", until)
    assert told["pieces"] == told["whole"] and {3, 4}.isdisjoint(told["whole"]) and told["whole"][-2:] == [5, 6]
    assert again.resumed_at == 5 and tiny.timeless(again.history) == tiny.timeless(whole.history)
    assert_same_weights(again.model, whole.model)
    state = again.method.state()
    torch.testing.assert_close(state, whole.method.state(), rtol=0, atol=0)
    assert name == "ema" or state["count" if name == "ensemble" else "pushed"] == len(told["whole"])


# ---------------------------------------------------------------- what stands beside the student


@pytest.mark.parametrize("name", [name for name in OLDER if name != "sdv_3"])
def test_the_scores_of_the_teacher_are_those_of_the_mean(name):
    method, net = taught(name, updates=5)
    students = [vector(taught(name, updates)[1]) for updates in range(6)]
    right = plain_scores(with_parameters(teachers(name, students)[0]))
    found = method.extra_scores(net, plan())
    assert found == {f"teacher_{one}": pytest.approx(right[one], rel=1e-5) for one in ("loss", "accuracy")}
    assert net.training and abs(found["teacher_loss"] - plain_scores(net)["loss"]) > 1e-3


def test_the_self_ensemble_changes_nothing_and_is_the_mean_of_all_but_the_start():
    """Eq. (4), theta_1 to theta_T, looked at in every evaluation."""
    method = SelfEnsemble()
    calls = watched(method)
    ours, plain = trained(None, method), trained(None, Method(), evaluate=plain_scores)
    assert_same_weights(ours.model, plain.model)
    for row, other in zip(tiny.timeless(ours.history), tiny.timeless(plain.history), strict=True):
        assert {key: value for key, value in row.items() if not key.startswith("ensemble")} == other
    mean = torch.stack([*(student for student, *_ in calls[1:]), vector(ours.model)]).double().mean(0).float()
    assert torch.equal(vector(method.ensemble), mean)
    right = plain_scores(with_parameters(mean))
    assert all(ours.history[-1][f"ensemble_{key}"] == right[key] for key in ("loss", "accuracy"))


def test_over_a_frozen_encoder_sda_and_sdv_are_one_method():
    """What is trained is linear then; a pooler that is trained too parts them."""

    def losses(method: Method, pooler: bool) -> list[float]:
        net = model(0.0)
        for part, parameter in net.base_model.named_parameters():
            parameter.requires_grad_(pooler and part.startswith("pooler"))
        history = trained(None, method, net, log_every=1, evaluate=None, learning_rate=0.1).history
        return [row["loss"] for row in history]

    assert losses(SDA(3, 1.5), False) == pytest.approx(losses(SDV(3, 1.5), False), rel=1e-5)
    assert losses(SDA(3, 1.5), True) != pytest.approx(losses(SDV(3, 1.5), True), rel=1e-3)


@pytest.mark.parametrize("method", [SDA(3, 0.0), SDV(2, 0.0), EMA(0.9, 0.0), Itself(0.0)], ids=lambda m: m.name)
def test_with_a_weight_of_zero_it_is_the_baseline_to_the_last_bit(method):
    plain = trained(None, Method(), log_every=1, evaluate=plain_scores)
    with passes() as seen:
        ours = trained(None, method, log_every=1, evaluate=plain_scores)
    assert_same_weights(ours.model, plain.model)
    for row, other in zip(tiny.timeless(ours.history), tiny.timeless(plain.history), strict=True):
        assert {key: row[key] for key in other} == other
    assert {network for network, *_ in seen} == {ours.model}  # nobody is asked for nothing


@pytest.mark.parametrize(
    "refused",
    [
        lambda: SDA(1, -0.1),
        lambda: SDV(1, float("nan")),
        lambda: Itself(float("inf")),
        lambda: SDV(0),
        lambda: EMA(1.0),
        lambda: EMA(-0.1),
        lambda: EMA(float("nan")),
        lambda: SDA(1, epsilon=1.5),
        lambda: trained(None, SDA(-1)),
    ],
)
def test_what_means_nothing_is_refused_before_any_training(refused):
    with passes() as seen, pytest.raises(UserError) as caught:
        refused()
    one_sentence(caught.value)
    assert not seen
