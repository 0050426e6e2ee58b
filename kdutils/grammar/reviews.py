"""Reviews of one or two clauses whose label only contrast and negation give away.

The label follows from three rules:
1. A judgement is as good or bad as its adjective. Each negator turns it round: not, hardly, anything but,
   by no means, never, not at all, and "I would not say that ..." around it; two of them cancel.
2. Of two clauses joined by "but" or by "Still," the second decides; beside "although" it is the main clause.
3. Clauses joined by "and" or by "Besides," agree.

>>> review(random.Random(0), 1, "en")
'The soup was not bad.'
"""

# ruff: noqa: E501  (in the tables: one entry a line, one column a language)
from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from kdutils.grammar import korean
from kdutils.grammar.choices import Choice, zipf
from kdutils.grammar.entries import french_plural, spanish_plural

LANGUAGES = ("en", "de", "fr", "es", "ko")

# topic | group of adjectives that fit, besides the general ones | number | English | German |
#   French and gender | Spanish and gender | Korean
ASPECTS = """
    film | work | sg | the film | der Film | le film m | la película f | 영화
    film | work | sg | the story | die Geschichte | l'histoire f | la historia f | 이야기
    film | people | pl | the actors | die Schauspieler | les acteurs m | los actores m | 배우들
    film | work | sg | the music | die Musik | la musique f | la música f | 음악
    film | work | sg | the ending | das Ende | la fin f | el final m | 결말
    film | work | pl | the dialogues | die Dialoge | les dialogues m | los diálogos m | 대사
    film | people | sg | the leading actress | die Hauptdarstellerin | l'actrice principale f | la actriz principal f | 여주인공
    hotel | room | sg | the hotel | das Hotel | l'hôtel m | el hotel m | 호텔
    hotel | room | sg | the room | das Zimmer | la chambre f | la habitación f | 방
    hotel | people | sg | the receptionist | die Rezeptionistin | la réceptionniste f | la recepcionista f | 안내원
    hotel | food | sg | the breakfast | das Frühstück | le petit-déjeuner m | el desayuno m | 아침 식사
    hotel | room | pl | the beds | die Betten | les lits m | las camas f | 침대
    hotel | room | sg | the bathroom | das Badezimmer | la salle de bains f | el baño m | 욕실
    hotel | room | sg | the garden | der Garten | le jardin m | el jardín m | 정원
    restaurant | room | sg | the restaurant | das Restaurant | le restaurant m | el restaurante m | 식당
    restaurant | food | sg | the soup | die Suppe | la soupe f | la sopa f | 수프
    restaurant | food | sg | the fish | der Fisch | le poisson m | el pescado m | 생선
    restaurant | people | sg | the waiter | der Kellner | le serveur m | el camarero m | 종업원
    restaurant | food | sg | the dessert | der Nachtisch | le dessert m | el postre m | 디저트
    restaurant | food | sg | the salad | der Salat | la salade f | la ensalada f | 샐러드
    restaurant | room | pl | the chairs | die Stühle | les chaises f | las sillas f | 의자
    book | work | sg | the book | das Buch | le livre m | el libro m | 책
    book | work | sg | the plot | die Handlung | l'intrigue f | la trama f | 줄거리
    book | people | pl | the characters | die Figuren | les personnages m | los personajes m | 등장인물
    book | work | sg | the style | der Stil | le style m | el estilo m | 문체
    book | work | sg | the first chapter | das erste Kapitel | le premier chapitre m | el primer capítulo m | 첫 장
    book | work | pl | the poems | die Gedichte | les poèmes m | los poemas m | 시
    concert | work | sg | the concert | das Konzert | le concert m | el concierto m | 공연
    concert | people | sg | the singer | die Sängerin | la chanteuse f | la cantante f | 가수
    concert | work | pl | the songs | die Lieder | les chansons f | las canciones f | 노래
    concert | people | pl | the musicians | die Musiker | les musiciens m | los músicos m | 연주자들
    concert | room | sg | the hall | der Saal | la salle f | la sala f | 공연장
    concert | food | pl | the drinks | die Getränke | les boissons f | las bebidas f | 음료
"""

