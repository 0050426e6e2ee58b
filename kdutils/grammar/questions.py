"""Questions about an English sentence of the grammar, each answered by words of the sentence.

>>> for question, answer in asked(meaning):       # of "The boy lost my ball in the park because he was tired."
...     print(question, answer)
Who lost my ball? The boy
What did the boy lose? my ball
Where did the boy lose my ball? in the park
Why did the boy lose my ball? he was tired
How was he? tired

A question names the verb and whom or what it is about, and leaves the place and the time out unless they are needed: so
what answers it is not simply all that it does not say.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdutils.grammar.english import BE, _person, _predicate, noun_phrase, smooth, wording
from kdutils.grammar.meaning import HUMAN
from kdutils.grammar.shapes import Clause, Phrase, Sentence, plain_modes


def asked(meaning: Sentence) -> Iterator[tuple[str, str]]:
    """Questions about a sentence with their answers in its own words, in the case that these have inside of it."""
    kind, first, second = meaning
    yield from _about(first, timed=kind != "when")  # there the second clause says when, too
    if isinstance(second, Clause):
        yield from _about(second)
    if kind in ("because", "echo", "that"):
        reason = wording(second, plain_modes(kind, first.tense == "past")[1])
        yield (_question("What", first) if kind == "that" else _question("Why", first, _rest(first))), reason


def _about(clause: Clause, timed: bool = True) -> Iterator[tuple[str, str]]:
    """What a clause alone answers: who, what, whom, where, when, how."""
    rest, place = _rest(clause), _place(clause)
    if clause.subject.determiner != "echo":  # "he" answers nothing
        said = clause._replace(place=clause.place if _is_needed(clause) else None, time=None)
        yield f"{_pronoun(clause.subject)} {_predicate(said, 'he')}?", noun_phrase(clause.subject)
    if clause.object:
        yield _question(_pronoun(clause.object, "Whom"), clause), noun_phrase(clause.object)
    if clause.receiver:
        yield _question("Whom", clause, f"{noun_phrase(clause.object)} to"), noun_phrase(clause.receiver)
    if place:
        yield _question("Where", clause, rest.removesuffix(place).strip()), place
    if clause.time and timed:
        yield _question("When", clause, rest), clause.time.words["en"]
    if clause.adjective and not clause.negative:
        yield _question("How", clause._replace(adjective=None)), f"{'very ' * clause.very}{clause.adjective.en}"


def _question(asking: str, clause: Clause, rest: str = "") -> str:
    """Why did the boy not lose [rest]?"""
    person, verb = _person(clause.subject), clause.verb
    if verb is None:
        helper = BE[person][clause.tense == "past"]
        words = [f"{'very ' * clause.very}{clause.adjective.en}"] if clause.adjective else []
    else:
        base, do = verb.en["base"], "does" if person == "he" else "do"
        helper, form = {
            "now": (BE[person][0], verb.en["ing"]), "past": ("did", base), "future": ("will", base),
            "can": ("can", base), "want": (do, f"want to {base}"), "must": (do, f"have to {base}"),
        }.get(clause.tense, (do, base))  # fmt: skip
        words = [form, verb.en.get("pre", ""), verb.en.get("prep", "")]
    words = [asking, helper, noun_phrase(clause.subject), "not" if clause.negative else "", *words, rest]
    return smooth(" ".join(word for word in words if word)) + "?"


def _rest(clause: Clause) -> str:
    """What follows the verb in a question about something else."""
    words = [noun_phrase(clause.object)] if clause.object else []
    words += [f"to {noun_phrase(clause.receiver)}"] if clause.receiver else []
    return " ".join([*words, _place(clause)] if _is_needed(clause) else words)


def _place(clause: Clause) -> str:
    if clause.place is None:
        return ""
    return (clause.place.whither if clause.verb.frame == "motion" else clause.place.where)["en"]


def _is_needed(clause: Clause) -> bool:
    """Whether the verb wants its place: where one lives, where one goes."""
    return clause.place is not None and clause.verb.frame != "transitive"


def _pronoun(phrase: Phrase, human: str = "Who") -> str:
    return human if phrase.head.kind in HUMAN else "What"
