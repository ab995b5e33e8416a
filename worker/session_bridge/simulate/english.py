"""Calls in English: a table, an appointment, a parcel, and an offer that meets with doubts."""

from __future__ import annotations

from session_bridge.simulate.knowledge import BROADBAND, CLINIC, PARCELS, RESTAURANT
from session_bridge.simulate.scenario import Exchange, Scenario, Stage, ToolUse

_DAYS = ("Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_NAMES = ("Martha Quill", "Idris Bell", "Anneke Voss", "Callum Reyes", "Priya Nandan", "Owen Tarrant")
_UNCLEAR = (
    Exchange(("Sorry, the line is breaking up. Again, please?",), ("Of course. Is it better now?",)),
    Exchange(("Hang on, there's someone at the door... Right, I'm back.",), ("No hurry at all. I am still here.",)),
    Exchange(("Wait, am I talking to a machine?",), ("You are, yes: I am an assistant. Shall I get a colleague?",)),
    Exchange(("Hello? Are you still there?",), ("I am. It took me a moment to look that up.",)),
)

RESTAURANT_BOOKING = Scenario(
    name="restaurant booking",
    language="en",
    agent_name="Rosalind",
    direction="inbound",
    facts={
        "guest": _NAMES,
        "day": _DAYS,
        "hour": ("half past six", "seven", "a quarter to eight", "eight", "nine"),
        "party": ("two", "three", "four", "five", "six"),
        "place": ("by the window", "on the terrace", "somewhere quiet", "near the bar"),
        "reference": ("LINDEN", "JUNIPER", "SAFFRON", "MYRTLE"),
    },
    greeting=(
        "Good evening, The Copper Ladle, Rosalind speaking. Would you like to book a table?",
        "The Copper Ladle, hello! This is Rosalind, the booking assistant. What can I do for you?",
    ),
    stages=(
        Stage(
            "ask_when",
            "Ask for the time",
            "the caller wants a table",
            (
                Exchange(
                    ("Hi, yes, a table for {party}, please, on {day}.", "Do you have room for {party} on {day}?"),
                    ("For {party} on {day}, gladly. What time would suit you?",),
                    takes=("party", "day"),
                ),
                Exchange(
                    ("Around {hour}, if that works.", "{hour}? Or is the kitchen closing by then?"),
                    ("At {hour} the kitchen is open, and I still have a table.", "{hour} it is; there is one left."),
                    takes=("hour",),
                    looks_up="kitchen opening hours {day} {hour}",
                    tool=ToolUse("find_table", ("day", "hour", "party"), {"free": True, "tables_left": 1}),
                ),
            ),
        ),
        Stage(
            "ask_wishes",
            "Ask for wishes",
            "a table is free",
            (
                Exchange(
                    ("Could we sit {place}?", "We'd love to be {place}, if you can manage that."),
                    ("I have put that down: {place}. If it cannot be done, we will ring you.",),
                    takes=("place",),
                ),
                Exchange(
                    ("One of us can't have nuts. Is that a problem?",),
                    ("Not at all. Dishes with nuts are made at a counter of their own, and I note the allergy.",),
                    looks_up="nut allergy separate preparation",
                    chance=0.5,
                ),
                Exchange(
                    ("Oh, and what is there for vegans?", "My sister is vegan. Will she go hungry?"),
                    ("There is a beetroot tartare, mushroom dumplings, and a plum cake to end with.",),
                    looks_up="vegan dishes",
                    chance=0.5,
                ),
            ),
        ),
        Stage(
            "confirm",
            "Confirm the booking",
            "all wishes are known",
            (
                Exchange(
                    ("It's {guest}, the number I'm calling from.", "Put it under {guest}, please."),
                    ("Thank you, {guest}. {party} guests on {day} at {hour}; your word for the door is {reference}.",),
                    takes=("guest",),
                    tool=ToolUse(
                        "book_table", ("guest", "day", "hour", "party"), {"booked": True, "reference": "{reference}"}
                    ),
                ),
                Exchange(
                    ("{reference}, lovely. Until {day}, then!", "Got it, {reference}. Thanks, bye!"),
                    ("We look forward to seeing you. Goodbye!",),
                ),
            ),
        ),
    ),
    unclear=_UNCLEAR,
    knowledge=RESTAURANT,
    topics=("booking", "table", "allergy"),
    summary="{guest} booked a table for {party} on {day} at {hour}, {place}.",
    last_stage="booked",
    follow_up={"reference": "{reference}"},
)

CLINIC_APPOINTMENT = Scenario(
    name="clinic appointment",
    language="en",
    agent_name="Theo",
    direction="inbound",
    facts={
        "patient": _NAMES,
        "reason": ("a blood test", "a sore knee", "a vaccination before a trip", "a check-up", "a rash on my arm"),
        "doctor": ("Dr. Halloran", "Dr. Mbeki-Lund", "Dr. Ferrante"),
        "day": _DAYS[:4],
        "slot": ("8:10", "9:40", "11:20", "14:00", "16:30"),
        "birthday": ("the third of May, 1984", "August 19th, '71", "the first of February, 1996"),
    },
    greeting=(
        "Millrace Clinic, you are speaking with Theo, the assistant. How can I help?",
        "Hello, Millrace Clinic, this is Theo. If this is an emergency, please hang up and call the emergency number.",
    ),
    stages=(
        Stage(
            "ask_reason",
            "Ask for the reason",
            "the caller asks for an appointment",
            (
                Exchange(
                    ("I need an appointment for {reason}.", "Hello. It's about {reason}, can I come by this week?"),
                    ("I see, {reason}. Is it getting worse, or has it been the same for a while?",),
                    takes=("reason",),
                ),
                Exchange(
                    ("Same as ever. It can wait a day or two.", "No, no, it isn't urgent."),
                    ("Then let us find a quiet slot. Have you been with us before?",),
                    looks_up="signs of an emergency",
                ),
            ),
        ),
        Stage(
            "identify",
            "Find the patient",
            "the reason is not urgent",
            (
                Exchange(
                    ("Yes, last winter. {patient} is the name.", "I think so. I'm {patient}."),
                    ("And your date of birth, please?",),
                    takes=("patient",),
                ),
                Exchange(
                    ("{birthday}.", "That would be {birthday}."),
                    ("Thank you, I have found you.",),
                    takes=("birthday",),
                    tool=ToolUse("find_patient", ("patient", "birthday"), {"found": True, "visits": 3}),
                ),
            ),
        ),
        Stage(
            "choose_slot",
            "Choose a slot",
            "the patient is known",
            (
                Exchange(
                    ("Is {doctor} in on {day}?", "I'd rather see {doctor}, on {day} maybe."),
                    ("{doctor} is in on {day} and could see you at {slot}.",),
                    takes=("doctor", "day"),
                    tool=ToolUse("free_slots", ("doctor", "day"), {"first": "{slot}", "count": 4}),
                ),
                Exchange(
                    ("{slot} is fine. Do I have to come without breakfast?", "Okay, {slot}. Anything I should bring?"),
                    ("Bring a photo ID and the list of your medicines. For a fasting test, only water before.",),
                    takes=("slot",),
                    looks_up="how to prepare for {reason}",
                ),
                Exchange(
                    ("Is there somewhere to park? I'm not good on stairs.",),
                    ("Two spaces right beside the door, and the lift is on the courtyard's side.",),
                    looks_up="parking lift limited mobility",
                    chance=0.4,
                ),
                Exchange(
                    ("And if I have to move it?",),
                    ("Ring us until noon of the day before; it costs nothing.",),
                    looks_up="move or cancel an appointment",
                    chance=0.4,
                ),
            ),
        ),
        Stage(
            "confirm",
            "Confirm the appointment",
            "the slot is chosen",
            (
                Exchange(
                    ("No, that's all. {day}, {slot}. Thank you.", "Right, {day} at {slot}. Bye-bye."),
                    ("{day} at {slot} with {doctor}. You will get a text message. Goodbye, {patient}.",),
                    tool=ToolUse("book_slot", ("patient", "doctor", "day", "slot"), {"booked": True}),
                ),
            ),
        ),
    ),
    unclear=_UNCLEAR,
    knowledge=CLINIC,
    topics=("appointment", "preparation", "patient record"),
    summary="Appointment with {doctor} on {day} at {slot}, for {reason}.",
    last_stage="booked",
)

DELIVERY_QUESTION = Scenario(
    name="delivery question",
    language="en",
    agent_name="Juno",
    direction="inbound",
    facts={
        "parcel": ("KW 4471 09", "KW 8830 52", "KW 1296 77", "KW 6053 18"),
        "street": ("Tannery Lane 4", "Orchard Rise 31", "Lower Quay 12b"),
        "day": ("tomorrow", "on Thursday", "on Saturday morning"),
        "point": ("the bakery on Bridge Street", "the kiosk at the station", "the bicycle shop"),
        "state": ("in the depot", "on a van", "at customs"),
    },
    greeting=("Kestrel Parcels, Juno here. Do you have a parcel number at hand?",),
    stages=(
        Stage(
            "find_parcel",
            "Find the parcel",
            "the caller asks about a parcel",
            (
                Exchange(
                    ("It says {parcel}. It was meant to be here yesterday!", "Yes. {parcel}. Where on earth is it?"),
                    ("{parcel}, one moment. It is {state}, and it is on its way to you.",),
                    takes=("parcel",),
                    tool=ToolUse("track_parcel", ("parcel",), {"state": "{state}", "tries": 1}),
                ),
                Exchange(
                    ("I waited in all day. Nobody rang.", "The man never came up. There's just a card."),
                    ("I am sorry about that. A parcel is brought twice, so there will be another try.",),
                    looks_up="second delivery attempt",
                ),
            ),
        ),
        Stage(
            "offer_change",
            "Offer a change",
            "the parcel was found",
            (
                Exchange(
                    ("I won't be in. Can you bring it {day}?", "Could it come {day} instead?"),
                    ("{day} is possible. To which address?",),
                    takes=("day",),
                    looks_up="change the day of delivery",
                ),
                Exchange(
                    ("{street}, same as before.", "To {street}."),
                    ("To {street}, {day}. Or would a pick-up point be easier? The nearest is {point}.",),
                    takes=("street",),
                ),
                Exchange(
                    ("Hm, {point} is on my way. Leave it there, then.",),
                    ("With pleasure. It will wait for seven days at {point}.",),
                    takes=("point",),
                    looks_up="pick-up point how long",
                    chance=0.45,
                ),
            ),
        ),
        Stage(
            "confirm",
            "Confirm the change",
            "the caller has chosen",
            (
                Exchange(
                    ("Fine. And I'd like to know when, roughly.", "Will I get told at what hour?"),
                    ("At seven in the morning you get a text with the window, two hours wide.",),
                    looks_up="delivery window text message",
                    tool=ToolUse("change_delivery", ("parcel", "day"), {"changed": True}),
                ),
                Exchange(("All right. Thanks for sorting it.", "Good. Bye."), ("Thank you for your patience. Bye!",)),
            ),
        ),
    ),
    unclear=_UNCLEAR,
    knowledge=PARCELS,
    topics=("delivery", "delay", "pick-up"),
    summary="Parcel {parcel} was late; it is delivered again {day}.",
)

BROADBAND_OFFER = Scenario(
    name="broadband offer",
    language="en",
    agent_name="Felix",
    direction="outbound",
    facts={
        "customer": _NAMES,
        "pays": ("forty-two", "thirty-eight", "fifty-one"),
        "plan": ("Fibre 300", "Fibre 600", "Fibre 1000"),
        "people": ("just me", "two of us", "four, with the kids", "a flat-share of five"),
        "day": _DAYS,
    },
    greeting=("Hello, this is Felix, an assistant calling for Brightwater Broadband. Is this a good moment?",),
    stages=(
        Stage(
            "qualify",
            "Learn what is needed",
            "the customer stays on the line",
            (
                Exchange(
                    ("Depends. Two minutes, if it's about the internet.", "Well... go on, then."),
                    ("Two minutes, I promise. How many people use your line at home?",),
                ),
                Exchange(
                    ("It's {people}.", "Here? {people}, and everybody streams."),
                    ("And may I ask what you pay for it today?",),
                    takes=("people",),
                ),
                Exchange(
                    ("Something like {pays} a month.", "{pays}, and it drops out every evening."),
                    ("For {pays} you could have {plan}, with the router in the price.",),
                    takes=("pays",),
                    looks_up="plan prices router included",
                ),
            ),
        ),
        Stage(
            "objections",
            "Answer objections",
            "the customer has doubts",
            (
                Exchange(
                    ("That's still too expensive for me.", "And in a year you double it. I know how that goes."),
                    ("The price holds for twenty-four months, and over those you would pay less than today.",),
                    looks_up="objection too expensive price guarantee",
                    objection="price",
                ),
                Exchange(
                    ("I can't take a day off for your technician.",),
                    ("You need not: the visit can be after five, or on a Saturday. It takes ninety minutes.",),
                    looks_up="technician visit evening",
                    objection="time",
                    chance=0.6,
                ),
                Exchange(
                    ("Last time I switched, I was offline for three weeks.",),
                    ("That would annoy me too. Your old line stays until the new one works; we see to the rest.",),
                    looks_up="switching without interruption",
                    objection="bad experience",
                    chance=0.6,
                ),
            ),
        ),
        Stage(
            "close",
            "Close",
            "the doubts are answered",
            (
                Exchange(
                    ("Hm. Send me the {plan} thing in writing.", "All right, {plan}, but I want to read it first."),
                    ("You have it in your mail in a minute, {customer}, and fourteen days to think it over.",),
                    takes=("plan",),
                    tool=ToolUse("send_offer", ("customer", "plan"), {"sent": True}),
                ),
                Exchange(
                    ("Call me on {day}, I'll have read it by then.", "Fine. Try me again on {day}."),
                    ("On {day} it is. Have a good evening!",),
                    takes=("day",),
                    tool=ToolUse("plan_call", ("customer", "day"), {"planned": True}),
                ),
            ),
        ),
    ),
    unclear=_UNCLEAR,
    knowledge=BROADBAND,
    topics=("offer", "price", "switching"),
    summary="{customer} pays {pays} today, asked for {plan} in writing, and is to be called again on {day}.",
    last_stage="follow_up",
)