# "any" fits everything, "things" all but people.
# + or -, with ! where "very" does not go with it | group | English | German | French m, f | Spanish m, f [estar] | Korean stem, form in -아/어 [stem before -으-]
JUDGEMENTS = """
    + | things | good | gut | bon bonne | bueno buena | 좋 좋아
    +! | any | wonderful | wunderbar | merveilleux merveilleuse | maravilloso maravillosa | 훌륭하 훌륭해
    +! | any | excellent | ausgezeichnet | excellent excellente | excelente excelente | 뛰어나 뛰어나
    +! | any | great | großartig | formidable formidable | estupendo estupenda | 멋지 멋져
    +! | any | perfect | perfekt | parfait parfaite | perfecto perfecta | 완벽하 완벽해
    + | work | exciting | spannend | passionnant passionnante | emocionante emocionante | 흥미진진하 흥미진진해
    + | work | interesting | interessant | intéressant intéressante | interesante interesante | 재미있 재미있어
    + | work | original | originell | original originale | original original | 독창적이 독창적이어
    + | work | beautiful | schön | beau belle | bonito bonita | 아름답 아름다워 아름다우
    + | people | convincing | überzeugend | convaincant convaincante | convincente convincente | 설득력_있 설득력_있어
    + | people | charming | charmant | charmant charmante | encantador encantadora | 매력적이 매력적이어
    + | people | likeable | sympathisch | sympathique sympathique | simpático simpática | 상냥하 상냥해
    + | room | comfortable | bequem | confortable confortable | cómodo cómoda | 편안하 편안해
    + | room | clean | sauber | propre propre | limpio limpia estar | 깨끗하 깨끗해
    + | room | cozy | gemütlich | agréable agréable | acogedor acogedora | 아늑하 아늑해
    +! | food | delicious | köstlich | délicieux délicieuse | delicioso deliciosa | 맛있 맛있어
    + | food | fresh | frisch | frais fraîche | fresco fresca | 신선하 신선해
    - | things | bad | schlecht | mauvais mauvaise | malo mala | 나쁘 나빠
    -! | any | terrible | schrecklich | horrible horrible | horrible horrible | 끔찍하 끔찍해
    - | any | disappointing | enttäuschend | décevant décevante | decepcionante decepcionante | 실망스럽 실망스러워 실망스러우
    -! | any | mediocre | mittelmäßig | médiocre médiocre | mediocre mediocre | 평범하 평범해
    -! | any | awful | furchtbar | affreux affreuse | espantoso espantosa | 형편없 형편없어
    - | work | boring | langweilig | ennuyeux ennuyeuse | aburrido aburrida | 지루하 지루해
    - | work | predictable | vorhersehbar | prévisible prévisible | previsible previsible | 뻔하 뻔해
    - | work | silly | albern | ridicule ridicule | ridículo ridícula | 유치하 유치해
    - | work | confusing | verwirrend | confus confuse | confuso confusa | 혼란스럽 혼란스러워 혼란스러우
    - | people | annoying | nervig | agaçant agaçante | molesto molesta | 짜증스럽 짜증스러워 짜증스러우
    - | people | weak | schwach | faible faible | flojo floja | 미숙하 미숙해
    - | people | arrogant | arrogant | arrogant arrogante | arrogante arrogante | 거만하 거만해
    - | room | dirty | schmutzig | sale sale | sucio sucia estar | 더럽 더러워 더러우
    - | room | uncomfortable | unbequem | inconfortable inconfortable | incómodo incómoda | 불편하 불편해
    - | room | ugly | hässlich | laid laide | feo fea | 흉하 흉해
    -! | food | tasteless | fade | fade fade | insípido insípida | 맛없 맛없어
    -! | food | disgusting | ekelhaft | dégoûtant dégoûtante | asqueroso asquerosa | 역겹 역겨워 역겨우
"""

# How a judgement is put: does it turn the judgement round (-) or not (+); the words around the adjective in
# English, German, Spanish and Korean; in French before and after the verb. Korean: "~" is the plain form,
# "-" the form in -지 않다, "=" the form in -(으)ㄴ 것과는 거리가 멀다.
MODIFIERS = """
    + | 30 | - | - | - | - | - | ~
    + | 8 | very | sehr | - | très | muy | 아주 ~
    + | 8 | really | wirklich | - | vraiment | realmente | 정말 ~
    + | 5 | quite | ziemlich | - | assez | bastante | 꽤 ~
    - | 8 | not | nicht | n' | pas | no | -
    - | 3 | hardly | kaum | n' | guère | apenas | 별로 -
    - | 3 | anything but | alles andere als | - | tout sauf | todo menos | =
    - | 3 | by no means | keineswegs | n' | nullement | de ningún modo | 결코 -
    - | 3 | never | nie | n' | jamais | nunca | 한순간도 -
    - | 3 | not at all | überhaupt nicht | n' | pas du tout | no | 전혀 -
"""


class Aspect(NamedTuple):
    """What is judged; French and Spanish end in the gender: "la soupe f"."""

    topic: str
    group: str
    number: str
    en: str
    de: str
    fr: str
    es: str
    ko: str


class Judgement(NamedTuple):
    sign: str  # "+" or "-", then "!" where "very" does not go with it
    group: str
    en: str
    de: str
    fr: str
    es: str
    ko: str


