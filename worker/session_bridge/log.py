"""Log lines: events with fields, for people or as JSON, and never a caller's number or words."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

# Ids that a provider drew: nothing of a caller is in them. Anything else may be a room named after a number.
_OPAQUE = re.compile(
    r"[A-Z]{2}[0-9a-f]{32}"  # Twilio
    r"|(?:RM|AJ|PA|EG)_[A-Za-z0-9]{8,32}"  # LiveKit
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # a UUID, as Plivo's and Vapi's
    r"|[0-9a-f]{32,40}"  # Exotel
    r"|[0-9A-HJKMNP-TV-Z]{26}"  # a ULID
    r"|call_[0-9a-f]{20,40}"  # Retell
)


class CallNames:
    """How call SIDs are named in log lines: as they are if they are opaque ids, else by a keyed hash."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def __call__(self, call_sid: str) -> str:
        """The name of this call SID; the same one for the same key."""
        if _OPAQUE.fullmatch(call_sid):
            return call_sid
        digest = hmac.new(self._key, call_sid.encode("utf-8", "surrogateescape"), hashlib.sha256)
        return f"sid#{digest.hexdigest()[:16]}"


def configure(
    log_format: Literal["console", "json"], level: str, *, key: str = "session-bridge", colour: bool | None = None
) -> None:
    """Set up logging to standard error; `key` is what call SIDs that are no opaque ids are hashed with."""
    names = CallNames(key)

    def name_calls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        sid = event.get("call_sid")
        if isinstance(sid, str):
            event["call_sid"] = names(sid)
        return event

    renderer: Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() if colour is None else colour)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            name_calls,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    # What libraries say of themselves is of use only where it warns.
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=max(number, logging.WARNING), force=True)
    # What the driver would say of a server that is away we say ourselves, without the server's words about the data.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
