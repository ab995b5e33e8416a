"""Exotel: the call's details (https://developer.exotel.com/api/call-details)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import tzinfo
from urllib.parse import quote

from pydantic import JsonValue

from session_bridge.contract.times import parse_time
from session_bridge.providers.answer import Answer, Line, Question, Reply, Word, text_of, unknown

_CALL_SID = re.compile(r"[0-9A-Za-z]{8,64}")
_LIVE = frozenset(("queued", "ringing", "in-progress"))
_ENDED = frozenset(("completed", "failed", "busy", "no-answer", "canceled"))
_OK = 200


@dataclass(frozen=True, slots=True)
class Exotel:
    """Asks Exotel. Its times carry no zone: they are in `zone`.

    A 404 is not an end, for the reasons given at Twilio: accounts live in one of two clusters.
    """

    line: Line
    url: str
    account_sid: str
    key: str
    token: str = field(repr=False)
    zone: tzinfo
    not_found_seconds: float
    name: str = "exotel"

    def can_ask(self, question: Question) -> bool:
        """Exotel knows calls by letters and digits."""
        return _CALL_SID.fullmatch(question.call_sid) is not None

    async def ask(self, question: Question) -> Answer:
        """Whether the call lives."""
        reply = await self._get(f"Calls/{question.call_sid}.json")
        if isinstance(reply, Answer):
            return reply
        if reply.status != _OK:
            known = isinstance(reply.body.get("RestException"), dict)
            return unknown("it does not know the call", settles_after=self.not_found_seconds if known else None)
        call = reply.body.get("Call")
        if not isinstance(call, dict) or text_of(call, "Sid") != question.call_sid:
            return unknown("it answered of another call")
        status = text_of(call, "Status")
        if status in _LIVE:
            return Answer(Word.LIVE, status)
        if status not in _ENDED:
            return unknown("it answered a status that is not known")
        return Answer(Word.ENDED, status, self._facts(call, status))

    async def try_credentials(self) -> Answer:
        """A list of one call."""
        reply = await self._get("Calls.json", {"PageSize": "1"})
        if isinstance(reply, Answer):
            return reply
        return Answer(Word.LIVE) if reply.status == _OK else Answer(Word.UNKNOWN, "it answered 404", refused=True)

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Reply | Answer:
        url = f"{self.url.rstrip('/')}/v1/Accounts/{quote(self.account_sid, safe='')}/{path}"
        return await self.line.get(url, user=self.key, password=self.token, query=query)

    def _facts(self, call: dict[str, JsonValue], status: str) -> dict[str, str]:
        found = {
            "status": status,
            "started_at": self._time(text_of(call, "StartTime")),
            # It fills this in some minutes after the end: until then there is none.
            "ended_at": self._time(text_of(call, "EndTime")),
            "provider_duration_seconds": text_of(call, "Duration"),
            "direction": text_of(call, "Direction"),
            "from_number": text_of(call, "From"),
            "to_number": text_of(call, "To"),
            "parent_call_sid": text_of(call, "ParentCallSid"),
            "recording_url": text_of(call, "RecordingUrl"),
        }
        return {name: value for name, value in found.items() if value}

    def _time(self, text: str) -> str:
        try:
            return parse_time(text, self.zone).isoformat() if text else ""
        except ValueError:
            return ""
