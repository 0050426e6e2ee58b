"""The embedded corpus, judged by rules of each language that are written here, not taken from its tables."""

import math
import random
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from kdutils import grammar
from kdutils.errors import UserError
from kdutils.grammar_choices import Choice, Part, draw
from kdutils.grammar_meaning import CLAUSE, FIRST
from kdutils.grammar_types import ClauseGiven, Sentence

CODES = tuple(grammar.LANGUAGES)


@pytest.fixture(scope="module")
def rows():
    return grammar.translations(4000, seed=2, languages=CODES)


@pytest.fixture(scope="module")
def sentences(rows):
    """Language -> its 4,000 sentences."""
    return {code: [row[code] for row in rows] for code in CODES}


# ---------------------------------------------------------------- all languages


def test_rows_have_the_languages_asked_for_in_that_order():
    assert list(grammar.translations(1, languages=("ko", "en"))[0]) == ["ko", "en"]
    assert list(grammar.translations(1)[0]) == ["en", "de"]


def test_sentences_are_written_as_sentences(sentences):
    for code in CODES:
        for sentence in sentences[code]:
            assert re.fullmatch(r"[^\W\d_][^.]*[^\W_]\.", sentence), sentence
            assert sentence[0] == sentence[0].upper()
            assert "  " not in sentence and " ," not in sentence and ",," not in sentence and ",." not in sentence
            assert unicodedata.is_normalized("NFC", sentence)


def test_rows_are_distinct_and_a_longer_list_starts_with_the_shorter(rows):
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert grammar.translations(50, seed=2, languages=CODES) == rows[:50]
    assert grammar.translations(50, seed=3, languages=CODES) != rows[:50]


def test_a_sentence_does_not_depend_on_the_other_languages_asked_for(rows):
    english = [row["en"] for row in grammar.translations(30, seed=2, languages=("en", "ko"))]
    assert english == [row["en"] for row in rows[:30]]


def test_the_same_seed_gives_the_same_text_in_another_process(rows):
    code = (
        "import sys; from kdutils.grammar import translations, sentiment;"
        "out = translations(200, 2, ('en', 'de', 'fr', 'es', 'ko')), sentiment(200, 5, 'fr');"
        "sys.stdout.buffer.write(repr(out).encode())"
    )
    root = str(Path(grammar.__file__).parents[1])
    environment = {"PYTHONHASHSEED": "4", "PYTHONPATH": root}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert out.stdout.decode() == repr((rows[:200], grammar.sentiment(200, 5, "fr")))


def test_ten_thousand_pairs_take_less_than_two_seconds():
    grammar.translations(100)  # the tables are read
    start = time.process_time()
    assert len(grammar.translations(10_000, seed=9)) == 10_000
    assert time.process_time() - start < 2


def test_words_are_as_skewed_as_words_are(sentences):
    counts = Counter(word for sentence in sentences["en"] for word in sentence.lower().split())
    shares = [count / sum(counts.values()) for _, count in counts.most_common()]
    assert shares[0] > 0.05 and sum(shares[:100]) > 0.5
    assert len(counts) > 500


def test_there_are_more_than_ten_million_sentences_in_every_language():
    """Any two clauses in the past with different subjects make a sentence with "and": count the clauses."""
    rng, past = random.Random(1), Part(CLAUSE, ClauseGiven("plain", ("past",)))
    clauses = [draw(past, rng) for _ in range(7000)]
    for code in CODES:
        wordings = {grammar.VOICES[code].sentence(Sentence("one", clause, None)) for clause in clauses}
        assert len(wordings) * (len(wordings) - 1) * 0.9 > 10_000_000


@pytest.mark.parametrize("make", [grammar.text, grammar.sentiment])
def test_a_user_is_told_what_is_wrong(make):
    with pytest.raises(UserError, match="There is no language 'dee'. Did you mean 'de'"):
        make(3, 0, "dee")
    for n in (0, -1, 2.5, True):
        with pytest.raises(UserError, match="whole number of at least 1"):
            make(n)
    with pytest.raises(UserError, match="at least one language"):
        grammar.translations(3, languages=())


# ---------------------------------------------------------------- English


