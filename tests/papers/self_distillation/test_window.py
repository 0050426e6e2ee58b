"""The window of earlier selves: who is in it, that its mean stays exact however long a run is, its cost, resuming."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kdutils.core.errors import UserError
from kdutils.papers.self_distillation.window import Flat, Mean, Window
from tests.tiny import one_sentence

P = 261


class Net(nn.Module):
    """A matrix, a vector and a number, P in all; `tied` names the matrix a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bias = (nn.Parameter(torch.zeros(shape)) for shape in ((5, 4), (240,), ()))
        self.tied = self.first


def students(count: int, seed: int = 0) -> np.ndarray:
    """Parameters (count, P) of magnitudes from 1e-6 to 1e2, which change by themselves in every update."""
    draw = np.random.default_rng(seed)
    sizes = 10 ** draw.uniform(-6, 2, (1, P))
    return (sizes * draw.choice([-1, 1], (1, P)) * draw.uniform(0.1, 1, (count, P))).astype(np.float32)


def become(net: nn.Module, row: np.ndarray) -> nn.Module:
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(row), net.parameters())
    return net


def after(updates: int, size: int, rows: np.ndarray, **options) -> tuple[Window, Flat, Net]:
    """A window after so many updates of a run whose students are the rows, theta_0 first."""
    net = become(Net(), rows[0])
    window, flat = Window(net, size, **options), Flat(net)
    for row in rows[1 : updates + 1]:
        window.push(become(net, row))
    return window, flat, net


def mean(rows: np.ndarray) -> np.ndarray:
    """Their mean in float64, rounded once."""
    return rows.astype(np.float64).mean(0).astype(np.float32)


# ---------------------------------------------------------------- the mean of the last K, strictly older ones


@pytest.mark.parametrize("size", [1, 2, 3, 5, 0])
def test_after_thousands_of_updates_the_mean_is_still_that_of_the_last_k(size):
    """To the last bit: what leaves the sum takes away exactly what it brought. Size 0, K = T - 1: of all of them.

    After update t the window holds theta_0 to theta_{t-1}, of which the last K: never theta_t, which is trained now.
    """
    rows = students(5001)
    window, flat, net = after(0, size, rows)
    assert len(window) == 0
    checked = {1, 2, 3, 4, 5, 6, 7, 4999, 5000} | set(range(250, 5000, 250))
    for t in range(1, 5001):
        window.push(become(net, rows[t]))
        if t in checked:
            first = max(0, t - size) if size else 0
            window.average_into(flat)
            np.testing.assert_array_equal(flat.data.numpy(), mean(rows[first:t]), err_msg=f"after update {t}")
            assert len(window) == t - first
            if size:
                np.testing.assert_array_equal(torch.stack([*window.sets()]).numpy(), rows[first:t])  # by their age
    assert (window.mean is None) == (size == 1)
    if window.mean and size:  # nothing has built up in the sum itself
        np.testing.assert_array_equal(window.mean.total.numpy(), rows[5000 - size : 5000].astype(np.float64).sum(0))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_parameters_that_jump_between_all_magnitudes_leave_no_more_than_a_rounding(size):
    """From 1e-6 to 1e2 and back in single updates: more digits than even the sum has."""
    draw = np.random.default_rng(1)
    rows = (10 ** draw.uniform(-6, 2, (3001, P)) * draw.choice([-1, 1], (3001, P))).astype(np.float32)
    window, flat, _ = after(3000, size, rows)
    window.average_into(flat)
    exact, largest = mean(rows[3000 - size : 3000]), np.abs(rows[3000 - size : 3000]).max(0)
    assert (np.abs(flat.data.numpy() - exact) <= np.spacing(largest)).all()


