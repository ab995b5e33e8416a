"""Whether what people look up is found by an index, and how long it takes.

A plan that reads a large table as a whole is a FAIL: it grows with the archive. A time is not: it is the machine's as
much as the archive's, and so one that is over its bound is a note in the line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from psycopg import sql

from session_bridge.verify.checks import STATEMENTS, Answer, Check, Reading, Subject, failed, passed, skipped, some
from session_bridge.verify.expected import expected

_TIMES = 5
# A table of fewer rows is read as a whole, and rightly.
_SMALL_ROWS = 2_000
_COUNTED_DAYS = 7
_ANALYZE = "ANALYZE the archive's tables (autovacuum does, where it is on); if it stays so, see indexes"


@dataclass(slots=True)
class Plan:
    """What a statement read: relations, how many rows it went through in each, and indexes; and its milliseconds.

    A row that an index led to is not gone through: it was wanted.
    """

    relations: set[str] = field(default_factory=set)
    waded: dict[str, int] = field(default_factory=dict)
    indexes: set[str] = field(default_factory=set)
    milliseconds: float = 0.0

    def add(self, node: Mapping[str, Any]) -> None:
        """Add a node of PostgreSQL's own, and what is below it, if it was run."""
        loops = node.get("Actual Loops", 1)
        if loops:
            if relation := node.get("Relation Name"):
                self.relations.add(relation)
                # What was read for nothing; and of a table that is read as a whole, what was not.
                rows = node.get("Rows Removed by Filter", 0) * loops
                if node["Node Type"] == "Seq Scan":
                    rows += node.get("Actual Rows", 0) * loops
                self.waded[relation] = max(int(rows), self.waded.get(relation, 0))
            if index := node.get("Index Name"):
                self.indexes.add(index)
        for child in node.get("Plans", ()):
            self.add(child)


async def plan_of(archive: Reading, statement: sql.Composable, given: Mapping[str, object]) -> Plan:
    """Run a statement a few times; its plan, and the median of its times on the server."""
    explain = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) ") + statement
    times = []
    for _ in range(_TIMES):
        [[[document]]] = await (await archive.connection.execute(explain, given or None)).fetchall()
        times.append(document["Planning Time"] + document["Execution Time"])
    plan = Plan(milliseconds=median(times))
    plan.add(document["Plan"])
    return plan


def _statement(name: str) -> sql.SQL:
    return sql.SQL(STATEMENTS[name].decode())


def _judge(plan: Plan, bound: float) -> Answer:
    if large := sorted(name for name, rows in plan.waded.items() if rows > _SMALL_ROWS):
        return failed(f"no index leads through {some(large)}: most of it is read, {plan.milliseconds:.2g} ms", _ANALYZE)
    how = f"by {some(sorted(plan.indexes))}" if plan.indexes else "of a table so small that no index is needed"
    note = "" if plan.milliseconds <= bound else "; slower than that: look at the server's memory and disk"
    return passed(f"{plan.milliseconds:.2g} ms (bound {bound:g} ms), {how}{note}")


async def _user(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        a_call = await archive.ask("a_call")
        if not a_call or a_call[0][1] is None:
            return skipped("no call has a user")
        plan = await plan_of(archive, _statement("a_users_calls"), {"user": a_call[0][1]})
    return _judge(plan, 5)


async def _active(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        return _judge(await plan_of(archive, _statement("active_calls"), {}), 5)


async def _metadata(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        a_call = await archive.ask("a_call")
        if not a_call:
            return skipped("no call is archived")
        plan = await plan_of(archive, _statement("metadata_of_a_call"), {"sid": a_call[0][0]})
    partitions = sorted(name for name in plan.relations if name.startswith("call_sessions"))
    if len(partitions) > 1:
        return failed(f"one call is looked for in {len(partitions)} partitions", _ANALYZE)
    return _judge(plan, 10)


async def _vectors(subject: Subject) -> Answer:
    async with subject.snapshot() as archive:
        vectors = await archive.ask("a_vector")
        if not vectors:
            return skipped("no call is embedded: search by meaning is not in use")
        [[model, vector, dimension]] = vectors
        [[index, there, kind, distance]] = await archive.ask("vector_index", model=model, dimension=dimension)
        if kind is None:
            return skipped("this database has no pgvector")
        if not there:
            return failed(
                f"the index {index} of model {model} is missing",
                "start a worker with SESSION_BRIDGE_EMBEDDING, or SELECT prepare_semantic_search(MODEL, DIMENSION)",
            )
        asked = {"vector": vector, "model": model}
        nearest = _statement("nearest").format(
            model=sql.Literal(model),
            type=sql.SQL(kind),
            distance=sql.SQL(distance),
        )
        inner = await plan_of(archive, nearest, {"vector": vector})
        whole = await plan_of(archive, _statement("search_by_meaning"), asked)
    inner.milliseconds = whole.milliseconds
    return _judge(inner, 50)


async def _unused(subject: Subject) -> Answer:
    """Whether each secondary index is asked for by a query that ships, by its plan and not by how often it was used.

    How often tells nothing of a young archive. An index that is not of the migrations has no query that ships: it is
    judged by its use, once that was counted for long enough.
    """
    async with subject.snapshot() as archive:
        tables = sorted(expected()["TABLE"] | expected()["MATERIALIZED VIEW"])
        indexes = dict(await archive.ask("indexes", tables=tables))
        roots = dict(await archive.ask("roots"))
        [[days]] = await archive.ask("counted_for_days")
        await archive.connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        ours = sorted(set(indexes) & expected()["INDEX"])
        idle = [name for name in ours if not await _asked_for(archive, name, roots)]
    others = sorted(name for name in set(indexes) - expected()["INDEX"] if not name.startswith("call_embeddings_"))
    unused = [name for name in others if not indexes[name] and float(days) >= _COUNTED_DAYS]
    if idle or unused:
        return failed(
            f"no query uses {some(idle + unused)}",
            "DROP INDEX it: every call pays for writing it; one that is of use needs its query in index_uses.sql",
        )
    more = f"; {some(others)} not of ours" if others else ""
    return passed(f"each of {len(ours)} is asked for by a query that ships{more}")


async def _asked_for(archive: Reading, index: str, roots: Mapping[str, str]) -> bool:
    statement = f"asks_{index}"
    if statement not in STATEMENTS:
        return False
    explain = sql.SQL("EXPLAIN (FORMAT JSON) ") + _statement(statement)
    [[[document]]] = await (await archive.connection.execute(explain)).fetchall()
    plan = Plan()
    plan.add(document["Plan"])
    return index in {roots.get(name, name) for name in plan.indexes}


_Examine = Callable[[Subject], Awaitable[Answer]]
_LOOKUPS: tuple[tuple[str, str, _Examine], ...] = (
    ("schema.unused_indexes", "unused indexes", _unused),
    ("lookups.user", "a user's last calls", _user),
    ("lookups.active", "active calls", _active),
    ("lookups.metadata", "a call's metadata", _metadata),
    ("lookups.vectors", "search by meaning", _vectors),
)
LOOKUP_CHECKS = tuple(Check(name, title, examine) for name, title, examine in _LOOKUPS)
"""In the order in which they are shown."""
