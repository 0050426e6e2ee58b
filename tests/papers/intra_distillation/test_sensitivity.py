"""Sensitivity of parameters: first order against the exact change, by hand; balance; pruning, which leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdutils.core.errors import UserError
from kdutils.data.batches import collate_classification
from kdutils.models.build import classifier
from kdutils.models.forward import counted_logits
from kdutils.papers.intra_distillation.sensitivity import (
    _least,
    balance,
    exact_sensitivity,
    mean_loss,
    parameter_sensitivity,
    pruned,
    pruning_curve,
)
from tests import tiny
from tests.tiny import assert_same_weights, one_sentence, weights


@pytest.fixture
def net():
    return tiny.model(dropout=0.3).double().train()


def several():
    return list(tiny.batches())


class Linear(nn.Module):
    """A classifier of two classes whose logits are (a x, b x): small enough to be done by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.5, -1.5], dtype=torch.float64))

    def forward(self, input_ids: torch.Tensor):
        return type("Output", (), {"logits": input_ids.double() * self.w})


def by_hand(x: float, target: int, w: list[float]) -> list[float]:
    """|w_j x (p_j - [j = target])|"""
    e = [math.exp(x * one) for one in w]
    return [abs(w[j] * x * (e[j] / sum(e) - (j == target))) for j in (0, 1)]


def losses(examples: list[tuple[int, int]], w: list[float]) -> list[float]:
    return [math.log(sum(math.exp(x * one) for one in w)) - x * w[y] for x, y in examples]


def test_first_order_sensitivity_by_hand():
    """One example a batch: the values of the batches are averaged after their absolute values were taken."""
    net, w = Linear(), [0.5, -1.5]
    examples = [(2, 0), (1, 1), (3, 0)]
    batches = [{"input_ids": torch.tensor([[x]]), "targets": torch.tensor([y])} for x, y in examples]
    found = parameter_sensitivity(net, batches)["w"]
    rows = [by_hand(x, y, w) for x, y in examples]
    assert found.tolist() == pytest.approx([sum(row[j] for row in rows) / 3 for j in (0, 1)], rel=1e-12)
    exact = exact_sensitivity(net, batches, {"w": [0, 1]})["w"]
    whole, *without = (losses(examples, theta) for theta in (w, [0, -1.5], [0.5, 0]))
    changes = [sum(abs(a - b) for a, b in zip(whole, one, strict=True)) / 3 for one in without]
    assert exact.tolist() == pytest.approx(changes, rel=1e-12)


def test_batches_count_by_their_targets():
    net, one = Linear(), {"input_ids": torch.tensor([[2]]), "targets": torch.tensor([0])}
    three = {"input_ids": torch.tensor([[1], [1], [1]]), "targets": torch.tensor([1, 1, 1])}
    nothing = {"input_ids": torch.zeros(0, 1), "targets": torch.zeros(0, dtype=torch.long)}
    found = parameter_sensitivity(net, [one, three, nothing])["w"].tolist()
    a, b = by_hand(2, 0, [0.5, -1.5]), by_hand(1, 1, [0.5, -1.5])
    assert found == pytest.approx([(x + 3 * y) / 4 for x, y in zip(a, b, strict=True)], rel=1e-12)
    with pytest.raises(UserError) as caught:
        parameter_sensitivity(net, [nothing])
    one_sentence(caught.value)


def test_it_is_theta_times_the_gradient_of_a_pass_without_dropout(net):
    batch = several()[0]
    found = parameter_sensitivity(net, [batch])
    net.eval().zero_grad()
    F.cross_entropy(counted_logits(net, batch), batch["targets"]).backward()
    assert list(found) == [name for name, one in net.named_parameters() if one.requires_grad]
    for name, theta in net.named_parameters():
        if theta.requires_grad:
            slope = torch.zeros_like(theta) if theta.grad is None else theta.grad
            torch.testing.assert_close(found[name], (theta.detach() * slope).abs(), rtol=1e-9, atol=1e-14)


