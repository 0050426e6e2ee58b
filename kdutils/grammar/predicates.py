"""The verbs and adjectives of the embedded grammar: data tables only.

Verbs, one a line, by frame; the most frequent comes first:
    who | whom or what (or where) | English | German | French | Spanish | Korean
English:  base, past [-ing] [prep=..]      "look looked prep=for"
German:   infinitive, 3rd person singular without its prefix, participle [sein] [pre=..] [dat] [prep=auf] [pret=the simple past, used as the past]
French:   infinitive, or infinitive and je, il, nous, ils, participle [être] [tail=..] [obj=à]
Spanish:  infinitive, or infinitive and yo, él, nosotros, ellos in the present [/ the same in the preterite];
          [pers]: an animal as object takes the personal a as well
Korean:   stem, the form in -아/어 [stem before -으-], a blank inside a form is written _ [obj=..] [to=..]
Marks in the first column: ! happens in a moment (no progressive), = lasts (no progressive, no modal).

Adjectives: what they fit | English | German [declined stem] | French m, f [m before a vowel] [pre] |
    Spanish m, f [ser or estar] [pre] | Korean. A leading * marks one that stands only before its noun.
"""

# ruff: noqa: E501  (one entry a line, one column a language)
from __future__ import annotations

VERBS: dict[str, str] = {
    "transitive": """
    human | food dish staple | eat ate | essen isst gegessen | manger | comer | 먹 먹어
    human | thing food clothing vehicle drink reading device furniture | buy bought | kaufen kauft gekauft | acheter achète achète achetons achètent acheté | comprar | 사 사
    human | reading text | read read | lesen liest gelesen | lire lis lit lisons lisent lu | leer leo lee leemos leen / leí leyó leímos leyeron | 읽 읽어
    human | drink | drink drank | trinken trinkt getrunken | boire bois boit buvons boivent bu | beber | 마시 마셔
    ! human | person youth relation family name pet vehicle prey house bridge | see saw | sehen sieht gesehen | voir vois voit voyons voient vu | ver veo ve vemos ven / vi vio vimos vieron | 보 봐
    = human | family name relation | love loved | lieben liebt geliebt pret=liebte | aimer | amar pers | 사랑하 사랑해
    human | thing pet device person youth name | look looked prep=for | suchen sucht gesucht | chercher | buscar pers | 찾 찾아
    ! human | thing device clothing prey | find found | finden findet gefunden | trouver | encontrar encuentro encuentra encontramos encuentran | 발견하 발견해
    = human | person youth relation name | know knew | kennen kennt gekannt pret=kannte | connaître connais connaît connaissons connaissent connu | conocer conozco conoce conocemos conocen | 알 알아
    human | reading text | write wrote writing | schreiben schreibt geschrieben | écrire écris écrit écrivons écrivent écrit | escribir | 쓰 써
    human | person youth relation family name | help helped | helfen hilft geholfen dat | aider | ayudar | 돕 도와 도우
    human | family relation name | visit visited | besuchen besucht besucht | rendre rends rend rendons rendent rendu tail=visite obj=à | visitar | 방문하 방문해
    = human | pet vehicle house device | have had | haben hat gehabt pret=hatte | avoir ai a avons ont eu | tener tengo tiene tenemos tienen / tuve tuvo tuvimos tuvieron | 가지고_있 가지고_있어
    human | opening | open opened | aufmachen macht aufgemacht pre=auf | ouvrir ouvre ouvre ouvrons ouvrent ouvert | abrir | 열 열어
    ! human | thing clothing device | lose lost | verlieren verliert verloren | perdre perds perd perdons perdent perdu | perder pierdo pierde perdemos pierden | 잃어버리 잃어버려
    human | vehicle house furniture food farm | sell sold | verkaufen verkauft verkauft | vendre vends vend vendons vendent vendu | vender | 팔 팔아
    human | family name relation | call called | anrufen ruft angerufen pre=an | appeler appelle appelle appelons appellent appelé | llamar | 전화하 전화해 obj=에게
    human | dish | cook cooked | kochen kocht gekocht | préparer | cocinar | 요리하 요리해
    pet farm | staple food | eat ate | fressen frisst gefressen | manger | comer | 먹 먹어
    human | person youth relation family name | wait waited prep=for | warten wartet gewartet prep=auf | attendre attends attend attendons attendent attendu | esperar | 기다리 기다려
    human | opening | close closed | zumachen macht zugemacht pre=zu | fermer | cerrar cierro cierra cerramos cierran | 닫 닫아
    human | film | watch watched | sehen sieht gesehen | regarder | ver veo ve vemos ven / vi vio vimos vieron | 보 봐
    human | vehicle device | repair repaired | reparieren repariert repariert | réparer | reparar | 수리하 수리해
    human | relation name family | invite invited inviting | einladen lädt eingeladen pre=ein | inviter | invitar | 초대하 초대해
    human | clothing | wear wore | tragen trägt getragen | porter | llevar | 입 입어
    human | pet farm prey | feed fed | füttern füttert gefüttert | nourrir nourris nourrit nourrissons nourrissent nourri | alimentar pers | 먹이를_주 먹이를_줘 obj=에게
    human | song | sing sang | singen singt gesungen | chanter | cantar | 부르 불러
    human | vehicle opening furniture device | clean cleaned | putzen putzt geputzt | nettoyer nettoie nettoie nettoyons nettoient nettoyé | limpiar | 닦 닦아
    ! human | thing reading text clothing | forget forgot forgetting | vergessen vergisst vergessen | oublier | olvidar | 잊어버리 잊어버려
    human pet | person youth pet name | follow followed | folgen folgt gefolgt sein dat | suivre suis suit suivons suivent suivi | seguir sigo sigue seguimos siguen / seguí siguió seguimos siguieron pers | 따라가 따라가
    = human | reading text story film | understand understood | verstehen versteht verstanden pret=verstand | comprendre comprends comprend comprenons comprennent compris | entender entiendo entiende entendemos entienden | 이해하 이해해
    human | house bridge | build built | bauen baut gebaut | construire construis construit construisons construisent construit | construir construyo construye construimos construyen / construí construyó construimos construyeron | 짓 지어 지으
    human | song story | listen listened prep=to | hören hört gehört | écouter | escuchar | 듣 들어 들으
    human | house bridge farm thing pet | paint painted | malen malt gemalt | peindre peins peint peignons peignent peint | pintar | 그리 그려
    ! human | vehicle thing device | steal stole | stehlen stiehlt gestohlen | voler | robar | 훔치 훔쳐
    human | furniture thing | carry carried | tragen trägt getragen | porter | llevar | 나르 날라
    pet | prey | catch caught | fangen fängt gefangen | attraper | atrapar | 잡 잡아
    """,
    "place": """
    human pet | home green house eatery | sleep slept | schlafen schläft geschlafen | dormir dors dort dormons dorment dormi | dormir duermo duerme dormimos duermen / dormí durmió dormimos durmieron | 자 자
    human | house eatery shop home town | work worked | arbeiten arbeitet gearbeitet | travailler | trabajar | 일하 일해
    = human | town | live lived | wohnen wohnt gewohnt pret=wohnte | habiter | vivir | 살 살아 to=에
    human pet | green home house eatery | play played | spielen spielt gespielt | jouer | jugar juego juega jugamos juegan / jugué jugó jugamos jugaron | 놀 놀아
    human | house eatery green home | wait waited | warten wartet gewartet | attendre attends attend attendons attendent attendu | esperar | 기다리 기다려
    human | water | swim swam swimming | schwimmen schwimmt geschwommen sein | nager | nadar | 수영하 수영해
    human | house eatery home town | study studied | lernen lernt gelernt | étudier | estudiar | 공부하 공부해
    human | green house eatery home | dance danced | tanzen tanzt getanzt | danser | bailar | 춤추 춤춰
    ! human | town house eatery | arrive arrived | ankommen kommt angekommen sein pre=an | arriver être | llegar dir | 도착하 도착해 to=에
    human | home house eatery town | stay stayed | bleiben bleibt geblieben sein | rester être | permanecer permanezco permanece permanecemos permanecen | 머무르 머물러 to=에
    human | green house eatery room | laugh laughed | lachen lacht gelacht | rire ris rit rions rient ri | reír río ríe reímos ríen / reí rio reímos rieron | 웃 웃어
    human | room home house eatery | cry cried crying | weinen weint geweint | pleurer | llorar | 울 울어
    human | room green house eatery | sing sang | singen singt gesungen | chanter | cantar | 노래하 노래해
    ! human | - | come came pre=back | zurückkommen kommt zurückgekommen sein pre=zurück | revenir reviens revient revenons reviennent revenu être | volver vuelvo vuelve volvemos vuelven | 돌아오 돌아와
    ! human | - | leave left | abreisen reist abgereist sein pre=ab | partir pars part partons partent parti être | salir salgo sale salimos salen | 떠나 떠나
    """,
    "motion": """
    human | home house eatery green shop town | go went | gehen geht gegangen sein | aller vais va allons vont allé être | ir voy va vamos van / fui fue fuimos fueron | 가 가 to=에
    human | town | travel traveled | reisen reist gereist sein | voyager | viajar | 여행하 여행해 to=로
    human | home house eatery green town | come came coming | kommen kommt gekommen sein | venir viens vient venons viennent venu être | venir vengo viene venimos vienen / vine vino vinimos vinieron | 오 와 to=에
    human pet | green home house eatery water | run ran running | laufen läuft gelaufen sein | courir cours court courons courent couru | correr | 달려가 달려가 to=로
    human | town house eatery green | return returned | zurückkehren kehrt zurückgekehrt sein pre=zurück | retourner être | regresar | 돌아가 돌아가 to=로
    """,
    "giving": """
    human | thing reading text food clothing device | give gave giving | geben gibt gegeben | donner | dar doy da damos dan / di dio dimos dieron | 주 줘
    human | thing reading text device house | show showed | zeigen zeigt gezeigt | montrer | mostrar muestro muestra mostramos muestran | 보여_주 보여_줘
    human | thing reading text clothing | send sent | schicken schickt geschickt | envoyer envoie envoie envoyons envoient envoyé | enviar envío envía enviamos envían | 보내 보내
    human | thing food drink dish | bring brought | bringen bringt gebracht | apporter | traer traigo trae traemos traen / traje trajo trajimos trajeron | 가져다주 가져다줘
    human | device vehicle clothing | lend lent | leihen leiht geliehen | prêter | prestar | 빌려주 빌려줘
    human | story | tell told | erzählen erzählt erzählt | raconter | contar cuento cuenta contamos cuentan | 들려주 들려줘
    human | reading text | read read | vorlesen liest vorgelesen pre=vor | lire lis lit lisons lisent lu | leer leo lee leemos leen / leí leyó leímos leyeron | 읽어_주 읽어_줘
    human | film reading text song | recommend recommended | empfehlen empfiehlt empfohlen | recommander | recomendar recomiendo recomienda recomendamos recomiendan | 추천하 추천해
    human | story film reading text | explain explained | erklären erklärt erklärt | expliquer | explicar | 설명하 설명해
    """,
    "saying": """
    = human | - | say said | sagen sagt gesagt | dire dis dit disons disent dit | decir digo dice decimos dicen | 말하 말해
    = human | - | think thought | denken denkt gedacht | penser | pensar pienso piensa pensamos piensan | 생각하 생각해
    = human | - | know knew | wissen weiß gewusst | savoir sais sait savons savent su | saber sé sabe sabemos saben | 알 알아
    = human | - | believe believed | glauben glaubt geglaubt | croire crois croit croyons croient cru | creer creo cree creemos creen | 믿 믿어
    = human | - | explain explained | erklären erklärt erklärt | expliquer | explicar | 설명하 설명해
    = human | - | claim claimed | behaupten behauptet behauptet | affirmer | afirmar | 주장하 주장해
    """,
}

