"""The nouns, names, places and times of the embedded grammar: data tables only.

One entry a line, one column a language, separated by `|`; within a kind the most frequent entry comes first.
`kdutils.grammar.entries` reads these tables. To add a word, add a line.

Nouns:   English singular [plural] [pronoun] | German gender singular plural [weak] | French gender singular
         [plural] | Spanish gender singular [plural] | Korean word and counter.
         A plural that is left out is regular. "weak" marks the German n-declension (der Junge, den Jungen).
"""

# ruff: noqa: E501  (one entry a line, one column a language)
from __future__ import annotations

NOUNS: dict[str, str] = {
    "person": """
        man men | m Mann Männer | m homme | m hombre | 남자 명
        woman women | f Frau Frauen | f femme | f mujer | 여자 명
        student | m Student Studenten weak | m étudiant | m estudiante | 대학생 명
        farmer | m Bauer Bauern weak | m fermier | m granjero | 농부 명
        cook | m Koch Köche | m cuisinier | m cocinero | 요리사 명
        singer | f Sängerin Sängerinnen | f chanteuse | f cantante | 가수 명
        pilot | m Pilot Piloten weak | m pilote | m piloto | 조종사 명
        nurse | f Krankenschwester Krankenschwestern | f infirmière | f enfermera | 간호사 명
        artist | f Künstlerin Künstlerinnen | f artiste | f artista | 예술가 명
        baker | m Bäcker Bäcker | m boulanger | m panadero | 제빵사 명
        lawyer | f Anwältin Anwältinnen | f avocate | f abogada | 변호사 명
        tourist | m Tourist Touristen weak | m touriste | m turista | 관광객 명
    """,
    "youth": """
        child children it | n Kind Kinder | m enfant | m niño | 아이 명
        girl girls she | n Mädchen Mädchen | f fille | f chica | 소녀 명
        boy | m Junge Jungen weak | m garçon | m chico | 소년 명
    """,
    "relation": """
        friend | m Freund Freunde | m ami | m amigo | 친구 명
        teacher | m Lehrer Lehrer | m professeur | m profesor | 선생님 명
        teacher | f Lehrerin Lehrerinnen | f professeure | f profesora | 선생님 명
        neighbor | m Nachbar Nachbarn weak | m voisin | m vecino | 이웃 명
        doctor | m Arzt Ärzte | m médecin | m médico | 의사 명
        friend | f Freundin Freundinnen | f amie | f amiga | 친구 명
        colleague | m Kollege Kollegen weak | m collègue | m compañero | 동료 명
        neighbor | f Nachbarin Nachbarinnen | f voisine | f vecina | 이웃 명
        boss bosses | f Chefin Chefinnen | f patronne | f jefa | 상사 명
        doctor | f Ärztin Ärztinnen | f docteure | f doctora | 의사 명
    """,
    "family": """
        mother - | f Mutter - | f mère | f madre | 어머니 명
        father - | m Vater - | m père | m padre | 아버지 명
        brother | m Bruder Brüder | m frère | m hermano | 남동생 명
        sister | f Schwester Schwestern | f sœur | f hermana | 여동생 명
        daughter | f Tochter Töchter | f fille | f hija | 딸 명
        son | m Sohn Söhne | m fils fils | m hijo | 아들 명
        grandmother | f Großmutter Großmütter | f grand-mère grands-mères | f abuela | 할머니 명
        grandfather | m Großvater Großväter | m grand-père grands-pères | m abuelo | 할아버지 명
        uncle | m Onkel Onkel | m oncle | m tío | 삼촌 명
        aunt | f Tante Tanten | f tante | f tía | 이모 명
    """,
    "pet": """
        dog | m Hund Hunde | m chien | m perro | 개 마리
        cat | f Katze Katzen | m chat | m gato | 고양이 마리
    """,
    "prey": """
        bird | m Vogel Vögel | m oiseau | m pájaro | 새 마리
        mouse mice | f Maus Mäuse | f souris | m ratón ratones | 쥐 마리
        rabbit | n Kaninchen Kaninchen | m lapin | m conejo | 토끼 마리
    """,
    "farm": """
        horse | n Pferd Pferde | m cheval | m caballo | 말 마리
        cow | f Kuh Kühe | f vache | f vaca | 소 마리
        sheep sheep | n Schaf Schafe | m mouton | f oveja | 양 마리
        pig | n Schwein Schweine | m cochon | m cerdo | 돼지 마리
    """,
    "food": """
        apple | m Apfel Äpfel | f pomme | f manzana | 사과 개
        cake | m Kuchen Kuchen | m gâteau | m pastel | 케이크 개
        orange | f Orange Orangen | f orange | f naranja | 오렌지 개
        tomato tomatoes | f Tomate Tomaten | f tomate | m tomate | 토마토 개
        pear | f Birne Birnen | f poire | f pera | 배 개
        banana | f Banane Bananen | f banane | m plátano | 바나나 개
    """,
    "dish": """
        soup | f Suppe Suppen | f soupe | f sopa | 수프 그릇
        egg | n Ei Eier | m œuf | m huevo | 달걀 개
        pizza | f Pizza Pizzas | f pizza | f pizza | 피자 판
        salad | m Salat Salate | f salade | f ensalada | 샐러드 접시
    """,
    "staple": """
        bread - | n Brot - | m pain | m pan | 빵 -
        rice - | m Reis - | m riz | m arroz | 밥 -
        meat - | n Fleisch - | f viande | f carne | 고기 -
        cheese - | m Käse - | m fromage | m queso | 치즈 -
        chocolate - | f Schokolade - | m chocolat | m chocolate | 초콜릿 -
        fish - | m Fisch - | m poisson | m pescado | 생선 -
    """,
    "drink": """
        water - | n Wasser - | f eau | f agua | 물 -
        coffee - | m Kaffee - | m café | m café | 커피 -
        tea - | m Tee - | m thé | m té | 차 -
        milk - | f Milch - | m lait | f leche | 우유 -
        wine - | m Wein - | m vin | m vino | 와인 -
        beer - | n Bier - | f bière | f cerveza | 맥주 -
        juice - | m Saft - | m jus | m zumo | 주스 -
    """,
    "reading": """
        book | n Buch Bücher | m livre | m libro | 책 권
        newspaper | f Zeitung Zeitungen | m journal | m periódico | 신문 부
        novel | m Roman Romane | m roman | f novela | 소설 편
    """,
    "text": """
        letter | m Brief Briefe | f lettre | f carta | 편지 통
        poem | n Gedicht Gedichte | m poème | m poema | 시 편
        report | m Bericht Berichte | m rapport | m informe | 보고서 부
    """,
    "story": """
        story | f Geschichte Geschichten | f histoire | f historia | 이야기 편
    """,
    "thing": """
        bag | f Tasche Taschen | m sac | m bolso | 가방 개
        key | m Schlüssel Schlüssel | f clé | f llave | 열쇠 개
        umbrella | m Regenschirm Regenschirme | m parapluie | m paraguas paraguas | 우산 개
        gift | n Geschenk Geschenke | m cadeau | m regalo | 선물 개
        flower | f Blume Blumen | f fleur | f flor | 꽃 송이
        cup | f Tasse Tassen | f tasse | f taza | 컵 개
        photo photos | n Foto Fotos | f photo | f foto | 사진 장
        ball | m Ball Bälle | m ballon | m balón balones | 공 개
        ring | m Ring Ringe | f bague | m anillo | 반지 개
    """,
    "furniture": """
        table | m Tisch Tische | f table | f mesa | 탁자 개
        chair | m Stuhl Stühle | f chaise | f silla | 의자 개
        bed | n Bett Betten | m lit | f cama | 침대 개
    """,
    "device": """
        phone | n Handy Handys | m téléphone | m teléfono | 휴대폰 대
        watch | f Uhr Uhren | f montre | m reloj | 시계 개
        computer | m Computer Computer | m ordinateur | m ordenador | 컴퓨터 대
        lamp | f Lampe Lampen | f lampe | f lámpara | 램프 개
        camera | f Kamera Kameras | f caméra | f cámara | 카메라 대
    """,
    "clothing": """
        coat | m Mantel Mäntel | m manteau | m abrigo | 외투 벌
        shirt | n Hemd Hemden | f chemise | f camisa | 셔츠 벌
        dress | n Kleid Kleider | f robe | m vestido | 드레스 벌
        jacket | f Jacke Jacken | f veste | f chaqueta | 재킷 벌
    """,
    "vehicle": """
        car | n Auto Autos | f voiture | m coche | 자동차 대
        bicycle | n Fahrrad Fahrräder | m vélo | f bicicleta | 자전거 대
        boat | n Boot Boote | m bateau | m barco | 배 척
    """,
    "opening": """
        door | f Tür Türen | f porte | f puerta | 문 개
        window | n Fenster Fenster | f fenêtre | f ventana | 창문 개
        box | f Kiste Kisten | f boîte | f caja | 상자 개
    """,
    "house": """
        house | n Haus Häuser | f maison | f casa | 집 채
    """,
    "bridge": """
        bridge | f Brücke Brücken | m pont | m puente | 다리 개
    """,
    "song": """
        song | n Lied Lieder | f chanson | f canción canciones | 노래 곡
    """,
    "film": """
        film | m Film Filme | m film | f película | 영화 편
    """,
}

