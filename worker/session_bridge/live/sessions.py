"""Live sessions under drain: claimed, read, and let go."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from session_bridge.contract.keys import Keys
from session_bridge.errors import RedactionError, RedisUnavailableError
from session_bridge.live.scripts import Argument, Call, Reply, Script, run, run_one
from session_bridge.live.snapshot import GIVEN_UP, WHOLE_BYTES, Claim, Claims, Queue, Release, Snapshot
from session_bridge.live.watch import Watch
from session_bridge.recorder.batch import is_away
from session_bridge.redaction import Redaction

_ALONE = Script.load("alone")
_CLAIM = Script.load("claim")
_RENEW = Script.load("renew")
_RELEASE = Script.load("release")
_RELEASE_FIELDS = Script.load("release_fields")
_SETTLE = Script.load("settle")

_FIELDS_AT_ONCE = 1000
# What the in-hand hash counts for a call that a worker had in hand alone, beside its claims.
ALONE_COUNTS = 1_000_000


@asynccontextmanager
async def redis_errors() -> AsyncIterator[None]:
    """Turn what the driver raises when Redis cannot serve into RedisUnavailableError, the cause kept."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError, asyncio.IncompleteReadError) as error:
        raise RedisUnavailableError(
            f"Redis does not answer ({first_line(error)}); check REDIS_URL and the server, the worker goes on trying"
        ) from error
    except ResponseError as error:
        if is_away(error):
            raise RedisUnavailableError(f"Redis cannot serve now: {first_line(error)}") from error
        raise


