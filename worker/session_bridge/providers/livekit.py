"""LiveKit: the room service's list of rooms (https://docs.livekit.io/reference/other/roomservice-api/).

Its API is one POST of JSON, signed by a JWT of HMAC-SHA256 (RFC 7519): too little to bring in the vendor's client,
which comes with aiohttp and protobuf.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field

from pydantic import JsonValue

from session_bridge.providers.answer import Answer, Line, Question, Reply, Word, text_of, unknown

# A list without the room proves little: a node that lost its store, or another node behind the same address, lists
# nothing while calls go on. One that says so for this long leaves a silent call with nobody to vouch for it.
_ABSENCE_SECONDS = 300.0
_TOKEN_SECONDS = 60
_OK = 200
_ROOM_SID = "RM_"
_NOBODYS_ROOM = "session-bridge-doctor"
_SCHEMES = {"wss://": "https://", "ws://": "http://"}


@dataclass(frozen=True, slots=True)
class LiveKit:
    """Asks a LiveKit server, in the cloud or one's own.

    A room that is listed lives. One whose name now stands for a room of another SID has ended. One that is not listed
    is unknown: LiveKit keeps no record of rooms that are over.
    """

    line: Line
    url: str
    key: str
    secret: str = field(repr=False)
    name: str = "livekit"

    def can_ask(self, question: Question) -> bool:
        """A room is found by its name, or by its SID among all rooms; a job only by its room's name."""
        return bool(question.room_name) or question.call_sid.startswith(_ROOM_SID)

    async def ask(self, question: Question) -> Answer:
        """Whether the call's room lives."""
        found = await self._rooms([question.room_name] if question.room_name else [])
        if isinstance(found, Answer):
            return found
        by_sid = question.call_sid.startswith(_ROOM_SID)
        # Servers of old answer with other rooms than those that were asked for.
        rooms = [room for room in found if not question.room_name or text_of(room, "name") == question.room_name]
        if any(not by_sid or text_of(room, "sid") == question.call_sid for room in rooms):
            return Answer(Word.LIVE, "its room is listed")
        if question.room_name and any(text_of(room, "sid").startswith(_ROOM_SID) for room in rooms):
            return Answer(Word.ENDED, "its room's name stands for another room", {"status": "completed"})
        return unknown("its room is not listed", settles_after=_ABSENCE_SECONDS)

    async def try_credentials(self) -> Answer:
        """A list of rooms by a name that none has."""
        found = await self._rooms([_NOBODYS_ROOM])
        return found if isinstance(found, Answer) else Answer(Word.LIVE)

    async def _rooms(self, names: list[str]) -> list[dict[str, JsonValue]] | Answer:
        url = self.url.rstrip("/")
        for scheme, http in _SCHEMES.items():
            if url.startswith(scheme):
                url = http + url.removeprefix(scheme)
        body: dict[str, JsonValue] = {"names": [*names]} if names else {}
        url = f"{url}/twirp/livekit.RoomService/ListRooms"
        reply: Reply | Answer = await self.line.post(url, token=self._token(), body=body)
        if isinstance(reply, Answer):
            return reply
        rooms = reply.body.get("rooms")
        if reply.status != _OK or not isinstance(rooms, list):
            return unknown("it answered no list of rooms")
        found = [room for room in rooms if isinstance(room, dict)]
        return found if len(found) == len(rooms) else unknown("it answered no list of rooms")

    def _token(self) -> str:
        moment = int(time.time())
        claims = {
            "iss": self.key,
            "sub": "session-bridge",
            "nbf": moment - 10,
            "exp": moment + _TOKEN_SECONDS,
            "video": {"roomList": True},
        }
        signed = f"{_part({'alg': 'HS256', 'typ': 'JWT'})}.{_part(claims)}"
        digest = hmac.new(self.secret.encode(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{_base64(digest)}"


def _part(content: dict[str, object]) -> str:
    return _base64(json.dumps(content, separators=(",", ":")).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
