"""The exercises of the notebook on self-distillation: what is right, and hints that do not give it away.

>>> check("self_distillation.window", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.build import classifier
from kdutils.papers.self_distillation.method import SDA
from kdutils.papers.self_distillation.objective import average_parameters, sda_loss, sdv_loss, vote
from kdutils.papers.self_distillation.window import Window
from kdutils.study.exercises import Exercise, function, prediction
from kdutils.training.method import Step


def _logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the reader's GPU too


# --- Eq. (5) -----------------------------------------------------------------------------------------------------


def _case(classes: int, weight: float, scale: float = 1.0) -> list[Any]:
    """The logits of six rows, the teacher's, the right classes, lambda."""
    logits, teacher = scale * _logits(2, 6, classes)
    return [logits, teacher, torch.arange(6) % classes, weight]


def _agreed() -> list[Any]:
    logits, _, targets, weight = _case(3, 1.0)
    return [logits, logits, targets, weight]


VALUE = function(
    "a function of the logits (n, C), the teacher's logits, the right classes (n) and lambda that returns Eq. (5), "
    "both of its terms as means, which trains the student alone,",
    sda_loss,
    lambda: {
        "two classes": _case(2, 1.0),
        "fourteen classes, lambda = 1.5": _case(14, 1.5),
        "logits in the thousands": _case(3, 1.0, 4000.0),
        "a teacher that says the same": _agreed(),
    },
    hint="Over what is each of the two terms a mean, and which of the two networks may it pull?",
    told="With more classes the same lambda pulls each logit less, as the MSE is a mean over them.",
)


def _trains_the_student(answer: Callable[..., Tensor]) -> tuple[bool | None, str]:
    """Whether the value is right, and then whether the gradient goes where it should."""
    right, told = VALUE.test(answer)
    if not right:
        return right, told
    gradients = []
    for loss in (answer, sda_loss):
        logits, teacher, *rest = _case(3, 1.5)
        both = logits.requires_grad_(), teacher.requires_grad_()
        gradients.append(torch.autograd.grad(loss(*both, *rest), both, materialize_grads=True))
    (ours, theirs), (wanted, _) = gradients
    if theirs.any():
        return False, "The value is right, but the teacher is trained as well."
    return (True, told) if torch.allclose(ours, wanted) else (False, "The value is right, but not its gradient.")


# --- Eq. (6) -----------------------------------------------------------------------------------------------------

MOMENTS = ((0, 3), (1, 1), (2, 5), (3, 3), (7, 3))  # t, K


def _older(t: int, size: int) -> list[float]:
    """What the window of the training holds while theta_t is trained, of a network whose only weight is its number."""
    model = nn.ParameterList([torch.zeros(1)])
    window = Window(model, size)
    for update in range(1, t + 1):
        nn.init.constant_(model[0], update)
        window.push(model)
    return [float(one) for one in window.sets()]


def _window(answer: Callable[[int, int], Any]) -> tuple[bool | None, str]:
    """Whether a function returns the right updates, in whatever order."""
    for t, size in MOMENTS:
        ours = answer(t, size)
        if ours is None or ours is ...:
            return None, ""
        if sorted(float(one) for one in ours) != _older(t, size):
            return False, f"With t = {t} and K = {size} it returns other updates."
    return True, "The present network is never among them, and at first there are fewer than K, at the very first none."


# --- Eq. (2) -----------------------------------------------------------------------------------------------------

PROBABILITIES = (0.99, 0.2, 0.2)  # of class A, by three models; the rest is class B's
CHOSEN = (
    "both choose A",
    "the vote chooses A, the mean of the logits B",
    "the vote chooses B, the mean of the logits A",
    "both choose B",
)


def _chosen() -> tuple[str, str]:
    """What the sum of the probabilities chooses, and what the mean of the logits does."""
    of_a = torch.tensor(PROBABILITIES, dtype=torch.float64)
    logits = torch.stack([of_a, 1 - of_a], -1).log()  # (K, 2)
    voted, mean = vote(logits), logits.mean(0)
    told = (
        f"The probabilities of A add up to {3 * voted[0]:.2f} and those of B to {3 * voted[1]:.2f}; the mean logit of "
        f"A lies {mean[0] - mean[1]:+.2f} from that of B."
    )
    return CHOSEN[2 * int(voted.argmax()) + int(mean.argmax())], told


# --- Eq. (6) and (7) ---------------------------------------------------------------------------------------------

FROZEN = (
    "not at all, but for rounding",
    "less than with a layer below that is trained too",
    "as much as with a layer below that is trained too",
)


