"""Training with eval_every=0: one evaluation at the end of every epoch of the data, whoever the method is."""

from __future__ import annotations

import itertools

import pytest
import torch

from kdutils.core.errors import Paused, UserError
from kdutils.training.loop import Recipe, fit
from kdutils.training.method import Method
from tests import tiny
from tests.tiny import InOrder, assert_same_weights, one_sentence, recipe, timeless


class Epochs(InOrder):
    """Epochs of so many batches of one pair; the last length is that of all later ones."""

    def __init__(self, *lengths: int) -> None:
        super().__init__(*([index] for index in range(max(lengths))))
        self.lengths = lengths

    def plan(self, epoch):
        return self.groups[: self.lengths[min(epoch, len(self.lengths) - 1)]]


class Remembering(Method):
    """Keeps (update, epoch) of every evaluation and the epochs of the batches of every update."""

    def __init__(self) -> None:
        super().__init__()
        self.looks, self.epochs = [], []

    def loss(self, model, batch, counts, step):
        self.epochs.append(step.epoch)
        return super().loss(model, batch, counts, step)

    def after_evaluation(self, model, scores, step):
        self.looks.append((step.update, step.epoch))

    def state(self):
        return {"looks": self.looks}

    def restore(self, state):
        self.looks = [tuple(look) for look in state["looks"]]


def trained(lengths, folder=None, evaluate=None, until=None, method=None, dropout=0.0, **changes):
    method = method or Remembering()
    net = tiny.model(dropout)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        chosen = recipe(**{"eval_every": 0, "updates": 9, "accumulation": 1, **changes})
        found = fit(
            net, method, Epochs(*lengths), chosen, evaluate or (lambda model: {"loss": 1.0}), folder, until=until
        )
    found.model, found.method = net, method
    return found


def evaluations(fitted) -> list[int]:
    return [row["update"] for row in fitted.history if row["kind"] == "eval"]


def ends(lengths, accumulation: int, updates: int) -> list[int]:
    """The updates in which an epoch ends, and the last: batches are counted one by one."""
    every, found, taken = itertools.chain(lengths, itertools.repeat(lengths[-1])), set(), 0
    while taken < updates * accumulation:
        taken += next(every)
        found.add(-(-taken // accumulation))
    return sorted({update for update in found if update < updates} | {updates})


@pytest.mark.parametrize(
    ("lengths", "accumulation", "expected"),
    [
        ((3,), 1, [3, 6, 9]),
        ((4,), 1, [4, 8, 9]),
        ((1,), 1, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ((4,), 2, [2, 4, 6, 8, 9]),
        ((5,), 2, [3, 5, 8, 9]),  # the third update has the last batch of one epoch and the first of the next
        ((3,), 3, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ((7,), 3, [3, 5, 7, 9]),
        ((2, 5, 3), 2, [1, 4, 5, 7, 8, 9]),
        ((2,), 5, [1, 2, 3, 4, 5, 6, 7, 8, 9]),  # several epochs an update: they are looked at together
        ((40,), 4, [9]),
        ((36,), 4, [9]),  # the last update is the end of the epoch: it is looked at once
    ],
)
def test_there_is_one_evaluation_at_the_end_of_every_epoch(lengths, accumulation, expected):
    found = trained(lengths, accumulation=accumulation)
    assert evaluations(found) == expected == ends(lengths, accumulation, 9)
    assert [update for update, _ in found.method.looks] == expected


def test_every_length_and_every_accumulation():
    for length, other, accumulation in itertools.product((1, 2, 5), (1, 4, 7), (2, 3)):
        found = trained((length, other), accumulation=accumulation, updates=6)
        expected = ends((length, other), accumulation, 6)
        assert evaluations(found) == expected, (length, other, accumulation)


def test_an_update_over_the_end_of_an_epoch_is_looked_at_after_it():
    found = trained((5,), accumulation=2, updates=5)
    assert found.method.epochs == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]  # where each update began, for both its batches
    assert found.method.looks == [(3, 1), (5, 1)]


def test_looking_at_the_ends_of_epochs_does_not_change_the_training():
    one, other = trained((4,), dropout=0.3), trained((4,), dropout=0.3, eval_every=2)
    assert_same_weights(one.model, other.model)


def test_the_same_moments_are_the_same_training_however_they_are_asked_for(tmp_path):
    """Every third update is the end of an epoch: the whole history is equal, and so are the best weights."""
    both = [
        trained((3,), tmp_path / str(every), tiny.scores, method=Method(), dropout=0.1, eval_every=every)
        for every in (0, 3)
    ]
    assert timeless(both[0].history) == timeless(both[1].history) and both[0].best == both[1].best
    assert_same_weights(both[0].model, both[1].model)


@pytest.mark.parametrize(("lengths", "accumulation"), [((3,), 1), ((5,), 2), ((2, 7, 1), 3)])
def test_a_run_that_is_stopped_after_every_update_looks_at_the_same_moments(lengths, accumulation, tmp_path):
    options = {"evaluate": tiny.scores, "accumulation": accumulation, "updates": 6, "dropout": 0.2}
    whole, pauses = trained(lengths, tmp_path / "whole", **options), 0
    while True:
        try:
            ended = trained(lengths, tmp_path / "pieces", until=0.0, **options)
            break
        except Paused:
            pauses += 1
    assert pauses == 5 and ended.resumed_at == 5
    assert timeless(ended.history) == timeless(whole.history) and ended.method.looks == whole.method.looks
    assert_same_weights(ended.model, whole.model)


def test_patience_counts_epochs():
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    found = trained((2,), evaluate=lambda model: {"loss": next(losses)}, patience=2, updates=20)
    assert evaluations(found) == [2, 4, 6, 8] and found.best["update"] == 4 and found.updates == 8


def test_the_best_weights_are_those_of_the_best_epoch(tmp_path):
    kept, losses = [], iter([3.0, 1.0, 2.0])

    def evaluate(model):
        kept.append(tiny.weights(model))
        return {"loss": next(losses)}

    found = trained((3,), tmp_path / "run", evaluate)
    assert found.best["update"] == 6 and len(kept) == 3
    assert all(torch.equal(value, kept[1][name]) for name, value in found.model.state_dict().items())


def test_without_an_evaluation_nothing_is_looked_at():
    found = fit(tiny.model(), Remembering(), Epochs(3), recipe(eval_every=0))
    assert evaluations(found) == [] and found.updates == 12


@pytest.mark.parametrize("every", [-1, -60, float("nan")])
def test_less_than_once_an_epoch_is_refused(every):
    with pytest.raises(UserError, match="eval_every is") as caught:
        Recipe(eval_every=every)
    one_sentence(caught.value)