def test_english_articles_and_third_person(sentences):
    for sentence in sentences["en"]:
        for article, word in re.findall(r"\b([Aa]n?) (\w+)", sentence):
            vowel = word[0] in "aeiou" or word == "honest"
            assert (article.lower() == "an") == vowel, sentence
        helped = r"\b(does|did|will|can|cannot|to)( not)?"
        bare = re.search(helped + r" (\w+ed|was|went|ate|saw|gave|\w+ts)\b", sentence)
        assert bare is None or bare[3] == "feed", sentence
        assert not re.search(r"\b(He|She|he|she) (eat|buy|are|have|do|want|were)\b", sentence), sentence
        assert not re.search(r"\b(They|they|We|we|I) (eats|buys|reads|is|has|does|wants)\b", sentence), sentence
    assert any(" an " in sentence for sentence in sentences["en"])


# ---------------------------------------------------------------- German

GERMAN_NOUNS = """
    Mann/m Frau/f Kind/n Mädchen/n Junge/m Lehrer/m Lehrerin/f Arzt/m Freund/m Freundin/f Hund/m
    Katze/f Vogel/m Maus/f Pferd/n Kuh/f Apfel/m Birne/f Banane/f Suppe/f Ei/n Salat/m Brot/n Käse/m
    Fleisch/n Reis/m Wasser/n Kaffee/m Milch/f Bier/n Buch/n Brief/m Zeitung/f Gedicht/n Bericht/m
    Roman/m Geschichte/f Tasche/f Schlüssel/m Geschenk/n Blume/f Ring/m Tisch/m Stuhl/m Bett/n Uhr/f
    Lampe/f Mantel/m Hemd/n Kleid/n Jacke/f Auto/n Fahrrad/n Boot/n Tür/f Fenster/n Kiste/f Haus/n
    Brücke/f Lied/n Film/m Park/m Garten/m Wald/m Küche/f Schule/f Bibliothek/f Hotel/n Museum/n
"""
GERMAN_GENDER = dict(word.split("/") for word in GERMAN_NOUNS.split())
AFTER_DER = {"m": "der den dem", "f": "die der", "n": "das dem"}  # nominative, accusative, dative singular


def _german_singulars(sentence):
    """(determiner, adjective or None, noun, gender) of the phrases whose noun we know, in the singular."""
    determiner = r"(?<!, )\b([Dd]er|[Dd]ie|[Dd]as|[Dd]en|[Dd]em|[Ee]in(?:e[nmr]?)?|[Mm]ein(?:e[nmr]?)?)"
    pattern = determiner + r" (?:([a-zäöüß]+e[nrms]?) )?([A-ZÄÖÜ]\w+)"
    for word, adjective, noun in re.findall(pattern, sentence):
        if noun in GERMAN_GENDER:
            yield word.lower(), adjective or None, noun, GERMAN_GENDER[noun]


# Nouns whose plural looks like their singular can follow "die" and "den" with any gender.
SAME_PLURAL = {"Lehrer", "Mädchen", "Schlüssel", "Fenster"}


def test_german_articles_agree_with_the_gender_of_the_noun(sentences):
    seen = 0
    for sentence in sentences["de"]:
        for determiner, _, noun, gender in _german_singulars(sentence):
            if noun in SAME_PLURAL:
                continue
            seen += 1
            if determiner[0] == "d":
                assert determiner in AFTER_DER[gender].split(), sentence
            else:
                ending = determiner.removeprefix("mein").removeprefix("ein")
                assert ending in {"m": ("", "en", "em"), "f": ("e", "er"), "n": ("", "em")}[gender], sentence
    assert seen > 2000


def test_german_adjectives_end_as_the_determiner_demands(sentences):
    weak = {
        "der m": "e",
        "den m": "en",
        "dem m": "en",
        "die f": "e",
        "der f": "en",
        "das n": "e",
        "dem n": "en",
    }
    mixed = {" m": "er", "en m": "en", "em m": "en", "e f": "e", "er f": "en", " n": "es", "em n": "en"}
    seen = 0
    for sentence in sentences["de"]:
        for determiner, adjective, noun, gender in _german_singulars(sentence):
            if adjective is None or noun in SAME_PLURAL:
                continue
            seen += 1
            if determiner[0] == "d":
                ending = weak[f"{determiner} {gender}"]
            else:
                ending = mixed[f"{determiner.removeprefix('mein').removeprefix('ein')} {gender}"]
            stem = adjective.removesuffix(ending)
            assert stem != adjective and (ending != "e" or not adjective.endswith(("er", "en", "es"))), sentence
    assert seen > 200


