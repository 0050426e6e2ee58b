"""What one clause can mean when a word of it is hidden: step 2 of `kdutils.grammar.posterior`.

>>> Window("en", ("the", "dog", "?")).possible(Part(CLAUSE, FIRST["one"]))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

from kdutils.grammar import english, french, german, korean, spanish
from kdutils.grammar.choices import Choice, Part
from kdutils.grammar.entries import (
    NAMES,
    NOUNS,
    PLACES,
    PRONOUNS,
    TIMES,
    Adjective,
    Noun,
    Place,
    Verb,
    Weather,
    french_plural,
    spanish_plural,
)
from kdutils.grammar.meaning import CLAUSE, FIRST, HEADED, WEATHER_OR_CLAUSE
from kdutils.grammar.shapes import Clause, HeadGiven, Phrase, PhraseGiven

VOICES = {"en": english, "de": german, "fr": french, "es": spanish, "ko": korean}
GAP = "?"  # stands for the hidden word among the pieces; no sentence has a question mark
IMPOSSIBLE = 9

# The cases, prepositions and particles with which a phrase can stand in each slot.
ROLES = {
    "en": {"subject": ("",), "object": ("",), "receiver": ("",)},
    "de": {"subject": ("nom",), "object": ("acc", "dat", "auf acc"), "receiver": ("dat",)},
    "fr": {"subject": ("",), "object": ("", "à"), "receiver": ("à",)},
    "es": {"subject": ("",), "object": ("", "a"), "receiver": ("a",)},
    "ko": {"subject": ("은는", "이가"), "object": ("을를", "에게"), "receiver": ("에게",)},
}
# Beginnings of words, one of which is there wherever a tense, a negation, a relative clause or a determiner
# is. What can share a word with its neighbour (French l', Korean endings) has no sign.
_SIGNS = {
    "en": """now am is are / future will / want want / must ha / not not cannot / relative who / def the
        indef a / this th / my my / our our / two two / three three""",
    "de": """future werd wird / want will woll / can k / must m / not nicht / def d / indef ein / this dies
        my mein / our unser / two zwei / three drei""",
    "fr": """future va vo allons / want ve vo / can pe po / must d / not pas / relative qui / this c / my m
        our no / two deux / three trois""",
    "es": """future v / want qu / can p / must t / not no / relative que / def el l al / indef un / this est
        my mi / our nuestr / two dos / three tres""",
    "ko": """now 있 / future 것 / want 싶 / can 수 / not 않 없 / this 이 / my 제 / our 우리
        two 두 / three 세""",
}
SIGNS = {
    language: {sign: tuple(words) for sign, *words in map(str.split, re.split(r"/|\n", table))}
    for language, table in _SIGNS.items()
}
IMPERFECT = "imperfect_sg1 imperfect_sg3 imperfect_pl1 imperfect_pl3"
# Which forms of a verb stand in the present, the progressive, the past, and after another verb.
TENSE_FORMS = {
    "en": ("base third", "ing", "past base", "base"),
    "de": ("sg1 sg3 pl", "sg1 sg3 pl", "participle pret", "infinitive"),
    "fr": ("sg1 sg3 pl1 pl3", "sg1 sg3 pl1 pl3", "participle " + IMPERFECT, "infinitive"),
    "es": (
        "sg1 sg3 pl1 pl3",
        "sg1 sg3 pl1 pl3",
        "past_sg1 past_sg3 past_pl1 past_pl3 " + IMPERFECT,
        "infinitive",
    ),
}


def pieces(words: Sequence[str]) -> tuple[str, ...]:
    """Lower case, without punctuation, parted after an apostrophe: L'ami, -> l' ami."""
    parted = " ".join(words).lower().replace("'", "' ").replace(",", " ").replace(".", " ")
    return tuple(parted.split())


@cache
def _anchors(language: str, entry: Noun | Verb | Adjective) -> tuple[str, ...]:
    """Beginnings of words, one of which is in every clause that uses the entry."""
    forms: list[str] | tuple[str, ...]
    if isinstance(entry, Noun):
        forms = entry.forms[language][1:]
    elif language == "ko":
        forms = korean.first_words(entry)
    elif isinstance(entry, Verb):
        forms = [form for key, form in getattr(entry, language).items() if key not in ("prep", "obj")]
    else:
        plurals = {"fr": french_plural, "es": spanish_plural}
        cell = getattr(entry, language)
        forms = [cell] if isinstance(cell, str) else [*cell, plurals.get(language, str)(cell[0])]
    return tuple(dict.fromkeys(pieces([form])[0] for form in forms if form and form != "-"))


@cache
def _tense_anchors(language: str, verb: Verb, tense: str) -> tuple[str, ...]:
    """The same for a verb in one tense."""
    if language == "ko":
        return korean.first_words(verb, (tense,))
    forms = getattr(verb, language)
    simple = {"present": 0, "habit": 0, "now": 1, "past": 2}.get(tense, 3)
    keys = TENSE_FORMS[language][simple].split()
    found = [forms[key] for key in keys if key in forms]
    if language == "de" and "pre" in forms:  # macht ... auf, or aufmacht
        found += [forms["pre"]]
    return tuple(pieces([form])[0] for form in found)


@lru_cache(100_000)
def _phrase_runs(language: str, phrase: Phrase, slot: str) -> tuple[tuple[str, ...], ...]:
    roles = ROLES[language]["subject" if slot == "topic" else slot]
    return tuple(pieces([VOICES[language].noun_phrase(phrase, role)]) for role in roles)


@cache
def _place_runs(language: str, place: Place) -> tuple[tuple[str, ...], ...]:
    texts = [place.where[language], place.whither[language]]
    if language == "ko":
        noun = place.where["ko"]
        texts = [noun + "에서", noun + "에", korean.particle(noun, "으로")]
    return tuple(dict.fromkeys(pieces([text]) for text in texts))


@cache
def _modes(language: str, role: str) -> tuple[str, ...]:
    """The modes in which a language may word a clause of this role."""
    seconds = {
        "and": "plain",
        "but": "plain",
        "because": "cause",
        "echo": "state",
        "when": "when",
        "that": "that",
    }
    modes: list[str] = []
    for kind, given in FIRST.items():
        for past in (False, True):
            first, second = VOICES[language].modes(kind, past)
            modes += [first] if given.role == role else []
            modes += [second, second.replace("that", "fact")] if seconds.get(kind) == role else []
    return tuple(dict.fromkeys(modes))


def _has_relative(fields: dict) -> bool:
    """Is this a relative clause, or a clause with one beside it, which may say the time or place instead?"""
    return fields["subject"] is None or fields["subject"].relative is not None


class Window:
    """The pieces of one clause, perhaps with the gap among them, and everything the clause can mean.

    What is chosen is tested at once: 0, its words are seen; 1, the gap hides some of them; 9, impossible.
    """

    def __init__(self, language: str, row: tuple[str, ...]) -> None:
        self.language, self.voice, self.row = language, VOICES[language], row
        self.gap = row.index(GAP) if GAP in row else len(row)
        self.left, self.right = row[: self.gap], row[self.gap + 1 :]
        self.visible = dict.fromkeys(self.left + self.right)
        self._memory: dict[Any, Any] = {}
        self._tests: dict[str, Callable[[Any], int]] = {
            "verb": self._word,
            "other": self._word,
            "adjective": self._word,
            "place": self._place,
            "time": lambda time: self._run(pieces([time.words[language]])),
            "determiner": self._sign,
            "negative": lambda negative: self._sign("not") if negative else 0,
            "there": lambda there: self._sign("relative") if there else 0,
        }

        # A time or place that is seen must be said.
        self._needed = ["time"] if any(self._tests["time"](time) == 0 for time in TIMES) else []
        self._needed += ["place"] if any(self._place(place) == 0 for place in PLACES) else []

    def possible(self, part: Part, spare: int | None = None) -> list[tuple[Any, float, int]]:
        """Everything the part can be: (value, probability, how many things in it only the gap can hide).

        `spare` is how many it may hide: 1, or 0 where there is no gap or something else is in it already.
        """
        spare = int(self.gap < len(self.row)) if spare is None else spare
        if (part, spare) not in self._memory:
            results: list[tuple[Any, float, int]] = []
            used = self._word(part.given.head) if part.recipe is HEADED else 0
            if used <= spare:
                self._extend(part, {"given": part.given}, 1.0, spare, used, results)
            self._memory[part, spare] = results
        return self._memory[part, spare]

    def _extend(self, part: Part, fields: dict, p: float, spare: int, used: int, results: list) -> None:
        """Choose the next field in every way that the window allows, and go on; at the end keep the whole."""
        index = len(fields) - 1
        if index == len(part.recipe.fields):
            value = part.recipe.make(fields)
            used = max(used, self._whole(part, value))
            if used <= spare:
                results.append((value, p, used))
            return
        name, options = part.recipe.fields[index]
        for value, q, hidden in self._options(name, options(fields), spare - used, fields):
            if used + hidden <= spare:
                self._extend(part, {**fields, name: value}, p * q, spare, used + hidden, results)

    def _options(self, name: str, source: Choice | Part, spare: int, fields: dict) -> list:
        """The options that the window allows; a Choice of tenses belongs to one verb."""
        if not isinstance(source, Choice):
            return self.possible(source, spare)
        if name == "head":
            live = self._live(fields["given"], spare)
            return [(head, p, 0) for head, p in source.pairs if head in live]
        none = IMPOSSIBLE if name in self._needed and not _has_relative(fields) else 0
        if (name, source, none) not in self._memory:
            test = self._tests.get(name, lambda value: 0)
            if name == "tense":
                test = partial(self._tense, fields["verb"])
            tested = [(value, p, none if value is None else test(value)) for value, p in source.pairs]
            self._memory[name, source, none] = [option for option in tested if option[2] <= 1]
        return self._memory[name, source, none]

    def _live(self, given: PhraseGiven, spare: int) -> dict[Noun, bool]:
        """The heads of all the phrases that stand in the window, whatever the verb wants."""
        key = given._replace(kinds=(), exclude=()), spare
        if key not in self._memory:
            context = (given.slot, given.definite, given.rich)
            heads = dict.fromkeys(noun for nouns in (*NOUNS.values(), NAMES, PRONOUNS) for noun in nouns)
            parts = ((head, Part(HEADED, HeadGiven(head, *context))) for head in heads)
            self._memory[key] = {head: True for head, part in parts if self.possible(part, spare)}
        return self._memory[key]

    def _seen(self, anchors: tuple[str, ...]) -> bool:
        return any(seen.startswith(anchors) for seen in self.visible)

    def _tense(self, verb: Verb | None, tense: str) -> int:
        """Its auxiliary, and the form of the verb (counted once where the verb is not seen at all)."""
        cost = self._sign(tense)
        if verb is None or self._word(verb):
            return cost
        return cost + (not self._seen(_tense_anchors(self.language, verb, tense)))

    def _place(self, place: Place) -> int:
        return min(self._run(run) for run in _place_runs(self.language, place))

    def _word(self, entry: Noun | Verb | Adjective) -> int:
        if entry not in self._memory:
            anchors = _anchors(self.language, entry)
            free = isinstance(entry, Noun) and entry.kind == "pronoun"  # it may share a gap: j'ai
            self._memory[entry] = 0 if free or self._seen(anchors) else 1
        return self._memory[entry]

    def _sign(self, sign: str) -> int:
        anchors = SIGNS[self.language].get(sign)
        return 0 if anchors is None or self._seen(anchors) else 1

    def _run(self, run: tuple[str, ...]) -> int:
        """Do these pieces stand in the window in a row?"""
        missing = [piece for piece in run if piece not in self.visible]
        if len(missing) > 1 + any("'" in piece for piece in missing):
            return IMPOSSIBLE
        size = len(run)
        for side in (self.left, self.right):
            if any(side[i : i + size] == run for i in range(len(side) - size + 1)):
                return 0
        if self.gap == len(self.row):
            return IMPOSSIBLE
        for start in range(size):  # the gap hides run[start:end], one word: l' ami, but never le chien
            if start and self.left[-start:] != run[:start]:
                continue
            end = start + 1
            while end < size and run[end - 1].endswith("'"):
                end += 1
            if self.right[: size - end] == run[end:]:
                return 1
        return IMPOSSIBLE

    def _fills(self, run: tuple[str, ...]) -> int:
        """Are these pieces the whole window? The gap may hide several of them, or none (je in j'ai)."""
        if self.gap == len(self.row):
            return 0 if run == self.row else IMPOSSIBLE
        before, after = len(self.left), len(self.right)
        if len(run) < before + after or run[:before] != self.left:
            return IMPOSSIBLE
        return 1 if run[len(run) - after :] == self.right else IMPOSSIBLE

    def _whole(self, part: Part, value: Any) -> int:
        """Does the wording of a whole phrase stand in the window; does that of a clause fill it?"""
        if part.recipe is HEADED:
            runs = _phrase_runs(self.language, value, part.given.slot)
            return 0 if runs[0] in ((), ("je",)) else min(self._run(run) for run in runs)
        if part.recipe is CLAUSE and part.given.role != "relative":
            return self._clause(value, part.given.role)
        if part.recipe is WEATHER_OR_CLAUSE and isinstance(value, Weather):
            return self._clause(value, "cause")
        return 0

    def _clause(self, clause: Clause | Weather, role: str) -> int:
        modes = _modes(self.language, role)
        if isinstance(clause, Weather):
            modes += _modes(self.language, "when")
        return min(self._fills(pieces([self.voice.wording(clause, mode)])) for mode in modes)
