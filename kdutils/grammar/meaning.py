"""What a sentence of the embedded grammar says, before any language says it.

A Sentence has one or two Clauses, a Clause has Phrases. The recipes below are the whole probability model:
who does what to whom, when and where. Every language then words the same meaning (`grammar_en`, `grammar_de`,
`grammar_fr`, `grammar_es`, `grammar_ko`).

>>> draw(SENTENCE, random.Random(0)).kind
'one'
"""

from __future__ import annotations

from functools import cache

from kdutils.grammar.choices import NOTHING, Choice, Part, Recipe, always, zipf
from kdutils.grammar.entries import (
    ADJECTIVES,
    NAMES,
    NOUNS,
    PLACES,
    PRONOUNS,
    TIMES,
    VERBS,
    WEATHER,
    Adjective,
    Noun,
    Verb,
)
from kdutils.grammar.predicates import STATES
from kdutils.grammar.shapes import Clause, ClauseGiven, HeadGiven, Phrase, PhraseGiven, Sentence

# ---------------------------------------------------------------- noun phrases


HUMAN = {"person": 0.24, "youth": 0.09, "relation": 0.13, "family": 0.16, "name": 0.25, "pronoun": 0.13}
MASS = ("staple", "drink")
ANIMALS = ("pet", "prey", "farm")


@cache
def _heads(given: PhraseGiven) -> Choice:
    weights: dict[str, float] = {}
    for kind in given.kinds:
        for name, share in HUMAN.items() if kind == "human" else ((kind, 1.0),):
            weights[name] = weights.get(name, 0) + share
    if given.slot != "subject" and given.slot != "topic":
        weights.pop("pronoun", None)
    lists = {**NOUNS, "name": NAMES, "pronoun": PRONOUNS}
    pairs = [pair for kind, share in weights.items() for pair in zipf(lists[kind], share)]
    return Choice((head, weight) for head, weight in pairs if head not in given.exclude)


@cache
def _second_name(head: Noun, slot: str) -> Choice:
    if head.kind != "name" or slot != "subject":
        return NOTHING
    return Choice([(None, 0.85), *zipf([name for name in NAMES if name is not head], 0.15)])


@cache
def _numbers(head: Noun, paired: bool) -> Choice:
    if paired:
        return always("pl")
    if head.number:
        return always(head.number)
    plural = 0.08 if head.kind == "family" else 0.25
    return Choice([("sg", 1 - plural), ("pl", plural)])


@cache
def _determiners(given: HeadGiven, number: str) -> Choice:
    kind, slot, definite = given.head.kind, given.slot, given.definite
    if kind in ("name", "pronoun"):
        return always("none")
    if kind == "family":
        return Choice([("my", 0.75), ("our", 0.25)])
    weights = {"def": 0.62, "this": 0.1}
    if kind in MASS and slot == "object" and not definite:
        weights["bare"] = 1.0
    elif kind not in MASS and number == "sg" and not definite and slot != "topic":
        weights["indef"] = 0.5 if slot == "object" else 0.15
    elif number == "pl" and not definite:
        weights.update(two=0.2, three=0.1)
    if (
        kind not in (*MASS, *ANIMALS, "person", "youth", "prey", "food", "dish", "song", "film", "story", "bridge")
        or kind == "pet"
    ):
        weights.update(my=0.2, our=0.07)
    return Choice(weights.items())


@cache
def _attributes(kind: str, slot: str) -> Choice:
    fitting = [adjective for adjective in ADJECTIVES if kind in adjective.kinds]
    if not fitting or slot == "topic":
        return NOTHING
    return Choice([(None, 0.7), *zipf(fitting, 0.3)])


def _relative(fields: dict) -> Choice | Part:
    given = fields["given"]
    if not given.rich or given.head.kind not in ("person", "youth", "relation") or fields["adjective"]:
        return NOTHING
    if fields["determiner"] not in ("def", "this"):
        return NOTHING
    return Part(OPTIONAL_RELATIVE, (given.head,))


HEADED = Recipe(
    "phrase with a given head",
    (
        ("other", lambda f: _second_name(f["given"].head, f["given"].slot)),
        ("number", lambda f: _numbers(f["given"].head, f["other"] is not None)),
        ("determiner", lambda f: _determiners(f["given"], f["number"])),
        ("adjective", lambda f: _attributes(f["given"].head.kind, f["given"].slot)),
        ("relative", _relative),
    ),
    lambda f: Phrase(f["given"].head, f["number"], f["determiner"], f["adjective"], f["relative"], f["other"]),
)
PHRASE = Recipe(
    "phrase",
    (
        ("head", lambda f: _heads(f["given"])),
        ("phrase", lambda f: Part(HEADED, HeadGiven(f["head"], *f["given"][1:3], f["given"].rich))),
    ),
    lambda f: f["phrase"],
)


# ---------------------------------------------------------------- clauses


