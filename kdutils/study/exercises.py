"""What an exercise of a paper is: what to answer, the test of the answer, a hint that does not give it away.

>>> EXERCISES = {"alpha": number("the alpha at a batch size of 8", effective_alpha, hint="Is the KL a mean too?")}

A paper keeps its exercises in `papers/<paper>/exercises.py`, so that no answer stands in the notebook; there
`check("r_drop.alpha", answer)` looks one up (`kdutils.notebook.exercises`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """`ask`: what goes in place of `...`. `test`: answer -> whether it is right (None: not given yet), what to tell.

    `hint`: a sentence for a wrong answer, which must not give the right one. `options`: of a prediction.
    """

    ask: str
    test: Callable[[Any], tuple[bool | None, str]]
    hint: str
    options: tuple[str, ...] = ()


def number(ask: str, compute: Callable[[], float], hint: str, told: str = "", tolerance: float = 0.01) -> Exercise:
    """A number, right within a relative `tolerance` of the computed one; `told` explains a right answer."""

    def test(answer: Any) -> tuple[bool, str]:
        right = math.isclose(float(answer), compute(), rel_tol=tolerance)
        return right, told if right else ""

    return Exercise(ask, test, hint)


def function(
    ask: str, oracle: Callable[..., Tensor], inputs: Callable[[], Mapping[str, Sequence]], hint: str, told: str = ""
) -> Exercise:
    """A function that returns what the `oracle` returns, for each of the `inputs`: {"extreme logits": arguments}."""

    def test(answer: Any) -> tuple[bool | None, str]:
        for name, arguments in inputs().items():
            ours, wanted = answer(*arguments), oracle(*arguments)
            if ours is None or ours is ...:
                return None, ""
            ours = torch.as_tensor(ours).detach()
            if ours.shape != wanted.shape:
                return False, f"On {name} it returns the shape {tuple(ours.shape)}, not {tuple(wanted.shape)}."
            if not torch.allclose(ours.to(wanted), wanted, rtol=1e-4):
                return False, f"On {name} it returns {'another value' if ours.isfinite().all() else 'nan or infinity'}."
        return True, told

    return Exercise(ask, test, hint)


def prediction(ask: str, options: Sequence[str], run: Callable[[], tuple[str, str]], hint: str) -> Exercise:
    """One of the `options`, chosen before anything is run.

    The test then makes the change, in seconds: `run` returns the option that came true and a sentence that tells what
    happened, in numbers that the reader can judge the prediction by.
    """

    def test(answer: Any) -> tuple[bool, str]:
        if answer not in options:
            return False, f"Choose one of {listed(options)}."
        true, told = run()
        return answer == true, told

    return Exercise(f"{ask}, one of {listed(options)}", test, hint, tuple(options))


def listed(options: Sequence[str]) -> str:
    return ", ".join(f'"{option}"' for option in options)