class LiveSessions:
    """The Redis side of a drain. Every method raises RedisUnavailableError when Redis cannot serve."""

    def __init__(self, redis: Redis, keys: Keys, *, max_field_bytes: int, redaction: Redaction | None = None) -> None:
        self._redis = redis
        self._keys = keys
        self._max_field_bytes = max_field_bytes
        self._redaction = redaction
        # While a lease is being prolonged its score is about to change: what compares it waits that long.
        self._scores = asyncio.Lock()
        self._watching: list[Redis] = []

    async def claim(self, queue: Queue, limit: int, lease_seconds: float) -> Claims:
        """Take up to `limit` due members of `queue`, of many no more than half, earliest first, for `lease_seconds`.

        Sessions that wait to be drained are put on hold by it: no TTL eats them from now on.
        """
        hold = "hold" if queue is Queue.READY else ""
        arguments: list[Argument] = [limit, int(lease_seconds * 1000), self._keys.prefix, hold]
        async with redis_errors():
            reply = await run_one(self._redis, _CLAIM, [self._queue(queue), self._keys.in_hand], arguments)
        score, next_due, *members = cast("list[Any]", reply)
        taken = [
            Claim(
                sid.decode("utf-8", "surrogateescape"),
                queue,
                score,
                times=int(times) % ALONE_COUNTS,
                # Nobody asked before 1970; a score like -inf says "at once", and is no time.
                due_ms=max(0.0, float(due)),
                was_alone=int(times) > ALONE_COUNTS,
                size_bytes=size,
            )
            for sid, times, due, size in zip(*[iter(members)] * 4, strict=True)
        ]
        return Claims(taken, int(next_due) / 1000 if next_due else None)

    async def note_alone(self, claim: Claim) -> bool:
        """Note that nothing else is in this worker's hands while it has `claim`; False if it is ours no more."""
        arguments: list[Argument] = [self._sid(claim), claim.score, ALONE_COUNTS]
        async with self._scores, redis_errors():
            keys: list[str | bytes] = [self._queue(claim.queue), self._keys.in_hand]
            return bool(await run_one(self._redis, _ALONE, keys, arguments))

    async def renew(self, claims: Sequence[Claim], lease_seconds: float) -> None:
        """Prolong the leases that are still ours; the others keep a score that will match nothing."""
        by_queue: dict[Queue, list[Claim]] = {}
        for claim in claims:
            by_queue.setdefault(claim.queue, []).append(claim)
        for queue, held in by_queue.items():
            arguments: list[Argument] = [int(lease_seconds * 1000)]
            async with self._scores, redis_errors():
                for claim in held:
                    arguments += (self._sid(claim), claim.score)
                reply = await run_one(self._redis, _RENEW, [self._queue(queue)], arguments)
                score, *ours = cast("list[bytes | int]", reply)
                for claim, is_ours in zip(held, ours, strict=True):
                    if is_ours:
                        claim.score = cast("bytes", score)

    @asynccontextmanager
    async def reading(self, group: Sequence[Snapshot], *, outline: bool = False) -> AsyncIterator[None]:
        """Read the sessions of a group; until the block ends, those to be released are watched.

        A huge one is read piece by piece, so that Redis goes on serving beside it. With `outline`, one learns only what
        its fields are called and how large they are: it may be more than memory holds. All are in `oversize` then, and
        read when they are written down.
        """
        # A client is kept for the next watch: it takes longer to make one than to claim a call.
        client = self._watching.pop() if self._watching else self._redis.client()
        watch = Watch(client)
        try:
            async with redis_errors():
                for snapshot in group:
                    if snapshot.huge:
                        await self._read_pieces(snapshot, outline=outline)
                if whole := [snapshot for snapshot in group if snapshot.claim.size_bytes and not snapshot.huge]:
                    await self._read_whole(whole, watch)
            if self._redaction is not None:
                for snapshot in group:
                    if snapshot.huge:
                        await asyncio.to_thread(_redact, self._redaction, snapshot)
                    else:
                        _redact(self._redaction, snapshot)
            yield
        finally:
            await watch.close()
            self._watching.append(client)

    async def _read_whole(self, snapshots: Sequence[Snapshot], watch: Watch) -> None:
        keys = [self._key(snapshot.claim) for snapshot in snapshots]
        to_release = [key for key, one in zip(keys, snapshots, strict=True) if one.claim.queue is Queue.READY]
        for snapshot, reply in zip(snapshots, await watch.read(keys, to_release), strict=True):
            if isinstance(reply, RedisError):
                await self._note_wrong_type(snapshot, reply)
                continue
            snapshot.fields = reply
            snapshot.watch = watch
            if max(map(len, reply.values()), default=0) > self._max_field_bytes:
                snapshot.whole = False
                for name, value in list(reply.items()):
                    if len(value) > self._max_field_bytes:
                        snapshot.oversize[name] = len(value)
                        del snapshot.fields[name]

    async def _read_pieces(self, snapshot: Snapshot, *, outline: bool) -> None:
        key = self._key(snapshot.claim)
        snapshot.whole = False
        try:
            names = cast("list[bytes]", await self._redis.execute_command("HKEYS", key))
        except ResponseError as error:
            await self._note_wrong_type(snapshot, error)
            return
        for start in range(0, len(names), _FIELDS_AT_ONCE):
            piece = names[start : start + _FIELDS_AT_ONCE]
            pipeline = self._redis.pipeline(transaction=False)
            for name in piece:
                pipeline.execute_command("HSTRLEN", key, name)
            lengths = await pipeline.execute()
            fitting = []
            for name, length in zip(piece, lengths, strict=True):
                if outline or length > self._max_field_bytes:
                    snapshot.oversize[name] = length
                else:
                    fitting.append((name, length))
            for group in _groups(fitting):
                values = cast("list[bytes | None]", await self._redis.execute_command("HMGET", key, *group))
                snapshot.fields.update(
                    (name, value) for name, value in zip(group, values, strict=True) if value is not None
                )

    async def _note_wrong_type(self, snapshot: Snapshot, error: RedisError) -> None:
        if not str(error).startswith("WRONGTYPE"):
            raise error
        snapshot.wrong_type = (await self._redis.type(self._key(snapshot.claim))).decode()

    async def oversize_field(self, snapshot: Snapshot, name: bytes) -> bytes:
        """The value of one field larger than the limit, as it is now; what is returned is what will be compared."""
        [value] = await self.oversize_fields(snapshot, [name])
        return value

    async def oversize_fields(self, snapshot: Snapshot, names: Sequence[bytes]) -> list[bytes]:
        """The values of several such fields, one for each name."""
        async with redis_errors():
            read = await self._redis.execute_command("HMGET", self._key(snapshot.claim), *names)
        values = [value or b"" for value in cast("list[bytes | None]", read)]
        for name, value in zip(names, values, strict=True):
            snapshot.oversize_digests[name] = hashlib.sha1(value, usedforsecurity=False).hexdigest()
        if self._redaction is None:
            return values
        try:
            return [
                await asyncio.to_thread(self._redaction.value, name, value)
                for name, value in zip(names, values, strict=True)
            ]
        except Exception as error:  # noqa: BLE001  # it may be the user's own function
            raise RedactionError(f"a redactor failed with {type(error).__name__}: mend it, the call waits") from None

    async def release(self, snapshots: Sequence[Snapshot]) -> list[Release]:
        """Let go what was read and is now in the archive; what was written meanwhile stays, and is due again."""
        outcomes: dict[str, Release] = {}
        slow = [snapshot for snapshot in snapshots if not snapshot.whole]
        if whole := [snapshot for snapshot in snapshots if snapshot.whole]:
            replies: Sequence[Reply | RedisError] | None
            async with self._scores, redis_errors():
                replies = await self._release_watched(whole)
                if replies is None:
                    replies = await self._release_compared(whole)
            for snapshot, reply in zip(whole, replies, strict=True):
                word = _word(reply)
                if word == "changed":
                    slow.append(snapshot)
                else:
                    outcomes[snapshot.claim.call_sid] = Release(word)
        for snapshot in slow:
            outcomes[snapshot.claim.call_sid] = await self._release_fields(snapshot)
        return [outcomes[snapshot.claim.call_sid] for snapshot in snapshots]

    async def _release_watched(self, snapshots: Sequence[Snapshot]) -> Sequence[Reply] | None:
        """Let all go if none was touched since it was read; None, and none is let go, if that cannot be vouched for."""
        watch = snapshots[0].watch
        if watch is None or any(snapshot.watch is not watch for snapshot in snapshots):
            return None
        return await watch.run([self._release_call(snapshot.claim, b"", "") for snapshot in snapshots])

    async def _release_compared(self, snapshots: Sequence[Snapshot]) -> Sequence[Reply | RedisError]:
        """Let each go that holds what was read."""
        separator = os.urandom(16)
        calls = []
        for snapshot in snapshots:
            read = separator.join(chain.from_iterable(snapshot.as_read.items()))
            digest = hashlib.sha1(read, usedforsecurity=False).hexdigest()
            calls.append(self._release_call(snapshot.claim, separator, digest))
        return await run(self._redis, calls)

    def _release_call(self, claim: Claim, separator: bytes, digest: str) -> Call:
        return Call(_RELEASE, self._claim_keys(claim), [self._sid(claim), claim.score, separator, digest])

    async def _release_fields(self, snapshot: Snapshot) -> Release:
        claim = snapshot.claim
        keys: list[str | bytes] = [self._key(claim), self._keys.ready]
        for piece in _pieces(snapshot):
            async with self._scores, redis_errors():
                word = _word(await run_one(self._redis, _RELEASE_FIELDS, keys, [self._sid(claim), claim.score, *piece]))
            if word != "released":
                return Release(word)
        # What is left was written within the last moments: a second's pause lets a burst of it arrive together.
        word = await self.settle(claim, "empty", delay_seconds=1)
        return Release.RELEASED if word == "settled" else Release(word)

    async def settle(self, claim: Claim, how: str, *, delay_seconds: float = 0) -> str:
        """End a claim as `settle.lua` describes, and return its word for what happened."""
        keys = self._claim_keys(claim)
        async with self._scores, redis_errors():
            arguments: list[Argument] = [self._sid(claim), claim.score, int(delay_seconds * 1000), how]
            return _word(await run_one(self._redis, _SETTLE, keys, arguments))

    async def request_checkpoints(self, call_sids: Sequence[str]) -> None:
        """Ask for checkpoints of these calls at once; one that is asked for already stays as it is."""
        async with redis_errors():
            await self._redis.zadd(self._keys.checkpoints, dict.fromkeys(call_sids, 0), nx=True)

    async def count_attempt(self, call_sid: str) -> int:
        """Count one drain that failed by its data, and return how many there were."""
        async with redis_errors():
            return int(await self._redis.execute_command("HINCRBY", self._keys.attempts, call_sid, 1))

    async def forget_attempts(self, call_sid: str) -> None:
        """Begin the count of attempts anew."""
        async with redis_errors():
            await self._redis.execute_command("HDEL", self._keys.attempts, call_sid)
            await self._redis.execute_command("HDEL", self._keys.in_hand, call_sid)

    def _key(self, claim: Claim) -> bytes:
        # surrogateescape, as in claim(): a SID that is not UTF-8 must still lead back to its own key.
        return self._keys.session(claim.call_sid).encode("utf-8", "surrogateescape")

    def _claim_keys(self, claim: Claim) -> list[str | bytes]:
        asked = self._keys.asked(claim.call_sid).encode("utf-8", "surrogateescape")
        return [self._key(claim), self._queue(claim.queue), self._keys.in_hand, self._keys.attempts, asked]

    def _sid(self, claim: Claim) -> bytes:
        return claim.call_sid.encode("utf-8", "surrogateescape")

    def _queue(self, queue: Queue) -> str:
        return self._keys.ready if queue is Queue.READY else self._keys.checkpoints


