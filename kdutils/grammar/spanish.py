"""Spanish wording of the embedded grammar: agreement, ser and estar, the personal a, del and al.

>>> sentence(draw(SENTENCE, random.Random(3)))
"""

from __future__ import annotations

import re
from functools import cache

from kdutils.grammar.entries import Adjective, Verb, Weather, spanish_plural
from kdutils.grammar.shapes import Clause, Phrase, Sentence, joined, plain_modes

DETERMINERS = {  # masculine, feminine, masculine plural, feminine plural
    "def": ("el", "la", "los", "las"),
    "indef": ("un", "una", "-", "-"),
    "this": ("este", "esta", "estos", "estas"),
    "my": ("mi", "mi", "mis", "mis"),
    "our": ("nuestro", "nuestra", "nuestros", "nuestras"),
    "two": ("-", "-", "dos", "dos"),
    "three": ("-", "-", "tres", "tres"),
    "bare": ("", "", "", ""),
    "none": ("", "", "", ""),
}
AUXILIARIES = {  # yo, él, nosotros, ellos
    "ser": ("soy", "es", "somos", "son"),
    "era": ("era", "era", "éramos", "eran"),
    "estar": ("estoy", "está", "estamos", "están"),
    "estaba": ("estaba", "estaba", "estábamos", "estaban"),
    "future": ("voy a", "va a", "vamos a", "van a"),
    "want": ("quiero", "quiere", "queremos", "quieren"),
    "can": ("puedo", "puede", "podemos", "pueden"),
    "must": ("tengo que", "tiene que", "tenemos que", "tienen que"),
}
PERSONS = ("sg1", "sg3", "pl1", "pl3")
JOINTS = {
    "and": " y",
    "but": ", pero",
    "because": " porque",
    "echo": " porque",
    "that": " que",
    "when": "cuando",
}
HUMANS = ("person", "youth", "relation", "family", "name")


def smooth(text: str) -> str:
    """Al and del; el before the stressed a of agua; e instead of y before an i."""
    text = re.sub(r"\bla (?=agua\b)", "el ", text)
    text = re.sub(r"\ba el\b", "al", text)
    text = re.sub(r"\bde el\b", "del", text)
    return re.sub(r"\by (?=[iI])", "e ", text)


def _gender(phrase: Phrase) -> str:
    gender = phrase.head.forms["es"][0]
    return "f" if gender == "f" and (not phrase.other or phrase.other.forms["es"][0] == "f") else "m"


def _agree(adjective: Adjective, gender: str, number: str) -> str:
    form = adjective.es["mf".index(gender)]
    return spanish_plural(form) if number == "pl" else form


@cache
def noun_phrase(phrase: Phrase, role: str = "") -> str:
    """The phrase; `role` is a preposition in front of it (a), or empty. An echoed subject is silent."""
    if phrase.determiner == "echo":
        return ""
    gender, singular, plural = phrase.head.forms["es"]
    is_plural = phrase.number == "pl" and not phrase.other
    words = [DETERMINERS[phrase.determiner]["mf".index(gender) + 2 * is_plural]]
    words.append(plural if is_plural else singular)
    if phrase.adjective:
        form = _agree(phrase.adjective, gender, phrase.number)
        before = phrase.adjective.before["es"]
        if before and gender == "m" and not is_plural:
            form = phrase.adjective.es[2]
        words.insert(1 if before else 2, form)
    if phrase.other:
        words.append("y " + phrase.other.forms["es"][1])
    if phrase.relative:
        words.append("que " + _predicate(phrase.relative, phrase))
    return smooth(" ".join(word for word in (role, *words) if word))


def _person(phrase: Phrase) -> int:
    """0 yo, 1 él, 2 nosotros, 3 ellos."""
    return (phrase.head.person == 3) + 2 * (phrase.number == "pl")


def _verb_group(verb: Verb, tense: str, person: int) -> str:
    forms = verb.es
    if tense == "past":
        return forms[("imperfect_" if verb.lasting else "past_") + PERSONS[person]]
    if tense in AUXILIARIES:
        return f"{AUXILIARIES[tense][person]} {forms['infinitive']}"
    return forms[PERSONS[person]]


def object_role(verb: Verb, thing: Phrase) -> str:
    """People take the personal a after every verb but tener; animals where the verb says so."""
    if thing.head.kind in HUMANS or ("pers" in verb.es and thing.head.kind in ("pet", "prey", "farm")):
        return "a" if verb.es["infinitive"] != "tener" else ""
    return ""


def _predicate(clause: Clause, subject: Phrase) -> str:
    verb, person = clause.verb, _person(subject)
    words = ["no"] if clause.negative else []
    if verb is None:
        past = {"ser": "era", "estar": "estaba"}
        copula = past[clause.adjective.copula] if clause.tense == "past" else clause.adjective.copula
        adjective = _agree(clause.adjective, _gender(subject), subject.number)
        words += [AUXILIARIES[copula][person], "muy" if clause.very else "", adjective]
    else:
        if clause.receiver:  # the pronoun that announces the receiver: le dio un libro a la mujer
            words.append("les" if clause.receiver.number == "pl" else "le")
        words.append(_verb_group(verb, clause.tense, person))
    if clause.object:
        words.append(noun_phrase(clause.object, object_role(verb, clause.object)))
    if clause.receiver:
        words.append(noun_phrase(clause.receiver, "a"))
    if clause.place:
        whither = verb.frame == "motion" or "dir" in verb.es
        words.append((clause.place.whither if whither else clause.place.where)["es"])
    if clause.time and not clause.time_first:
        words.append(clause.time.words["es"])
    return " ".join(word for word in words if word)


def wording(clause: Clause | Weather, mode: str = "main") -> str:
    """A clause; `mode` past picks the tense of the weather, nothing else."""
    if isinstance(clause, Weather):
        return (clause.then if mode == "past" else clause.now)["es"]
    first = clause.time.words["es"] if clause.time_first else ""
    words = [first, noun_phrase(clause.subject), _predicate(clause, clause.subject)]
    return smooth(" ".join(word for word in words if word))


modes = plain_modes  # which wordings there are, for `grammar_window`


def sentence(meaning: Sentence) -> str:
    return smooth(joined(meaning, wording, JOINTS))
