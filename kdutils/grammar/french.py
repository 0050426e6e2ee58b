"""French wording of the embedded grammar: gender, the place of the adjective, elision, contraction.

>>> sentence(draw(SENTENCE, random.Random(3)))
"""

from __future__ import annotations

import re
from functools import cache

from kdutils.grammar.entries import Adjective, Verb, Weather, french_plural
from kdutils.grammar.shapes import Clause, Phrase, Sentence, joined, plain_modes

VOWELS = "aeiouhéèêâîôœAEIOUÉ"  # every h in the lexicon is silent
DETERMINERS = {  # masculine, feminine, plural
    "def": ("le", "la", "les"),
    "indef": ("un", "une", "-"),
    "this": ("ce", "cette", "ces"),
    "my": ("mon", "ma", "mes"),
    "our": ("notre", "notre", "nos"),
    "two": ("-", "-", "deux"),
    "three": ("-", "-", "trois"),
    "bare": ("de le", "de la", "-"),
    "none": ("", "", ""),
}
AUXILIARIES = {  # je, il, nous, ils
    "avoir": ("ai", "a", "avons", "ont"),
    "être": ("suis", "est", "sommes", "sont"),
    "était": ("étais", "était", "étions", "étaient"),
    "future": ("vais", "va", "allons", "vont"),
    "want": ("veux", "veut", "voulons", "veulent"),
    "can": ("peux", "peut", "pouvons", "peuvent"),
    "must": ("dois", "doit", "devons", "doivent"),
}
PERSONS = ("sg1", "sg3", "pl1", "pl3")
JOINTS = {
    "and": " et",
    "but": ", mais",
    "because": " parce que",
    "echo": " parce que",
    "that": " que",
    "when": "quand",
}


def smooth(text: str) -> str:
    """Elision (l'ami, qu'elle, n'a), the forms before a vowel (cet ami, mon amie), then au, aux and du."""
    text = re.sub(rf"\b(ce|ma) (?=[{VOWELS}])", lambda m: {"ce": "cet ", "ma": "mon "}[m[1]], text)
    text = re.sub(rf"\b([lnjdLNJD]|[qQ]u)(?:e|a) (?=[{VOWELS}])", _elide, text)
    text = re.sub(r"\bà les? ", lambda m: "aux " if m[0] == "à les " else "au ", text)
    return re.sub(r"\bde le ", "du ", text)


def _elide(match: re.Match[str]) -> str:
    return match[0] if match[0].strip() in ("na", "ja", "qua", "da") else match[1] + "'"


def _gender(phrase: Phrase) -> str:
    gender = phrase.head.forms["fr"][0]
    return "f" if gender == "f" and (not phrase.other or phrase.other.forms["fr"][0] == "f") else "m"


def _agree(adjective: Adjective, gender: str, number: str) -> str:
    masculine, feminine, _ = adjective.fr
    if number == "sg":
        return feminine if gender == "f" else masculine
    if gender == "f" or masculine.endswith("eu"):
        return (feminine if gender == "f" else masculine) + "s"
    return french_plural(masculine)


def _echo(phrase: Phrase) -> str:
    if phrase.head.kind == "pronoun":
        return phrase.head.forms["fr"][1]
    return {"m": "il", "f": "elle"}[_gender(phrase)] + ("s" if phrase.number == "pl" else "")


@cache
def noun_phrase(phrase: Phrase, role: str = "") -> str:
    """The phrase; `role` is a preposition in front of it (à), or empty."""
    if phrase.determiner == "echo":
        return _echo(phrase)
    gender, singular, plural = phrase.head.forms["fr"]
    plural_only = phrase.number == "pl" and not phrase.other
    words = [DETERMINERS[phrase.determiner][2 if plural_only else "mf".index(gender)]]
    words.append(plural if plural_only else singular)
    if phrase.adjective:
        form = _agree(phrase.adjective, gender, phrase.number)
        before = phrase.adjective.before["fr"]
        if before and gender == "m" and not plural_only and singular[0] in VOWELS:
            form = phrase.adjective.fr[2]
        words.insert(1 if before else 2, form)
    if phrase.other:
        words.append("et " + phrase.other.forms["fr"][1])
    if phrase.relative:
        words.append("qui " + _predicate(phrase.relative, phrase))
    return smooth(" ".join(word for word in (role, *words) if word))


def _person(phrase: Phrase) -> int:
    """0 je, 1 il, 2 nous, 3 ils."""
    return (phrase.head.person == 3) + 2 * (phrase.number == "pl")


def _verb_group(verb: Verb, tense: str, subject: Phrase) -> tuple[str, str]:
    """The finite verb, and the participle or infinitive after it."""
    forms, person = verb.fr, _person(subject)
    if tense == "past" and verb.lasting:
        return forms["imperfect_" + PERSONS[person]], ""
    if tense == "past" and "être" in forms:
        agreement = ("e" if _gender(subject) == "f" else "") + ("s" if subject.number == "pl" else "")
        return AUXILIARIES["être"][person], forms["participle"] + agreement
    if tense == "past":
        return AUXILIARIES["avoir"][person], forms["participle"]
    if tense in AUXILIARIES:
        return AUXILIARIES[tense][person], forms["infinitive"]
    return forms[PERSONS[person]], ""


def _predicate(clause: Clause, subject: Phrase) -> str:
    verb = clause.verb
    if verb is None:
        finite = AUXILIARIES["était" if clause.tense == "past" else "être"][_person(subject)]
        adjective = _agree(clause.adjective, _gender(subject), subject.number)
        rest = ("très " if clause.very else "") + adjective
    else:
        finite, rest = _verb_group(verb, clause.tense, subject)
    words = ["ne", finite, "pas", rest] if clause.negative else [finite, rest]
    words.append(verb.fr.get("tail", "") if verb else "")
    if clause.object:
        words.append(noun_phrase(clause.object, verb.fr.get("obj", "")))
    if clause.receiver:
        words.append(noun_phrase(clause.receiver, "à"))
    if clause.place:
        words.append((clause.place.whither if verb.frame == "motion" else clause.place.where)["fr"])
    if clause.time and not clause.time_first:
        words.append(clause.time.words["fr"])
    return " ".join(word for word in words if word)


def wording(clause: Clause | Weather, mode: str = "main") -> str:
    """A clause; `mode` past picks the tense of the weather, nothing else."""
    if isinstance(clause, Weather):
        return (clause.then if mode == "past" else clause.now)["fr"]
    first = clause.time.words["fr"] + ", " if clause.time_first else ""
    return smooth(f"{first}{noun_phrase(clause.subject)} {_predicate(clause, clause.subject)}")


modes = plain_modes  # which wordings there are, for `grammar_window`


def sentence(meaning: Sentence) -> str:
    return smooth(joined(meaning, wording, JOINTS))
