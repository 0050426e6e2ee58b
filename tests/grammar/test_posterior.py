"""The exact distribution of a hidden word, against counting, brute force and what a reader knows."""

import math
import random
from collections import Counter, defaultdict

import pytest

from kdutils.core.errors import UserError
from kdutils.grammar import corpus
from kdutils.grammar.choices import Choice, Part, draw
from kdutils.grammar.meaning import CLAUSE, FIRST
from kdutils.grammar.shapes import Sentence

CODES = tuple(corpus.LANGUAGES)


@pytest.fixture(scope="module")
def sentences():
    """Language -> 4,000 sentences."""
    rows = corpus.translations(4000, seed=2, languages=CODES)
    return {code: [row[code] for row in rows] for code in CODES}


@pytest.mark.parametrize("code", CODES)
def test_every_sentence_is_possible_and_probabilities_sum_to_one(code, sentences):
    for index, sentence in enumerate(sentences[code][:: 800 if code == "ko" else 500]):
        words = sentence.split()
        position = (7 * index) % len(words)
        found = corpus.masked_distribution(words, position, code)
        assert words[position] in found, (sentence, position)
        assert sum(found.values()) == pytest.approx(1) and min(found.values()) > 0
        assert list(found.values()) == sorted(found.values(), reverse=True)
        words[position] = "<mask>"
        assert corpus.masked_distribution(words, position, code) == found


def _contexts(code, n, longest):
    """(words before, words after) -> how often which word stood between, in n draws of short sentences."""
    rng, contexts = random.Random(11), defaultdict(Counter)
    voice, one = corpus.VOICES[code], Part(CLAUSE, FIRST["one"])
    for _ in range(n):
        clause = draw(one, rng)
        if clause.time or clause.place or clause.receiver:
            continue  # too long to come again
        words = corpus.finished(voice.sentence(Sentence("one", clause, None))).split()
        if len(words) <= longest:
            for i, word in enumerate(words):
                contexts[tuple(words[:i]), tuple(words[i + 1 :])][word] += 1
    return contexts


@pytest.mark.parametrize(("code", "longest"), [("en", 4), ("de", 4), ("ko", 3)])
def test_the_distribution_is_that_of_the_sentences_drawn(code, longest):
    """The 15 most frequent contexts of 25,000 draws, pooled: word counts and mean log probability."""
    contexts = _contexts(code, 25_000, longest)
    frequent = sorted(contexts.items(), key=lambda item: (-sum(item[1].values()), item[0]))[:15]
    drawn = expected = variance = 0.0
    for (before, after), counts in frequent:
        found = corpus.masked_distribution([*before, "?", *after], len(before), code)
        total = sum(counts.values())
        assert set(counts) <= set(found)
        for word, p in found.items():
            spread = (total * p * (1 - p)) ** 0.5
            assert abs(counts[word] - total * p) < 5 * spread + 2, (before, word, after, p, total)
        logs = {word: math.log(p) for word, p in found.items()}
        mean = sum(p * logs[word] for word, p in found.items())
        drawn += sum(count * logs[word] for word, count in counts.items())
        expected += total * mean
        variance += total * sum(p * (logs[word] - mean) ** 2 for word, p in found.items())
    assert sum(sum(counts.values()) for _, counts in frequent) > 150
    assert abs(drawn - expected) < 4 * variance**0.5


def _everything(part, forced):
    """Every outcome of a part with its probability, without any pruning; `forced` fixes fields of the top."""

    def extend(index, fields, p):
        if index == len(part.recipe.fields):
            yield part.recipe.make(fields), p
            return
        name, options = part.recipe.fields[index]
        source = options(fields)
        pairs = source.pairs if isinstance(source, Choice) else _everything(source, {})
        for value, q in pairs:
            if name not in forced or value in forced[name]:
                yield from extend(index + 1, {**fields, name: value}, p * q)

    return extend(0, {"given": part.given}, 1.0)


@pytest.mark.parametrize(
    ("code", "context"),
    [
        ("en", "[?] book is good."),
        ("de", "Unsere [?] war sehr schön."),
        ("fr", "L'histoire [?] longue."),
        ("es", "Este libro es [?]"),
        ("ko", "이 [?] 좋습니다."),
    ],
)
def test_brute_force_over_all_copula_clauses_agrees(code, context):
    """Only a form of "to be" fits these contexts, so listing all its clauses is listing everything."""
    weights = Counter()
    words = context.split()
    gap = words.index("[?]")
    for clause, p in _everything(Part(CLAUSE, FIRST["one"]), {"verb": [None], "time": [None]}):
        made = corpus.finished(corpus.VOICES[code].sentence(Sentence("one", clause, None))).split()
        if len(made) == len(words) and made[:gap] == words[:gap] and made[gap + 1 :] == words[gap + 1 :]:
            weights[made[gap]] += p
    found = corpus.masked_distribution(words, gap, code)
    assert len(found) > 1 and found.keys() == weights.keys()
    for word, p in found.items():
        assert p == pytest.approx(weights[word] / weights.total())


def test_the_gender_of_a_noun_to_come_rules_the_article():
    """The article is open until the noun is seen; then only one is left."""
    found = corpus.masked_distribution(["[?]", "alte", "Hund", "hat", "das", "Brot", "gefressen."], 0, "de")
    assert set(found) == {"Der", "Dieser"}
    assert found["Der"] > found["Dieser"]
    assert set(corpus.masked_distribution(["Wir", "kaufen", "jetzt", "[?]", "Lampe."], 3, "de")) >= {
        "eine",
        "die",
        "diese",
    }


def test_of_two_teachers_the_pronoun_tells_which():
    he = ["Der", "Lehrer", "tanzt", "nicht,", "weil", "[?]", "müde", "ist."]
    assert corpus.masked_distribution(he, 5, "de").keys() == {"er"}
    she = ["Die", "Lehrerin", "lacht,", "weil", "[?]", "traurig", "ist."]
    assert corpus.masked_distribution(she, 4, "de").keys() == {"sie"}


def test_impossible_contexts_are_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"No word at \[\?\] makes 'Purple \[\?\] sleep furiously.'"):
        corpus.masked_distribution(["Purple", "ideas", "sleep", "furiously."], 1)
    with pytest.raises(UserError, match="no position 9"):
        corpus.masked_distribution(["Anna", "sleeps."], 9)
    with pytest.raises(UserError, match="no language"):
        corpus.masked_distribution(["Anna", "sleeps."], 0, "xx")


def test_a_choice_is_drawn_as_its_weights_say():
    choice, rng = Choice([("a", 3), ("b", 1), ("never", 0)]), random.Random(0)
    counts = Counter(choice.pick(rng) for _ in range(4000))
    assert dict(choice.pairs) == {"a": 0.75, "b": 0.25}
    assert counts["a"] / 4000 == pytest.approx(0.75, abs=0.03) and "never" not in counts
