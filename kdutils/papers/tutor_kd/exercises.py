"""The exercises of the notebook on Tutor-KD: what is right, and hints that do not give it away.

>>> check("tutor_kd.ratio", answer)  # kdutils.notebook.exercises
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdutils.models.build import masked_lm
from kdutils.papers.tutor_kd.method import TutorKD
from kdutils.papers.tutor_kd.objective import modified_teacher_logit, policy_gradient_loss, teacher_reward
from kdutils.papers.tutor_kd.student import judging_student, student_config
from kdutils.study.exercises import Exercise, prediction
from kdutils.training.checkpoints import seeded
from kdutils.training.method import Step


def _cases() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Logits (n, V), original and replaced tokens (n,): the likelier, the less likely and the same one."""
    draw = torch.Generator().manual_seed(1)
    original = torch.tensor([3, 0, 6, 2, 5, 1, 4, 4])
    replaced = torch.tensor([1, 0, 5, 6, 2, 3, 4, 0])
    logits = 2 * torch.randn(8, 7, generator=draw, dtype=torch.float64)
    return [(logits, original, replaced), (logits, replaced, original), (logits[:1], original[:1], replaced[:1])]


def _same(one: Any, other: Any) -> bool:
    one, other = (torch.as_tensor(each).detach().double() for each in (one, other))
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def _compared(answer: Callable, right: Callable, mistakes: dict[str, Callable]) -> tuple[bool | None, str]:
    """Whether a function returns what the right one does in all cases; of mistakes that many make, which it is."""
    given = [answer(*case) for case in _cases()]
    if any(one is None or one is ... for one in given):
        return None, ""
    for told, function in {"": right, **mistakes}.items():
        if all(_same(one, function(*case)) for one, case in zip(given, _cases(), strict=True)):
            return not told, told
    return False, ""


