"""The embedded corpus: one synchronous probabilistic grammar that speaks five languages.

A meaning is drawn once (`grammar_meaning`) and worded in each language (`grammar_en`, `grammar_de`,
`grammar_fr`, `grammar_es`, `grammar_ko`), so the sentences of a row translate each other. Because the grammar
is probabilistic, the true distribution of a hidden word is known (`grammar_posterior`). `grammar_reviews`
makes labelled reviews. Nothing is downloaded; the same seed gives the same rows in every Python.

Cheapest use:

>>> translations(1, seed=1)
[{'en': 'Anna did not buy the green bag.', 'de': '...'}]
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from kdutils.core.errors import UserError, unknown
from kdutils.grammar.choices import draw
from kdutils.grammar.meaning import SENTENCE, second_part
from kdutils.grammar.posterior import VOICES, distribution, finished
from kdutils.grammar.questions import asked
from kdutils.grammar.reviews import review

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "ko": "Korean"}


def translations(n: int, seed: int = 0, languages: Sequence[str] = ("en", "de")) -> list[dict[str, str]]:
    """n rows of sentences that translate each other: language code -> sentence, in the order of `languages`.

    Rows are independent draws from the grammar, except that a row that came before is drawn again: no two
    rows are equal in all their languages (they can be in one: "teacher" is Lehrer or
    Lehrerin). The first rows of a longer list are the rows of a shorter one.

    Raises UserError for an unknown language, for no language, and for n below 1.
    """
    _check(n, languages)
    return [*islice(translation_stream(seed, languages), n)]


def translation_stream(seed: int = 0, languages: Sequence[str] = ("en", "de")) -> Iterator[dict[str, str]]:
    """The rows of `translations` one by one, without end, for whoever does not know how many he will need."""
    rng = random.Random(seed)

    def row() -> dict[str, str]:
        meaning = draw(SENTENCE, rng)
        return {language: finished(VOICES[language].sentence(meaning)) for language in languages}

    return _distinct(row, lambda made: tuple(made.values()))


def text(n: int, seed: int = 0, language: str = "en") -> list[str]:
    """n distinct sentences of one language, from the same grammar as `translations`; same errors."""
    return [row[language] for row in translations(n, seed, (language,))]


def sentiment(n: int, seed: int = 0, language: str = "en") -> list[dict]:
    """n distinct reviews {"text": str, "label": 1 positive, 0 negative}, as many of either (to within one).

    The label follows from negation and contrast, by the rules in `kdutils.grammar.reviews`. Raises UserError
    for an unknown language and for n below 1.
    """
    _check(n, (language,))
    return [*islice(sentiment_stream(seed, language), n)]


def sentiment_stream(seed: int = 0, language: str = "en") -> Iterator[dict]:
    """The rows of `sentiment` one by one, without end."""
    rng, labels = random.Random(seed), [0, 0]

    def row() -> dict:
        even = len(labels) % 2 == 0  # of every two labels the first is drawn and the second is the other one
        labels.append(int(rng.random() < 0.5) if even else 1 - labels[-1])
        return {"text": review(rng, labels[-1], language), "label": labels[-1]}

    return _distinct(row, lambda made: made["text"], lambda: labels.pop())


def acceptability(n: int, seed: int = 0, language: str = "en") -> list[dict]:
    """n rows {"text": str, "label": 1 a sentence of the language, 0 not}, as many of either (to within one).

    What is not a sentence is one in which two neighbouring words, neither of them the first or the last, have changed
    places (not two German names, which may do so). No sentence comes twice, in whichever form. Sentences have at
    least four words. Raises UserError for an unknown language, for Korean, whose phrases may change places, and for
    n below 1.
    """
    _check(n, (language,))
    return [*islice(acceptability_stream(seed, language), n)]


def acceptability_stream(seed: int = 0, language: str = "en") -> Iterator[dict]:
    """The rows of `acceptability` one by one, without end."""
    if language == "ko":
        raise UserError("The order of Korean phrases is free: for acceptability choose en, de, fr or es.")
    rng, seen, label = random.Random(f"acceptability {seed}"), set(), 0
    while True:
        words = finished(VOICES[language].sentence(draw(SENTENCE, rng))).split()
        key, place = " ".join(words), rng.randrange(1, max(2, len(words) - 2))
        if len(words) < 4 or key in seen or words[place] == words[place + 1]:
            continue
        if language == "de" and words[place][0].isupper() and words[place + 1][0].isupper():
            continue
        label = 1 - label if len(seen) % 2 else int(rng.random() < 0.5)
        seen.add(key)
        if not label:
            words[place], words[place + 1] = words[place + 1], words[place]
        yield {"text": " ".join(words), "label": label}


def similarity_stream(seed: int = 0, language: str = "en") -> Iterator[dict]:
    """Pairs of sentences {"text", "text_b", "score": the share of words that both have, 0 to 5}, without end.

    Two of three sentences of several clauses are followed by one that begins with the same clause and goes on
    otherwise; all others by any other sentence. So the number of clauses tells much of the score, which a small encoder
    learns soon, and to compare the words tells the rest. No pair comes twice.
    """
    rng = random.Random(f"similarity {seed}")

    def row() -> dict:
        meaning = draw(SENTENCE, rng)
        if meaning.second is None or rng.random() < 1 / 3:
            other = draw(SENTENCE, rng)
        else:
            other = meaning._replace(second=draw(second_part(meaning.kind, meaning.first), rng))
        one, two = (finished(VOICES[language].sentence(each)) for each in (meaning, other))
        words, others = ({word.strip(".,").lower() for word in text.split()} for text in (one, two))
        return {"text": one, "text_b": two, "score": round(5 * len(words & others) / len(words | others), 2)}

    return _distinct(row, lambda made: (made["text"], made["text_b"]))


def question_stream(seed: int = 0) -> Iterator[list[dict]]:
    """Of English sentences, no two alike and without end, questions {"context", "question", "answers"}, one or more.

    answers: one {"text", "start"}, the first character of the only place in the context that reads so. Questions that
    a sentence answers twice are left out.
    """
    rng = random.Random(f"questions {seed}")

    def row() -> list[dict]:
        meaning = draw(SENTENCE, rng)
        context, pairs = finished(VOICES["en"].sentence(meaning)), [*asked(meaning)]
        often, found = Counter(question for question, _ in pairs), []
        for question, answer in pairs:
            places = [*re.finditer(rf"\b{re.escape(answer)}\b", context, re.IGNORECASE)]  # it may begin the sentence
            if often[question] == len(places) == 1:
                answers = [{"text": places[0].group(), "start": places[0].start()}]
                found.append({"context": context, "question": question, "answers": answers})
        return found

    return filter(None, _distinct(row, lambda made: made[0]["context"] if made else None))


def masked_distribution(words: Sequence[str], position: int, language: str = "en") -> dict[str, float]:
    """The exact P(word | all other words) under the grammar of `translations` in one language.

    `words` is what `sentence.split()` gives: a full stop or comma belongs to the word before it, French l'
    and qu' to the word after them, and the first word has its capital. The word at `position` is ignored, so
    any mark may stand there. The result maps each possible word to its probability, the most probable first,
    and sums to 1. (`translations` draws from this very distribution, but never the same row twice.)

    Raises UserError for an unknown language, for a position outside the sentence (it counts from 0), and if
    no word makes the others a sentence of the grammar.
    """
    _check(1, (language,))
    words = list(words)
    if not 0 <= position < len(words):
        raise UserError(f"There is no position {position} among {len(words)} words, which count from 0.")
    found = distribution(language, words, position)
    if not found:
        gap = " ".join([*words[:position], "[?]", *words[position + 1 :]])
        name = LANGUAGES[language]
        raise UserError(f"No word at [?] makes '{gap}' a sentence of the {name} grammar; use one of text().")
    return found


def _check(n: int, languages: Sequence[str]) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise UserError(f"The number of sentences must be a whole number of at least 1, not {n!r}.")
    if not languages:
        raise UserError(f"Name at least one language of {', '.join(LANGUAGES)}.")
    for language in [languages] if isinstance(languages, str) else languages:
        if language not in LANGUAGES:
            raise unknown("language", language, LANGUAGES)


def _distinct(make: Callable, key: Callable, undo: Callable = lambda: None) -> Iterator:
    """Things from make() whose keys differ; `undo` is called for each that is thrown away."""
    seen = set()
    while True:
        row = make()
        if key(row) in seen:
            undo()
            continue
        seen.add(key(row))
        yield row
