"""Calls in Polish and in Hindi, whose letters need more than one byte."""

from __future__ import annotations

from session_bridge.simulate.knowledge import Document, KnowledgeBase
from session_bridge.simulate.scenario import Exchange, Scenario, Stage, ToolUse

_PRZYCHODNIA = KnowledgeBase(
    "przychodnia",
    (
        Document(
            "wizyty.md",
            (
                "Wizytę można odwołać bez opłat do południa dnia poprzedniego.",
                "Na pierwszą wizytę prosimy zabrać dowód osobisty i listę przyjmowanych leków.",
                "Wyniki badań krwi są gotowe drugiego dnia roboczego.",
            ),
        ),
        Document(
            "badania.md",
            (
                "Na badanie krwi prosimy przyjść na czczo; wodę wolno pić.",
                "Po szczepieniu należy zostać w poczekalni przez kwadrans.",
                "Przed badaniem brzucha godzinę wcześniej wypić pół litra wody i nic nie jeść.",
            ),
        ),
    ),
)

WIZYTA = Scenario(
    name="clinic appointment",
    language="pl",
    agent_name="Łucja",
    direction="inbound",
    facts={
        "pacjent": ("Jagoda Wrześniak", "Michał Żurek", "Zdzisława Gąska", "Bożydar Ćwikła"),
        "powod": ("badanie krwi", "ból kolana", "szczepienie", "kontrolę"),
        "lekarz": ("doktor Śliwińskiej", "doktora Pędziwiatra"),
        "dzien": ("we wtorek", "w środę", "w czwartek"),
        "godzina": ("ósma dziesięć", "dziewiąta czterdzieści", "wpół do piątej"),
    },
    greeting=("Dzień dobry, przychodnia Pod Wierzbą, mówi Łucja, wirtualna asystentka. W czym mogę pomóc?",),
    stages=(
        Stage(
            "ask_reason",
            "Pytanie o powód",
            "the caller asks for an appointment",
            (
                Exchange(
                    ("Dzień dobry, chciałabym się umówić na {powod}.", "Halo? Potrzebuję wizyty, chodzi o {powod}."),
                    ("Rozumiem, zapisuję: {powod}. Czy to coś pilnego?",),
                    takes=("powod",),
                ),
                Exchange(
                    ("Nie, nie pali się.", "Skądże, mogę poczekać parę dni."),
                    ("To dobrze. Poproszę imię i nazwisko.",),
                    looks_up="pilne objawy",
                ),
                Exchange(
                    ("{pacjent}.", "Moje nazwisko? {pacjent}."),
                    ("Dziękuję, już widzę kartę.",),
                    takes=("pacjent",),
                    tool=ToolUse("find_patient", ("pacjent",), {"found": True}),
                ),
            ),
        ),
        Stage(
            "choose_slot",
            "Wybór terminu",
            "the patient is known",
            (
                Exchange(
                    ("Najlepiej {dzien}, do {lekarz}.", "A czy {dzien} dostanę się do {lekarz}?"),
                    ("Do {lekarz} mam {dzien} jedno miejsce: {godzina}.",),
                    takes=("dzien", "lekarz"),
                    tool=ToolUse("free_slots", ("lekarz", "dzien"), {"first": "{godzina}"}),
                ),
                Exchange(
                    ("Może być. A mogę wcześniej zjeść śniadanie?", "Biorę! Mam coś przynieść?"),
                    ("Na badanie krwi proszę przyjść na czczo, a dowód i listę leków zabrać ze sobą.",),
                    takes=("godzina",),
                    looks_up="jak się przygotować: {powod}",
                ),
                Exchange(
                    ("A gdyby coś mi wypadło?",),
                    ("Wystarczy zadzwonić do południa dnia poprzedniego, to nic nie kosztuje.",),
                    looks_up="odwołanie wizyty",
                    chance=0.5,
                ),
            ),
        ),
        Stage(
            "confirm",
            "Potwierdzenie",
            "the slot is chosen",
            (
                Exchange(
                    ("Świetnie, dziękuję, do widzenia.", "No to jesteśmy umówieni. Dziękuję!"),
                    ("Potwierdzam: {dzien}, {godzina}, do {lekarz}. Do usłyszenia!",),
                    tool=ToolUse("book_slot", ("pacjent", "lekarz", "dzien", "godzina"), {"booked": True}),
                ),
            ),
        ),
    ),
    unclear=(
        Exchange(("Przepraszam, coś przerywa. Może pani powtórzyć?",), ("Oczywiście. Czy teraz lepiej?",)),
        Exchange(("Chwileczkę, szukam okularów... już.",), ("Proszę się nie spieszyć.",)),
    ),
    knowledge=_PRZYCHODNIA,
    topics=("wizyta", "przygotowanie"),
    summary="{pacjent}: wizyta {dzien}, {godzina}, powód: {powod}.",
    last_stage="booked",
)