ADJECTIVES = """
    thing vehicle house bridge furniture pet farm device | big | groß | grand grande pre | grande grande | 크 커
    thing house vehicle pet prey furniture opening | small | klein | petit petite pre | pequeño pequeña | 작 작아
    * thing vehicle clothing device furniture reading text | new | neu | nouveau nouvelle nouvel pre | nuevo nueva pre | 새
    * thing vehicle house bridge furniture clothing device opening | old | alt | vieux vieille vieil pre | viejo vieja | 오래되 오래돼
    reading text film song story | good | gut | bon bonne pre | bueno buena buen pre | 좋 좋아
    person youth relation | happy | glücklich | heureux heureuse | feliz feliz estar | 행복하 행복해
    person youth relation | tired | müde müd | fatigué fatiguée | cansado cansada estar | 피곤하 피곤해
    thing house bridge clothing vehicle song | beautiful | schön | beau belle bel pre | bonito bonita | 아름답 아름다워 아름다우
    person youth relation | friendly | freundlich | gentil gentille pre | amable amable | 친절하 친절해
    * person | young | jung | jeune jeune pre | joven joven | 젊 젊어
    * person pet farm | old | alt | vieux vieille vieil pre | viejo vieja | 늙 늙어
    clothing vehicle thing | red | rot | rouge rouge | rojo roja | 빨갛 빨개 빨가
    reading text story film | interesting | interessant | intéressant intéressante | interesante interesante | 재미있 재미있어
    food dish staple | fresh | frisch | frais fraîche | fresco fresca estar | 신선하 신선해
    vehicle device clothing furniture | expensive | teuer teur | cher chère | caro cara | 비싸 비싸
    clothing thing vehicle | white | weiß | blanc blanche | blanco blanca | 하얗 하얘 하야
    drink dish | cold | kalt | froid froide | frío fría estar | 차갑 차가워 차가우
    drink dish | hot | heiß | chaud chaude | caliente caliente estar | 뜨겁 뜨거워 뜨거우
    reading text film story | boring | langweilig | ennuyeux ennuyeuse | aburrido aburrida | 지루하 지루해
    person youth relation | clever | klug | intelligent intelligente | inteligente inteligente | 똑똑하 똑똑해
    person youth relation | sad | traurig | triste triste | triste triste estar | 슬프 슬퍼
    reading text film story song | long | lang | long longue pre | largo larga | 길 길어
    person relation | famous | berühmt | célèbre célèbre | famoso famosa | 유명하 유명해
    thing furniture device | heavy | schwer | lourd lourde | pesado pesada | 무겁 무거워 무거우
    clothing vehicle pet | black | schwarz | noir noire | negro negra | 까맣 까매 까마
    person youth relation | sick | krank | malade malade | enfermo enferma estar | 아프 아파
    clothing thing vehicle | blue | blau | bleu bleue | azul azul | 파랗 파래 파라
    dish food staple | delicious | köstlich | délicieux délicieuse | delicioso deliciosa estar | 맛있 맛있어
    reading film song story | famous | berühmt | célèbre célèbre | famoso famosa | 유명하 유명해
    reading text story song | short | kurz | court courte | corto corta | 짧 짧아
    furniture opening vehicle clothing device | dirty | schmutzig | sale sale | sucio sucia estar | 더럽 더러워 더러우
    furniture opening vehicle clothing device | clean | sauber | propre propre | limpio limpia estar | 깨끗하 깨끗해
    person relation | busy | beschäftigt | occupé occupée | ocupado ocupada estar | 바쁘 바빠
    reading text film | important | wichtig | important importante | importante importante | 중요하 중요해
    story film reading text | sad | traurig | triste triste | triste triste | 슬프 슬퍼
    person relation | rich | reich | riche riche | rico rica | 부유하 부유해
    reading text story | difficult | schwierig | difficile difficile | difícil difícil | 어렵 어려워 어려우
    food | sweet | süß | sucré sucrée | dulce dulce | 달콤하 달콤해
    pet prey | cute | niedlich | mignon mignonne | lindo linda | 귀엽 귀여워 귀여우
    vehicle farm | fast | schnell | rapide rapide | rápido rápida | 빠르 빨라
    person youth relation | honest | ehrlich | honnête honnête | honesto honesta | 정직하 정직해
    clothing | elegant | elegant | élégant élégante | elegante elegante | 우아하 우아해
    device thing | practical | praktisch | pratique pratique | práctico práctica | 편리하 편리해
    pet farm person youth | quiet | ruhig | calme calme | tranquilo tranquila | 조용하 조용해
    thing device clothing | cheap | billig | abordable abordable | barato barata | 싸 싸
    person youth relation | nervous | nervös | nerveux nerveuse | nervioso nerviosa estar | 불안하 불안해
"""

# Adjectives that give a reason for what somebody does ("because he is tired").
STATES = ("tired", "happy", "sad", "sick", "busy", "nervous")
