"""Taking out of a live session's texts what may not be stored, before anything of it is kept.

It works on the fields as they were read, so that the archive, the rejects and the dead sessions all see the same: texts
without card numbers, e-mail addresses, phone numbers, or whatever a function of the user's takes out. What is no text
(times, numbers of the call, event ids, the names of state fields) is left as it is.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

from pydantic import JsonValue

from session_bridge.contract.fields import DOCUMENTS, EVENT_FIELD, STATE_FIELDS, TIME_FIELDS
from session_bridge.contract.times import canonical_time
from session_bridge.errors import SettingsError

Redactor: TypeAlias = Callable[[str], str]
"""Given a text, the text without what may not be stored."""

# Identity and state that a call is kept together by; none of it is anybody's words.
_STRUCTURE = frozenset(
    (
        "status",
        "status_sequence",
        "tenant_id",
        "recording_enabled",
        "recording_duration_seconds",
        "estimated_cost_cents",
    )
)
_BETWEEN = r"[ \u00a0\u2009.\-\u2010\u2011\u2013]"
_DIGIT_RUN = re.compile(rf"(?<!\d)\d(?:{_BETWEEN}?\d){{11,}}")
_DIGIT_GROUP = re.compile(r"\d+")
_SHORTEST_CARD, _LONGEST_CARD = 12, 19
_FIRST_DIGITS = frozenset("23456")
# Which first digits, in which lengths, card numbers have: no time since 1970 in milliseconds begins like one.
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[0689]\d{12,17}|35\d{14,17}|(?:5[06-9]|6\d)\d{10,17}"
)
_EMAIL = re.compile(r"(?<![\w.%+'-])[\w.%+'-]{1,320}@[\w-]{1,255}(?:\.[\w-]{1,63}){1,10}")
_PHONE = re.compile(
    r"(?<![\w+])(?:\+|00)[ (]{0,2}\d(?:[ ().\-/]{0,3}\d){6,14}(?!\d)"  # with its country
    r"|(?<![\w.+\-])(?!\d{4}-\d\d-\d\d)(?:\(\d{2,5}\)|\d{2,5})[ .\-/]{1,2}\d{3,4}[ .\-/]?\d{3,4}(?![\w\-])"  # in groups
    r"|(?<![\w.+\-])(?!1[5-9]\d{8}(?!\d)|1[5-9]\d{11}(?!\d))\d{10,15}(?![\w\-]|\.\d)"  # in one, if it is no time
)
_PHONE_KEY = re.compile(r"phone|mobile|msisdn|whatsapp|caller|number|tel\b|contact", re.IGNORECASE)
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])")
_LEAST_NUMBER = 10**6


def redact_cards(text: str) -> str:
    """`text` with [card] for each card number: of a known kind, with the right check digit, in groups or in one."""
    return _DIGIT_RUN.sub(lambda run: _without_cards(run[0]), text)


def redact_emails(text: str) -> str:
    """`text` with [email] for each e-mail address."""
    return _EMAIL.sub("[email]", text) if "@" in text else text


def redact_phones(text: str) -> str:
    """`text` with [phone] for what looks like a phone number."""
    return _PHONE.sub("[phone]", text)


_BUILT_IN: Mapping[str, Redactor] = {"cards": redact_cards, "emails": redact_emails, "phones": redact_phones}


def _without_cards(run: str) -> str:
    """A run of groups of digits; a card number is whole groups of it, as many as can be."""
    groups = list(_DIGIT_GROUP.finditer(run))
    parts, at, place = [], 0, 0
    while place < len(groups):
        end = _end_of_card(groups, place) if groups[place][0][0] in _FIRST_DIGITS else place
        if end > place:
            parts += [run[at : groups[place].start()], "[card]"]
            at = groups[end - 1].end()
        place = max(end, place + 1)
    return "".join([*parts, run[at:]])


def _end_of_card(groups: list[re.Match[str]], place: int) -> int:
    """After which group the card number ends that begins with this one; `place` if none does."""
    digits, end, found = "", place, place
    while end < len(groups) and len(digits) + len(groups[end][0]) <= _LONGEST_CARD:
        digits += groups[end][0]
        end += 1
        if len(digits) >= _SHORTEST_CARD and _is_card(digits):
            found = end
    return found


def _is_card(digits: str) -> bool:
    """Whether this is a card number, by its kind and by its check digit (Luhn)."""
    if not _CARD.fullmatch(digits):
        return False
    total = sum(map(int, digits[-1::-2]))
    total += sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return total % 10 == 0


class Redaction:
    """Redactors, applied to every text of a live session. Raises what a redactor raises."""

    def __init__(self, redactors: Sequence[Redactor], *, phones: bool = False, own: Sequence[Redactor] = ()) -> None:
        self._redactors = (*redactors, *([redact_phones] if phones else ()), *own)
        self._of_numbers = tuple(redactors)
        self._own = tuple(own)
        self._phones = phones

    def fields(self, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The fields with their texts redacted; the same object if there was nothing to take out."""
        redacted: dict[bytes, bytes] = {}
        changed = False
        for name, value in fields.items():
            new_name, new_value = self._name(name), self.value(name, value)
            while new_name != name and (new_name in redacted or new_name in fields):
                new_name += b"_"
            changed = changed or new_name != name or new_value != value
            redacted[new_name] = new_value
        return redacted if changed else fields

    def value(self, name: bytes, value: bytes) -> bytes:
        """One field's value with its texts redacted."""
        field = name.decode("utf-8", "replace")
        if field in _STRUCTURE or (field in TIME_FIELDS and _is_time(value.decode("utf-8", "replace"))):
            return value
        text = value.decode("utf-8", "surrogateescape")
        if value.lstrip()[:1] in (b"{", b"[", b'"'):
            duplicates: list[str] = []

            def pairs(found: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
                if len({key for key, _ in found}) < len(found):
                    duplicates.append("")
                return dict(found)

            try:
                document = json.loads(text, strict=False, object_pairs_hook=pairs)
                redacted = self._json(document, "")
            except (ValueError, RecursionError):
                pass
            else:
                if redacted == document and not duplicates:
                    return value
                return json.dumps(redacted, ensure_ascii=False).encode("utf-8", "surrogatepass")
            # What is no JSON is kept raw, and may hold escapes all the same.
            text = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)
        redacted_text = self._text(text)
        return value if redacted_text == text else redacted_text.encode("utf-8", "surrogateescape")

    def _name(self, name: bytes) -> bytes:
        """A field that nobody knows may be named after anything."""
        field = name.decode("utf-8", "surrogateescape")
        if field in STATE_FIELDS or field in DOCUMENTS or EVENT_FIELD.fullmatch(field):
            return name
        return self._text(field).encode("utf-8", "surrogateescape")

    def _text(self, text: str) -> str:
        # U+0000 is left out of what is archived: a number must not come together by that.
        plain = text.replace("\x00", "")
        redacted = plain
        for redactor in self._redactors:
            redacted = redactor(redacted)
        return text if redacted == plain else redacted

    def _json(self, value: JsonValue, key: str) -> JsonValue:
        if isinstance(value, str):
            return value if _names_time(key) and _is_time(value) else self._text(value)
        if isinstance(value, dict):
            return {self._text(name): self._json(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self._json(item, key) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._number(value, key)
        return value

    def _number(self, value: float, key: str) -> JsonValue:
        if not _LEAST_NUMBER <= value < 10**_LONGEST_CARD or value != int(value):
            return value
        if _names_time(key) and _is_time(value):
            return value
        text = redacted = str(int(value))
        phones = (redact_phones,) if self._phones and _PHONE_KEY.search(key) else ()
        for redactor in (*self._of_numbers, *phones, *self._own):
            redacted = redactor(redacted)
        return value if redacted == text else redacted


def _names_time(key: str) -> bool:
    return key in ("timestamp", "ts", "time", "date") or key.endswith(("_at", "_time", "_ms"))


def _is_time(value: object) -> bool:
    try:
        return canonical_time(value) is not None
    except ValueError:
        return False


def load_redaction(names: Sequence[str]) -> Redaction | None:
    """The redaction that these names ask for: `cards`, `emails`, `phones`, `module:function`; None for none.

    Raises SettingsError for a name that is none of them, or a function that cannot be imported.
    """
    if not names:
        return None
    built_in: list[Redactor] = []
    own: list[Redactor] = []
    for name in names:
        if name in _BUILT_IN:
            built_in.append(_BUILT_IN[name])
        else:
            own.append(_load(name))
    phones = redact_phones in built_in
    # Cards first: their digits must not be taken for a phone number's.
    others = [redactor for redactor in _BUILT_IN.values() if redactor in built_in and redactor is not redact_phones]
    return Redaction(others, phones=phones, own=own)


def _load(name: str) -> Redactor:
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"SESSION_BRIDGE_REDACT={name} cannot be imported ({error}); "
            "write module:function of something on the worker's path"
        ) from error
    if not callable(found):
        known = ", ".join(_BUILT_IN)
        raise SettingsError(f"SESSION_BRIDGE_REDACT={name} names no redactor; there are {known}, and module:function")
    return cast("Redactor", found)
