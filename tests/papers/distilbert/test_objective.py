"""DistilBERT's objective: its terms and their sum against plain float64 oracles, its traps, and the methods' losses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DistilBertForMaskedLM

from kdutils.core.errors import UserError
from kdutils.data.batches import SPECIALS, UNK, collate_classification, collate_masked_lm, train_tokenizer
from kdutils.losses.distillation import cosine_loss, soft_target_loss
from kdutils.models.build import classifier, masked_lm, xavier
from kdutils.papers import distilbert
from kdutils.papers.distilbert import method as methods
from kdutils.papers.distilbert.method import SecondDistillation, TripleLoss
from kdutils.papers.distilbert.objective import triple_loss
from kdutils.papers.distilbert.student import student_config
from kdutils.training.method import Step
from tests import oracles
from tests.corpus_files import TEXTS
from tests.oracles import Objective, ObjectiveBattery, assert_near, complex_step, evaluate, example, run
from tests.tiny import assert_same_weights, one_sentence

# ---------------------------------------------------------------- the terms, at one position: teacher, then student


def soft_at(temperature: float):
    """T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)); a complex step through the teacher is not taken."""
    return lambda z, _=-1: temperature**2 * oracles.kl(np.stack([z[0].real, z[1]]) / temperature)


def cosine_at(h: np.ndarray, _target: int = -1):
    """1 - <a, b> / (|a| |b|)."""
    ours, theirs = h[1], h[0].real
    return 1 - (ours * theirs).sum() / ((ours * ours).sum() * (theirs * theirs).sum()) ** 0.5


def soft(t: float) -> Objective:
    return Objective(f"T{t}", 2, lambda z, _targets, **o: soft_target_loss(z[1], z[0], t, **o), soft_at(t), moved=1)


class TestSoftTargets(ObjectiveBattery):
    @pytest.fixture(params=[1.0, 2.0])
    def objective(self, request):
        return soft(request.param)


class TestCosine(ObjectiveBattery):
    """Hidden states instead of logits: free in length, not in an added constant."""

    @pytest.fixture
    def objective(self):
        return Objective("cosine", 2, lambda h, _targets, **o: cosine_loss(h[1], h[0], **o), cosine_at, moved=1)

    @pytest.mark.parametrize("dtype, size", [(torch.float16, 2e4), (torch.bfloat16, 1e15), (torch.float32, 1e15)])
    def test_extreme_logits_stay_finite_and_right(self, objective, dtype, size):
        h, targets, _ = example(2, (12,), 4, seed=6)
        h = (size * h.sign()).to(dtype)
        (value, gradient), (expected, truth) = run(objective.call, h, targets), evaluate(objective.oracle, h, targets)
        assert_near(value, expected, 1e-5)
        assert gradient.isfinite().all()  # but float16 has no numbers as small as these
        assert dtype == torch.float16 or (gradient * size - truth * size).abs().max() < 1e-3

    def test_a_constant_on_a_row_of_logits_changes_nothing(self, objective):
        """Here: a positive factor, for either side."""
        h, targets, mask = example(2, (3, 4), 5, seed=10)
        longer = h * torch.linspace(0.1, 9, 24, dtype=h.dtype).reshape(2, 3, 4, 1)
        assert_near(objective.call(longer, targets, mask=mask), objective.call(h, targets, mask=mask), 1e-9)

    def test_a_gradient_row_sums_to_zero(self, objective):
        """Here: it is orthogonal to the student's own states."""
        h, targets, _ = example(2, (3, 4), 20, seed=12)
        assert (run(objective.call, h, targets, reduction="sum")[1][1] * h[1]).sum(-1).abs().max() < 1e-13


@pytest.mark.parametrize("dtype, size, temperature", [(torch.float16, 6e4, 0.5), (torch.bfloat16, 2.0, 3.0)])
def test_low_precision_logits_are_divided_by_t_in_float32(dtype, size, temperature):
    z = (size * torch.linspace(-1, 1, 10).reshape(2, 1, 5) ** 3).to(dtype)
    right = soft_target_loss(z[1].float(), z[0].float(), temperature)
    torch.testing.assert_close(soft_target_loss(z[1], z[0], temperature), right, rtol=1e-6, atol=1e-6)


