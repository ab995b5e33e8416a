"""What is taken out of texts before they are kept, and what is left alone."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_bridge.errors import SettingsError
from session_bridge.redaction import Redaction, load_redaction, redact_cards, redact_emails, redact_phones

CARDS = [
    "4111111111111111",
    "5555555555554444",
    "378282246310005",
    "6011111111111117",
    "2223003122003222",
    "30569309025904",
]


def redaction(*names: str) -> Redaction:
    found = load_redaction(names)
    assert found is not None
    return found


def luhn(digits: str) -> str:
    """The digits with their check digit."""
    doubled = sum(sum(divmod(2 * int(d), 10)) for d in digits[::-1][::2]) + sum(int(d) for d in digits[::-1][1::2])
    return digits + str(-doubled % 10)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("between", ["", " ", "-", ".", "\u00a0", "\u2011"])
def test_a_card_number_in_any_form(card: str, between: str) -> None:
    groups = [card[:4], card[4:10], card[10:]] if len(card) != 16 else re.findall("....", card)
    shown = between.join(groups)
    assert redact_cards(f"It is {shown}, thanks") == "It is [card], thanks"
    assert redact_cards(shown) == "[card]"


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",  # the check digit
        "1790000000000",  # milliseconds
        "1790000000000000",  # microseconds
        "1790000000000000000",
        "2026-11-21T10:00:00.123456Z",
        "order 12345, 3 of 4",
        "12 4111 1111",
    ],
)
def test_what_is_no_card_number(text: str) -> None:
    assert redact_cards(text) == text


def test_a_card_number_among_other_numbers() -> None:
    assert redact_cards("take 12 4111 1111 1111 1111 09 26") == "take 12 [card] 09 26"
    assert redact_cards("4111 1111 1111 1111 5555 5555 5555 4444") == "[card] [card]"


@given(st.from_regex(r"4[0-9]{14}", fullmatch=True), st.text(max_size=20), st.text(max_size=20))
def test_no_visa_card_survives(digits: str, before: str, after: str) -> None:
    card = luhn(digits)
    if (before and before[-1].isdigit()) or (after and after[0].isdigit()):
        before, after = f"{before}:", f":{after}"
    assert card not in redact_cards(f"{before}{card}{after}")


@pytest.mark.parametrize("address", ["a@b.example", "Jürgen.Müller+x@mail.example.org", "o'neil@a-b.co.uk"])
def test_an_email_address(address: str) -> None:
    assert redact_emails(f"write to {address}!") == "write to [email]!"


def test_texts_of_any_size_are_read_in_time() -> None:
    for text in ("a" * 300_000 + "@", "1" * 300_000, "1 " * 150_000, "+1 " * 100_000, "a@" * 100_000, "4." * 100_000):
        assert isinstance(redaction("cards", "emails", "phones").value(b"x", text.encode()), bytes)


@pytest.mark.parametrize(
    "number",
    [
        "+1 555 010 0199",
        "+15550100199",
        "0049 30 1234567",
        "(555) 010-0199",
        "555-010-0199",
        "5550100199",
        "+91-98765 43210",
    ],
)
def test_a_phone_number(number: str) -> None:
    assert redact_phones(f"call {number} now") == "call [phone] now"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21",
        "2026-11-21 10:00",
        "1790000000",
        "1790000000123",
        "3.14159",
        "12345",
        "a1b2c3d4-1234-5678-9abc-def012345678",
    ],
)
def test_what_is_no_phone_number(text: str) -> None:
    assert redact_phones(text) == text


def test_texts_within_json_and_nothing_else() -> None:
    event = {
        "role": "user",
        "content": "4111 1111 1111 1111",
        "timestamp": 1_790_000_000_123,
        "nested": [{"a@b.example": "x", "card": 4111111111111111, "phone": 15550100199, "count": 5550100199}],
        "confidence": 0.5,
        "joined_at": "2026-11-21T10:00:00Z",
    }
    found = json.loads(redaction("cards", "emails", "phones").value(b"message:1", json.dumps(event).encode()))
    assert found == {
        **event,
        "content": "[card]",
        "nested": [{"[email]": "x", "card": "[card]", "phone": "[phone]", "count": 5550100199}],
    }


def test_what_holds_nothing_is_left_to_the_byte() -> None:
    fields = {
        b"message:1": b'{ "role" : "user", "content":"h\\u0065llo" }',
        b"started_at": b"1790000000123",
        b"x": b"\xff",
    }
    assert redaction("cards", "emails", "phones").fields(fields) is fields


@pytest.mark.parametrize(
    "value",
    [
        b'{"content": "\\u0034111111111111111"}',
        b'{"content": "\\u0034111111111111111"',  # no JSON: it will be kept raw
        b'{"content": "4111\\u0000111111111111"}',
        b"4111\x00111111111111",
        b'{"content": "4111111111111111", "content": "fine"}',
        b'{"content": "4111111111111111\xff"}',
        b'["\xff", 4111111111111111, 4111111111111111.0]',
        b'"4111111111111111"',
    ],
)
def test_hiding_places(value: bytes) -> None:
    found = redaction("cards").value(b"message:1", value)
    assert b"1111" not in found
    assert b"[card]" in found or b"fine" in found


def test_a_fields_name_nobody_knows_is_a_text_too() -> None:
    fields = {b"a@b.example": b"1", b"c@d.example": b"2", b"[email]": b"3"}
    found = redaction("emails").fields(fields)
    assert sorted(found.values()) == [b"1", b"2", b"3"]
    assert not any(b"@" in name for name in found)


def test_what_a_call_is_kept_together_by_is_left() -> None:
    fields = {b"tenant_id": b"a@b.example", b"status": b"completed", b"message:5550100199": b"{}"}
    assert redaction("emails", "phones").fields(fields) is fields
    assert redaction("phones").fields({b"from_number": b"+15550100199"}) == {b"from_number": b"[phone]"}


def shout(text: str) -> str:
    return text.replace("secret", "XXX")


def test_a_function_of_the_users() -> None:
    import sys
    import types

    module = types.ModuleType("redactors_of_a_team")
    module.shout = shout  # type: ignore[attr-defined]
    sys.modules["redactors_of_a_team"] = module
    found = redaction("cards", "redactors_of_a_team:shout")
    assert found.value(b"message:1", b'{"content": "a secret 4111111111111111"}') == b'{"content": "a XXX [card]"}'


@pytest.mark.parametrize("name", ["card", "nowhere:function", "json:nothing", "json:__name__", ":", ""])
def test_a_redactor_that_is_none(name: str) -> None:
    with pytest.raises(SettingsError, match="SESSION_BRIDGE_REDACT"):
        load_redaction([name])


def test_off_is_off() -> None:
    assert load_redaction(()) is None