@pytest.mark.parametrize("pushed", [1, 2, 3, 4, 7])
def test_without_a_sum_the_window_still_has_every_self_by_itself(pushed):
    rows = students(8)
    window, flat, _ = after(pushed, 3, rows, averaged=False)
    last = rows[max(0, pushed - 3) : pushed]
    assert window.mean is None and len(window) == len(last)
    np.testing.assert_array_equal(torch.stack([*window.sets()]).numpy(), last)
    stacked = window.stacked()
    assert {name: tuple(one.shape) for name, one in stacked.items()} == {
        "first": (len(last), 5, 4), "second": (len(last), 240), "bias": (len(last),)
    }  # fmt: skip
    for row in last:  # each self's parameters belong together, whatever their order
        place = int((stacked["bias"] == float(row[-1])).nonzero())
        np.testing.assert_array_equal(stacked["first"][place].flatten().numpy(), row[:20])
        np.testing.assert_array_equal(stacked["second"][place].numpy(), row[20:260])
    window.average_into(flat)
    np.testing.assert_allclose(flat.data.numpy(), mean(last), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- memory and cost


def test_tied_parameters_are_held_once_and_views_share_the_memory():
    net = become(Net(), students(1)[0])
    flat, copies = Flat(net), Flat(net, copies=3)
    assert flat.data.shape == (P,) and copies.data.shape == (3, P) and list(flat.views) == ["first", "second", "bias"]
    flat.take(net)
    assert torch.equal(flat.data, nn.utils.parameters_to_vector(net.parameters())) and not flat.data.requires_grad
    flat.data.fill_(2.0)
    copies.data[1] = 3.0
    assert all((view == 2.0).all() for view in flat.views.values())
    assert all((view[1] == 3.0).all() and not view[0].any() for view in copies.views.values())


@pytest.mark.parametrize(
    ("size", "averaged", "sets", "sums"),
    [(0, True, 1, 1), (1, True, 2, 0), (2, True, 3, 1), (5, True, 6, 1), (5, False, 6, 0)],
)
def test_it_takes_k_plus_one_sets_and_a_sum(size, averaged, sets, sums):
    """The present self too: the network itself is overwritten by the optimiser."""
    assert Window(Net(), size, averaged).bytes() == P * (4 * sets + 8 * sums)


class Operations(TorchDispatchMode):
    """Notes every operation on tensors and how many elements came out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        elements = sum(one.numel() for one in pytree.tree_leaves((arguments, result)) if isinstance(one, torch.Tensor))
        if "select" not in str(function):  # a view, which reads nothing
            self.seen.append((str(function), elements))
        return result


def test_an_update_costs_the_same_whatever_k_is():
    rows, found = students(102), {}
    for size in (2, 5, 50):
        window, flat, net = after(100, size, rows)
        become(net, rows[101])
        with Operations() as found[size]:
            window.push(net)
            window.average_into(flat)
    assert found[2].seen == found[5].seen == found[50].seen
    assert len(found[2].seen) < 20 and max(elements for _, elements in found[2].seen) <= 4 * P


def test_the_sum_is_held_where_there_is_float64():
    """Apple's GPU has none: there the CPU adds up."""
    assert Mean(3, torch.device("mps")).total.device == torch.device("cpu")


# ---------------------------------------------------------------- going on, refusals


@pytest.mark.parametrize("updates", [0, 1, 2, 5, 9])
@pytest.mark.parametrize(("size", "averaged"), [(0, True), (1, True), (3, True), (3, False)])
def test_a_window_that_is_restored_goes_on_as_the_one_that_was_saved(size, averaged, updates):
    rows = students(20)
    window, flat, net = after(updates, size, rows, averaged=averaged)
    file = io.BytesIO()
    torch.save(window.state(), file)
    file.seek(0)
    again, other, _ = after(3, size, students(20, seed=1), averaged=averaged)  # with another past
    again.restore(torch.load(file, weights_only=True))
    for row in rows[updates + 1 :]:
        torch.testing.assert_close(again.state(), window.state(), rtol=0, atol=0)
        become(net, row)
        window.push(net)
        again.push(net)
        window.average_into(flat)
        again.average_into(other)
        assert torch.equal(flat.data, other.data) and len(again) == len(window)


def test_a_size_below_zero_is_refused():
    with pytest.raises(UserError, match="choose at least 1, or 0 for all") as caught:
        Window(Net(), -1)
    one_sentence(caught.value)
