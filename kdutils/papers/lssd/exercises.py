"""The exercises of the notebook on LSSD: what is right, and hints that do not give it away.

>>> check("lssd.schedule", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdutils.papers.lssd.objective import FORMS, lssd_loss
from kdutils.papers.lssd.schedule import replayed
from kdutils.study.exercises import Exercise, function, prediction

# --- Algorithm 1 -------------------------------------------------------------------------------------------------

CURVES = (
    [4.0, 3.0, 3.2, 3.1, 2.9, 3.0, 3.1],
    [5.0, 4.0, 4.0, 3.0, 3.0, 3.0],  # ties
    [3.0, 2.0, 1.0],
    [1.0, 2.0, 3.0, 0.5],
)


def taught_epochs(losses: Sequence[float], age: int = 2) -> list[int]:
    """The epochs, from 1 on, in which a language with these validation losses is taught, one more included."""
    story = replayed([{"": loss} for loss in [*losses, 0.0]], age)
    return [epoch for epoch, states in enumerate(story, start=1) if states[""][0]]


def _ties_replace(losses: Sequence[float]) -> list[int]:
    """The mistake that a tie replaces the teacher."""
    return taught_epochs([loss - 1e-6 * epoch for epoch, loss in enumerate(losses)])


SCHEDULE_MISTAKES: dict[str, Callable[[Sequence[float]], list[int]]] = {
    "It teaches in the epoch right after its making, when it is the student itself.": lambda one: taught_epochs(one, 1),
    "A tie replaces no teacher: what does it do to the switch?": _ties_replace,
    "It is one epoch off: the losses of epoch e are known at its end.": (
        lambda one: [epoch - 1 for epoch in taught_epochs(one)]
    ),
    "The epoch after the last loss is missing, and the switch is known for it.": (
        lambda one: [epoch for epoch in taught_epochs(one) if epoch <= len(one)]
    ),
}


def _right_schedule(answer: Callable) -> tuple[bool | None, str]:
    given = [answer(list(curve)) for curve in CURVES]
    if any(one is None or one is ... for one in given):
        return None, ""
    given = [[int(epoch) for epoch in one] for one in given]
    if given == [taught_epochs(curve) for curve in CURVES]:
        return (
            True,
            "It is Algorithm 1: a language that sets a record is left to its labels for the epoch that follows.",
        )
    for told, mistake in SCHEDULE_MISTAKES.items():
        if given == [mistake(curve) for curve in CURVES]:
            return False, told
    return False, ""


# --- the gradient of Eq. (3) -------------------------------------------------------------------------------------


def _gradient(p: Tensor, q: Tensor, y: int, alpha: float) -> Tensor:
    """Of a taught word by its logits (V,), Whole and without smoothing, from the loss that training uses."""
    logits = p.log()[None].requires_grad_()
    loss = lssd_loss(logits, torch.tensor([y]), q.log()[None], alpha, epsilon=0.0)
    return torch.autograd.grad(loss, logits)[0][0]


def _cases() -> dict[str, tuple]:
    p, q = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).softmax(-1)
    return {
        "the first case": (p, q, 3, 2.0),
        "an alpha of 0": (p, q, 1, 0.0),
        "a teacher that is the student": (p, p, 0, 0.6),
    }


# --- predictions -------------------------------------------------------------------------------------------------

ITSELF = ("zero", "alpha times that of the labels", "alpha times the gradient of the teacher's entropy")
HALVED = ("as long", "half as long", "zero", "alpha times as long")


def _example() -> tuple[Tensor, Tensor, Tensor]:
    z, q = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return z, q, torch.arange(6) % 5


def _length(z: Tensor, y: Tensor, *given, **options) -> float:
    leaf = z.clone().requires_grad_()
    return float(torch.autograd.grad(lssd_loss(leaf, y, *given, epsilon=0.0, **options), leaf)[0].norm())


def _itself() -> tuple[str, str]:
    z, _, y = _example()
    leaf = z.clone().requires_grad_()
    taught, alone = (lssd_loss(leaf, y, teacher, 2.0, epsilon=0.0) for teacher in (z, None))
    (added,) = torch.autograd.grad(taught - alone, leaf)
    told = (
        f"The loss rises by {(taught - alone).item():.3f} nats, twice the teacher's entropy, and its gradient by "
        f"{float(added.norm()):.1g}, beside {_length(z, y):.2f} of the labels."
    )
    return ITSELF[0] if added.norm() < 1e-10 else ITSELF[1], told


def _halved() -> tuple[str, str]:
    z, q, y = _example()
    alone = _length(z, y)
    lengths = {name: _length(z, y, q, 0.0, **form) for name, form in FORMS.items()}
    told = (
        f"Labels alone give a gradient of length {alone:.3f}; with a teacher that counts nothing it is "
        f"{lengths['paper']:.3f} in the paper's form and {lengths['released']:.3f} in the released one."
    )
    return HALVED[1] if abs(lengths["released"] / alone - 0.5) < 1e-9 else HALVED[0], told


EXERCISES = {
    "schedule": Exercise(
        "a function of the validation losses of one language after epochs 1, 2, ... that returns the list of the "
        "epochs in which it is taught, the one after the last loss included",
        _right_schedule,
        hint="Follow Algorithm 1: what does the end of an epoch do to the teacher, and to the switch of the next?",
    ),
    "gradient": function(
        "a function of p, q (V,), the index y of the right word and alpha that returns the gradient (V,) of Eq. (3) by "
        "the logits of one taught word, Whole and without smoothing",
        lambda p, q, y, alpha: p - F.one_hot(torch.tensor(y), len(p)) + alpha * (p - q),
        _cases,
        hint="A cross-entropy has the gradient p minus its target, and here are two of them.",
        told="The two pulls add up, so a taught word weighs 1 + alpha in all and one that nobody teaches 1.",
    ),
    "itself": prediction(
        "your prediction of the gradient that the distillation term adds, without dropout, when the teacher is the "
        "student itself",
        ITSELF,
        _itself,
        hint="Where is a cross-entropy smallest by its second argument?",
    ),
    "halved": prediction(
        "your prediction of how long the gradient is, beside that of the labels alone, when alpha is set to 0 in the "
        "released form and a teacher is switched on",
        HALVED,
        _halved,
        hint="Which factor stands before both terms of the released form, and when does it stand there?",
    ),
}
