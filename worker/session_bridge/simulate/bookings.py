"""Calls that end with a booking: a table, and a doctor's appointment."""

from __future__ import annotations

from session_bridge.simulate.english import DAYS, NAMES, UNCLEAR
from session_bridge.simulate.knowledge import CLINIC, RESTAURANT
from session_bridge.simulate.scenario import Exchange, Scenario, Stage, ToolUse

RESTAURANT_BOOKING = Scenario(
    name="restaurant booking",
    language="en",
    agent_name="Rosalind",
    direction="inbound",
    facts={
        "guest": NAMES,
        "day": DAYS,
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
                    ("Thank you, {guest}: {party} guests on {day} at {hour}. Your word for the door is {reference}.",),
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
    unclear=UNCLEAR,
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
        "patient": NAMES,
        "reason": ("a blood test", "a sore knee", "a vaccination before a trip", "a check-up", "a rash on my arm"),
        "doctor": ("Dr. Halloran", "Dr. Mbeki-Lund", "Dr. Ferrante"),
        "day": DAYS[:4],
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
    unclear=UNCLEAR,
    knowledge=CLINIC,
    topics=("appointment", "preparation", "patient record"),
    summary="Appointment with {doctor} on {day} at {slot}, for {reason}.",
    last_stage="booked",
)
