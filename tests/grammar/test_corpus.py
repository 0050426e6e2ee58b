"""The embedded corpus, judged by rules of each language that are written here, not taken from its tables."""

import random
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from kdutils.core.errors import UserError
from kdutils.grammar import corpus
from kdutils.grammar.choices import Part, draw
from kdutils.grammar.meaning import CLAUSE
from kdutils.grammar.shapes import ClauseGiven, Sentence

CODES = tuple(corpus.LANGUAGES)


@pytest.fixture(scope="module")
def rows():
    return corpus.translations(4000, seed=2, languages=CODES)


@pytest.fixture(scope="module")
def sentences(rows):
    """Language -> its 4,000 sentences."""
    return {code: [row[code] for row in rows] for code in CODES}


# ---------------------------------------------------------------- all languages


def test_rows_have_the_languages_asked_for_in_that_order():
    assert list(corpus.translations(1, languages=("ko", "en"))[0]) == ["ko", "en"]
    assert list(corpus.translations(1)[0]) == ["en", "de"]


def test_sentences_are_written_as_sentences(sentences):
    for code in CODES:
        for sentence in sentences[code]:
            assert re.fullmatch(r"[^\W\d_][^.]*[^\W_]\.", sentence), sentence
            assert sentence[0] == sentence[0].upper()
            assert "  " not in sentence and " ," not in sentence and ",," not in sentence and ",." not in sentence
            assert unicodedata.is_normalized("NFC", sentence)


def test_rows_are_distinct_and_a_longer_list_starts_with_the_shorter(rows):
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert corpus.translations(50, seed=2, languages=CODES) == rows[:50]
    assert corpus.translations(50, seed=3, languages=CODES) != rows[:50]


def test_a_sentence_does_not_depend_on_the_other_languages_asked_for(rows):
    english = [row["en"] for row in corpus.translations(30, seed=2, languages=("en", "ko"))]
    assert english == [row["en"] for row in rows[:30]]


def test_the_same_seed_gives_the_same_text_in_another_process(rows):
    code = (
        "import sys; from kdutils.grammar.corpus import translations, sentiment;"
        "out = translations(200, 2, ('en', 'de', 'fr', 'es', 'ko')), sentiment(200, 5, 'fr');"
        "sys.stdout.buffer.write(repr(out).encode())"
    )
    root = str(Path(corpus.__file__).parents[1])
    environment = {"PYTHONHASHSEED": "4", "PYTHONPATH": root}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert out.stdout.decode() == repr((rows[:200], corpus.sentiment(200, 5, "fr")))


def test_ten_thousand_pairs_take_less_than_two_seconds():
    corpus.translations(100)  # the tables are read
    start = time.process_time()
    assert len(corpus.translations(10_000, seed=9)) == 10_000
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
        wordings = {corpus.VOICES[code].sentence(Sentence("one", clause, None)) for clause in clauses}
        assert len(wordings) * (len(wordings) - 1) * 0.9 > 10_000_000


@pytest.mark.parametrize("make", [corpus.text, corpus.sentiment])
def test_a_user_is_told_what_is_wrong(make):
    with pytest.raises(UserError, match="There is no language 'dee'. Did you mean 'de'"):
        make(3, 0, "dee")
    for n in (0, -1, 2.5, True):
        with pytest.raises(UserError, match="whole number of at least 1"):
            make(n)
    with pytest.raises(UserError, match="at least one language"):
        corpus.translations(3, languages=())


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
