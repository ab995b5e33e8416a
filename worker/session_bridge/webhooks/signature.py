"""What all signatures have in common."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from session_bridge.errors import MissingExtraError, SettingsError, UntrustedCallbackError

Clock: TypeAlias = Callable[[], float]
"""Gives seconds since 1970."""

CLOCK: Clock = time.time


def required(secret: str, whose: str) -> str:
    """`secret`, or SettingsError if it is empty: everybody could sign with that."""
    if not secret:
        raise SettingsError(f"{whose} is empty: anybody could sign with it; give the one that the provider shows you")
    return secret


def missing_extra(extra: str, error: ImportError) -> MissingExtraError:
    """The error of a module whose library is not installed."""
    return MissingExtraError(f"{error.name} is not installed: pip install 'call-session-bridge[webhooks,{extra}]'")


def same(given: str, expected: str) -> bool:
    """Whether two texts are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape"))


def same_as_any(given: Iterable[str], expected: str) -> bool:
    """Whether one of these texts is the expected one; all are looked at, whichever it is."""
    return sum(same(one, expected) for one in given) > 0


def hex_sha256(key: str, *parts: bytes) -> str:
    """HMAC-SHA256 of `parts`, in hexadecimal."""
    return hmac.new(key.encode(), b"".join(parts), hashlib.sha256).hexdigest()


def base64_sha256(key: str, *parts: bytes) -> str:
    """HMAC-SHA256 of `parts`, in base64."""
    return base64.b64encode(hmac.new(key.encode(), b"".join(parts), hashlib.sha256).digest()).decode()


def untrusted(why: str) -> UntrustedCallbackError:
    """The error of a request that is not proven to be its provider's."""
    return UntrustedCallbackError(why)


def is_canonical(text: str, *, urlsafe: bool = False) -> bool:
    """Whether this base64 is as an encoder writes it: the last letter has bits that decoding does not look at."""
    padded = text + "=" * (-len(text) % 4) if urlsafe else text
    try:
        raw = base64.b64decode(padded, b"-_" if urlsafe else None, validate=True)
    except ValueError:
        return False
    return base64.b64encode(raw, b"-_" if urlsafe else None).decode() == padded
