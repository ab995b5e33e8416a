"""Calls about a service: where a parcel is, and an offer that meets with doubts."""

from __future__ import annotations

from session_bridge.simulate.english import DAYS, NAMES, UNCLEAR
from session_bridge.simulate.knowledge import BROADBAND, PARCELS
from session_bridge.simulate.scenario import Exchange, Scenario, Stage, ToolUse

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
    unclear=UNCLEAR,
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
        "customer": NAMES,
        "pays": ("forty-two", "thirty-eight", "fifty-one"),
        "plan": ("Fibre 300", "Fibre 600", "Fibre 1000"),
        "people": ("just me", "two of us", "four, with the kids", "a flat-share of five"),
        "day": DAYS,
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
    unclear=UNCLEAR,
    knowledge=BROADBAND,
    topics=("offer", "price", "switching"),
    summary="{customer} pays {pays} today, asked for {plan} in writing, and is to be called again on {day}.",
    last_stage="follow_up",
)