def _apart(head: nn.Sequential) -> list[float]:
    """The losses of SDA and of SDV for a head on fixed features, after five updates that left five earlier selves."""
    features, targets, older = _logits(12, 8), torch.arange(12) % 3, []
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    for _ in range(5):
        older.append(copy.deepcopy(head))
        label_smoothed_nll(head(features), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    mean = copy.deepcopy(head)
    mean.load_state_dict(average_parameters([one.state_dict() for one in older]))
    with torch.no_grad():
        each = torch.stack([one(features) for one in older])
        sda, sdv = (
            loss(head(features), teacher, targets) for loss, teacher in ((sda_loss, mean(features)), (sdv_loss, each))
        )
    return [float(sda), float(sdv)]


def _frozen() -> tuple[str, str]:
    """SDA beside SDV with five teachers: a linear classifier alone, and one on a layer that is trained as well."""
    with torch.random.fork_rng(devices=[]):
        _seed(1)
        alone = _apart(nn.Sequential(nn.Linear(8, 3)).double())
        deeper = _apart(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double())
    ours, theirs = (abs(sda - sdv) for sda, sdv in (alone, deeper))
    told = (
        f"On fixed features SDA's loss is {alone[0]:.6f} and SDV's {alone[1]:.6f}, {ours:.1g} apart; with a layer "
        f"below that is trained too they are {deeper[0]:.6f} and {deeper[1]:.6f}, {theirs:.1g} apart."
    )
    return FROZEN[0] if ours < 1e-12 else FROZEN[1] if ours < 0.5 * theirs else FROZEN[2], told


# --- what a time step is -----------------------------------------------------------------------------------------

MADE_OF = (
    "in three of four of dropout alone, so that it is zero there at dropout 0",
    "in all four of dropout alone, so that it is zero there at dropout 0",
    "in all four of dropout and of the teacher's age",
    "in all four of the teacher's age alone",
)
ACCUMULATION, UPDATES = 4, 3


def _parts(dropout: float) -> tuple[int, int]:
    """In how many micro-batches the MSE is zero, and in how many its part of age, after a first update."""
    with torch.random.fork_rng(devices=[]):
        _seed(1)
        model = classifier(24, ("no", "yes"), width=16, layers=1, heads=2, feedforward=16, dropout=dropout).train()
        batch = {"input_ids": torch.randint(5, 24, (4, 6)), "targets": torch.arange(4) % 2}
        method, found = SDA(size=1), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method.attach(model)
        for number in range(1, ACCUMULATION * (1 + UPDATES) + 1):
            step = Step(number, 0, 0, logged=True)
            terms = method.loss(model, batch, {"targets": ACCUMULATION * 4}, step)
            terms["loss"].backward()
            if number % ACCUMULATION == 0:
                optimizer.step()
                optimizer.zero_grad()
            method.after_update(model, step)  # a time step for every micro-batch
            found.append(terms)
    return tuple(sum(float(terms[name]) < 1e-9 for terms in found[ACCUMULATION:]) for name in ("mse", "mse_age"))


def _made_of() -> tuple[str, str]:
    """K = 1 with a time step for each micro-batch, at dropout 0 and at 0.1."""
    batches = ACCUMULATION * UPDATES
    (still, _), (noisy, fresh) = _parts(0.0), _parts(0.1)
    told = (
        f"Of {batches} micro-batches in {UPDATES} updates the MSE is zero in {still} at dropout 0 and in {noisy} at "
        f"0.1; at 0.1 the part that the teacher's age makes is zero in {fresh}."
    )
    if noisy:
        return MADE_OF[3], told
    return MADE_OF[2 if not fresh else 1 if fresh == still == batches else 0], told


EXERCISES = {
    "sda_loss": replace(VALUE, test=_trains_the_student),
    "window": Exercise(
        "a function of t and K that returns a list of the updates whose networks teach theta_t, numbered from 0, which "
        "is the starting point,",
        _window,
        hint="Which networks are there before theta_t, and how many of the youngest does Eq. (6) take?",
    ),
    "vote": prediction(
        f"your prediction for three models that give class A the probabilities {', '.join(map(str, PROBABILITIES))} "
        "and class B the rest",
        CHOSEN,
        _chosen,
        hint="How much can one model that is very sure add to a sum of probabilities, and how much to a mean of "
        "logits?",
    ),
    "frozen": prediction(
        "your prediction of how far the losses of SDA and SDV with K = 5 lie apart where the encoder is frozen and a "
        "linear classifier is trained",
        FROZEN,
        _frozen,
        hint="Write out the logits of the mean of five linear classifiers on one text.",
    ),
    "micro_batches": prediction(
        "your prediction of what the MSE is made of in the four micro-batches of an update, with K = 1, dropout 0.1 "
        "and a time step for each micro-batch",
        MADE_OF,
        _made_of,
        hint="When do the parameters change, and when is the network before therefore another one?",
    ),
}