def batch(seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments of triple_loss: z, z', targets, h, h', mask; targets are few and lie where there is no padding."""
    (theirs, ours), targets, mask = example(2, (3, 4), 5, seed)
    (their_states, states), _, asked = example(2, (3, 4), 3, seed + 1000)
    return ours, theirs, targets.masked_fill(~(asked & mask), -100), states, their_states, mask


def slopes(loss, z, theirs, targets, h, their_states, mask, **options) -> tuple[Tensor, Tensor, Tensor]:
    """The value of a loss and its gradients by the student's logits and hidden states."""
    z, h = (x.detach().clone().requires_grad_() for x in (z, h))
    value = loss(z, theirs, targets, h, their_states, mask, **options)
    value.backward()
    return value.detach(), *(torch.zeros_like(x) if x.grad is None else x.grad for x in (z, h))


def equation(z, theirs, targets, h, their_states, mask, weights, temperature, restrict) -> list[Tensor]:
    """The sum that is coded, with each term's mean over its own positions; value and gradients."""
    z, theirs, h, their_states = (x.numpy() for x in (z, theirs, h, their_states))
    real = [place for place in np.ndindex(*mask.shape) if mask[place]]
    asked = [place for place in real if targets[place] != -100]
    where = asked if restrict else real

    def loss(z: np.ndarray, h: np.ndarray):
        soft = sum(soft_at(temperature)(np.stack([theirs[n], z[n]])) for n in where) / len(where)
        hard = sum(-oracles.log_softmax(z[n])[int(targets[n])] for n in asked) / len(asked)
        cosine = sum(cosine_at(np.stack([their_states[n], h[n]])) for n in real) / len(real)
        return weights[0] * soft + weights[1] * hard + weights[2] * cosine

    by_logits, by_states = complex_step(lambda x: loss(x, h), z), complex_step(lambda x: loss(z, x), h)
    return [torch.as_tensor(x) for x in (loss(z, h), by_logits, by_states)]


def official(z, theirs, targets, h, their_states, mask, weights=(5.0, 2.0, 1.0), temperature=2.0, restrict=False):
    """As the official distiller composes torch's own losses, after selecting tokens into (N, V)."""
    chosen = (targets > -1) if restrict else mask
    student, teacher = z[chosen] / temperature, theirs[chosen] / temperature
    loss_ce = nn.KLDivLoss(reduction="batchmean")(student.log_softmax(-1), teacher.softmax(-1)) * temperature**2
    loss_mlm = nn.CrossEntropyLoss(ignore_index=-100)(z.flatten(0, -2), targets.flatten())
    loss_cos = nn.CosineEmbeddingLoss(reduction="mean")(h[mask], their_states[mask], torch.ones(int(mask.sum())))
    return weights[0] * loss_ce + weights[1] * loss_mlm + weights[2] * loss_cos


WEIGHTS = [(5, 2, 3), (0, 2, 3), (5, 0, 3), (5, 2, 0), (4, 0, 0), (0, 4, 0), (0, 0, 4)]
each_weights = pytest.mark.parametrize("weights", WEIGHTS, ids=str)


@each_weights
@pytest.mark.parametrize("restrict", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_the_triple_loss_is_the_coded_equation_and_torchs_own_losses(temperature, restrict, weights):
    data, options = batch(seed=sum(weights)), {"weights": weights, "temperature": temperature}
    found = slopes(triple_loss, *data, restrict_to_mask=restrict, **options)
    for actual, right in zip(found, equation(*data, **options, restrict=restrict), strict=True):
        assert_near(actual, right, 1e-10)
    for actual, right in zip(found, slopes(official, *data, **options, restrict=restrict), strict=True):
        assert_near(actual, right, 1e-9)


def test_the_first_authors_weights_and_the_official_temperature_are_the_defaults():
    for actual, right in zip(slopes(triple_loss, *batch()), slopes(official, *batch()), strict=True):
        assert_near(actual, right, 1e-9)
    *data, mask = batch()
    assert torch.equal(triple_loss(*data), triple_loss(*data, mask | True))  # and without a mask all positions count
    method, second = TripleLoss(), SecondDistillation()
    assert (*method.weights, method.temperature, method.restrict_to_mask) == (5.0, 2.0, 1.0, 2.0, False)
    assert (second.alpha_ce, second.alpha_task, second.temperature) == (0.5, 0.5, 2.0)


@pytest.mark.parametrize("weights", [*WEIGHTS, (0, 0, 0)], ids=str)
def test_nothing_to_count_and_no_weight_are_zero_with_gradients_of_zero(weights):
    *data, mask = batch()
    found = slopes(triple_loss, *data, mask & (not any(weights)), weights=weights)
    assert all(torch.equal(x, torch.zeros_like(x)) for x in found)


@each_weights
def test_what_lies_in_padding_or_under_a_weight_of_0_is_never_seen(weights):
    z, theirs, targets, h, their_states, mask = batch()
    right = slopes(triple_loss, z, theirs, targets, h, their_states, mask, weights=weights)
    z, theirs, h, their_states = (x.masked_fill(~mask[..., None], math.nan) for x in (z, theirs, h, their_states))
    theirs = theirs if weights[0] else theirs * math.nan
    h, their_states = (x if weights[2] else x * math.nan for x in (h, their_states))
    targets = targets.masked_fill(~mask, 3)  # a target in the padding is none
    found = slopes(triple_loss, z, theirs, targets, h, their_states, mask, weights=weights)
    assert all(torch.equal(x, y) for x, y in zip(found, right, strict=True))


def test_weights_temperatures_and_shapes_that_make_no_sense_are_refused():
    cold = [{"temperature": t} for t in (0.0, -2.0, math.nan)]
    heavy = [{"weights": w} for w in ((5, 2), (5, -2, 1), (5, 2, math.nan))]
    for make, wrong in (
        (SecondDistillation, [*cold, {"alpha_ce": -1.0}, {"alpha_task": -1.0}]),
        (TripleLoss, [*cold, *heavy, {"weights": (0, 0, 0)}]),
        (lambda **o: triple_loss(*batch(), **{"weights": (0, 2, 1), **o}), [*cold, *heavy]),
        (lambda **o: soft_target_loss(*batch()[:2], **o), cold),
        (lambda **o: cosine_loss(*batch()[3:5], **o), [{"reduction": "batchmean"}, {"reduction": None}]),
    ):
        for options in wrong:
            with pytest.raises(UserError) as caught:
                make(**options)
            one_sentence(caught.value)
    for place in (0, 3):  # logits, hidden states
        with pytest.raises(oracles.REFUSED):
            triple_loss(*(x[..., 1:] if number == place else x for number, x in enumerate(batch())))


# ---------------------------------------------------------------- the traps, and what distils


def test_batchmean_of_a_3d_tensor_grows_with_the_length_and_ours_does_not():
    z, theirs, *_ = batch()
    once, thrice = ([x.repeat(1, n, 1) for x in (z, theirs)] for n in (1, 3))
    library = [F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="batchmean") for q, p in (once, thrice)]
    torch.testing.assert_close(library[1], 3 * library[0])
    torch.testing.assert_close(soft_target_loss(*thrice), soft_target_loss(*once))


def test_kl_has_the_teacher_first():
    half, quarter = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert soft_target_loss(quarter, half, 1.0).item() == pytest.approx(0.5 * math.log(4 / 3))
    assert soft_target_loss(half, quarter, 1.0).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_the_temperature_and_its_square_belong_to_the_soft_targets_only():
    for weights, moves in (((5, 0, 0), True), ((0, 2, 1), False)):
        cold, hot = (triple_loss(*batch(), weights=weights, temperature=t) for t in (1.0, 4.0))
        assert (cold != hot) == moves


def test_soft_targets_are_not_limited_to_masked_tokens_unless_asked():
    data = batch()
    real, asked = data[5], data[2] >= 0
    assert 0 < asked.sum() < real.sum() < real.numel()
    for options, where in (({}, real), ({"restrict_to_mask": True}, asked)):
        _, by_logits, by_states = slopes(triple_loss, *data, weights=(5, 0, 1), **options)
        assert torch.equal(by_logits.abs().sum(-1) > 0, where)
        assert torch.equal(by_states.abs().sum(-1) > 0, real)  # the cosine: always all that is not padding


def test_descent_on_the_soft_targets_distils_and_the_printed_sign_pushes_away():
    z, theirs, *_ = batch()
    printed = z.clone().requires_grad_()
    (theirs.softmax(-1) * printed.log_softmax(-1)).sum().backward()  # L_ce = sum t log s, as printed, T = 1
    assert soft_target_loss(z - 0.1 * printed.grad, theirs) > soft_target_loss(z, theirs)
    apart = []
    for _ in range(40):
        value, gradient = run(soft(2.0).call, torch.stack([theirs, z]), None, reduction="sum")
        apart.append(value.item())
        z = z - 0.5 * gradient[1]
    assert apart == sorted(apart, reverse=True) and apart[-1] < 0.1 * apart[0]


def test_the_teacher_decides_the_gradient_and_gets_none():
    z, theirs, targets, h, their_states, mask = (x.requires_grad_(x.is_floating_point()) for x in batch())
    found = slopes(triple_loss, z, theirs, targets, h, their_states, mask, weights=(5, 0, 1))
    moved = slopes(triple_loss, z, theirs.flip(-1), targets, h, their_states.flip(-1), mask, weights=(5, 0, 1))
    agreed = slopes(triple_loss, z, z + 3.0, targets, h, 2 * h, mask, weights=(5, 0, 1))
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(found, moved, strict=True))
    assert all(x.abs().max() < 1e-14 for x in agreed) and theirs.grad is their_states.grad is None


