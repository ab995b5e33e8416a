"""The documents that simulated agents look things up in, and how often each piece of them is found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Document:
    """One file of a knowledge base, cut into chunks."""

    filename: str
    chunks: tuple[str, ...]


class KnowledgeBase:
    """A few documents; their chunks in the order given are those asked for most often to those hardly ever.

    Which chunk is found follows Zipf's law: the second half as often as the first, the third a third as often. That is
    how real retrievals look, the same few texts over and over, and it is what storing each text once lives on.
    """

    def __init__(self, name: str, documents: Sequence[Document]) -> None:
        self._name = name
        self._pieces = [(document, index, text) for document in documents for index, text in enumerate(document.chunks)]
        self._weights = list(accumulate(1 / rank for rank in range(1, len(self._pieces) + 1)))

    def retrieve(self, random: Random, count: int) -> list[dict[str, JsonValue]]:
        """Up to `count` different chunks, best first, as a retrieval event carries them."""
        found: dict[int, float] = {}
        for _ in range(4 * count):
            if len(found) == min(count, len(self._pieces)):
                break
            (place,) = random.choices(range(len(self._pieces)), cum_weights=self._weights)
            found.setdefault(place, 0)
        scores = sorted((random.uniform(0.55, 0.93) for _ in found), reverse=True)
        return [self._chunk(place, round(score, 4)) for place, score in zip(found, scores, strict=True)]

    def _chunk(self, place: int, score: float) -> dict[str, JsonValue]:
        document, index, text = self._pieces[place]
        name = f"{self._name}/{document.filename}"
        document_id = hashlib.sha256(name.encode()).hexdigest()[:12]
        return {
            "chunk_id": f"{document_id}-{index}",
            "content": text,
            "document_id": document_id,
            "filename": document.filename,
            "s3_key": f"knowledge/{name}",
            "chunk_index": index,
            "token_count": round(len(text) / 4),
            "score": score,
        }


RESTAURANT = KnowledgeBase(
    "restaurant",
    (
        Document(
            "opening-hours.md",
            (
                "The kitchen is open from noon to 22:00, on Fridays and Saturdays to 23:00. Mondays we are closed.",
                "On public holidays we serve one set menu, at 13:00 and at 18:30, and take bookings only.",
            ),
        ),
        Document(
            "tables.md",
            (
                "Tables are kept for fifteen minutes past the hour of the booking. Call us if you are late.",
                "The terrace has nine tables for two and three for four. In rain we move its guests inside.",
                "Parties of more than eight sit in the back room and choose from the menu for groups.",
                "High chairs: four. Prams can stay in the cloakroom; the entrance has no step.",
            ),
        ),
        Document(
            "menu.md",
            (
                "Vegan: the beetroot tartare, the mushroom dumplings, the plum cake. All are marked with a leaf.",
                "Every dish with nuts is prepared at a separate counter; tell us of an allergy when you book.",
                "Children's portions of any main course cost two thirds of its price.",
            ),
        ),
        Document(
            "events.md",
            (
                "On the first Sunday of the month there is a brunch with a pianist, from 10:30.",
                "A deposit of ten per guest is asked for on New Year's Eve and is taken off the bill.",
            ),
        ),
    ),
)

CLINIC = KnowledgeBase(
    "clinic",
    (
        Document(
            "appointments.md",
            (
                "A first visit takes forty minutes. Please bring a photo ID and the list of medicines you take.",
                "An appointment can be moved or cancelled free of charge until noon of the day before.",
                "Results of blood tests are ready on the second working day and are told by the doctor only.",
            ),
        ),
        Document(
            "preparation.md",
            (
                "For a fasting blood test eat nothing for ten hours; water is fine.",
                "Wear loose sleeves for a vaccination and stay for fifteen minutes afterwards.",
                "Before an ultrasound of the abdomen, drink half a litre of water an hour ahead and do not eat.",
            ),
        ),
        Document(
            "how-to-reach-us.md",
            (
                "The entrance with the lift is on the courtyard's side; ring the lower bell.",
                "There are two parking spaces for patients with limited mobility right beside the door.",
            ),
        ),
        Document(
            "urgent.md",
            (
                "With chest pain, trouble breathing or a sudden numbness call the emergency number, not the clinic.",
                "Outside our hours the on-call service answers under the same number, option two.",
            ),
        ),
    ),
)

PARCELS = KnowledgeBase(
    "parcels",
    (
        Document(
            "delivery.md",
            (
                "A parcel is brought twice. After the second try it waits seven days at the nearest pick-up point.",
                "The delivery window is known at seven in the morning and is sent by text message.",
                "A neighbour may take a parcel in, unless it is marked for the addressee only.",
            ),
        ),
        Document(
            "changes.md",
            (
                "Day, address and pick-up point can be changed until the parcel is loaded, usually at half past six.",
                "Sending a parcel on to another city costs as much as a new label.",
            ),
        ),
        Document(
            "trouble.md",
            (
                "A damaged parcel is reported within three days, with a picture of the box and of what is in it.",
                "If tracking has not moved for four working days, a search is started and the sender is told.",
                "Customs keep a parcel for two days on average; they ask the addressee for an invoice by letter.",
            ),
        ),
    ),
)

BROADBAND = KnowledgeBase(
    "broadband",
    (
        Document(
            "plans.md",
            (
                "Fibre 300 costs 29 a month, Fibre 600 costs 36, Fibre 1000 costs 45. The router is included.",
                "The price of a plan holds for twenty-four months; after that it may rise once a year.",
                "Students and people over 65 pay four less a month on every plan.",
            ),
        ),
        Document(
            "switching.md",
            (
                "We cancel the old contract for the customer, and the old line stays until the new one works.",
                "A technician needs about ninety minutes, and somebody of age at home.",
                "Who cancels within fourteen days of signing pays nothing, not even for the days used.",
            ),
        ),
        Document(
            "objections.md",
            (
                "To 'too expensive': compare the price for the whole term with what the customer pays today.",
                "To 'no time': the visit can be after five, and on Saturdays.",
                "To 'bad experience': offer the call-back by a person; never argue.",
            ),
        ),
    ),
)