def test_gradients_start_from_zero_in_every_batch_and_those_of_the_model_stay(net):
    """The trap of the known rerun: gradients that add up over the batches."""
    one = several()[0]
    for theta in net.parameters():
        theta.grad = torch.ones_like(theta)
    alone, thrice = parameter_sensitivity(net, [one]), parameter_sensitivity(net, [one] * 3)
    for name, expected in alone.items():
        torch.testing.assert_close(thrice[name], expected, rtol=1e-12, atol=0)
    assert all((theta.grad == 1).all() for theta in net.parameters())


def test_the_model_stays_as_it_is_and_the_random_numbers_too(net):
    before, state = weights(net), torch.get_rng_state()
    sensitivity = parameter_sensitivity(net, several())
    name = next(iter(sensitivity))
    exact_sensitivity(net, several(), {name: [0, 3]})
    pruning_curve(net, sensitivity, (0.0, 0.3, 1.0), lambda pruned: mean_loss(pruned, several()))
    assert all(torch.equal(now, before[key]) for key, now in net.state_dict().items())
    assert net.training and torch.equal(torch.get_rng_state(), state)
    assert all(theta.grad is None for theta in net.parameters())


def test_to_first_order_it_is_the_exact_change(net):
    """The smaller a parameter, the closer: the relative error falls with its size."""
    small, batches = Linear(), [{"input_ids": torch.tensor([[2]]), "targets": torch.tensor([0])}]
    errors = []
    for size in (0.1, 0.01):
        with torch.no_grad():
            small.w.copy_(torch.tensor([size, -size]))
        first, exact = parameter_sensitivity(small, batches)["w"], exact_sensitivity(small, batches, {"w": [0, 1]})["w"]
        errors.append(((first - exact).abs() / first).max().item())
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.2)
    places, (name, theta) = [0, 7, 20], next((n, p) for n, p in net.named_parameters() if "fc1.weight" in n)
    with torch.no_grad():
        theta.view(-1)[places] = 1e-3
    first = parameter_sensitivity(net, several())[name].view(-1)[places]
    torch.testing.assert_close(exact_sensitivity(net, several(), {name: places})[name], first, rtol=0.02, atol=0)


def test_an_entry_without_a_word_has_none_and_a_shared_matrix_is_counted_once(net):
    found = parameter_sensitivity(net, several())
    assert sum(one.numel() for one in found.values()) == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert all((one >= 0).all() and one.isfinite().all() for one in found.values())


def test_classification_and_autocast():
    """Full precision whatever is around it; any batch of the suite."""
    torch.manual_seed(0)
    net = classifier(tiny.VOCABULARY, ("no", "yes"), width=16, layers=1, heads=2, feedforward=16)
    rows = [{"input_ids": [1, 5 + n, 9, 2], "label": n % 2} for n in range(6)]
    batch = collate_classification()(rows)
    expected = parameter_sensitivity(net, [batch])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = parameter_sensitivity(net, [batch])
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert any(one.any() for one in found.values())


def test_an_unknown_parameter_is_refused(net):
    with pytest.raises(UserError, match="no trained parameter 'fc9'") as caught:
        exact_sensitivity(net, several(), {"fc9": [0]})
    one_sentence(caught.value)


# ---------------------------------------------------------------- balance


def test_balance_by_hand():
    found = balance({"a": torch.tensor([[1.0, 3.0]]), "b": torch.tensor([0.0, 4.0])})
    assert found["mean"] == 2.0 and found["std"] == pytest.approx(math.sqrt(2.5))
    assert found["cv"] == pytest.approx(math.sqrt(2.5) / 2) and found["low_half"] == pytest.approx(1 / 8)


def test_balance_over_the_mean_is_free_of_the_losss_scale():
    draw = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    one, other = balance({"a": draw}), balance({"a": 0.1 * draw})
    assert other["std"] == pytest.approx(0.1 * one["std"], rel=1e-5)
    assert other["cv"] == pytest.approx(one["cv"], rel=1e-5)
    assert other["low_half"] == pytest.approx(one["low_half"], rel=1e-5)