# ---------------------------------------------------------------- the method, on a tiny pair

NOW, LATER = Step(1, 10, 0, logged=True), Step(2, 10, 0, logged=False)
SMALL = {"width": 8, "heads": 2, "feedforward": 8, "dropout": 0.0}
INPUTS = ("input_ids", "attention_mask")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 200)


@pytest.fixture
def data(tokenizer):
    """A masked batch of 6 rows with padding; the first row has no target."""
    rows = [{"input_ids": ids} for ids in tokenizer(TEXTS[:6]).input_ids]
    collate = collate_masked_lm(tokenizer, token_weights=distilbert.smoothed_masking(rows, len(tokenizer)))
    found = (collate(rows, torch.Generator().manual_seed(seed)) for seed in range(99))
    return next(one for one in found if (one["labels"][0] == -100).all() and (one["attention_mask"] == 0).any())


@pytest.fixture
def pair(tokenizer):
    """(teacher, student) in float64 without dropout, far enough from their starting point to have opinions."""
    teacher = drawn(masked_lm, len(tokenizer), layers=3, **SMALL)
    return teacher, drawn(DistilBertForMaskedLM, student_config(teacher.config, 2))


def drawn(build, *arguments, seed: int = 0, **options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build(*arguments, **options)
        xavier(net)
    return net.double()


def cut(data: dict[str, Tensor], rows: slice = slice(None), pads: int = 0) -> dict[str, Tensor]:
    """Some rows of a batch, with so many more columns of padding; what is in the padding is arbitrary."""
    fills = {"input_ids": 7, "attention_mask": 0, "labels": -100}
    found = {name: F.pad(data[name][rows], (0, pads), value=fill) for name, fill in fills.items()}
    found["positions"] = (found["labels"].flatten() != -100).nonzero()[:, 0]
    found["tokens"] = found["attention_mask"].flatten().nonzero()[:, 0]
    found["asked"] = torch.searchsorted(found["tokens"], found["positions"]).tolist()
    return found | {"targets": found["labels"].flatten()[found["positions"]]}


def taught(kind, teacher, *arguments, **options):
    method = kind(*arguments, **options)
    method.teacher = teacher
    return method


def learnt(model: nn.Module, loss: Tensor) -> list[Tensor]:
    """A loss and its gradient by every parameter."""
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(one.new_zeros(()) if one.grad is None else one.grad.clone() for one in model.parameters())]


