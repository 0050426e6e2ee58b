"""Exercises that never stop a run: an answer is right, not yet right, or not given yet.

>>> check("3.1", answer, expected=2.0, hint="...")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

_answered: dict[str, bool] = {}


def check(exercise: str, answer: Any, expected: Any, hint: str = "", rtol: float = 1e-3) -> None:
    """Prints whether an answer is right; it never raises, so that an unanswered notebook runs to its end.

    An `answer` that is None or ... counts as not given yet. `expected` is the value itself (numbers and
    arrays are compared to `rtol`) or a predicate that gets the answer. `hint` is printed with a wrong one.
    """
    if answer is None or answer is ...:
        print(f"Exercise {exercise}: not answered yet.")
        return
    try:
        right = bool(expected(answer)) if callable(expected) else _equal(answer, expected, rtol)
        why = hint
    except Exception as error:  # the answer may be any code at all
        right, why = False, f"Checking it raised {type(error).__name__}: {error}. {hint}"
    _answered[exercise] = right
    print(f"Exercise {exercise}: " + ("correct." if right else f"not yet. {why}".rstrip()))


def _equal(answer: Any, expected: Any, rtol: float) -> bool:
    if isinstance(expected, str | bool | Mapping | set):
        return answer == expected
    answer, expected = _array(answer), _array(expected)
    if answer.shape != expected.shape:
        raise ValueError(f"the answer has shape {answer.shape}, expected is {expected.shape}")
    if answer.dtype.kind in "iufcb" and expected.dtype.kind in "iufcb":
        return bool(np.allclose(answer, expected, rtol=rtol, atol=rtol * 1e-3))
    return bool((answer == expected).all())


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def score() -> None:
    """Prints how many of the exercises tried in this kernel are right."""
    print(f"{sum(_answered.values())} of {len(_answered)} exercises tried are correct.")
