"""JSON and text as PostgreSQL can hold them."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from pydantic import JsonValue
from pydantic_core import to_json

MAX_DEPTH = 200
"""Objects and arrays nested deeper than this are refused: no call means them, and servers' stacks end."""

_SURROGATES = re.compile("[\ud800-\udfff]")
_PAIRED = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def dump_json(value: JsonValue) -> str:
    """`value` as compact JSON; raises ValueError where JSON or PostgreSQL has no way to write it."""
    raw = to_json(value, inf_nan_mode="constants")
    # Perhaps they are only words, in a text.
    if (b"Infinity" in raw or b"NaN" in raw) and _has_infinity(value):
        raise ValueError("a number is infinite or not a number")
    return raw.decode()


def load_json(raw: bytes) -> tuple[JsonValue, bool]:
    """Read JSON as tolerantly as nothing is lost by it; the flag says whether something had to be replaced.

    U+0000 is left out, a lone surrogate and bytes that are not UTF-8 become U+FFFD, as PostgreSQL can hold none of
    them. Raises ValueError for what is not JSON, holds NaN or Infinity, or is nested too deep.
    """
    text, replaced = _decode(raw)
    try:
        # Not strict: a line feed or a NUL that its writer did not escape is still meant.
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, strict=False)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from None
    cleaned = _clean(value, 0)
    return cleaned, replaced or cleaned != value


def clean_text(text: str) -> str:
    """`text` without U+0000, and with U+FFFD for each lone surrogate."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    if _SURROGATES.search(text):
        text = _PAIRED.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        text = _SURROGATES.sub("\ufffd", text)
    return text


def read_text(raw: bytes) -> tuple[str, bool]:
    """`raw` as text that PostgreSQL can hold; the flag says whether something had to be replaced."""
    text, replaced = _decode(raw)
    # What was decoded has no surrogates.
    return (text.replace("\x00", ""), True) if "\x00" in text else (text, replaced)


def _decode(raw: bytes) -> tuple[str, bool]:
    try:
        return raw.decode(), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace"), True


def _clean(value: JsonValue, depth: int) -> JsonValue:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list | dict):
        if depth >= MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, list):
            return [_clean(item, depth + 1) for item in value]
        return {clean_text(key): _clean(item, depth + 1) for key, item in value.items()}
    return value


def _has_infinity(value: JsonValue) -> bool:
    if isinstance(value, float):
        return not float("-inf") < value < float("inf")
    if isinstance(value, list):
        return any(map(_has_infinity, value))
    if isinstance(value, dict):
        return any(map(_has_infinity, value.values()))
    return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON or PostgreSQL knows")


def _finite(text: str) -> float:
    number = float(text)
    if not float("-inf") < number < float("inf"):
        raise ValueError(f"the number {text[:40]} is too large")
    return number