def _redact(redaction: Redaction, snapshot: Snapshot) -> None:
    try:
        redacted = redaction.fields(snapshot.fields)
    except Exception as error:  # noqa: BLE001  # it may be the user's own function
        snapshot.withheld = type(error).__name__
        return
    if redacted is not snapshot.fields:
        snapshot.raw, snapshot.fields = snapshot.fields, redacted


def _groups(fields: Iterable[tuple[bytes, int]]) -> Iterator[list[bytes]]:
    """Names in groups whose values together stay near WHOLE_BYTES."""
    group: list[bytes] = []
    total = 0
    for name, length in fields:
        if group and total + length > WHOLE_BYTES:
            yield group
            group, total = [], 0
        group.append(name)
        total += length
    if group:
        yield group


def _pieces(snapshot: Snapshot) -> Iterator[list[Argument]]:
    """The fields to be let go as arguments of release_fields.lua, in pieces that hold Redis only briefly."""
    piece: list[Argument] = []
    total = 0
    # Why a silent call was given up stays until nothing else is left: what was written meanwhile may show its life.
    reason = GIVEN_UP if snapshot.given_up else {}
    for name, value in snapshot.as_read.items():
        if name in reason:
            continue
        piece += (name, b"=", value)
        total += len(value)
        if total > WHOLE_BYTES or len(piece) >= 3 * _FIELDS_AT_ONCE:
            yield piece
            piece, total = [], 0
    for name, length in snapshot.oversize.items():
        # One whose value nobody asked for is working state, which goes without having been read.
        digest = snapshot.oversize_digests.get(name)
        piece += (name, b"#", digest) if digest else (name, b"~", length)
        if len(piece) >= 3 * _FIELDS_AT_ONCE:
            yield piece
            piece = []
    yield piece


def _word(reply: Reply | RedisError) -> str:
    if isinstance(reply, RedisError):
        raise reply
    return cast("bytes", reply).decode()


def first_line(error: BaseException) -> str:
    """What an error says first, or at least what it is."""
    return (str(error) or type(error).__name__).splitlines()[0]
