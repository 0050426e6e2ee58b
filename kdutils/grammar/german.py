"""German wording of the embedded grammar: case, gender and adjective endings, verb second and verb last.

>>> sentence(draw(SENTENCE, random.Random(3)))
"""

from __future__ import annotations

from functools import cache

from kdutils.grammar.entries import Verb, Weather
from kdutils.grammar.shapes import Clause, Phrase, Sentence

# One string a case, one word a column: masculine, feminine, neuter, plural.
COLUMNS = {"m": 0, "f": 1, "n": 2, "pl": 3}
DER = {"nom": "der die das die", "acc": "den die das die", "dat": "dem der dem den"}
STRONG = {"nom": "er e es e", "acc": "en e es e", "dat": "em er em en"}
WEAK = {"nom": "e e e en", "acc": "en e e en", "dat": "en en en en"}
MIXED = {"nom": "er e es en", "acc": "en e es en", "dat": "en en en en"}
EIN = {"nom": "- e - e", "acc": "en e - e", "dat": "em er em en"}
EIN_WORDS = {"indef": "ein", "my": "mein", "our": "unser"}

AUXILIARIES = {
    "haben": {"sg1": "habe", "sg3": "hat", "pl": "haben"},
    "sein": {"sg1": "bin", "sg3": "ist", "pl": "sind"},
    "war": {"sg1": "war", "sg3": "war", "pl": "waren"},
    "future": {"sg1": "werde", "sg3": "wird", "pl": "werden"},
    "want": {"sg1": "will", "sg3": "will", "pl": "wollen"},
    "can": {"sg1": "kann", "sg3": "kann", "pl": "können"},
    "must": {"sg1": "muss", "sg3": "muss", "pl": "müssen"},
}
JOINTS = {
    "and": " und",
    "but": ", aber",
    "because": ", weil",
    "echo": ", weil",
    "that": ", dass",
    "when": "wenn",
}
DEFINITE = ("def", "this", "my", "our", "none")


def smooth(text: str) -> str:
    """Nothing is contracted here; only the comma after a relative clause merges with the next."""
    return text.replace(",,", ",")


def _ending(table: dict[str, str], case: str, column: str) -> str:
    return table[case].split()[COLUMNS[column]].replace("-", "")


def _determiner(name: str, case: str, column: str) -> tuple[str, dict[str, str]]:
    """The word, and the table of endings for an adjective after it."""
    if name == "def":
        return _ending(DER, case, column), WEAK
    if name == "this":
        return "dies" + _ending(STRONG, case, column), WEAK
    if name in EIN_WORDS:
        return EIN_WORDS[name] + _ending(EIN, case, column), MIXED
    return {"two": "zwei", "three": "drei"}.get(name, ""), STRONG


def _noun(phrase: Phrase, case: str) -> str:
    singular, plural = phrase.head.forms["de"][1:]
    if phrase.number == "sg" or phrase.other:
        return plural if phrase.head.weak and case != "nom" else singular
    return plural + "n" if case == "dat" and plural[-1] not in "ns" else plural


def _echo(phrase: Phrase) -> str:
    if phrase.head.kind == "pronoun":
        return phrase.head.forms["de"][1]
    return "sie" if phrase.number == "pl" else {"m": "er", "f": "sie", "n": "es"}[phrase.head.forms["de"][0]]


@cache
def noun_phrase(phrase: Phrase, case: str = "nom") -> str:
    """The phrase in a case (nom, acc, dat), or after a preposition, written "auf acc"."""
    if phrase.determiner == "echo":
        return _echo(phrase)
    *preposition, case = case.split()
    column = "pl" if phrase.number == "pl" else phrase.head.forms["de"][0]
    determiner, endings = _determiner(phrase.determiner, case, column)
    adjective = ""
    if phrase.adjective:
        adjective = phrase.adjective.de[1] + _ending(endings, case, column)
    words = [*preposition, determiner, adjective, _noun(phrase, case)]
    if phrase.other:
        words.append("und " + phrase.other.forms["de"][1])
    text = " ".join(word for word in words if word)
    if phrase.relative:
        text += f", {_ending(DER, 'nom', column)} {_relative(phrase.relative, phrase)},"
    return text