def step(method, model: nn.Module, data: dict[str, Tensor], counts=None) -> list[Tensor]:
    return learnt(model, method.loss(model, data, counts or method.count(data), NOW)["loss"])


def steps(method, model: nn.Module, pieces: list[dict[str, Tensor]], counts) -> list[Tensor]:
    return [sum(parts) for parts in zip(*(step(method, model, data, counts) for data in pieces), strict=True)]


def assert_equal(actual, expected: list[Tensor], rtol: float = 1e-9) -> None:
    scale = max(float(one.abs().max()) for one in expected)
    for one, right in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, right, rtol=rtol, atol=1e-3 * rtol * scale)


@each_weights
@pytest.mark.parametrize("restrict", [False, True])
def test_the_method_is_the_triple_loss_of_plain_full_passes(weights, restrict, pair, data):
    teacher, student = pair
    found = step(taught(TripleLoss, teacher, weights, 3.0, restrict), student, data)
    ours, theirs = (net(**{n: data[n] for n in INPUTS}, output_hidden_states=True) for net in (student, teacher))
    states = ours.hidden_states[-1], theirs.hidden_states[-1]
    options = {"weights": weights, "temperature": 3.0, "restrict_to_mask": restrict}
    loss = triple_loss(ours.logits, theirs.logits, data["labels"], *states, data["attention_mask"], **options)
    assert_equal(found, learnt(student, loss))
    assert sum(float(one.abs().max()) > 1e-6 for one in found) > 20