# Name in Latin script, gender, Korean.
NAMES = """
    Anna f 안나
    Paul m 폴
    Maria f 마리아
    Thomas m 토마스
    Emma f 엠마
    David m 다비드
    Julia f 줄리아
    Peter m 피터
    Sophie f 소피
    Martin m 마틴
    Jisu f 지수
    Daniel m 다니엘
    Clara f 클라라
    Minjun m 민준
    Elena f 엘레나
    Lukas m 루카스
    Alice f 앨리스
    Oskar m 오스카
"""

# English | German | French | Spanish (I and we are left out: the ending says it) | Korean; person, number.
PRONOUNS = """
    he | er | il | él | 그 | 3 sg m
    she | sie | elle | ella | 그녀 | 3 sg f
    I | ich | je | - | 저 | 1 sg m
    we | wir | nous | - | 우리 | 1 pl m
    they | sie | ils | ellos | 그들 | 3 pl m
"""

# sort | where and whither in English | German | French | Spanish | the Korean noun.
PLACES = """
    home | at home, home | zu Hause, nach Hause | à la maison, à la maison | en casa, a casa | 집
    green | in the park, to the park | im Park, in den Park | dans le parc, au parc | en el parque, al parque | 공원
    house | at school, to school | in der Schule, in die Schule | à l'école, à l'école | en la escuela, a la escuela | 학교
    green | in the garden, to the garden | im Garten, in den Garten | dans le jardin, dans le jardin | en el jardín, al jardín | 정원
    town | in Berlin, to Berlin | in Berlin, nach Berlin | à Berlin, à Berlin | en Berlín, a Berlín | 베를린
    shop | at the market, to the market | auf dem Markt, auf den Markt | au marché, au marché | en el mercado, al mercado | 시장
    town | in Seoul, to Seoul | in Seoul, nach Seoul | à Séoul, à Séoul | en Seúl, a Seúl | 서울
    house | in the library, to the library | in der Bibliothek, in die Bibliothek | à la bibliothèque, à la bibliothèque | en la biblioteca, a la biblioteca | 도서관
    room | in the kitchen, to the kitchen | in der Küche, in die Küche | dans la cuisine, dans la cuisine | en la cocina, a la cocina | 부엌
    town | in Paris, to Paris | in Paris, nach Paris | à Paris, à Paris | en París, a París | 파리
    water | in the sea, to the sea | im Meer, ans Meer | dans la mer, à la mer | en el mar, al mar | 바다
    house | at the train station, to the train station | am Bahnhof, zum Bahnhof | à la gare, à la gare | en la estación, a la estación | 기차역
    shop | in the supermarket, to the supermarket | im Supermarkt, in den Supermarkt | au supermarché, au supermarché | en el supermercado, al supermercado | 슈퍼마켓
    town | in London, to London | in London, nach London | à Londres, à Londres | en Londres, a Londres | 런던
    water | in the lake, to the lake | im See, zum See | dans le lac, au lac | en el lago, al lago | 호수
    eatery | in the hotel, to the hotel | im Hotel, ins Hotel | à l'hôtel, à l'hôtel | en el hotel, al hotel | 호텔
    green | in the forest, to the forest | im Wald, in den Wald | dans la forêt, dans la forêt | en el bosque, al bosque | 숲
    house | at the office, to the office | im Büro, ins Büro | au bureau, au bureau | en la oficina, a la oficina | 사무실
    town | in Madrid, to Madrid | in Madrid, nach Madrid | à Madrid, à Madrid | en Madrid, a Madrid | 마드리드
    eatery | in the restaurant, to the restaurant | im Restaurant, ins Restaurant | au restaurant, au restaurant | en el restaurante, al restaurante | 식당
    house | in the hospital, to the hospital | im Krankenhaus, ins Krankenhaus | à l'hôpital, à l'hôpital | en el hospital, al hospital | 병원
    green | on the beach, to the beach | am Strand, an den Strand | à la plage, à la plage | en la playa, a la playa | 해변
    town | in Vienna, to Vienna | in Wien, nach Wien | à Vienne, à Vienne | en Viena, a Viena | 빈
    house | in the museum, to the museum | im Museum, ins Museum | au musée, au musée | en el museo, al museo | 박물관
    green | in the village, to the village | im Dorf, ins Dorf | au village, au village | en el pueblo, al pueblo | 마을
    house | in the theater, to the theater | im Theater, ins Theater | au théâtre, au théâtre | en el teatro, al teatro | 극장
    town | in Rome, to Rome | in Rom, nach Rom | à Rome, à Rome | en Roma, a Roma | 로마
    eatery | in the café, to the café | im Café, ins Café | au café, au café | en el café, al café | 카페
"""