def _log_p(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def _p(logits: Tensor, tokens: Tensor) -> Tensor:
    return _log_p(logits, tokens).exp()


def _z(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.gather(-1, tokens[:, None])[:, 0]


# --- the modified logit ------------------------------------------------------------------------------------------

RATIO_MISTAKES = {
    "Some of your values are above 1: could sigmoid(o) follow them there?": lambda z, x, w: _p(z, w) / _p(z, x),
    "The two words have each other's place: what should a word get that the teacher finds far less likely?": (
        lambda z, x, w: modified_teacher_logit(z, w, x)
    ),
    "The two words have each other's place, and some of your values are above 1.": (
        lambda z, x, w: _p(z, x) / _p(z, w)
    ),
    "It is a difference of probabilities: what would two rare words get that fit equally well?": (
        lambda z, x, w: _p(z, w) - _p(z, x)
    ),
    "It is a difference of probabilities, and the written word lowers it: what should one that fits get?": (
        lambda z, x, w: _p(z, x) - _p(z, w)
    ),
    "It is the probability of the written word alone: what does the original one tell?": lambda z, x, w: _p(z, w),
    "It is the probability of the original word alone: what does the written one change?": lambda z, x, w: _p(z, x),
    "It is on the scale of logits: what numbers can be compared with sigmoid(o)?": (
        lambda z, x, w: _z(z, w) - _z(z, x)
    ),
    "It is made of log-probabilities, which are all negative: which of two words has the larger one?": (
        lambda z, x, w: _log_p(z, w) / _log_p(z, x)
    ),
    "It is 1/2 where the written word is the original one: is anything wrong with that word?": (
        lambda z, x, w: (_z(z, w) - _z(z, x)).sigmoid()
    ),
    "It asks only whether the two are the same word: what of a synonym, does the teacher see it too?": (
        lambda z, x, w: (x == w).double()
    ),
}


def _right_ratio(answer: Callable) -> tuple[bool | None, str]:
    right, told = _compared(answer, modified_teacher_logit, RATIO_MISTAKES)
    if right:
        told = (
            "A word that the teacher finds at least as likely as the original one counts as wholly right, and the "
            "softmax's sum cancels: the difference of two logits is all that is needed."
        )
    return right, told


# --- the reward --------------------------------------------------------------------------------------------------

REWARD_MISTAKES = {
    "It has the other sign: it pays a tutor that misleads the teacher.": lambda z, x, w: -teacher_reward(z, x, w),
    "It is made of logits, or of log-probabilities, whose difference is the same: what bounds it?": (
        lambda z, x, w: _log_p(z, x) - _log_p(z, w)
    ),
    "It is made of logits, or of log-probabilities, and has the other sign.": (
        lambda z, x, w: _log_p(z, w) - _log_p(z, x)
    ),
    "It is one logit, not what the teacher believes of two words.": lambda z, x, w: _z(z, x),
    "It is one log-probability, which pays nothing but penalties.": lambda z, x, w: _log_p(z, x),
    "It is a quotient, which has no bound: what is paid where nothing was changed?": (
        lambda z, x, w: _p(z, x) / _p(z, w)
    ),
    "It is a quotient, and it pays a tutor that misleads the teacher.": lambda z, x, w: _p(z, w) / _p(z, x),
    "It is the modified logit, which has its place on the masked text: what is asked of the written one?": (
        modified_teacher_logit
    ),
    "It looks at the original word alone: what if the teacher believes the written one?": lambda z, x, w: _p(z, x),
    "It looks at the written word alone: does the teacher still see what stood there?": lambda z, x, w: -_p(z, w),
    "It cannot tell a teacher that sees through the word from one that is misled: is no reward negative?": (
        lambda z, x, w: teacher_reward(z, x, w).abs()
    ),
    "It pays nothing for a teacher that is misled: should that not cost the tutor something?": (
        lambda z, x, w: teacher_reward(z, x, w).clamp(min=0)
    ),
}


def _right_reward(answer: Callable) -> tuple[bool | None, str]:
    right, told = _compared(answer, teacher_reward, REWARD_MISTAKES)
    if right:
        told = (
            "It is 0 where the word was kept, close to 1 where the teacher sees through the new one, and close to -1 "
            "where it believes it."
        )
    return right, told


# --- whom the rewards reach --------------------------------------------------------------------------------------

ROUTED = ("the tutor's alone", "the student's alone", "those of both", "those of neither")


def _gradients(factor: float, added: float) -> list[Tensor]:
    """The tutor's and the student's gradients of the joint loss, at rewards of factor R + added and always one draw."""
    # two texts of six words, two of each hidden behind word 4
    text = torch.tensor([[2, 4, 11, 12, 4, 3], [2, 13, 4, 14, 4, 3]])
    batch = {"input_ids": text, "attention_mask": torch.ones_like(text), "tokens": torch.arange(12)}
    batch |= {"positions": torch.tensor([1, 4, 8, 10]), "targets": torch.tensor([5, 6, 7, 8])}
    with seeded(1):
        method = TutorKD(rewards=(factor, factor))
        method.teacher = masked_lm(20, width=16, layers=2, heads=2, feedforward=16, max_length=8).eval()
        student = judging_student(student_config(method.teacher.config, layers=1, dropout=0.0), seed=1)
        method.attach(student)
        method.baseline -= added
        method.loss(student, batch, method.count(batch), Step(1, 1, 0, logged=False))["loss"].backward()
    networks = (method.networks["tutor"],), (student, method.networks["projection"])
    return [
        torch.cat([one.grad.flatten() for net in nets for one in net.parameters() if one.grad is not None])
        for nets in networks
    ]


def _routed() -> tuple[str, str]:
    before, after = _gradients(1.0, 0.0), _gradients(2.0, 1.0)
    tutor, student = (float((new - old).norm() / old.norm()) for old, new in zip(before, after, strict=True))
    told = (
        f"On the same draw of four words, the tutor's gradient changes by {tutor:.2g} times its length, and the "
        f"student's, with its projection and its head, by {student:.2g}."
    )
    return ROUTED[{(True, False): 0, (False, True): 1, (True, True): 2}.get((tutor > 1e-6, student > 1e-6), 3)], told


# --- the policy gradient alone -----------------------------------------------------------------------------------

ENTROPY = ("rise", "fall", "stay")
REWARDS = (0.1, 0.4, 0.7, 0.9, 1.0, 1.2)


def _entropy(updates: int = 200, rate: float = 0.5) -> tuple[str, str]:
    """Updates of G by the exact mean of the policy gradient over all words, from a uniform G."""
    logits, rewards = torch.zeros(6, dtype=torch.float64, requires_grad=True), torch.tensor(REWARDS).double()

    def measured() -> tuple[float, float]:
        g = logits.detach().softmax(-1)
        return float(-(g * g.log()).sum()), float(g @ rewards)

    (before, paid), words = measured(), torch.arange(6)
    for _ in range(updates):
        # what each of the six draws would cost, and how often it is drawn: (6,)
        cost = policy_gradient_loss(logits.expand(6, 6), words, rewards, reduction="none")
        (gradient,) = torch.autograd.grad(logits.detach().softmax(-1) @ cost, logits)
        with torch.no_grad():
            logits -= rate * gradient
    after, earned = measured()
    told = (
        f"In {updates} updates at the rate {rate} the entropy of G goes from {before:.3f} to {after:.3f} nats, and the "
        f"mean reward from {paid:.3f} to {earned:.3f}; the best-paid word earns {max(REWARDS)}."
    )
    return ENTROPY[2 - 2 * (after > before + 1e-6) - (after < before - 1e-6)], told


# --- the baseline ------------------------------------------------------------------------------------------------

BASELINE = (
    "mean changes, variance falls",
    "mean stays, variance falls",
    "mean stays, variance rises",
    "both stay",
)


def _moments(baseline: Tensor | float, g: Tensor, rewards: Tensor) -> tuple[Tensor, float]:
    """Over the draws of a word from G: the mean of the policy gradient (V,), and its variance summed over V."""
    found = []
    for word, reward in enumerate(rewards):
        logits = g.log()[None].requires_grad_()
        loss = policy_gradient_loss(logits, torch.tensor([word]), reward[None], baseline=baseline)
        found.append(torch.autograd.grad(loss, logits)[0][0])
    gradients = torch.stack(found)
    mean = g @ gradients
    return mean, float(g @ (gradients - mean).square().sum(-1))


def _with_a_baseline() -> tuple[str, str]:
    g, rewards = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.5, 0.8, 1.1, 1.4]], dtype=torch.float64)
    earned = g @ rewards
    (mean, variance), (moved, after) = _moments(0.0, g, rewards), _moments(earned, g, rewards)
    apart = float((moved - mean).abs().max())
    told = (
        f"With the rewards 0.5, 0.8, 1.1 and 1.4, {float(earned):.2f} in the mean, the mean gradient moves by at most "
        f"{apart:.1g}, and the variance goes from {variance:.3f} to {after:.3f}."
    )
    if apart > 1e-9:
        return BASELINE[0], told
    return BASELINE[3 - 2 * (after < variance - 1e-9) - (after > variance + 1e-9)], told