@pytest.mark.parametrize("weights, restrict", [((5, 2, 1), False), ((5, 2, 1), True), ((0, 2, 1), False)])
def test_accumulated_pieces_and_more_padding_change_nothing(weights, restrict, pair, data):
    teacher, student = pair
    method = taught(TripleLoss, teacher, weights, restrict_to_mask=restrict)
    counts = method.count(data)
    assert counts == {"targets": int((data["labels"] != -100).sum()), "tokens": int(data["attention_mask"].sum())}
    whole = step(method, student, data)
    pieces = [cut(data, slice(0, 1)), cut(data, slice(1, 4), 5), cut(data, slice(4, 6), 1)]  # the first: no target
    assert_equal(steps(method, student, pieces, counts), whole)
    assert_equal(step(method, student, cut(data, pads=9)), whole)


def test_the_logged_terms_are_the_unweighted_means(pair, data):
    teacher, student = pair
    method = taught(TripleLoss, teacher)
    terms = method.loss(student, data, method.count(data), NOW)
    for name, weights in (("soft", (1, 0, 0)), ("mlm", (0, 1, 0)), ("cosine", (0, 0, 1))):
        assert_equal([terms[name].detach()], step(taught(TripleLoss, teacher, weights), student, data)[:1])
    assert set(method.loss(student, data, method.count(data), LATER)) == {"loss"}


@pytest.mark.parametrize("weights, passes", [((5, 2, 1), 1), ((5, 0, 0), 1), ((0, 2, 1), 1), ((0, 2, 0), 0)])
def test_the_teacher_runs_once_at_most_and_nobody_projects_the_batch(weights, passes, pair, data, monkeypatch):
    teacher, student = pair
    kept, calls, rows, given = copy.deepcopy(teacher), [], [], methods.projected_losses
    monkeypatch.setattr(methods, "projected_losses", lambda x, *r, **o: rows.append(len(x)) or given(x, *r, **o))
    teacher.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for net in pair:
        net.get_output_embeddings().register_forward_hook(lambda _m, _i, out: rows.append(len(out)))
    step(method := taught(TripleLoss, teacher, weights), student, data)
    positions = method.count(data)["tokens" if weights[0] else "targets"]  # no more than the terms need
    assert calls == [False] * passes and rows == [0] * (1 + passes) + [positions]
    assert_same_weights(teacher, kept)
    assert all(one.grad is None for one in teacher.parameters())