class Modifier(NamedTuple):
    sign: str  # "-" turns the judgement round
    weight: str
    en: str
    de: str
    ne: str
    fr: str
    es: str
    ko: str


class Statement(NamedTuple):
    """One clause: "the soup was not bad"; `doubted` puts "I would not say that" in front."""

    aspect: Aspect
    judgement: Judgement
    modifier: Modifier
    doubted: bool


def _rows(table: str) -> list[list[str]]:
    lines = (line for line in table.splitlines() if line.strip())
    return [[cell.strip() for cell in line.split("|")] for line in lines]


ALL_ASPECTS = [Aspect(*cells) for cells in _rows(ASPECTS)]
ALL_JUDGEMENTS = [Judgement(*cells) for cells in _rows(JUDGEMENTS)]
ALL_MODIFIERS = [
    Modifier(*cells[:2], *("" if c == "-" else c for c in cells[2:7]), cells[7]) for cells in _rows(MODIFIERS)
]
TOPICS = list(dict.fromkeys(aspect.topic for aspect in ALL_ASPECTS))
BY_TOPIC = {topic: Choice(zipf(a for a in ALL_ASPECTS if a.topic == topic)) for topic in TOPICS}
TOPIC = Choice((topic, 1.0) for topic in TOPICS)
MODIFIER = Choice((modifier, float(modifier.weight)) for modifier in ALL_MODIFIERS)
PATTERNS = ("one", "and", "besides", "but", "still", "although", "although last")
PATTERN = Choice(zip(PATTERNS, (0.3, 0.15, 0.1, 0.16, 0.1, 0.1, 0.09), strict=True))
DOUBTABLE = ("one", "but", "still")  # in these the last clause can be put into doubt


@cache
def _judgements(group: str, sign: str, graded: bool) -> Choice:
    fitting = [j for j in ALL_JUDGEMENTS if j.sign[0] == sign and not (graded and "!" in j.sign)]
    special = [j for j in fitting if j.group == group]
    general = [j for j in fitting if j.group == "any" or (j.group == "things" and group != "people")]
    return Choice([*zipf(special, 0.5), *zipf(general, 0.5)])


def _statement(rng: random.Random, aspect: Aspect, good: bool, doubted: bool = False) -> Statement:
    modifier = MODIFIER.pick(rng)
    turned = (modifier.sign == "-") != doubted
    sign, graded = "+" if good != turned else "-", modifier.en in ("very", "quite")
    return Statement(aspect, _judgements(aspect.group, sign, graded).pick(rng), modifier, doubted)


def review(rng: random.Random, label: int, language: str) -> str:
    """One review with the label 0 (negative) or 1 (positive)."""
    pattern, good = PATTERN.pick(rng), label == 1
    aspects = BY_TOPIC[TOPIC.pick(rng)]
    first, second = aspects.pick(rng), aspects.pick(rng)
    while second is first:
        second = aspects.pick(rng)
    doubted = pattern in DOUBTABLE and rng.random() < 0.12
    deciding = _statement(rng, first, good, doubted)
    other = _statement(rng, second, good if pattern in ("and", "besides") else not good)
    text = VOICES[language](pattern, deciding, other)
    return ". ".join(part[0].upper() + part[1:] for part in text.split(". ")) + "."


# ---------------------------------------------------------------- English


def _english(s: Statement) -> str:
    modifier, end = (s.modifier.en, "") if s.modifier.en != "not at all" else ("not", "at all")
    be = "were" if s.aspect.number == "pl" else "was"
    clause = _join(s.aspect.en, be, modifier, s.judgement.en, end)
    return "I would not say that " + clause if s.doubted else clause


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


def _english_review(pattern: str, main: Statement, other: Statement) -> str:
    a, b = _english(main), _english(other)
    return {
        "one": a,
        "and": f"{b} and {a}",
        "besides": f"{b}. Besides, {a}",
        "but": f"{b}, but {a}",
        "still": f"{b}. Still, {a}",
        "although": f"although {b}, {a}",
        "although last": f"{a}, although {b}",
    }[pattern]


# ---------------------------------------------------------------- German


def _german(s: Statement, order: str = "main") -> str:
    """The clause with its verb second (main), first (inverted) or last (sub)."""
    be = "waren" if s.aspect.number == "pl" else "war"
    if s.doubted:
        doubt = "würde ich nicht sagen" if order == "inverted" else "ich würde nicht sagen"
        return f"{doubt}, dass {_german(s._replace(doubted=False), 'sub')}"
    rest = _join(s.modifier.de, s.judgement.de)
    if order == "sub":
        return f"{s.aspect.de} {rest} {be}"
    return f"{be} {s.aspect.de} {rest}" if order == "inverted" else f"{s.aspect.de} {be} {rest}"


