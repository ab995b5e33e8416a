"""What Redis has acknowledged, written down by those to whom it did: the campaign's only truth."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from session_bridge.recorder import CallRecorder


class Witness:
    """A file of one recording process: a line for each acknowledgement, with the call and the fields it was about."""

    def __init__(self, path: Path) -> None:
        path.touch()
        told = list(_lines(path))
        over = {line["call_sid"] for line in told if line.get("is") == "over"}
        self.begun = {line["call_sid"] for line in told if line.get("is") == "begun"}
        """Calls that an earlier process of this file began."""
        self.broken = sorted(self.begun - over)
        """Those of them that it did not bring to their end: it was killed."""
        self._file = path.open("a", encoding="utf-8")
        if told:
            self._file.write("\n")
            for call_sid in self.broken:
                self.note(call_sid, "broken")

    def acknowledged(self, call_sid: str, fields: Mapping[str, str]) -> None:
        """Redis has these fields of a call, by name."""
        if fields:
            self._file.write(json.dumps({"call_sid": call_sid, "fields": dict(fields)}, ensure_ascii=False) + "\n")
            self._file.flush()

    def note(self, call_sid: str, what: str) -> None:
        """A call is "begun", "over", or "broken" by the end of its process."""
        self._file.write(json.dumps({"call_sid": call_sid, "is": what}) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_witnesses(folder: Path) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Every acknowledged field with its newest value, by call SID; and the calls whose process was killed.

    Of these more than was acknowledged may have come to Redis.
    """
    calls: dict[str, dict[str, str]] = {}
    broken = set()
    for path in sorted(folder.glob("*.jsonl")):
        for line in _lines(path):
            calls.setdefault(line["call_sid"], {}).update(line.get("fields", {}))
            if line.get("is") == "broken":
                broken.add(line["call_sid"])
    return calls, broken


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # The last line of a process that was killed may be half a line; nobody was told what it says.
            with contextlib.suppress(ValueError):
                yield json.loads(line)


class WitnessedRecorder(CallRecorder):
    """A recorder that notes what is recorded, and tells its witness once Redis has acknowledged it."""

    def __init__(self, call_sid: str, witness: Witness, **state: object) -> None:
        self._witness = witness
        self._noted: dict[str, str] = {}
        super().__init__(call_sid, **state)  # type: ignore[arg-type]  # only state fields are given here
        self._note(state)

    def set(self, **fields: object) -> None:
        """As the recorder does, and noted."""
        super().set(**fields)
        self._note(fields)

    def _add_event(self, name: str, value: bytes, at: str) -> None:
        super()._add_event(name, value, at)
        self._noted[name] = value.decode()

    async def acknowledge(self, patience: float) -> bool:
        """Wait until Redis has all that was recorded; False if that takes longer than `patience` seconds."""
        if not await self.flush(patience):
            return False
        self._witness.acknowledged(self.call_sid, self._noted)
        self._noted = {}
        return True

    def _note(self, fields: Mapping[str, object]) -> None:
        for name, value in fields.items():
            if value is not None:
                self._noted[name] = field_text(value)


def field_text(value: object) -> str:
    """A field of a live session as it is written there: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