_PARCEL_HELP = KnowledgeBase(
    "parcel-hindi",
    (
        Document(
            "delivery-hi.md",
            (
                "पार्सल दो बार घर लाया जाता है, उसके बाद सात दिन पास की दुकान पर रखा रहता है।",
                "पहुँचने का समय सुबह सात बजे संदेश से बताया जाता है।",
                "पता सुबह साढ़े छह बजे तक बदला जा सकता है।",
                "टूटे पार्सल की सूचना तीन दिन के भीतर तस्वीर के साथ दें।",
            ),
        ),
    ),
)

PARCEL_HINDI = Scenario(
    name="delivery question",
    language="hi",
    agent_name="आशा",
    direction="inbound",
    facts={
        "parcel": ("KW 7702 41", "KW 3318 95", "KW 5640 03"),
        "din": ("कल", "गुरुवार को", "शनिवार सुबह"),
        "dukan": ("स्टेशन वाली किताबों की दुकान", "मंदिर के सामने वाली मिठाई की दुकान"),
        "naam": ("राकेश भाटी", "मीनाक्षी अय्यर", "सलीम क़ुरैशी"),
    },
    greeting=("नमस्ते, केस्ट्रल पार्सल से आशा बोल रही हूँ। क्या आपके पास पार्सल नंबर है?",),
    stages=(
        Stage(
            "find_parcel",
            "पार्सल ढूँढना",
            "the caller asks about a parcel",
            (
                Exchange(
                    ("जी हाँ, {parcel}। कल आना था, आया ही नहीं।", "नंबर {parcel} है। मेरा पार्सल कहाँ रह गया?"),
                    ("{parcel}, एक पल रुकिए। यह आपके शहर के डिपो में है।",),
                    takes=("parcel",),
                    tool=ToolUse("track_parcel", ("parcel",), {"state": "depot", "tries": 1}),
                ),
                Exchange(
                    ("मैं पूरे दिन घर पर था, किसी ने घंटी नहीं बजाई।", "दरवाज़े पर बस एक पर्ची मिली।"),
                    ("इसके लिए माफ़ी चाहती हूँ। पार्सल एक बार और लाया जाएगा।",),
                    looks_up="दूसरी बार डिलीवरी",
                ),
                Exchange(
                    ("मेरा नाम {naam} है।", "{naam}, इसी नाम से भेजा गया है।"),
                    ("धन्यवाद, {naam} जी।",),
                    takes=("naam",),
                ),
            ),
        ),
        Stage(
            "offer_change",
            "बदलाव",
            "the parcel was found",
            (
                Exchange(
                    ("क्या {din} भेज सकते हैं?", "{din} हो पाएगा? उससे पहले मैं बाहर हूँ।"),
                    ("जी, {din} हो जाएगा। या फिर {dukan} पर रखवा दूँ?",),
                    takes=("din",),
                    looks_up="डिलीवरी का दिन बदलना",
                    tool=ToolUse("change_delivery", ("parcel", "din"), {"changed": True}),
                ),
                Exchange(
                    ("हाँ, {dukan} ठीक रहेगी, वह रास्ते में है।",),
                    ("ठीक है, वहाँ सात दिन तक रखा रहेगा।",),
                    takes=("dukan",),
                    looks_up="दुकान पर कितने दिन",
                    chance=0.6,
                ),
            ),
        ),
        Stage(
            "confirm",
            "पुष्टि",
            "the caller has chosen",
            (
                Exchange(
                    ("समय पहले से पता चलेगा न?", "और कितने बजे, यह कैसे पता चलेगा?"),
                    ("सुबह सात बजे आपको संदेश मिल जाएगा।",),
                    looks_up="समय का संदेश",
                ),
                Exchange(("बढ़िया, शुक्रिया।", "ठीक है, धन्यवाद।"), ("धन्यवाद, आपका दिन शुभ हो!",)),
            ),
        ),
    ),
    unclear=(Exchange(("आवाज़ कट रही है, दोबारा बोलिए?",), ("जी, क्या अब ठीक सुनाई दे रहा है?",)),),
    knowledge=_PARCEL_HELP,
    topics=("डिलीवरी", "देरी"),
    summary="{naam}: पार्सल {parcel} {din} फिर से लाया जाएगा।",
)
