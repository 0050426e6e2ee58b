"""The shapes of a meaning: sentence, clause and noun phrase, and the contexts in which they are chosen.

>>> Phrase(head=NOUNS["pet"][0], number="sg", determiner="def")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kdutils.grammar.entries import Adjective, Noun, Place, Time, Verb, Weather


class Phrase(NamedTuple):
    """A noun phrase: "my two old friends", "Anna and Paul", "the boy who is reading a book".

    `determiner` is one of def, indef, this, my, our, two, three, bare, none, and echo: the pronoun that takes
    up an earlier phrase ("because HE is tired").
    """

    head: Noun
    number: str  # "sg" or "pl"
    determiner: str
    adjective: Adjective | None = None
    relative: Clause | None = None
    other: Noun | None = None  # the second of two names


class Clause(NamedTuple):
    """A clause. `verb` is None for "to be" with an adjective; `subject` is None in a relative clause.

    `tense` is one of present, now, habit, past, future, want, can, must.
    """

    verb: Verb | None
    tense: str
    negative: bool
    subject: Phrase | None
    object: Phrase | None
    receiver: Phrase | None
    place: Place | None
    adjective: Adjective | None
    very: bool
    time: Time | None
    time_first: bool


class Sentence(NamedTuple):
    """`kind`: one, and, but, because, echo (because HE is tired), when (the second comes first), that."""

    kind: str
    first: Clause
    second: Clause | Weather | None


class PhraseGiven(NamedTuple):
    kinds: tuple[str, ...]
    slot: str  # subject, topic (of an adjective), object, receiver
    definite: bool = False
    exclude: tuple[Noun, ...] = ()
    rich: bool = False  # may carry a relative clause


class HeadGiven(NamedTuple):
    head: Noun
    slot: str
    definite: bool
    rich: bool


class ClauseGiven(NamedTuple):
    """The context of a clause. `role`: free, plain (no time in front), main (of because), state, cause,
    habit, when, saying, that, relative."""

    role: str
    tenses: tuple[str, ...] = ()  # empty: every tense
    subject: Phrase | None = None
    negative: bool | None = None
    exclude: tuple[Noun, ...] = ()


# --- joining clauses, for the languages that put both in the same order of words ----------------------------------


def plain_modes(kind: str, past: bool) -> tuple[str, str]:
    """How the first and the second clause of this kind of sentence are worded."""
    return "main", "past" if past else "main"


def joined(meaning: Sentence, wording: Callable[..., str], joints: Mapping[str, str]) -> str:
    """One clause, or two with the joint between them; with "when" the second comes first."""
    kind, clause, other = meaning
    mode, other_mode = plain_modes(kind, clause.tense == "past")
    first = wording(clause, mode)
    if kind == "one":
        return first
    second = wording(other, other_mode)
    return f"{joints[kind]} {second}, {first}" if kind == "when" else f"{first}{joints[kind]} {second}"
