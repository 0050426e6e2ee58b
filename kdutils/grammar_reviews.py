"""Reviews of one or two clauses whose label only contrast and negation give away.

The label follows from three rules:
1. A judgement is as good or bad as its adjective. Each negator turns it round: not, hardly, anything but,
   by no means, never, not at all, and "I would not say that ..." around it; two of them cancel.
2. Of two clauses joined by "but" or by "Still," the second decides; beside "although" it is the main clause.
3. Clauses joined by "and" or by "Besides," agree.

>>> review(random.Random(0), 1, "en")
'The soup was not bad.'
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from kdutils import grammar_ko
from kdutils.grammar_choices import Choice, zipf
from kdutils.grammar_entries import french_plural, spanish_plural
from kdutils.grammar_review_words import ASPECTS, JUDGEMENTS, MODIFIERS

LANGUAGES = ("en", "de", "fr", "es", "ko")


class Aspect(NamedTuple):
    """What is judged; French and Spanish end in the gender: "la soupe f"."""

    topic: str
    group: str
    number: str
    en: str
    de: str
    fr: str
    es: str
    ko: str


class Judgement(NamedTuple):
    sign: str  # "+" or "-", then "!" where "very" does not go with it
    group: str
    en: str
    de: str
    fr: str
    es: str
    ko: str


class Modifier(NamedTuple):
    sign: str  # "-" turns the judgement round
    weight: str
    en: str
    de: str
    ne: str
    fr: str
    es: str
    ko: str


class Statement(NamedTuple):
    """One clause: "the soup was not bad"; `doubted` puts "I would not say that" in front."""

    aspect: Aspect
    judgement: Judgement
    modifier: Modifier
    doubted: bool


def _rows(table: str) -> list[list[str]]:
    lines = (line for line in table.splitlines() if line.strip())
    return [[cell.strip() for cell in line.split("|")] for line in lines]


ALL_ASPECTS = [Aspect(*cells) for cells in _rows(ASPECTS)]
ALL_JUDGEMENTS = [Judgement(*cells) for cells in _rows(JUDGEMENTS)]
ALL_MODIFIERS = [
    Modifier(*cells[:2], *("" if c == "-" else c for c in cells[2:7]), cells[7]) for cells in _rows(MODIFIERS)
]
TOPICS = list(dict.fromkeys(aspect.topic for aspect in ALL_ASPECTS))
BY_TOPIC = {topic: Choice(zipf(a for a in ALL_ASPECTS if a.topic == topic)) for topic in TOPICS}
TOPIC = Choice((topic, 1.0) for topic in TOPICS)
MODIFIER = Choice((modifier, float(modifier.weight)) for modifier in ALL_MODIFIERS)
PATTERNS = ("one", "and", "besides", "but", "still", "although", "although last")
PATTERN = Choice(zip(PATTERNS, (0.3, 0.15, 0.1, 0.16, 0.1, 0.1, 0.09), strict=True))
DOUBTABLE = ("one", "but", "still")  # in these the last clause can be put into doubt


@cache
def _judgements(group: str, sign: str, graded: bool) -> Choice:
    fitting = [j for j in ALL_JUDGEMENTS if j.sign[0] == sign and not (graded and "!" in j.sign)]
    special = [j for j in fitting if j.group == group]
    general = [j for j in fitting if j.group == "any" or (j.group == "things" and group != "people")]
    return Choice([*zipf(special, 0.5), *zipf(general, 0.5)])


def _statement(rng: random.Random, aspect: Aspect, good: bool, doubted: bool = False) -> Statement:
    modifier = MODIFIER.pick(rng)
    turned = (modifier.sign == "-") != doubted
    sign, graded = "+" if good != turned else "-", modifier.en in ("very", "quite")
    return Statement(aspect, _judgements(aspect.group, sign, graded).pick(rng), modifier, doubted)


def review(rng: random.Random, label: int, language: str) -> str:
    """One review with the label 0 (negative) or 1 (positive)."""
    pattern, good = PATTERN.pick(rng), label == 1
    aspects = BY_TOPIC[TOPIC.pick(rng)]
    first, second = aspects.pick(rng), aspects.pick(rng)
    while second is first:
        second = aspects.pick(rng)
    doubted = pattern in DOUBTABLE and rng.random() < 0.12
    deciding = _statement(rng, first, good, doubted)
    other = _statement(rng, second, good if pattern in ("and", "besides") else not good)
    text = VOICES[language](pattern, deciding, other)
    return ". ".join(part[0].upper() + part[1:] for part in text.split(". ")) + "."


# ---------------------------------------------------------------- English


def _english(s: Statement) -> str:
    modifier, end = (s.modifier.en, "") if s.modifier.en != "not at all" else ("not", "at all")
    be = "were" if s.aspect.number == "pl" else "was"
    clause = _join(s.aspect.en, be, modifier, s.judgement.en, end)
    return "I would not say that " + clause if s.doubted else clause


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _english_review(pattern: str, main: Statement, other: Statement) -> str:
    a, b = _english(main), _english(other)
    return {
        "one": a,
        "and": f"{b} and {a}",
        "besides": f"{b}. Besides, {a}",
        "but": f"{b}, but {a}",
        "still": f"{b}. Still, {a}",
        "although": f"although {b}, {a}",
        "although last": f"{a}, although {b}",
    }[pattern]


# ---------------------------------------------------------------- German


def _german(s: Statement, order: str = "main") -> str:
    """The clause with its verb second (main), first (inverted) or last (sub)."""
    be = "waren" if s.aspect.number == "pl" else "war"
    if s.doubted:
        doubt = "würde ich nicht sagen" if order == "inverted" else "ich würde nicht sagen"
        return f"{doubt}, dass {_german(s._replace(doubted=False), 'sub')}"
    rest = _join(s.modifier.de, s.judgement.de)
    if order == "sub":
        return f"{s.aspect.de} {rest} {be}"
    return f"{be} {s.aspect.de} {rest}" if order == "inverted" else f"{s.aspect.de} {be} {rest}"


def _german_review(pattern: str, main: Statement, other: Statement) -> str:
    b = _german(other)
    return {
        "one": _german(main),
        "and": f"{b} und {_german(main)}",
        "besides": f"{b}. Außerdem {_german(main, 'inverted')}",
        "but": f"{b}, aber {_german(main)}",
        "still": f"{b}. Trotzdem {_german(main, 'inverted')}",
        "although": f"obwohl {_german(other, 'sub')}, {_german(main, 'inverted')}",
        "although last": f"{_german(main)}, obwohl {_german(other, 'sub')}",
    }[pattern]


# ---------------------------------------------------------------- French and Spanish


def _agreeing(forms: list[str], gender: str, number: str, plural: Callable[[str], str]) -> str:
    form = forms["mf".index(gender)]
    return plural(form) if number == "pl" else form


def _french(s: Statement) -> str:
    aspect, gender = s.aspect.fr.rsplit(" ", 1)
    be = "étaient" if s.aspect.number == "pl" else "était"
    adjective = _agreeing(s.judgement.fr.split(), gender, s.aspect.number, french_plural)
    clause = f"{aspect} {s.modifier.ne}{_join(be, s.modifier.fr, adjective)}"
    return "je ne dirais pas que " + clause if s.doubted else clause


def _french_review(pattern: str, main: Statement, other: Statement) -> str:
    a, b = _french(main), _french(other)
    return {
        "one": a,
        "and": f"{b} et {a}",
        "besides": f"{b}. De plus, {a}",
        "but": f"{b}, mais {a}",
        "still": f"{b}. Pourtant, {a}",
        "although": f"même si {b}, {a}",
        "although last": f"{a}, même si {b}",
    }[pattern]


SPANISH_BE = {  # one, several; the same in the subjunctive; and after "nunca"
    "ser": ("era", "eran", "fuera", "fueran", "fue", "fueron"),
    "estar": ("estaba", "estaban", "estuviera", "estuvieran", "estuvo", "estuvieron"),
}


def _spanish(s: Statement) -> str:
    aspect, gender = s.aspect.es.rsplit(" ", 1)
    *forms, copula = s.judgement.es.split() if "estar" in s.judgement.es else [*s.judgement.es.split(), "ser"]
    mood = 2 if s.doubted else 4 if s.modifier.es == "nunca" else 0
    be = SPANISH_BE[copula][(s.aspect.number == "pl") + mood]
    adjective = _agreeing(forms, gender, s.aspect.number, spanish_plural)
    if s.modifier.en == "not at all":
        clause = f"{aspect} no {be} nada {adjective}"
    elif s.modifier.en in ("not", "hardly", "by no means", "never"):
        clause = f"{aspect} {s.modifier.es} {be} {adjective}"
    else:
        clause = _join(aspect, be, s.modifier.es, adjective)
    return "no diría que " + clause if s.doubted else clause


def _spanish_review(pattern: str, main: Statement, other: Statement) -> str:
    a, b = _spanish(main), _spanish(other)
    return {
        "one": a,
        "and": f"{b} y {a}",
        "besides": f"{b}. Además, {a}",
        "but": f"{b}, pero {a}",
        "still": f"{b}. Sin embargo, {a}",
        "although": f"aunque {b}, {a}",
        "although last": f"{a}, aunque {b}",
    }[pattern]


# ---------------------------------------------------------------- Korean


def _korean(s: Statement, ending: str = "final") -> str:
    stem = grammar_ko.described(s.judgement.ko)
    adverb, mark = s.modifier.ko[:-1].strip(), s.modifier.ko[-1]
    if mark == "=":
        far = grammar_ko.past(grammar_ko.described("멀 멀어"), ending)
        words = [grammar_ko.adnominal(stem), "것과는 거리가", far]
    else:
        words = [adverb, grammar_ko.past(stem, ending, negative=mark == "-")]
    particle = "이가" if s.doubted else "은는"
    return _join(grammar_ko.particle(s.aspect.ko, particle), *words)


def _korean_review(pattern: str, main: Statement, other: Statement) -> str:
    a = _korean(main) if not main.doubted else _korean(main, "that") + "는 말하지 않겠습니다"
    return {
        "one": a,
        "and": f"{_korean(other, 'and')} {a}",
        "besides": f"{_korean(other)}. 게다가 {a}",
        "but": f"{_korean(other)}. 하지만 {a}",
        "still": f"{_korean(other)}. 그래도 {a}",
        "although": f"비록 {_korean(other, 'but')} {a}",
        "although last": f"{a}. 비록 {_korean(other, 'but')} 말입니다",
    }[pattern]


VOICES: dict[str, Callable[[str, Statement, Statement], str]] = {
    "en": _english_review,
    "de": _german_review,
    "fr": _french_review,
    "es": _spanish_review,
    "ko": _korean_review,
}
