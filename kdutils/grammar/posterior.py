"""The exact distribution of one word of a sentence, given all the others, under the embedded grammar.

P(word | the others) is proportional to the summed probability of every way of making the sentence with that
word in the gap. The ways are found in three steps:

1. `divisions` parts the sentence at its conjunction, if it can have one, into the words of either clause;
2. a `Window` onto the words of one clause (`grammar_window`) walks the recipes of `grammar_meaning` and
   leaves each branch as soon as something is chosen whose words are not there (the gap hides one thing);
3. what survives is worded in full and compared with the sentence, letter by letter.

The first two steps only ever drop meanings that step 3 would drop as well, so the result is exact.

>>> distribution("de", "Der alte [?] schläft.".split(), 2)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache

from kdutils.grammar import korean
from kdutils.grammar.choices import Part
from kdutils.grammar.entries import VERBS
from kdutils.grammar.meaning import CLAUSE, FIRST, KINDS, second_part
from kdutils.grammar.shapes import Sentence
from kdutils.grammar.window import GAP, VOICES, Window, pieces


def finished(text: str) -> str:
    """With a capital at its start and a full stop at its end."""
    return text[0].upper() + text[1:] + "."


def distribution(language: str, words: Sequence[str], position: int) -> dict[str, float]:
    """Word -> probability, the most probable first; empty if nothing fits."""
    before, after = list(words[:position]), list(words[position + 1 :])
    weights: dict[str, float] = defaultdict(float)
    for meaning, probability in _meanings(language, before, after).items():
        made = finished(VOICES[language].sentence(meaning)).split()
        if made[:position] == before and made[position + 1 :] == after and len(made) > position:
            weights[made[position]] += probability
    total = sum(weights.values())
    ranked = sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
    return {word: weight / total for word, weight in ranked}


def _meanings(language: str, before: list[str], after: list[str]) -> dict[Sentence, float]:
    """Every meaning that may fit, with its probability."""
    row = (*pieces(before), GAP, *pieces(after))
    ends = _comma_ends(before, after)
    windows: dict[tuple[str, ...], Window] = {}
    found: dict[Sentence, float] = {}
    for kind, share in KINDS.pairs:
        for one, two in divisions(language, kind, row, ends):
            window = windows.setdefault(one, Window(language, one))
            for first, p, _ in window.possible(Part(CLAUSE, FIRST[kind])):
                if kind == "one":
                    found[Sentence(kind, first, None)] = share * p
                    continue
                other = windows.setdefault(two, Window(language, two))
                for second, q, _ in other.possible(second_part(kind, first)):
                    found[Sentence(kind, first, second)] = share * p * q
    return found


# ---------------------------------------------------------------- where one clause ends

ENDINGS = {
    "and": ("고", GAP),
    "but": ("지만", GAP),
    "because": ("때문에", GAP),
    "echo": ("때문에", GAP),
    "when": ("면", GAP),
    "that": ("고", "것을", GAP),
}
# Words that stand in sentences of two clauses only.
JOINING = {
    "en": ("but", "because", "when", "that"),
    "de": ("aber", "weil", "wenn", "dass"),
    "fr": ("mais", "parce", "quand", "que", "qu'"),
    "es": ("pero", "porque", "cuando"),
    "ko": ("때문에", "것을"),
}
Division = tuple[tuple[str, ...], tuple[str, ...]]


def _comma_ends(before: list[str], after: list[str]) -> set[int]:
    """After how many pieces a comma stands, or may be hidden in the gap."""
    ends, count = set(), 0
    for word in (*before, GAP + ",", *after):
        count += len(pieces([word]))
        if word.endswith(","):
            ends.add(count)
    return ends


def divisions(language: str, kind: str, row: tuple[str, ...], ends: set[int]) -> Iterator[Division]:
    """Pairs (pieces of the first clause, pieces of the second) of a sentence of this kind.

    `ends` says after how many pieces there is a comma.
    """
    if kind == "one":
        if not any(word in JOINING.get(language, ()) for word in row):
            yield row, ()
    elif language == "ko":
        yield from _korean_divisions(kind, row)
    else:
        yield from _european_divisions(language, kind, row, ends)


def _european_divisions(language: str, kind: str, row: tuple[str, ...], ends: set[int]) -> Iterator[Division]:
    joint = pieces([VOICES[language].JOINTS[kind]])
    size = len(joint)
    for start in range(len(row) - size + 1):
        here = row[start : start + size]
        if not all(seen in (word, word[:-1] + "'", GAP) for seen, word in zip(here, joint, strict=True)):
            continue
        if VOICES[language].JOINTS[kind].startswith(",") and start not in ends:
            continue
        rest = row[start + size :]
        # French qu' hides in one gap with the word after it.
        for second in (rest, (GAP, *rest)) if here[-1] == GAP and joint[-1] == "que" else (rest,):
            if kind != "when":
                yield row[:start], second
            elif start == 0:  # When A, B
                yield from ((row[cut:], row[size:cut]) for cut in sorted(ends) if cut > size)


@cache
def _korean_saying() -> tuple[str, ...]:
    """말합니다, 생각합니다 and so on: the last words of a sentence that reports another."""
    return tuple(word for verb in VERBS["saying"] for word in korean.first_words(verb, ("present",)))


def _korean_divisions(kind: str, row: tuple[str, ...]) -> Iterator[Division]:
    if kind == "that" and row[-1] not in (*_korean_saying(), GAP):
        return
    for end, word in enumerate(row, start=1):
        if not word.endswith(ENDINGS[kind]):
            continue
        if word == GAP and kind in ("because", "echo") and not row[end - 2].endswith("기"):
            continue
        if kind in ("and", "but"):
            yield row[:end], row[end:]
        elif kind in ("because", "when"):
            yield row[end:], row[:end]
        else:  # the second clause stands inside the first, after its subject
            for start in range(end):
                if start and row[start - 1].endswith(("은", "는", "이", "가", GAP)):
                    yield row[:start] + row[end:], row[start:end]
