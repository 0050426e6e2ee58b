"""Korean wording of the embedded grammar: particles, conjugation by Hangul arithmetic, the verb at the end.

A Hangul syllable is one code point, 0xAC00 + 588 * initial + 28 * vowel + final, so that a final consonant is
read, added and dropped by arithmetic.

>>> particle("책", "을를"), particle("사과", "을를")
('책을', '사과를')
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from kdutils.grammar.entries import Adjective, Verb, Weather
from kdutils.grammar.shapes import Clause, Phrase, Sentence

FINALS = {"": 0, "ㄴ": 4, "ㄹ": 8, "ㅂ": 17, "ㅆ": 20}


def final(text: str) -> int:
    """The number of the final consonant of the last syllable, 0 if it ends in a vowel."""
    return (ord(text[-1]) - 0xAC00) % 28


def with_final(text: str, consonant: str) -> str:
    """The last syllable with this final consonant instead of its own ("" for none)."""
    return text[:-1] + chr(ord(text[-1]) - final(text) + FINALS[consonant])


def particle(noun: str, pair: str) -> str:
    """The noun with the particle that suits its last sound; `pair` names the one after a consonant first."""
    if pair == "이가" and noun == "저":
        return "제가"
    if pair == "으로":  # 으로 after a consonant, 로 after a vowel and after ㄹ
        return noun + ("로" if final(noun) in (0, FINALS["ㄹ"]) else "으로")
    return noun + pair[0 if final(noun) else 1]


class Stem(NamedTuple):
    """A predicate that still lacks its ending: 먹-, 먹어-, 먹으-; `kind` is verb, adjective or copula."""

    stem: str
    aeo: str
    eu: str
    kind: str


def _stem(forms: dict[str, str], kind: str) -> Stem:
    stem = forms["stem"]
    plain = final(stem) in (0, FINALS["ㄹ"])
    return Stem(stem, forms["aeo"], forms["eu"] or (stem if plain else stem + "으"), kind)


def _with_n(stem: Stem) -> str:
    """The stem with -ㄴ: 간, 먹은, 산 (ㄹ is lost)."""
    return with_final(stem.eu, "ㄴ")


def _with_l(stem: Stem) -> str:
    """The stem with -ㄹ: 갈, 먹을, 살."""
    return with_final(stem.eu, "ㄹ")


def _without_l(stem: str) -> str:
    return with_final(stem, "") if final(stem) == FINALS["ㄹ"] else stem


def _not(base: Stem) -> Stem:
    stem = base.stem + "지 않"
    return Stem(stem, stem + "아", stem + "으", base.kind)


def _there_is(stem: str) -> Stem:
    """있 and 없: conjugated as verbs, quoted as adjectives."""
    return Stem(stem, stem + "어", stem + "으", "adjective")


def _in_tense(base: Stem, tense: str, negative: bool, first_person: bool) -> Stem:
    if tense == "now":
        base = _there_is(base.stem + "고 있")
    elif tense == "want":
        stem = base.stem + "고 싶"
        base = Stem(stem, stem + "어", stem + "으", "adjective")
        if not first_person:
            base = Stem(stem + "어 하", stem + "어 해", stem + "어 하", "verb")
    elif tense == "must":
        stem = base.aeo + "야 하"
        base = Stem(stem, base.aeo + "야 해", stem, "verb")
    elif tense == "can":
        return _there_is(_with_l(base) + (" 수 없" if negative else " 수 있"))
    base = _not(base) if negative else base
    if tense == "future":
        stem = _with_l(base) + " 것이"
        base = Stem(stem, stem + "어", stem, "copula")
    elif tense == "past":
        stem = with_final(base.aeo, "ㅆ")
        base = Stem(stem, stem + "어", stem + "으", "adjective")
    return base


def _polite(base: Stem) -> str:
    """-습니다 after a consonant, -ㅂ니다 after a vowel; ㄹ gives way: 팔다, 팝니다."""
    if final(base.stem) in (0, FINALS["ㄹ"]):
        return with_final(base.stem, "ㅂ") + "니다"
    return base.stem + "습니다"


def _quoted(base: Stem) -> str:
    if base.kind == "copula":
        return base.stem + "라"
    if base.kind == "adjective":
        return base.stem + "다"
    if final(base.stem) in (0, FINALS["ㄹ"]):
        return with_final(base.stem, "ㄴ") + "다"
    return base.stem + "는다"


def _ended(base: Stem, mode: str) -> str:
    if mode == "final":
        return _polite(base)
    if mode == "that":
        return _quoted(base) + "고"
    if mode == "fact":  # 알다 takes a noun: 먹었다는 것을 압니다
        return _quoted(base) + "는 것을"
    if mode == "when":
        return base.eu + "면"
    return base.stem + {"and": "고", "but": "지만", "because": "기 때문에"}[mode]


def attributive(adjective: Adjective) -> str:
    if "before_noun" in adjective.ko:
        return adjective.ko["before_noun"]
    return adnominal(_stem(adjective.ko, "adjective"))


def described(cell: str) -> Stem:
    """An adjective from its stem, form in -아/어 and, where it is irregular, stem before -으-."""
    stem, aeo, *eu = (word.replace("_", " ") for word in cell.split())
    return _stem({"stem": stem, "aeo": aeo, "eu": eu[0] if eu else ""}, "adjective")


def past(base: Stem, ending: str, negative: bool = False) -> str:
    return _ended(_in_tense(base, "past", negative, False), ending)


def adnominal(base: Stem) -> str:
    """좋은, 긴; 재미있는 and 맛없는, which are conjugated as verbs here."""
    return base.stem + "는" if base.stem[-1] in "있없" else _with_n(base)


def _relative(clause: Clause) -> str:
    base = _stem(clause.verb.ko, "verb")
    if clause.tense == "past":
        verb = _with_n(base)
    else:
        verb = _without_l(_in_tense(base, clause.tense, False, False).stem) + "는"
    return " ".join([*_middle(clause), verb])


DETERMINERS = {"this": "이", "my": "제", "our": "우리"}
NUMBERS = {"two": "두", "three": "세"}
LIVING = ("person", "youth", "relation", "family", "pet", "prey", "farm")


@cache
def _bare_phrase(phrase: Phrase) -> str:
    noun = phrase.head.forms["ko"][1]
    if phrase.other:
        return f"{particle(noun, '과와')} {phrase.other.forms['ko'][1]}"
    words = [_relative(phrase.relative)] if phrase.relative else []
    words.append(DETERMINERS.get(phrase.determiner, ""))
    words.append(attributive(phrase.adjective) if phrase.adjective else "")
    if phrase.determiner in NUMBERS:
        words += [noun, NUMBERS[phrase.determiner], phrase.head.counter]
    else:
        many = phrase.number == "pl" and phrase.head.kind in LIVING
        words.append(noun + ("들" if many else ""))
    return " ".join(word for word in words if word)


@cache
def noun_phrase(phrase: Phrase, role: str) -> str:
    """The phrase with its particle: 은는, 이가, 을를, or one that never changes such as 에게."""
    if phrase.determiner == "echo":
        return ""
    text = _bare_phrase(phrase)
    if role == "은는" and phrase.determiner in ("indef", *NUMBERS):
        role = "이가"  # what is new is no topic
    return particle(text, role) if role in ("은는", "이가", "을를") else text + role


def _place(clause: Clause) -> str:
    to = clause.verb.ko.get("to", "에서") if clause.verb.frame != "transitive" else "에서"
    place = clause.place.where["ko"]
    return particle(place, "으로") if to == "로" else place + to


def _middle(clause: Clause) -> list[str]:
    """Everything between the subject and the verb: time, place, receiver, object."""
    words = []
    if clause.time and not clause.time_first:
        words.append(clause.time.words["ko"])
    if clause.place:
        words.append(_place(clause))
    if clause.receiver:
        words.append(noun_phrase(clause.receiver, "에게"))
    if clause.object:
        words.append(noun_phrase(clause.object, clause.verb.ko.get("obj", "을를")))
    if clause.very:
        words.append("아주")
    return words


def _predicate(clause: Clause, mode: str, first_person: bool) -> list[str]:
    if clause.verb is None:
        base = _stem(clause.adjective.ko, "adjective")
    else:
        kind = "adjective" if clause.verb.ko["stem"].endswith("있") else "verb"
        base = _stem(clause.verb.ko, kind)
    return [*_middle(clause), _ended(_in_tense(base, clause.tense, clause.negative, first_person), mode)]


def _weather(weather: Weather, mode: str, past: bool) -> str:
    base = _in_tense(_stem(weather.ko, "adjective"), "past" if past else "present", False, False)
    return f"{weather.ko['subject']} {_ended(base, mode)}"


def wording(clause: Clause | Weather, mode: str) -> str:
    """A clause; `mode` is "<particle of the subject> <ending>", as in "은는 final" or "이가 because"."""
    role, ending, *past = mode.split()
    if isinstance(clause, Weather):
        return _weather(clause, ending, bool(past))
    words = [clause.time.words["ko"]] if clause.time_first else []
    words.append(noun_phrase(clause.subject, role))
    words += _predicate(clause, ending, clause.subject.head.person == 1)
    return " ".join(word for word in words if word)


TENSES = ("present", "now", "habit", "past", "future", "want", "can", "must")


@cache
def first_words(entry: Verb | Adjective, tenses: tuple[str, ...] = TENSES) -> tuple[str, ...]:
    """The first word of every form of a verb or adjective: 읽어 줘야 합니다 -> 읽어."""
    if isinstance(entry, Adjective):
        words = [attributive(entry)]
        if "stem" not in entry.ko:
            return tuple(words)
    else:
        words = [_with_n(_stem(entry.ko, "verb")), _without_l(entry.ko["stem"]) + "는"]
    for tense in tenses:
        for negative in (False, True):
            base = _in_tense(_stem(entry.ko, "verb"), tense, negative, False)
            words += [_ended(base, mode) for mode in ("final", "that", "fact", "when", "and", "but", "because")]
    words += [entry.ko["stem"] + "다고", entry.ko["stem"] + "다는"]  # quoted as an adjective
    return tuple(dict.fromkeys(word.split()[0] for word in words))


ENDINGS = {"and": "은는 and", "but": "은는 but"}


def modes(kind: str, past: bool) -> tuple[str, str]:
    """How the first and the second clause of this kind of sentence are worded."""
    second = {"because": "이가 because", "echo": "이가 because", "when": "이가 when", "that": "이가 that"}
    return ENDINGS.get(kind, "은는 final"), second.get(kind, "은는 final") + (" past" if past else "")


def sentence(meaning: Sentence) -> str:
    kind, clause, other = meaning
    mode, other_mode = modes(kind, clause.tense == "past")
    if kind == "one":
        return wording(clause, mode)
    if kind == "that" and clause.verb.ko["stem"] == "알":
        other_mode = other_mode.replace("that", "fact")
    second = wording(other, other_mode)
    if kind in ("and", "but"):
        return f"{wording(clause, mode)} {second}"
    if kind in ("because", "when"):
        return f"{second} {wording(clause, mode)}"
    # The topic comes first, then the reason or what is said, then the rest of the main clause.
    topic = noun_phrase(clause.subject, "은는")
    rest = _predicate(clause, "final", clause.subject.head.person == 1)
    return " ".join([topic, second, *rest])
