"""The exercises of the notebook on DistilBERT: what is right, and hints that do not give it away.

>>> check("distilbert.gradient", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import DistilBertForMaskedLM, PreTrainedModel

from kdutils.losses.distillation import cosine_loss, soft_target_loss
from kdutils.losses.divergences import label_smoothed_nll
from kdutils.models.build import masked_lm
from kdutils.papers.distilbert.student import initialise_student, student_config
from kdutils.study.exercises import function, prediction
from kdutils.training.checkpoints import seeded


def _logits() -> tuple[Tensor, Tensor]:
    """Logits of student and teacher, each (n, V)."""
    draw = torch.Generator().manual_seed(1)
    return (2 * torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)).unbind()


def _gradient(z_s: Tensor, z_t: Tensor, T: float) -> Tensor:
    """The derivative of the sum of T^2 KL over the positions by the student's logits: (n, V)."""
    return T * ((z_s / T).softmax(-1) - (z_t / T).softmax(-1))


def _temperatures() -> dict[str, tuple]:
    z_s, z_t = _logits()
    return {f"logits at T = {T:g}": (z_s, z_t, T) for T in (1.0, 2.0, 10.0)}


def _restricted(z_s: Tensor, z_t: Tensor, y: Tensor, T: float) -> Tensor:
    return soft_target_loss(z_s, z_t, T, y >= 0)


def _masks() -> dict[str, tuple]:
    z_s, z_t = _logits()
    some, everywhere = torch.tensor([3, -100, 0, -100, -100, 1]), torch.tensor([3, 1, 0, 2, 4, 1])
    return {"a text with three masked words": (z_s, z_t, some, 2.0), "a text of masks": (z_s, z_t, everywhere, 4.0)}


# --- predictions -------------------------------------------------------------------------------------------------


def _small_bert() -> PreTrainedModel:
    with seeded(3):
        return masked_lm(60, layers=4, width=16, heads=2, feedforward=32, dropout=0.0).eval()


def _whole_copy() -> tuple[str, str]:
    """The three losses of a student with all of its teacher's layers, before any update."""
    teacher = _small_bert()
    with seeded(4):
        student = DistilBertForMaskedLM(student_config(teacher.config, 4)).eval()
    initialise_student(teacher, student, vocab_transform=True, fold_token_type=True)
    ids = torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, theirs = (model(input_ids=ids, output_hidden_states=True) for model in (student, teacher))
        soft = float(soft_target_loss(ours.logits, theirs.logits, 2.0))
        hard = float(label_smoothed_nll(ours.logits, ids))
        cosine = float(cosine_loss(ours.hidden_states[-1], theirs.hidden_states[-1]))
    told = f"Soft targets {soft:.1e}, masked LM {hard:.2f}, cosine {cosine:.1e}."
    zero = {name for name, loss in (("soft", soft), ("hard", hard), ("cosine", cosine)) if abs(loss) < 1e-5}
    found = {frozenset(("soft", "cosine")): COPY[0], frozenset(("cosine",)): COPY[1], frozenset(): COPY[2]}
    return found.get(frozenset(zero), COPY[3]), told


def _descend(gradient: Callable[[Tensor], Tensor], z: Tensor, steps: int = 50) -> Tensor:
    for _ in range(steps):
        z = z - 0.5 * gradient(z)
    return z


def _without_square() -> tuple[str, str]:
    """The norm of the soft targets' gradient at T = 2 and at T = 8, without the factor T^2."""
    z_s, z_t = _logits()
    low, high = (float(_gradient(z_s, z_t, T).norm()) / T**2 for T in (2.0, 8.0))
    ratio = low / high
    true = SQUARE[2] if ratio < 1.5 else SQUARE[1] if ratio < 6 else SQUARE[0]
    return true, f"From {low:.3f} to {high:.3f}: {ratio:.1f} times smaller."


def _only_masks() -> tuple[str, str]:
    """What becomes of the KL at the other words, if the soft targets are asked for at the hidden ones only."""
    z_s, z_t = _logits()
    y = torch.tensor([3, -100, 0, -100, -100, 1])

    def gradient(z: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        return torch.autograd.grad(_restricted(z, z_t, y, 2.0), z)[0]

    after = _descend(gradient, z_s)
    before, there, elsewhere = (
        float(soft_target_loss(z, z_t, 1.0, where)) for z, where in ((z_s, y < 0), (after, y >= 0), (after, y < 0))
    )
    told = (
        f"KL at the hidden words after 50 steps: {there:.3f}; at the others {before:.3f} before, {elsewhere:.3f} after."
    )
    return FREE[0] if abs(elsewhere - before) < 1e-9 else FREE[1] if elsewhere < before else FREE[2], told


COPY = ("soft targets and cosine", "the cosine alone", "none of them", "all three")
SQUARE = ("about sixteen times smaller", "about four times smaller", "about the same", "larger")
FREE = ("it stays", "it falls too", "it rises")
EXERCISES = {
    "gradient": function(
        "a function of (z_s, z_t, T) that returns the gradient, of the shape of z_s", _gradient, _temperatures,
        "Differentiate one KL by one logit, and count how often 1/T comes out against the T squared in front.",
        told="As T grows it tends to the difference of the two rows of logits, each less its mean, over the number of "
        "words: a match of logits, of a size that no longer depends on T.",
    ),
    "restricted": function(
        "a function of (z_s, z_t, y, T) that returns the loss", _restricted, _masks,
        "Which rows count, and over how many of them is the mean?",
        told="The mean is over the hidden words alone: a text with few of them has no smaller loss for that.",
    ),
    "copy": prediction(
        "the losses that are zero", COPY, _whole_copy,
        "Is what the student says the same as what the teacher says? And is what the teacher says the hidden word?",
    ),
    "square": prediction(
        "what becomes of the gradient", SQUARE, _without_square,
        "The section on the square of the temperature has the formula: how does each factor grow with T?",
    ),
    "free": prediction(
        "what becomes of the KL there", FREE, _only_masks,
        "In this exercise logits are free parameters, one row per position: which rows have a gradient?",
    ),
}  # fmt: skip
