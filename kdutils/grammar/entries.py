"""Read the tables of the lexicon into entries: one object a noun, verb, adjective, place and time.

Entries are compared and hashed by identity, so that two homonyms (the two teachers, Lehrer and Lehrerin) stay
apart and caches are quick.

>>> VERBS["transitive"][0].en.base
'eat'
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kdutils.grammar import lexicon, predicates


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun, name or pronoun. `forms[language]` is (gender, singular, plural); Korean has no gender."""

    kind: str
    forms: dict[str, tuple[str, str, str]]
    pronoun: str = "it"  # the English pronoun for it
    weak: bool = False  # German n-declension
    counter: str = ""  # Korean: 책 두 권
    person: int = 3
    number: str | None = None  # fixed number, or None where the noun has both


@dataclass(frozen=True, eq=False)
class Verb:
    """A verb: who does it, to what kinds of things or where, and its forms (a dict of columns a language)."""

    frame: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    momentary: bool
    lasting: bool
    en: dict[str, str]
    de: dict[str, str]
    fr: dict[str, str]
    es: dict[str, str]
    ko: dict[str, str]


@dataclass(frozen=True, eq=False)
class Adjective:
    """An adjective. `before[language]` is True where it stands in front of its noun (French, Spanish)."""

    kinds: tuple[str, ...]
    en: str
    de: tuple[str, str]  # predicate form, declined stem
    fr: tuple[str, str, str]  # masculine, feminine, masculine before a vowel
    es: tuple[str, str, str]  # masculine, feminine, short masculine before its noun
    ko: dict[str, str]
    before: dict[str, bool]
    copula: str  # ser or estar
    attributive_only: bool


@dataclass(frozen=True, eq=False)
class Place:
    """Where and whither, ready made in each language; in Korean the bare noun."""

    kind: str
    where: dict[str, str]
    whither: dict[str, str]


@dataclass(frozen=True, eq=False)
class Time:
    """A time adverbial; `sort` is the tense that it goes with."""

    sort: str
    words: dict[str, str]


@dataclass(frozen=True, eq=False)
class Weather:
    """A subordinate clause about the weather or the hour; `ko` has subject, stem and stem in -아/어."""

    now: dict[str, str]
    then: dict[str, str]
    ko: dict[str, str] = field(default_factory=dict)


EUROPEAN = ("en", "de", "fr", "es")


def _rows(table: str) -> list[list[str]]:
    lines = (line for line in table.splitlines() if line.strip())
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def english_plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def french_plural(word: str) -> str:
    if word.endswith(("s", "x", "z")):
        return word
    if word.endswith(("eau", "eu")):
        return word + "x"
    return word[:-2] + "aux" if word.endswith("al") else word + "s"


def spanish_plural(word: str) -> str:
    if word == "joven":
        return "jóvenes"
    if word.endswith("z"):
        return word[:-1] + "ces"
    return word + ("s" if word[-1] in "aeoáéó" else "es")


def _noun(kind: str, cells: list[str]) -> Noun:
    en, de, fr, es, ko = (cell.split() for cell in cells)
    pronoun = en.pop() if en[-1] in ("he", "she", "it") else {"m": "he", "f": "she", "n": "it"}[de[0]]
    human = kind in ("person", "youth", "relation", "family")
    forms = {
        "en": ("n", en[0], en[1] if len(en) > 1 else english_plural(en[0])),
        "de": (de[0], de[1], de[2]),
        "fr": (fr[0], fr[1], fr[2] if len(fr) > 2 else french_plural(fr[1])),
        "es": (es[0], es[1], es[2] if len(es) > 2 else spanish_plural(es[1])),
        "ko": ("n", ko[0], ko[0]),
    }
    only = "sg" if de[2] == "-" else None
    return Noun(kind, forms, pronoun if human else "it", "weak" in de, ko[1], number=only)