FRAMES = {"transitive": 0.52, "place": 0.17, "motion": 0.11, "giving": 0.11, "copula": 0.09}
EVENT = {"past": 0.36, "now": 0.24, "habit": 0.12, "future": 0.1, "want": 0.08, "can": 0.05, "must": 0.05}
# Where one typically does what: verbs with an object that may name a place.
SCENES = {
    "buy": ("shop", "town"),
    "eat": ("home", "eatery", "room"),
    "drink": ("home", "eatery", "room"),
    "read": ("home", "green", "house"),
    "write": ("home", "house"),
    "see": ("green", "town", "house"),
    "find": ("green", "house", "room"),
    "lose": ("green", "town", "house"),
    "look": ("green", "house", "home"),
    "visit": ("town",),
    "wait": ("house", "green"),
    "paint": ("green", "home"),
}
PLACELESS = ("live", "arrive", "stay")  # these verbs always name their place


@cache
def _tenses(verb: Verb | None, allowed: tuple[str, ...]) -> Choice | None:
    weights = EVENT
    if verb is None:
        weights = {"present": 0.6, "past": 0.4}
    elif verb.frame == "saying":
        weights = {"present": 1.0}
    elif verb.lasting:
        weights = {"present": 0.75, "past": 0.25}
    elif verb.momentary:
        weights = {"past": 0.85, "future": 0.15}
    kept = [(tense, weight) for tense, weight in weights.items() if not allowed or tense in allowed]
    return Choice(kept) if kept else None


def _suits(verb: Verb | None, role: str) -> bool:
    if role == "relative":
        return verb is not None and "human" in verb.subjects and verb.frame != "giving"
    if role == "main":  # its subject can be tired or happy
        return verb is not None and verb.subjects == ("human",) and not verb.lasting
    if role == "cause":
        return verb is not None and verb.lasting
    if role == "when":
        return verb is None or verb.frame == "place"
    return True


@cache
def _verbs(role: str, tenses: tuple[str, ...]) -> Choice:
    if role == "saying":
        return Choice(zipf(VERBS["saying"]))
    if role == "state":
        return NOTHING
    pairs: list[tuple[Verb | None, float]] = []
    for frame, share in FRAMES.items():
        pairs += [(None, share)] if frame == "copula" else zipf(VERBS[frame], share)
    return Choice((verb, weight) for verb, weight in pairs if _suits(verb, role) and _tenses(verb, tenses) is not None)


def _negatives(fields: dict) -> Choice:
    given = fields["given"]
    if given.negative is not None:
        return always(given.negative)
    if fields["tense"] == "must" or given.role in ("saying", "state", "relative"):
        return always(False)
    return Choice([(False, 0.85), (True, 0.15)])


@cache
def _predicates(kind: str, role: str, said: Adjective | None) -> Choice:
    fitting = [a for a in ADJECTIVES if kind in a.kinds and not a.attributive_only and a is not said]
    if role in ("state", "when"):
        fitting = [a for a in fitting if a.en in STATES]
    return Choice(zipf(fitting))


DESCRIBED = tuple(sorted({k for a in ADJECTIVES if not a.attributive_only for k in a.kinds} - set(ANIMALS)))


def _subject(fields: dict) -> Choice | Part:
    given, verb = fields["given"], fields["verb"]
    if given.role == "relative":
        return NOTHING
    if given.subject is not None:
        return always(given.subject)
    if verb is None:
        kinds = ("human",) if given.role == "when" else ("human", "human", *DESCRIBED)
        return Part(PHRASE, PhraseGiven(kinds, "topic", True, given.exclude))
    rich = given.role == "free"
    return Part(PHRASE, PhraseGiven(verb.subjects, "subject", False, given.exclude, rich))


def _taken(fields: dict) -> tuple[Noun, ...]:
    subject, given = fields["subject"], fields["given"]
    if subject is None:
        return given.exclude
    return (subject.head, subject.other) if subject.other else (subject.head,)


def _object(fields: dict) -> Choice | Part:
    verb = fields["verb"]
    if verb is None or verb.frame not in ("transitive", "giving"):
        return NOTHING
    return Part(PHRASE, PhraseGiven(verb.objects, "object", fields["negative"], _taken(fields)))


def _receiver(fields: dict) -> Choice | Part:
    if fields["verb"] is None or fields["verb"].frame != "giving":
        return NOTHING
    return Part(PHRASE, PhraseGiven(("human",), "receiver", True, _taken(fields)))


@cache
def _places(verb: Verb | None) -> Choice:
    if verb is None:
        return NOTHING
    scene = SCENES.get(verb.en["base"], ()) if verb.frame == "transitive" else ()
    kinds = scene if verb.frame == "transitive" else verb.objects if verb.frame != "giving" else ()
    fitting = [place for place in PLACES if place.kind in kinds]
    if not fitting:
        return NOTHING
    share = 0.2 if verb.frame == "transitive" else 0.65
    if verb.frame == "motion" or verb.en["base"] in PLACELESS:
        share = 1.0
    return Choice([(None, 1 - share), *zipf(fitting, share)])


def _adjective(fields: dict) -> Choice:
    subject = fields["subject"]
    if fields["verb"] is not None:
        return NOTHING
    kind = subject.head.kind
    kind = "person" if kind in ("name", "pronoun", "family") else kind
    return _predicates(kind, fields["given"].role, subject.adjective)