# sort | English | German | French | Spanish | Korean. A sort is the tense that the time goes with.
TIMES = """
    past | yesterday | gestern | hier | ayer | 어제
    past | this morning | heute Morgen | ce matin | esta mañana | 오늘 아침에
    past | last week | letzte Woche | la semaine dernière | la semana pasada | 지난주에
    past | last night | gestern Abend | hier soir | anoche | 어젯밤에
    past | two days ago | vor zwei Tagen | il y a deux jours | hace dos días | 이틀 전에
    past | last summer | letzten Sommer | l'été dernier | el verano pasado | 지난여름에
    past | last month | letzten Monat | le mois dernier | el mes pasado | 지난달에
    habit | every day | jeden Tag | tous les jours | todos los días | 매일
    habit | every morning | jeden Morgen | tous les matins | todas las mañanas | 매일 아침
    habit | on Sundays | sonntags | le dimanche | los domingos | 일요일마다
    habit | every week | jede Woche | chaque semaine | todas las semanas | 매주
    habit | in summer | im Sommer | en été | en verano | 여름에
    now | now | jetzt | maintenant | ahora | 지금
    now | today | heute | aujourd'hui | hoy | 오늘
    future | tomorrow | morgen | demain | mañana | 내일
    future | today | heute | aujourd'hui | hoy | 오늘
    future | tonight | heute Abend | ce soir | esta noche | 오늘 밤에
    future | next week | nächste Woche | la semaine prochaine | la próxima semana | 다음 주에
    future | on Monday | am Montag | lundi | el lunes | 월요일에
    future | next year | nächstes Jahr | l'année prochaine | el próximo año | 내년에
"""

# Present, past, as the end of a subordinate clause; in Korean subject and stem/infinitive.
WEATHER = """
    it is raining, it was raining | es regnet, es geregnet hat | il pleut, il pleuvait | llueve, llovía | 비가 오 와
    it is cold, it was cold | es kalt ist, es kalt war | il fait froid, il faisait froid | hace frío, hacía frío | 날씨가 춥 추워 추우
    it is hot, it was hot | es heiß ist, es heiß war | il fait chaud, il faisait chaud | hace calor, hacía calor | 날씨가 덥 더워 더우
    it is snowing, it was snowing | es schneit, es geschneit hat | il neige, il neigeait | nieva, nevaba | 눈이 오 와
    the weather is nice, the weather was nice | das Wetter schön ist, das Wetter schön war | il fait beau, il faisait beau | hace buen tiempo, hacía buen tiempo | 날씨가 좋 좋아
    the weather is bad, the weather was bad | das Wetter schlecht ist, das Wetter schlecht war | il fait mauvais, il faisait mauvais | hace mal tiempo, hacía mal tiempo | 날씨가 나쁘 나빠
    it is late, it was late | es spät ist, es spät war | il est tard, il était tard | es tarde, era tarde | 시간이 늦 늦어
"""
