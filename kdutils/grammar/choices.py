"""A tree of weighted choices: the engine under the embedded grammar.

A `Choice` is a list of values with probabilities. A `Recipe` makes one thing out of named fields that are
chosen one after the other; the options of a field may depend on the fields before it, and are either a Choice
or a `Part`, the recipe of something smaller. Drawing at random and listing everything that fits some evidence
walk the same tree, so what is sampled and what is computed exactly can never drift apart.

>>> draw(Part(COIN, None), random.Random(0))
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple


class Choice:
    """Values with their probabilities: `pairs` is a list of (value, probability), summing to 1."""

    __slots__ = ("_cumulative", "pairs")

    def __init__(self, weighted: Iterable[tuple[Any, float]]) -> None:
        kept = [(value, weight) for value, weight in weighted if weight > 0]
        total = sum(weight for _, weight in kept)
        self.pairs = [(value, weight / total) for value, weight in kept]
        self._cumulative = list(accumulate(probability for _, probability in self.pairs))

    def pick(self, rng: random.Random) -> Any:
        """One value at random. Only `rng.random()` is used: its stream is the same in every Python."""
        if len(self.pairs) == 1:
            return self.pairs[0][0]
        index = bisect_right(self._cumulative, rng.random())
        return self.pairs[min(index, len(self.pairs) - 1)][0]


NOTHING = Choice([(None, 1.0)])


def always(value: Any) -> Choice:
    """The Choice that leaves no choice."""
    return Choice([(value, 1.0)])


def zipf(values: Iterable[Any], scale: float = 1.0) -> list[tuple[Any, float]]:
    """Weights for values in order of frequency, skewed as words are: proportional to 1 / (rank + 2)."""
    weights = [(value, 1.0 / (rank + 2)) for rank, value in enumerate(values)]
    total = sum(weight for _, weight in weights)
    return [(value, scale * weight / total) for value, weight in weights]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Fields in the order in which they are chosen, and `make`, which builds the result from their values.

    Each field is (name, options); options gets the values chosen so far, with the part's context under
    "given", and returns a Choice or a Part.
    """

    name: str
    fields: tuple[tuple[str, Callable[[dict], Choice | Part]], ...]
    make: Callable[[dict], Any]


class Part(NamedTuple):
    """A recipe together with the context it is used in."""

    recipe: Recipe
    given: Any


def draw(part: Part, rng: random.Random) -> Any:
    """Make one thing at random."""
    fields: dict[str, Any] = {"given": part.given}
    for name, options in part.recipe.fields:
        source = options(fields)
        fields[name] = source.pick(rng) if type(source) is Choice else draw(source, rng)
    return part.recipe.make(fields)
