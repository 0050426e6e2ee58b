"""What the reviews of the embedded corpus talk about: data tables only."""

# ruff: noqa: E501  (one entry a line, one column a language)
from __future__ import annotations

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