def _name(line: str) -> Noun:
    latin, gender, korean = line.split()
    forms = dict.fromkeys(EUROPEAN, (gender, latin, latin))
    forms["ko"] = (gender, korean, korean)
    return Noun("name", forms, {"m": "he", "f": "she"}[gender], number="sg")


def _pronoun(cells: list[str]) -> Noun:
    person, number, gender = cells[5].split()
    languages = (*EUROPEAN, "ko")
    words = ["" if cell == "-" else cell for cell in cells[:5]]
    forms = {language: (gender, word, word) for language, word in zip(languages, words, strict=True)}
    return Noun("pronoun", forms, cells[0], person=int(person), number=number)


def _options(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Split `a b pre=an sein` into its plain words and its settings; a bare mark such as `sein` is "yes"."""
    marks = ("sein", "dat", "être", "pers", "dir", "pre", "estar", "weak")
    plain = [word for word in words if "=" not in word and word not in marks]
    settings = {word: "yes" for word in words if word in marks}
    settings.update(tuple(word.split("=")) for word in words if "=" in word)
    return plain, settings


def _english_verb(cell: str) -> dict[str, str]:
    (base, past, *rest), settings = _options(cell.split())
    ing = base[:-1] + "ing" if base.endswith("e") and not base.endswith("ee") else base + "ing"
    third = {"have": "has", "go": "goes"}.get(base, english_plural(base))
    # The short verbs in one vowel and one consonant double it.
    ing = {"run": "running", "steal": "stealing", "swim": "swimming"}.get(base, ing)
    return {"base": base, "third": third, "past": past, "ing": rest[0] if rest else ing, **settings}


def _german_verb(cell: str) -> dict[str, str]:
    (infinitive, third, participle), settings = _options(cell.split())
    prefix = settings.get("pre", "")
    plural = infinitive[len(prefix) :]
    first = third if infinitive == "wissen" else plural[:-2] + "e"
    if plural.endswith("ern"):
        first = plural[:-1] + "e"
    return {
        "infinitive": infinitive,
        "sg3": third,
        "sg1": first,
        "pl": plural,
        "participle": participle,
        **settings,
    }


def _french_verb(cell: str) -> dict[str, str]:
    words, settings = _options(cell.split())
    if len(words) == 1:
        stem = words[0][:-2]
        we = stem + "eons" if stem.endswith("g") else stem[:-1] + "çons" if stem.endswith("c") else stem + "ons"
        words += [stem + "e", stem + "e", we, stem + "ent", stem + "é"]
    names = ("infinitive", "sg1", "sg3", "pl1", "pl3", "participle")
    forms = dict(zip(names, words, strict=True))
    stem = forms["pl1"][:-3]  # the imperfect is made from nous connaissons
    imperfect = {f"imperfect_{p}": stem + e for p, e in zip(names[1:5], ("ais", "ait", "ions", "aient"), strict=True)}
    return {**forms, **imperfect, **settings}


def _spanish_preterite(infinitive: str) -> list[str]:
    stem = infinitive[:-2]
    if infinitive.endswith("ar"):
        first = stem
        for end, spelled in (("c", "qu"), ("g", "gu"), ("z", "c")):
            if stem.endswith(end):
                first = stem[:-1] + spelled
        return [first + "é", stem + "ó", stem + "amos", stem + "aron"]
    return [stem + "í", stem + "ió", stem + "imos", stem + "ieron"]


def _spanish_verb(cell: str) -> dict[str, str]:
    present, _, preterite = cell.partition("/")
    words, settings = _options(present.split())
    infinitive, stem, vowel = words[0], words[0][:-2], words[0][-2]
    if len(words) == 1:
        e = "a" if vowel == "a" else "e"
        words += [stem + "o", stem + e, stem + vowel + "mos", stem + e + "n"]
    past, more = _options(preterite.split())
    past = past or _spanish_preterite(infinitive)
    names = ("infinitive", "sg1", "sg3", "pl1", "pl3", "past_sg1", "past_sg3", "past_pl1", "past_pl3")
    ends = ("aba", "aba", "ábamos", "aban") if vowel == "a" else ("ía", "ía", "íamos", "ían")
    imperfect = {f"imperfect_{p}": stem + end for p, end in zip(names[1:5], ends, strict=True)}
    return {**dict(zip(names, words + past, strict=True)), **imperfect, **settings, **more}


def _korean_stems(cell: str) -> dict[str, str]:
    """Stem, form in -아/어, and stem before -으- (given only where it is irregular)."""
    words, settings = _options(cell.split())
    words = [word.replace("_", " ") for word in words]
    if len(words) == 1:  # 새: only ever before a noun
        return {"before_noun": words[0]}
    return {"stem": words[0], "aeo": words[1], "eu": words[2] if len(words) > 2 else "", **settings}


def _verb(frame: str, cells: list[str]) -> Verb:
    marks = cells[0].split()
    return Verb(
        frame,
        tuple(word for word in marks if word.isalpha()),
        tuple(cells[1].replace("-", "").split()),
        "!" in marks,
        "=" in marks,
        _english_verb(cells[2]),
        _german_verb(cells[3]),
        _french_verb(cells[4]),
        _spanish_verb(cells[5]),
        _korean_stems(cells[6]),
    )


def _three(words: list[str]) -> tuple[str, str, str]:
    return (words[0], words[1], words[2] if len(words) > 2 else words[0])


def _adjective(cells: list[str]) -> Adjective:
    french, french_marks = _options(cells[3].split())
    spanish, spanish_marks = _options(cells[4].split())
    german = cells[2].split()
    kinds = [kind for kind in cells[0].split() if kind != "*"]
    return Adjective(
        tuple(kinds),
        cells[1],
        (german[0], german[-1]),
        _three(french),
        _three(spanish),
        _korean_stems(cells[5]),
        {"fr": "pre" in french_marks, "es": "pre" in spanish_marks},
        "estar" if "estar" in spanish_marks else "ser",
        cells[0].startswith("*"),
    )


def _place(cells: list[str]) -> Place:
    pairs = {lang: cell.split(", ") for lang, cell in zip(EUROPEAN, cells[1:5], strict=True)}
    where = {language: pair[0] for language, pair in pairs.items()}
    whither = {language: pair[1] for language, pair in pairs.items()}
    return Place(cells[0], {**where, "ko": cells[5]}, {**whither, "ko": cells[5]})


def _time(cells: list[str]) -> Time:
    return Time(cells[0], dict(zip((*EUROPEAN, "ko"), cells[1:6], strict=True)))


def _weather(cells: list[str]) -> Weather:
    pairs = {lang: cell.split(", ") for lang, cell in zip(EUROPEAN, cells[:4], strict=True)}
    subject, stems = cells[4].split(" ", 1)
    now = {language: pair[0] for language, pair in pairs.items()}
    then = {language: pair[1] for language, pair in pairs.items()}
    return Weather(now, then, {"subject": subject, **_korean_stems(stems)})


NOUNS = {kind: [_noun(kind, cells) for cells in _rows(table)] for kind, table in lexicon.NOUNS.items()}
NAMES = [_name(line) for line in lexicon.NAMES.splitlines() if line.strip()]
PRONOUNS = [_pronoun(cells) for cells in _rows(lexicon.PRONOUNS)]
PLACES = [_place(cells) for cells in _rows(lexicon.PLACES)]
TIMES = [_time(cells) for cells in _rows(lexicon.TIMES)]
WEATHER = [_weather(cells) for cells in _rows(lexicon.WEATHER)]
VERBS = {frame: [_verb(frame, cells) for cells in _rows(table)] for frame, table in predicates.VERBS.items()}
ADJECTIVES = [_adjective(cells) for cells in _rows(predicates.ADJECTIVES)]