def _german_review(pattern: str, main: Statement, other: Statement) -> str:
    b = _german(other)
    return {
        "one": _german(main),
        "and": f"{b} und {_german(main)}",
        "besides": f"{b}. Außerdem {_german(main, 'inverted')}",
        "but": f"{b}, aber {_german(main)}",
        "still": f"{b}. Trotzdem {_german(main, 'inverted')}",
        "although": f"obwohl {_german(other, 'sub')}, {_german(main, 'inverted')}",
        "although last": f"{_german(main)}, obwohl {_german(other, 'sub')}",
    }[pattern]


# ---------------------------------------------------------------- French and Spanish


def _agreeing(forms: list[str], gender: str, number: str, plural: Callable[[str], str]) -> str:
    form = forms["mf".index(gender)]
    return plural(form) if number == "pl" else form


def _french(s: Statement) -> str:
    aspect, gender = s.aspect.fr.rsplit(" ", 1)
    be = "étaient" if s.aspect.number == "pl" else "était"
    adjective = _agreeing(s.judgement.fr.split(), gender, s.aspect.number, french_plural)
    clause = f"{aspect} {s.modifier.ne}{_join(be, s.modifier.fr, adjective)}"
    return "je ne dirais pas que " + clause if s.doubted else clause


def _french_review(pattern: str, main: Statement, other: Statement) -> str:
    a, b = _french(main), _french(other)
    return {
        "one": a,
        "and": f"{b} et {a}",
        "besides": f"{b}. De plus, {a}",
        "but": f"{b}, mais {a}",
        "still": f"{b}. Pourtant, {a}",
        "although": f"même si {b}, {a}",
        "although last": f"{a}, même si {b}",
    }[pattern]


SPANISH_BE = {  # one, several; the same in the subjunctive; and after "nunca"
    "ser": ("era", "eran", "fuera", "fueran", "fue", "fueron"),
    "estar": ("estaba", "estaban", "estuviera", "estuvieran", "estuvo", "estuvieron"),
}


def _spanish(s: Statement) -> str:
    aspect, gender = s.aspect.es.rsplit(" ", 1)
    *forms, copula = s.judgement.es.split() if "estar" in s.judgement.es else [*s.judgement.es.split(), "ser"]
    mood = 2 if s.doubted else 4 if s.modifier.es == "nunca" else 0
    be = SPANISH_BE[copula][(s.aspect.number == "pl") + mood]
    adjective = _agreeing(forms, gender, s.aspect.number, spanish_plural)
    if s.modifier.en == "not at all":
        clause = f"{aspect} no {be} nada {adjective}"
    elif s.modifier.en in ("not", "hardly", "by no means", "never"):
        clause = f"{aspect} {s.modifier.es} {be} {adjective}"
    else:
        clause = _join(aspect, be, s.modifier.es, adjective)
    return "no diría que " + clause if s.doubted else clause


def _spanish_review(pattern: str, main: Statement, other: Statement) -> str:
    a, b = _spanish(main), _spanish(other)
    return {
        "one": a,
        "and": f"{b} y {a}",
        "besides": f"{b}. Además, {a}",
        "but": f"{b}, pero {a}",
        "still": f"{b}. Sin embargo, {a}",
        "although": f"aunque {b}, {a}",
        "although last": f"{a}, aunque {b}",
    }[pattern]


# ---------------------------------------------------------------- Korean


def _korean(s: Statement, ending: str = "final") -> str:
    stem = korean.described(s.judgement.ko)
    adverb, mark = s.modifier.ko[:-1].strip(), s.modifier.ko[-1]
    if mark == "=":
        far = korean.past(korean.described("멀 멀어"), ending)
        words = [korean.adnominal(stem), "것과는 거리가", far]
    else:
        words = [adverb, korean.past(stem, ending, negative=mark == "-")]
    particle = "이가" if s.doubted else "은는"
    return _join(korean.particle(s.aspect.ko, particle), *words)


def _korean_review(pattern: str, main: Statement, other: Statement) -> str:
    a = _korean(main) if not main.doubted else _korean(main, "that") + "는 말하지 않겠습니다"
    return {
        "one": a,
        "and": f"{_korean(other, 'and')} {a}",
        "besides": f"{_korean(other)}. 게다가 {a}",
        "but": f"{_korean(other)}. 하지만 {a}",
        "still": f"{_korean(other)}. 그래도 {a}",
        "although": f"비록 {_korean(other, 'but')} {a}",
        "although last": f"{a}. 비록 {_korean(other, 'but')} 말입니다",
    }[pattern]


VOICES: dict[str, Callable[[str, Statement, Statement], str]] = {
    "en": _english_review,
    "de": _german_review,
    "fr": _french_review,
    "es": _spanish_review,
    "ko": _korean_review,
}