def test_german_subordinate_clauses_have_a_comma_and_the_verb_at_the_end(sentences):
    """The auxiliary or modal stands last, and behind its participle or infinitive."""
    auxiliaries = [
        "ist",
        "sind",
        "bin",
        "war",
        "waren",
        "hat",
        "haben",
        "habe",
        "wird",
        "werden",
        "werde",
        "will",
        "wollen",
        "kann",
        "können",
        "muss",
        "müssen",
    ]
    seen = 0
    for sentence in sentences["de"]:
        for before, joint, clause in re.findall(r"(^|\S+ )(weil|dass|wenn|Wenn) ([^,.]+)[,.]", sentence):
            seen += 1
            assert joint == "Wenn" or before.endswith(", "), sentence
            words = clause.split()
            assert words[-1][0].islower(), sentence
            for position, word in enumerate(words):
                assert word not in auxiliaries or position == len(words) - 1 or word == "haben", sentence
            participle = re.search(r"\bge\w+t\b|\bge\w+en\b", " ".join(words[1:-1]))
            if participle and words[-1] not in auxiliaries:
                assert participle[0] in ("gern", "gestern"), sentence
    assert seen > 500


def test_german_main_clauses_have_the_verb_second(sentences):
    """After a time adverbial the verb follows at once, and after a wenn-clause it comes first."""
    starts = "Gestern|Heute Morgen|Letzte Woche|Heute|Morgen|Jetzt|Jeden Tag|Am Montag|Nächste Woche|Im Sommer"
    verbs = "hat|haben|habe|ist|sind|bin|wird|werden|werde|will|wollen|kann|können|muss|müssen"
    fronted = [s for s in sentences["de"] if re.match(rf"({starts}) [a-zäöü]", s)]
    assert len(fronted) > 100
    for sentence in fronted:
        rest = re.sub(rf"^({starts}) ", "", sentence).split()
        assert re.fullmatch(rf"{verbs}|war|waren|\w+(t|e|en)|isst|liest|weiß", rest[0]), sentence
        assert rest[0] not in ("der", "die", "das", "ein", "eine", "mein", "meine", "ich", "er", "sie", "wir")
    for sentence in sentences["de"]:
        inverted = re.match(r"Wenn [^,]+, (\w+) (\w+)", sentence)
        if inverted:
            assert inverted[1] not in ("der", "die", "das", "ich", "er", "sie", "wir", "meine", "Anna"), sentence


def test_german_separable_verbs_part_in_main_clauses_only(sentences):
    parted = [s for s in sentences["de"] if re.search(r"\b(macht|machen|mache) [^,]*\b(auf|zu)[.,]?", s)]
    joined = [s for s in sentences["de"] if re.search(r"\b(aufmacht|zumacht|anruft|einlädt)\b", s)]
    assert parted and joined
    assert all(
        re.search(r"(weil|dass|wenn|Wenn|, der|, die) [^,]*(aufmacht|zumacht|anruft|einlädt)", s) for s in joined
    )
    assert any(s.rstrip(".").split()[-1] in ("aufgemacht", "zugemacht") for s in sentences["de"])


# ---------------------------------------------------------------- French and Spanish


def test_french_elides_and_contracts(sentences):
    vowel = "[aeiouhéèêâîôœAEIOUÉ]"
    for sentence in sentences["fr"]:
        assert not re.search(rf"\b(le|la|de|que|ne|je|ce|ma|Le|La|Je|Ce|Ma) {vowel}", sentence), sentence
        assert not re.search(r"\b(à|de) les? ", sentence), sentence
        assert not re.search(r"\b(vieux|beau|nouveau) (homme|ami|étudiant|ordinateur|oiseau)\b", sentence), sentence
        assert not re.search(rf"'(?!{vowel})", sentence), sentence
    everything = " ".join(sentences["fr"])
    for form in (
        "l'",
        "d'eau" if "d'eau" in everything else "de l'eau",
        "qu'",
        "n'",
        "J'ai",
        " au ",
        " aux ",
        " du ",
        "et ",
    ):
        assert form in everything, form


def test_french_participles_after_etre_agree_with_the_subject(sentences):
    seen = 0
    for sentence in sentences["fr"]:
        for subject, participle in re.findall(r"\b([Ee]lles?|[Ii]ls?) (?:n')?(?:est|sont) (?:pas )?(\w+)", sentence):
            if re.match(r"(allé|arrivé|resté|parti|venu|revenu|retourné)", participle):
                seen += 1
                ending = ("e" if subject[0] in "eE" else "") + ("s" if subject.endswith("s") else "")
                assert re.fullmatch(rf"(allé|arrivé|resté|parti|venu|revenu|retourné){ending}", participle), sentence
    assert seen > 5