@cache
def _very(adjective: Adjective | None, negative: bool) -> Choice:
    graded = adjective is not None and not negative and adjective.en != "delicious"
    return Choice([(False, 0.75), (True, 0.25)]) if graded else always(False)


@cache
def _times(verb: Verb | None, tense: str, role: str) -> Choice:
    sort = {"present": "", "want": "future", "can": "future", "must": "future"}.get(tense, tense)
    fitting = [time for time in TIMES if time.sort == sort]
    share = {"past": 0.45, "now": 0.3, "habit": 0.85, "future": 0.5}.get(tense, 0.4)
    if not fitting or role in ("state", "cause", "saying", "relative", "when"):
        return NOTHING
    if verb is not None and verb.lasting:
        return NOTHING
    if role in ("that", "main", "plain"):
        share *= 0.5
    return Choice([(None, 1 - share), *zipf(fitting, share)])


@cache
def _time_first(timed: bool, role: str) -> Choice:
    return Choice([(True, 0.5), (False, 0.5)]) if timed and role == "free" else always(False)


CLAUSE = Recipe(
    "clause",
    (
        ("verb", lambda f: _verbs(f["given"].role, f["given"].tenses)),
        ("tense", lambda f: _tenses(f["verb"], f["given"].tenses)),
        ("negative", _negatives),
        ("subject", _subject),
        ("object", _object),
        ("receiver", _receiver),
        ("place", lambda f: _places(f["verb"])),
        ("adjective", _adjective),
        ("very", lambda f: _very(f["adjective"], f["negative"])),
        ("time", lambda f: _times(f["verb"], f["tense"], f["given"].role)),
        ("time_first", lambda f: _time_first(f["time"] is not None, f["given"].role)),
    ),
    lambda f: Clause(*(f[name] for name in Clause._fields)),
)

THERE = Choice([(False, 0.8), (True, 0.2)])
OPTIONAL_RELATIVE = Recipe(
    "optional relative",
    (
        ("there", lambda f: THERE),
        ("clause", lambda f: _relative_clause(f["given"]) if f["there"] else NOTHING),
    ),
    lambda f: f["clause"],
)


def _relative_clause(head: tuple[Noun, ...]) -> Part:
    return Part(CLAUSE, ClauseGiven("relative", ("present", "now", "past"), exclude=head))


# ---------------------------------------------------------------- sentences

KINDS = Choice({"one": 0.5, "and": 0.08, "but": 0.07, "because": 0.06, "echo": 0.12, "when": 0.07, "that": 0.1}.items())
FIRST = {
    "one": ClauseGiven("free"),
    "and": ClauseGiven("plain"),
    "but": ClauseGiven("plain", negative=False, tenses=("past", "now", "present", "future", "want", "can")),
    "because": ClauseGiven("plain", tenses=("past", "now", "future", "want", "must")),
    "echo": ClauseGiven("main"),
    "when": ClauseGiven("habit", tenses=("habit",)),
    "that": ClauseGiven("saying"),
}
# A clause that is joined by "and" or "but" keeps to the time of the first.
ALONGSIDE = {
    "past": ("past",),
    "now": ("now", "present"),
    "present": ("now", "present"),
    "habit": ("habit", "present"),
}


def _known(phrase: Phrase) -> tuple[Noun, ...]:
    return (phrase.head, phrase.other) if phrase.other else (phrase.head,)


CAUSES = Choice([*zipf(WEATHER, 0.7), ("clause", 0.3)])

WEATHER_OR_CLAUSE = Recipe(
    "weather or clause",
    (
        ("which", lambda f: CAUSES),
        ("clause", lambda f: Part(CLAUSE, f["given"]) if f["which"] == "clause" else NOTHING),
    ),
    lambda f: f["clause"] or f["which"],
)


def second_part(kind: str, first: Clause) -> Choice | Part:
    """What can follow a first clause."""
    if kind == "one":
        return NOTHING
    past = first.tense == "past"
    if kind == "echo":
        echo = first.subject._replace(determiner="echo", relative=None)
        return Part(CLAUSE, ClauseGiven("state", ("past",) if past else ("present",), subject=echo))
    exclude = _known(first.subject)
    if kind == "because":
        tenses = ("past",) if past else ("now", "present")
        return Part(WEATHER_OR_CLAUSE, ClauseGiven("cause", tenses, exclude=exclude))
    if kind == "when":
        return Part(WEATHER_OR_CLAUSE, ClauseGiven("when", ("habit", "present"), exclude=exclude))
    if kind == "that":
        return Part(CLAUSE, ClauseGiven("that", exclude=exclude))
    tenses = ALONGSIDE.get(first.tense, (first.tense,))
    return Part(CLAUSE, ClauseGiven("plain", tenses, negative=True if kind == "but" else None, exclude=exclude))


SENTENCE = Part(
    Recipe(
        "sentence",
        (
            ("kind", lambda f: KINDS),
            ("first", lambda f: Part(CLAUSE, FIRST[f["kind"]])),
            ("second", lambda f: second_part(f["kind"], f["first"])),
        ),
        lambda f: Sentence(f["kind"], f["first"], f["second"]),
    ),
    None,
)
