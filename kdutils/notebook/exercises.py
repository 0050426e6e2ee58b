"""Exercises that never stop a run: an answer is right, not yet right, or not given yet.

>>> check("r_drop.alpha", answer)  # what is right and the hint are kept in papers/r_drop/exercises.py
>>> check("3.1", answer, expected=2.0, hint="...")  # or stand here
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from kdutils.core.errors import unknown
from kdutils.study.exercises import Exercise

_answered: dict[str, bool] = {}
_KEPT = object()  # what is expected is kept with the paper


def check(exercise: str, answer: Any, expected: Any = _KEPT, hint: str = "") -> None:
    """Prints whether an answer is right; no answer makes it raise, so that an unanswered notebook runs to its end.

    An `answer` that is None or ... counts as not given yet. Without `expected`, `exercise` is one that a paper keeps,
    such as "r_drop.alpha"; UserError when there is none of that name. `expected` is the value itself or a predicate
    that gets the answer. Numbers may be rounded to two decimals, small ones to two digits; float32 is as good as
    float64, a list as good as a tensor. `hint` is printed with a wrong answer.
    """
    if expected is _KEPT:
        _check_kept(exercise, answer)
        return
    if answer is None or answer is ...:
        print(f"Exercise {exercise}: not answered yet.")
        return
    try:
        right, why = expected(answer) if callable(expected) else _equal(answer, expected), hint
        if isinstance(right, str):
            right, why = False, f"{right} {hint}"
    except Exception as error:  # the answer may be any code at all
        right, why = False, f"Checking it raised {type(error).__name__}: {error}. {hint}"
    _answered[exercise] = bool(right)
    print(f"Exercise {exercise}: " + ("correct." if right else f"not yet. {why}".rstrip()))


def kept(name: str) -> Exercise:
    """The exercise of a paper by its full name, "r_drop.alpha". Raises UserError when there is none."""
    paper, _, _ = name.partition(".")
    try:
        found = importlib.import_module(f"kdutils.papers.{paper}.exercises").EXERCISES
    except ModuleNotFoundError:
        found = {}
    known = {f"{paper}.{short}": exercise for short, exercise in found.items()}
    if name not in known:
        raise unknown("exercise", name, known)
    return known[name]


def _check_kept(name: str, answer: Any) -> None:
    exercise = kept(name)
    try:
        right, told = (None, "") if answer is None or answer is ... else exercise.test(answer)
    except Exception as error:  # the answer may be any code at all
        right, told = False, f"Checking it raised {type(error).__name__}: {error}."
    if right is None:
        print(f"… not answered yet ({name}): put {exercise.ask} in place of `...`, then run this cell again.")
        return
    _answered[name] = right
    print(f"✓ right ({name}). {told}".rstrip() if right else f"✗ not yet ({name}). {f'{told} {exercise.hint}'.strip()}")


def _equal(answer: Any, expected: Any) -> bool | str:
    """Whether two values agree, or what kind of answer is wanted."""
    if isinstance(expected, str | bool | Mapping | set):
        return answer == expected
    answer, expected = _array(answer), _array(expected)
    if answer.shape != expected.shape:
        kinds = ["a single number" if one.ndim == 0 else f"shape {one.shape}" for one in (expected, answer)]
        return f"{kinds[0][0].upper()}{kinds[0][1:]} is wanted, the answer has {kinds[1]}."
    if answer.dtype.kind not in "iufcb" or expected.dtype.kind not in "iufcb":
        return bool((answer == expected).all())
    size = np.abs(expected).astype(float)
    digit = 10.0 ** np.floor(np.log10(np.where(size > 0, size, 1.0)))  # the place of the first digit
    rounded = 0.505 * np.minimum(0.01, 0.1 * digit)  # half a unit of the last place that is asked for, and rounding
    return bool((np.abs(answer - expected) <= np.maximum(rounded, 1e-3 * size)).all())


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def score() -> None:
    """Prints how many of the exercises tried in this kernel are right."""
    print(f"{sum(_answered.values())} of {len(_answered)} exercises tried are correct.")