def test_without_a_teacher_there_is_one_sentence_unless_none_is_needed(pair, data):
    for weights in ((5, 2, 0), (0, 2, 1)):
        with pytest.raises(UserError, match="teacher") as caught:
            step(TripleLoss(weights), pair[1], data)
        one_sentence(caught.value)
    assert step(TripleLoss((0, 2, 0)), pair[1], data)[0] > 0


def test_a_narrower_student_learns_from_words_but_not_from_hidden_states(pair, data):
    teacher, narrow = pair[0], drawn(DistilBertForMaskedLM, student_config(pair[0].config, 2, width=4))
    assert step(taught(TripleLoss, teacher, (5, 2, 0)), narrow, data)[0] > 0
    with pytest.raises(UserError, match="shapes"):
        step(taught(TripleLoss, teacher), narrow, data)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wrapped_student_under_autocast_learns_about_the_same(dtype, pair, data):
    teacher, student = (net.float() for net in pair)
    method = taught(TripleLoss, teacher)
    right = step(method, student, data)
    wrapped = nn.Module()
    wrapped.module, wrapped.forward = student, student.forward  # as under data parallelism
    with torch.autocast("cpu", dtype=dtype):
        found = step(method, wrapped, data)
    assert all((a - b).norm() <= 0.05 * b.norm() + 3e-3 for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("alpha_ce, alpha_task", [(0.5, 0.5), (0.3, 0.9), (0.0, 0.9), (0.7, 0.0)])
def test_the_second_distillation_is_kl_and_cross_entropy_of_the_classes(alpha_ce, alpha_task):
    teacher, other, student = (drawn(classifier, 24, ("a", "b", "c"), **SMALL, seed=seed) for seed in range(3))
    rows = [{"input_ids": [1, *range(5, 6 + i), 2], "label": i % 3} for i in range(5)]
    data, *pieces = (collate_classification()(some) for some in (rows, rows[:2], rows[2:]))
    method, calls = taught(SecondDistillation, teacher, alpha_ce, alpha_task, 3.0), []
    teacher.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    found, counts = step(method, student, data), method.count(data)
    assert calls == [False] * (alpha_ce > 0) and all(one.grad is None for one in teacher.parameters())
    ours, theirs = (net(**{n: data[n] for n in INPUTS}).logits for net in (student, teacher))
    kl = 9 * F.kl_div((ours / 3).log_softmax(-1), (theirs / 3).softmax(-1).detach(), reduction="batchmean")
    assert_equal(found, learnt(student, alpha_ce * kl + alpha_task * F.cross_entropy(ours, data["labels"])))
    assert_equal(steps(method, student, pieces, counts), found)
    moved = step(taught(SecondDistillation, other, alpha_ce, alpha_task, 3.0), student, data)
    assert (abs(found[0] - moved[0]) > 1e-4) == (alpha_ce > 0)


def test_smoothed_masking_is_the_count_to_the_power_of_minus_seven_tenths():
    rows = [{"input_ids": [1, 5, 5, 2]}, {"input_ids": [1, 5, 6, 2]}]
    chances = distilbert.smoothed_masking(iter(rows), 8)
    torch.testing.assert_close(chances, torch.tensor([1, 2**-0.7, 2**-0.7, 1, 1, 3**-0.7, 1, 1]))


def test_targets_are_drawn_over_the_batch_without_replacement_and_rare_ones_more_often(tokenizer):
    often, rare = 40, 41
    weights = distilbert.smoothed_masking([{"input_ids": [often] * 100 + [rare]}], len(tokenizer))
    rows = [{"input_ids": [1, *[often, rare, UNK] * n, 2]} for n in (1, 12, 3)]
    collate, asked = collate_masked_lm(tokenizer, token_weights=weights), []
    for seed in range(40):
        found = collate(rows, torch.Generator().manual_seed(seed))
        assert len(set(found["positions"].tolist())) == len(found["targets"]) == math.ceil(0.15 * (3 * 16 + 6))
        asked.append((found["labels"] != -100).sum(1))
        assert set(found["targets"].tolist()) <= {often, rare} and rare >= len(SPECIALS)
        assert (found["targets"] == rare).sum() > (found["targets"] == often).sum()
    assert (torch.stack(asked) == 0).any()  # a row may get none