SPANISH_NOUNS = """
    hombre/m mujer/f chica/f chico/m profesor/m profesora/f perro/m casa/f libro/m carta/f mesa/f
    silla/f coche/m puerta/f ventana/f película/f leche/f pan/m queso/m carne/f flor/f llave/f
    reloj/m foto/f poema/m café/m noche/f canción/f puente/m lámpara/f abrigo/m
"""


def test_spanish_articles_agree_and_contract(sentences):
    gender = dict(word.split("/") for word in SPANISH_NOUNS.split())
    seen = 0
    for sentence in sentences["es"]:
        assert not re.search(r"\b(a|de) el\b|\by [iI]", sentence), sentence
        for article, noun in re.findall(r"\b(el|la|un|una|El|La|Un|Una|al|este|esta) (\w+)", sentence):
            if noun in gender:
                seen += 1
                masculine = article.lower() in ("el", "un", "al", "este")
                assert masculine == (gender[noun] == "m"), sentence
        assert not re.search(r"\b([Ll]a|[Uu]na) agua\b|\beste agua", sentence), sentence
    assert seen > 1000


def test_spanish_marks_people_as_objects(sentences):
    people = r"(la|mi|una|esta|mis|las|los|estos|estas|este|un)"
    for sentence in sentences["es"]:
        assert not re.search(
            rf"\b(ayudó|ayuda|vio|visitó|ama|conoce|llamó) {people} (hombre|mujer|madre|chica)", sentence
        )
    assert any(re.search(r"\b(ayudó|vio|visitó|ama|conoce) (a|al) ", s) for s in sentences["es"])


# ---------------------------------------------------------------- Korean


def _final(word):
    """Index of the last syllable's final consonant (8 is ㄹ), by its code point."""
    return (ord(word[-1]) - 0xAC00) % 28


KOREAN_NOUNS = """
    남자 여자 아이 소녀 소년 대학생 농부 친구 선생님 의사 어머니 아버지 남동생 여동생 딸 아들
    할머니 개 고양이 새 쥐 말 사과 케이크 달걀 빵 밥 고기 물 커피 차 우유
    책 편지 신문 시 가방 열쇠 꽃 컵 사진 공 탁자 의자 시계 외투 셔츠 자동차
    배 문 창문 집 노래 영화 안나 폴 마리아 토마스 그들 그녀 서울 파리 런던 숲
    호텔 학교 공원 호수 바다 박물관 명 마리 권 통 개 대 벌 송이
"""
PAIRS = {"은": True, "는": False, "이": True, "가": False, "을": True, "를": False, "과": True, "와": False}


def test_korean_particles_follow_the_last_sound(sentences):
    seen = Counter()
    nouns = set(KOREAN_NOUNS.split())
    for sentence in sentences["ko"]:
        for word in sentence.rstrip(".").split():
            if word[:-1] in nouns and word[-1] in PAIRS:
                seen[word[-1]] += 1
                assert (_final(word[:-1]) != 0) == PAIRS[word[-1]], sentence
            elif word[:-2] in nouns and word.endswith("으로"):
                seen["으로"] += 1
                assert _final(word[:-2]) not in (0, 8), sentence
            elif word[:-1] in nouns and word.endswith("로"):
                seen["로"] += 1
                assert _final(word[:-1]) in (0, 8), sentence
    assert all(seen[particle] > 3 for particle in (*PAIRS, "으로", "로")), seen
    assert any("서울로" in sentence for sentence in sentences["ko"])


def test_korean_sentences_end_in_a_polite_verb(sentences):
    for sentence in sentences["ko"]:
        last = sentence.rstrip(".").split()[-1]
        assert last.endswith("니다"), sentence
        if last.endswith("습니다"):
            assert _final(last[:-3]) not in (0, 8), sentence
        else:
            assert _final(last[:-2]) == 17, sentence  # ㅂ
        assert all("가" <= c <= "힣" or c in " ." for c in sentence), sentence


# ---------------------------------------------------------------- the distribution of a hidden word


