"""Twilio: the call's own resource (https://www.twilio.com/docs/voice/api/call-resource)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from session_bridge.contract.times import parse_time
from session_bridge.providers.answer import Answer, Line, Question, Reply, Word, text_of, unknown

_CALL_SID, _ACCOUNT_SID = re.compile(r"CA[0-9a-fA-F]{32}"), re.compile(r"AC[0-9a-fA-F]{32}")
_LIVE = frozenset(("queued", "initiated", "ringing", "in-progress"))
_ENDED = frozenset(("completed", "busy", "failed", "no-answer", "canceled"))
_NOT_FOUND = 20404
_OK = 200


@dataclass(frozen=True, slots=True)
class Twilio:
    """Asks Twilio. `user` and `password` are the account's SID and token, or an API key and its secret.

    A 404 is not an end: Twilio answers so too for a call that lives in another of its regions or belongs to another
    account than the one asked. Only one that lasts for `not_found_seconds` counts as a call that nobody knows; the
    default is a day, the longest that a call can take there.
    """

    line: Line
    url: str
    account_sid: str
    user: str
    password: str = field(repr=False)
    not_found_seconds: float
    name: str = "twilio"

    def can_ask(self, question: Question) -> bool:
        """Twilio knows calls by CA and 32 hexadecimal digits."""
        return _CALL_SID.fullmatch(question.call_sid) is not None

    async def ask(self, question: Question) -> Answer:
        """Whether the call lives."""
        # A call of a subaccount is found under that account, by the main account's credentials too.
        account = question.account_sid if _ACCOUNT_SID.fullmatch(question.account_sid) else self.account_sid
        reply = await self._get(f"{account}/Calls/{question.call_sid}.json")
        if isinstance(reply, Answer):
            return reply
        if reply.status != _OK:
            # Any gateway on the way may say 404; Twilio itself says which of its errors it is.
            known = reply.body.get("code") == _NOT_FOUND
            return unknown("it does not know the call", settles_after=self.not_found_seconds if known else None)
        status = text_of(reply.body, "status")
        if text_of(reply.body, "sid") != question.call_sid:
            return unknown("it answered of another call")
        if status in _LIVE:
            return Answer(Word.LIVE, status)
        if status not in _ENDED:
            return unknown("it answered a status that is not known")
        return Answer(Word.ENDED, status, _facts(reply, status))

    async def try_credentials(self) -> Answer:
        """A list of one call: an API key may read calls, but not the account."""
        reply = await self._get(f"{self.account_sid}/Calls.json", {"PageSize": "1"})
        if isinstance(reply, Answer):
            return reply
        return Answer(Word.LIVE) if reply.status == _OK else Answer(Word.UNKNOWN, "it answered 404", refused=True)

    async def _get(self, path: str, query: dict[str, str] | None = None) -> Reply | Answer:
        url = f"{self.url.rstrip('/')}/2010-04-01/Accounts/{path}"
        return await self.line.get(url, user=self.user, password=self.password, query=query)


def _facts(reply: Reply, status: str) -> dict[str, str]:
    """What Twilio knows of a call that has ended; its times are RFC 2822, its duration whole seconds as text."""
    body = reply.body
    found = {
        "status": status,
        "started_at": _time(text_of(body, "start_time")),
        "ended_at": _time(text_of(body, "end_time")),
        "provider_duration_seconds": text_of(body, "duration"),
        "direction": text_of(body, "direction"),
        "from_number": text_of(body, "from"),
        "to_number": text_of(body, "to"),
        "account_sid": text_of(body, "account_sid"),
        "parent_call_sid": text_of(body, "parent_call_sid"),
    }
    return {name: value for name, value in found.items() if value}


def _time(text: str) -> str:
    try:
        return parse_time(parsedate_to_datetime(text).isoformat()).isoformat() if text else ""
    except ValueError:
        return ""