EXERCISES = {
    "ratio": Exercise(
        "a function of the teacher's logits (n, V) on the masked text, of the original and of the written words (n,) "
        "that returns the modified logit a^T (n,) of each",
        _right_ratio,
        hint="What should it be where the original word was written again, and where another one fits still better?",
    ),
    "reward": Exercise(
        "a function of the teacher's logits (n, V) on the written text, of the original and of the written words (n,) "
        "that returns the teacher's reward R_T (n,) of each",
        _right_reward,
        hint="What does the teacher believe of either word, and what should the tutor earn for the same word?",
    ),
    "route": prediction(
        "your prediction of whose gradients change, on one and the same draw, when all rewards are doubled and 1 is "
        "added to each",
        ROUTED,
        _routed,
        hint="Which terms of the loss hold a reward, and which of the numbers in them have a gradient?",
    ),
    "entropy": prediction(
        "your prediction of what the entropy of G does in updates by the policy gradient alone, without L_tutor, from "
        "a uniform G over six words whose fixed rewards differ",
        ENTROPY,
        _entropy,
        hint="At which G is the mean reward at its largest, and which term of the loss would keep G away from there?",
    ),
    "baseline": prediction(
        "your prediction of what becomes of the policy gradient's mean and variance over draws when the mean reward is "
        "subtracted from rewards that are all positive",
        BASELINE,
        _with_a_baseline,
        hint="What is the mean of the gradient of log G(x') over draws from G, and by what is each draw's multiplied?",
    ),
}