@pytest.mark.parametrize("code", CODES)
def test_every_sentence_is_possible_and_probabilities_sum_to_one(code, sentences):
    for index, sentence in enumerate(sentences[code][:: 800 if code == "ko" else 500]):
        words = sentence.split()
        position = (7 * index) % len(words)
        found = grammar.masked_distribution(words, position, code)
        assert words[position] in found, (sentence, position)
        assert sum(found.values()) == pytest.approx(1) and min(found.values()) > 0
        assert list(found.values()) == sorted(found.values(), reverse=True)
        words[position] = "<mask>"
        assert grammar.masked_distribution(words, position, code) == found


def _contexts(code, n, longest):
    """(words before, words after) -> how often which word stood between, in n draws of short sentences."""
    rng, contexts = random.Random(11), defaultdict(Counter)
    voice, one = grammar.VOICES[code], Part(CLAUSE, FIRST["one"])
    for _ in range(n):
        clause = draw(one, rng)
        if clause.time or clause.place or clause.receiver:
            continue  # too long to come again
        words = grammar.finished(voice.sentence(Sentence("one", clause, None))).split()
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
        found = grammar.masked_distribution([*before, "?", *after], len(before), code)
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
        made = grammar.finished(grammar.VOICES[code].sentence(Sentence("one", clause, None))).split()
        if len(made) == len(words) and made[:gap] == words[:gap] and made[gap + 1 :] == words[gap + 1 :]:
            weights[made[gap]] += p
    found = grammar.masked_distribution(words, gap, code)
    assert len(found) > 1 and found.keys() == weights.keys()
    for word, p in found.items():
        assert p == pytest.approx(weights[word] / weights.total())


def test_the_gender_of_a_noun_to_come_rules_the_article():
    """The article is open until the noun is seen; then only one is left."""
    found = grammar.masked_distribution(["[?]", "alte", "Hund", "hat", "das", "Brot", "gefressen."], 0, "de")
    assert set(found) == {"Der", "Dieser"}
    assert found["Der"] > found["Dieser"]
    assert set(grammar.masked_distribution(["Wir", "kaufen", "jetzt", "[?]", "Lampe."], 3, "de")) >= {
        "eine",
        "die",
        "diese",
    }


def test_of_two_teachers_the_pronoun_tells_which():
    he = ["Der", "Lehrer", "tanzt", "nicht,", "weil", "[?]", "müde", "ist."]
    assert grammar.masked_distribution(he, 5, "de").keys() == {"er"}
    she = ["Die", "Lehrerin", "lacht,", "weil", "[?]", "traurig", "ist."]
    assert grammar.masked_distribution(she, 4, "de").keys() == {"sie"}


def test_impossible_contexts_are_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"No word at \[\?\] makes 'Purple \[\?\] sleep furiously.'"):
        grammar.masked_distribution(["Purple", "ideas", "sleep", "furiously."], 1)
    with pytest.raises(UserError, match="no position 9"):
        grammar.masked_distribution(["Anna", "sleeps."], 9)
    with pytest.raises(UserError, match="no language"):
        grammar.masked_distribution(["Anna", "sleeps."], 0, "xx")


def test_a_choice_is_drawn_as_its_weights_say():
    choice, rng = Choice([("a", 3), ("b", 1), ("never", 0)]), random.Random(0)
    counts = Counter(choice.pick(rng) for _ in range(4000))
    assert dict(choice.pairs) == {"a": 0.75, "b": 0.25}
    assert counts["a"] / 4000 == pytest.approx(0.75, abs=0.03) and "never" not in counts


# ---------------------------------------------------------------- reviews

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
    for row in grammar.sentiment(1200, seed=4, language=code):
        assert read_review(row["text"], code) == row["label"], row


@pytest.mark.parametrize("code", CODES)
def test_reviews_are_balanced_distinct_and_many(code):
    reviews = grammar.sentiment(3001, seed=1, language=code)
    assert abs(2 * sum(row["label"] for row in reviews) - 3001) == 1
    assert len({row["text"] for row in reviews}) == 3001
    assert grammar.sentiment(100, seed=1, language=code) == reviews[:100]
    assert all(unicodedata.is_normalized("NFC", row["text"]) and row["text"].endswith(".") for row in reviews)


@pytest.mark.parametrize("code", ["en", "de"])
def test_a_bag_of_words_cannot_read_the_label(code):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    reviews = grammar.sentiment(4000, seed=6, language=code)
    counts = CountVectorizer().fit_transform([row["text"] for row in reviews])
    labels = [row["label"] for row in reviews]
    model = LogisticRegression(max_iter=300).fit(counts[:3000], labels[:3000])
    assert 0.5 < model.score(counts[3000:], labels[3000:]) < 0.78
