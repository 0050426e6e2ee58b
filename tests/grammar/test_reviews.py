"""Reviews: labels as a reader finds them, and no short cut to them."""

import re
import unicodedata

import pytest

from kdutils.grammar import corpus

CODES = tuple(corpus.LANGUAGES)

GOOD = {
    "en": """
        good wonderful excellent great perfect exciting interesting original beautiful
        convincing charming likeable comfortable clean cozy delicious fresh""",
    "de": """
        gut wunderbar ausgezeichnet großartig perfekt spannend interessant originell schön
        überzeugend charmant sympathisch bequem sauber gemütlich köstlich frisch""",
    "fr": r"""
        bon(ne)?s? merveilleu(x|ses?) excellente?s? formidables? parfaite?s? passionnante?s?
        intéressante?s? origina(ux|les?|l) beaux? belles? convaincante?s? charmante?s?
        sympathiques? confortables? propres? agréables? délicieu(x|ses?) fraîches? frais""",
    "es": r"""
        buen[oa]s? maravillos[oa]s? excelentes? estupend[oa]s? perfect[oa]s? emocionantes?
        interesantes? original(es)? bonit[oa]s? convincentes? encantador(as?|es)?
        simpátic[oa]s? cómod[oa]s? limpi[oa]s? acogedor(as?|es)? delicios[oa]s? fresc[oa]s?""",
    "ko": """
        좋(?!아하) 훌륭하|훌륭했|훌륭한 뛰어나|뛰어났|뛰어난 멋지|멋졌|멋진 완벽하|완벽했|완벽한
        흥미진진 재미있 독창적 아름다|아름답 설득력
        매력적 상냥 편안 깨끗 아늑
        맛있 신선
    """,
}
NEGATORS = {
    "en": r"\b(not|hardly|anything but|by no means|never)\b",
    "de": r"\b(nicht|kaum|alles andere als|keineswegs|nie)\b",
    "fr": r"\b(pas|guère|tout sauf|nullement|jamais)\b",
    "es": r"\b(no|apenas|todo menos|de ningún modo|nunca)\b",
    "ko": r"지 않|거리가 멀|말하지 않",
}
DECIDES = {  # what the deciding clause follows; what introduces the other one
    "en": (r", but |\. Still, ", "although"),
    "de": (r", aber |\. Trotzdem ", "obwohl"),
    "fr": (r", mais |\. Pourtant, ", "même si"),
    "es": (r", pero |\. Sin embargo, ", "aunque"),
    "ko": (r"\. 하지만 |\. 그래도 ", "비록"),
}


def read_review(text, code):
    """The label that a reader gives: the clause that decides, its adjective, and what negates it."""
    after, concession = DECIDES[code]
    text = re.split(after, text)[-1].rstrip(".")
    lower = text.lower()
    if code == "ko" and lower.startswith(concession):
        text = re.split("지만 ", text, maxsplit=1)[1]
    elif lower.startswith(concession):
        # "I would not say, that ..." never follows a concession, so the first comma ends it
        text = text.split(", ", 1)[1]
    elif concession in lower:
        text = re.split(rf"[,.] {concession}", text, flags=re.IGNORECASE)[0]
    good = "|".join(GOOD[code].split())
    pattern = rf"({good})" if code == "ko" else rf"\b({good})\b"
    parts = re.split(r"\. (?:Besides,|Außerdem|De plus,|Además,|게다가) | and | und | et | y |고 ", text)
    labels = {
        (re.search(pattern, part) is not None) ^ (len(re.findall(NEGATORS[code], part.lower())) % 2) for part in parts
    }
    assert len(labels) == 1, text
    return int(labels.pop())


@pytest.mark.parametrize("code", CODES)
def test_labels_are_what_a_reader_finds(code):
    for row in corpus.sentiment(1200, seed=4, language=code):
        assert read_review(row["text"], code) == row["label"], row


@pytest.mark.parametrize("code", CODES)
def test_reviews_are_balanced_distinct_and_many(code):
    reviews = corpus.sentiment(3001, seed=1, language=code)
    assert abs(2 * sum(row["label"] for row in reviews) - 3001) == 1
    assert len({row["text"] for row in reviews}) == 3001
    assert corpus.sentiment(100, seed=1, language=code) == reviews[:100]
    assert all(unicodedata.is_normalized("NFC", row["text"]) and row["text"].endswith(".") for row in reviews)


@pytest.mark.parametrize("code", ["en", "de"])
def test_a_bag_of_words_cannot_read_the_label(code):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    reviews = corpus.sentiment(4000, seed=6, language=code)
    counts = CountVectorizer().fit_transform([row["text"] for row in reviews])
    labels = [row["label"] for row in reviews]
    model = LogisticRegression(max_iter=300).fit(counts[:3000], labels[:3000])
    assert 0.5 < model.score(counts[3000:], labels[3000:]) < 0.78