def test_equal_and_absent_contributions():
    equal = balance({"a": torch.full((10,), 3.0)})
    assert equal["cv"] == 0.0 and equal["low_half"] == 0.5
    assert balance({"a": torch.zeros(4)}) == {"mean": 0.0, "std": 0.0, "cv": 0.0, "low_half": 0.0}


# ---------------------------------------------------------------- pruning


def test_the_least_sensitive_are_zero_while_it_lasts(net):
    sensitivity, before = parameter_sensitivity(net, several()), weights(net)
    n = sum(one.numel() for one in sensitivity.values())
    with pruned(net, sensitivity, 0.25) as thin:
        assert thin is net
        now = {name: theta for name, theta in net.named_parameters() if name in sensitivity}
        assert sum(int((theta == 0).sum()) for theta in now.values()) >= n // 4
        gone = [sensitivity[name][(before[name] != 0) & (theta == 0)] for name, theta in now.items()]
        kept = [sensitivity[name][theta != 0] for name, theta in now.items()]
        assert torch.cat(gone).max() <= torch.cat(kept).min()
    assert all(torch.equal(now, before[key]) for key, now in net.state_dict().items())


def test_exactly_the_share_is_lost_even_among_equals():
    net = nn.Linear(4, 5, bias=False)
    with torch.no_grad():
        net.weight.fill_(2.0)
    equal = {"weight": torch.ones(5, 4)}
    for share, lost in ((0.0, 0), (0.1, 2), (0.5, 10), (1.0, 20)):
        with pruned(net, equal, share):
            assert int((net.weight == 0).sum()) == lost
            assert (net.weight.flatten()[:lost] == 0).all()
    assert (net.weight == 2.0).all()


def test_the_weights_are_back_after_a_failure(net):
    before, sensitivity = weights(net), parameter_sensitivity(net, several())
    with pytest.raises(ZeroDivisionError), pruned(net, sensitivity, 0.5):
        raise ZeroDivisionError
    assert all(torch.equal(now, before[key]) for key, now in net.state_dict().items())


def test_a_curve_starts_at_the_whole_model_and_its_end_is_nothing():
    net = tiny.train(None).model
    batches = several()
    sensitivity, whole = parameter_sensitivity(net, batches), mean_loss(net, batches)
    curve = pruning_curve(net, sensitivity, (0.0, 0.2, 0.5, 1.0), lambda thin: mean_loss(thin, batches))
    assert list(curve) == [0.0, 0.2, 0.5, 1.0] and curve[0.0] == whole
    assert curve[1.0] == pytest.approx(math.log(tiny.VOCABULARY), rel=1e-5)  # all weights zero: every word alike
    turned = {name: -one for name, one in sensitivity.items()}
    worst = pruning_curve(net, turned, (0.2,), lambda thin: mean_loss(thin, batches))
    assert curve[0.2] - whole < worst[0.2] - whole  # the least sensitive are missed least


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_means_nothing_is_refused(share, net):
    with pytest.raises(UserError) as caught, pruned(net, {"a": torch.ones(2)}, share):
        pass
    one_sentence(caught.value)


def test_the_mean_loss_is_of_all_targets():
    net, batches = tiny.model().double(), several()
    total = sum(F.cross_entropy(counted_logits(net.eval(), b), b["targets"], reduction="sum").item() for b in batches)
    assert mean_loss(net, batches) == pytest.approx(total / sum(len(b["targets"]) for b in batches), rel=1e-12)
    assert_same_weights(net, tiny.model().double())


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_of_equal_sensitivities_the_first_are_pruned(n):
    generator = torch.Generator().manual_seed(n)
    for _ in range(5):
        each = torch.randint(0, max(2, n // 3), (n,), generator=generator).float()  # many are equal
        for count in sorted({0, 1, n // 2, n}):
            wanted = torch.zeros(n, dtype=torch.bool)
            wanted[each.argsort(stable=True)[:count]] = True
            assert torch.equal(_least(each, count), wanted)
