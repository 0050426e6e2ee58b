"""English wording of the embedded grammar: phrases, clauses, sentences.

>>> sentence(draw(SENTENCE, random.Random(3)))
"""

from __future__ import annotations

import re
from functools import cache

from kdutils.grammar.entries import Verb, Weather
from kdutils.grammar.shapes import Clause, Phrase, Sentence, joined, plain_modes

DETERMINERS = {"def": "the", "indef": "a", "my": "my", "our": "our", "two": "two", "three": "three"}
JOINTS = {
    "and": " and",
    "but": ", but",
    "because": " because",
    "echo": " because",
    "that": " that",
    "when": "when",
}


def smooth(text: str) -> str:
    """A becomes an before a vowel; honest is spoken without its h."""
    return re.sub(r"\ba (?=[aeiou]|honest)", "an ", text)


def _person(phrase: Phrase) -> str:
    """Which verb form the subject wants: I, he (any third person singular) or they (any plural)."""
    if phrase.number == "pl":
        return "they"
    return "I" if phrase.head.person == 1 else "he"


def _echo(phrase: Phrase) -> str:
    if phrase.head.kind == "pronoun" or phrase.number == "sg":
        return phrase.head.pronoun
    return "they"


@cache
def noun_phrase(phrase: Phrase, role: str = "") -> str:
    if phrase.determiner == "echo":
        return _echo(phrase)
    singular, plural = phrase.head.forms["en"][1:]
    noun = singular if phrase.number == "sg" or phrase.other else plural
    determiner = DETERMINERS.get(phrase.determiner, "")
    if phrase.determiner == "this":
        determiner = "this" if phrase.number == "sg" else "these"
    adjective = phrase.adjective.en if phrase.adjective else ""
    words = [determiner, adjective, noun]
    if phrase.other:
        words.append("and " + phrase.other.forms["en"][1])
    if phrase.relative:
        words.append("who " + _predicate(phrase.relative, _person(phrase)))
    return smooth(" ".join(word for word in words if word))


BE = {"I": ("am", "was"), "he": ("is", "was"), "they": ("are", "were")}
MODALS = {"future": ("will", "will not"), "can": ("can", "cannot")}


def _verb_group(verb: Verb, tense: str, negative: bool, person: str) -> str:
    forms = verb.en
    base, third = forms["base"], person == "he"
    do = "does" if third else "do"
    if tense == "now":
        return f"{BE[person][0]} {'not ' if negative else ''}{forms['ing']}"
    if tense == "past":
        return f"did not {base}" if negative else forms["past"]
    if tense in MODALS:
        return f"{MODALS[tense][negative]} {base}"
    if tense == "want":
        return f"{do} not want to {base}" if negative else f"{'wants' if third else 'want'} to {base}"
    if tense == "must":
        return f"{'has' if third else 'have'} to {base}"
    return f"{do} not {base}" if negative else forms["third"] if third else base


def _predicate(clause: Clause, person: str) -> str:
    verb = clause.verb
    if verb is None:
        be = BE[person][clause.tense == "past"]
        words = [be, "not" if clause.negative else "", "very" if clause.very else "", clause.adjective.en]
    else:
        words = [_verb_group(verb, clause.tense, clause.negative, person)]
        words += [verb.en.get("pre", ""), verb.en.get("prep", "")]
    if clause.object:
        words.append(noun_phrase(clause.object))
    if clause.receiver:
        words.append("to " + noun_phrase(clause.receiver))
    if clause.place:
        words.append((clause.place.whither if verb.frame == "motion" else clause.place.where)["en"])
    if clause.time and not clause.time_first:
        words.append(clause.time.words["en"])
    return " ".join(word for word in words if word)


def wording(clause: Clause | Weather, mode: str = "main") -> str:
    """A clause; `mode` past picks the tense of the weather, nothing else."""
    if isinstance(clause, Weather):
        return (clause.then if mode == "past" else clause.now)["en"]
    first = clause.time.words["en"] if clause.time_first else ""
    words = [first, noun_phrase(clause.subject), _predicate(clause, _person(clause.subject))]
    return smooth(" ".join(word for word in words if word))


modes = plain_modes  # which wordings there are, for `grammar_window`


def sentence(meaning: Sentence) -> str:
    return joined(meaning, wording, JOINTS)