def _person(phrase: Phrase) -> str:
    if phrase.number == "pl":
        return "pl"
    return "sg1" if phrase.head.person == 1 else "sg3"


def _verb_group(verb: Verb | None, tense: str, person: str) -> tuple[str, str, str]:
    """The finite verb, the separable prefix, and what closes the bracket (participle or infinitive)."""
    if verb is None:
        return AUXILIARIES["war" if tense == "past" else "sein"][person], "", ""
    forms = verb.de
    if tense == "past" and "pret" in forms:
        plural = "n" if forms["pret"].endswith("e") else "en"
        return forms["pret"] + (plural if person == "pl" else ""), "", ""
    if tense == "past":
        return AUXILIARIES["sein" if "sein" in forms else "haben"][person], "", forms["participle"]
    if tense in AUXILIARIES:
        return AUXILIARIES[tense][person], "", forms["infinitive"]
    return forms[person], forms.get("pre", ""), ""


def object_case(verb: Verb) -> str:
    if "prep" in verb.de:
        return verb.de["prep"] + " acc"
    return "dat" if "dat" in verb.de else "acc"


def _middle(clause: Clause) -> list[str]:
    """Between the two halves of the verb: old things before new ones, "nicht" after definite objects."""
    verb, thing = clause.verb, clause.object
    time = clause.time.words["de"] if clause.time and not clause.time_first else ""
    not_ = "nicht" if clause.negative else ""
    if verb is None:
        return [time, not_, "sehr" if clause.very else "", clause.adjective.de[0]]
    receiver = noun_phrase(clause.receiver, "dat") if clause.receiver else ""
    place = ""
    if clause.place:
        place = (clause.place.whither if verb.frame == "motion" else clause.place.where)["de"]
    if thing is None:
        return [time, not_, place]
    words = noun_phrase(thing, object_case(verb))
    if "prep" in verb.de:
        return [time, not_, words, place]
    if clause.negative:
        return [receiver, words, time, not_, place]
    if thing.determiner in DEFINITE:
        return [time, receiver, words, place]
    return [time, receiver, place, words]


def _join(words: list[str]) -> str:
    return " ".join(word for word in words if word)


def _verb_last(clause: Clause, person: str) -> list[str]:
    finite, prefix, closing = _verb_group(clause.verb, clause.tense, person)
    return [*_middle(clause), closing, prefix + finite]


def _relative(clause: Clause, antecedent: Phrase) -> str:
    return _join(_verb_last(clause, _person(antecedent)))


def wording(clause: Clause | Weather, mode: str = "main") -> str:
    """A clause in the order `mode`: main (verb second), inverted (something stands before the verb already),
    sub (verb last); past is sub, with the weather in the past."""
    if isinstance(clause, Weather):
        return (clause.then if mode == "past" else clause.now)["de"]
    subject, person = noun_phrase(clause.subject, "nom"), _person(clause.subject)
    if mode in ("sub", "past"):
        return _join([subject, *_verb_last(clause, person)])
    finite, prefix, closing = _verb_group(clause.verb, clause.tense, person)
    start = [subject, finite]
    if clause.time_first:
        start = [clause.time.words["de"], finite, subject]
    elif mode == "inverted":
        start = [finite, subject]
    return _join([*start, *_middle(clause), closing, prefix])


def modes(kind: str, past: bool) -> tuple[str, str]:
    """How the first and the second clause of this kind of sentence are worded."""
    if kind in ("one", "and", "but"):
        return "main", "main"
    return "inverted" if kind == "when" else "main", "past" if past else "sub"


def sentence(meaning: Sentence) -> str:
    kind, clause, other = meaning
    mode, other_mode = modes(kind, clause.tense == "past")
    first = wording(clause, mode)
    if kind == "one":
        return first.rstrip(",")
    second = wording(other, other_mode)
    if kind == "when":
        return f"{JOINTS[kind]} {second}, {first}"
    return f"{first}{JOINTS[kind]} {second}"
