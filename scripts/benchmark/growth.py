"""Growth: throughput into an empty archive and into one with what months leave in it, in turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

from benchmark.contender import stopwatch
from benchmark.lab import Lab
from benchmark.limit import send
from benchmark.plan import Plan, Steps
from benchmark.readymade import make_ready
from benchmark.report import Result, Sheet, Spread
from benchmark.team import Team
from benchmark.workload import SIZES, Workload
from session_bridge.archive.tables import CHILDREN, SESSIONS

_SEED_CALLS = 100
_LOOK_UPS = 200
_COPIES_AT_ONCE = 5
_KEYS_OF_CALLS = {"call_sids": "session_id", SESSIONS.name: "id"} | {table.name: "session_id" for table in CHILDREN}
_LOOK_UP = "SELECT content FROM call_messages WHERE session_id = session_id_of(%s) ORDER BY sequence"


@dataclass(slots=True)
class Measured:
    """The figures with one amount of rows in the archive."""

    message_rows: int
    limit: list[float] = field(default_factory=list)
    bridge: list[float] = field(default_factory=list)
    look_up_ms: list[float] = field(default_factory=list)


def measure(lab: Lab, plan: Plan, steps: Steps) -> Result:
    """Throughput and look-ups, in an archive that is emptied before each round and in one that has grown."""
    rounds, count = 1 if plan.quick else plan.rounds, plan.pick(100, 1000)
    workload = Workload(SIZES["regular"], count)
    steps.expect(2 + rounds)
    lab.empty()
    with lab.beside("grown") as grown, Team(lab, 1, plan.settings) as first, Team(grown, 1, plan.settings) as second:
        for team in (first, second):
            team.warm_up(workload.calls("warm", min(100, count)))
        steps.begin("growth: filling the archive")
        _grow(grown, workload, plan.message_rows)
        steps.done()
        both = [(lab, Measured(0)), (grown, Measured(grown.counts()["call_messages"]))]
        # The first round is not counted: after a checkpoint every page that is touched is written to the WAL whole, and
        # the larger an archive is, the more there are.
        lab.settle()
        for number in range(rounds + 1):
            steps.begin(f"growth: round {number}" if number else "growth: warming up")
            lab.empty_archive()
            for archive, measured in both if number % 2 else reversed(both):
                counted = measured if number else Measured(0)
                _measure(archive, counted, workload, plan.settings.batch_size, f"round{number}")
            steps.done()
    return _result([measured for _, measured in both])


def _measure(lab: Lab, measured: Measured, workload: Workload, batch_size: int, label: str) -> None:
    calls = workload.calls(f"{label}-bridge")
    lab.fill(calls)
    with stopwatch() as bridge:
        lab.ask(calls)
        lab.wait_drained()
    # The chunk texts are there by now; that is so for both.
    batches = make_ready(workload.calls(f"{label}-limit"), batch_size, with_contents=False).batches
    with lab.connect() as connection:
        with stopwatch() as limit:
            send(connection, batches)
        for call in calls[:_LOOK_UPS]:
            with stopwatch() as look_up:
                connection.execute(_LOOK_UP, [call.call_sid]).fetchall()
            measured.look_up_ms.append(look_up.seconds * 1000)
    measured.bridge.append(len(calls) / bridge.seconds)
    measured.limit.append(len(calls) / limit.seconds)


def _grow(lab: Lab, workload: Workload, message_rows: int) -> None:
    """Copy a hundred calls within the server, under new ids, until there are so many messages, and clear up."""
    with lab.connect() as connection:
        calls = workload.calls("seed", _SEED_CALLS)
        send(connection, make_ready(calls, _SEED_CALLS, with_contents=False).batches)
        connection.execute(
            "CREATE TEMP TABLE seeds AS SELECT session_id FROM call_sids WHERE call_sid = ANY(%s)",
            [[call.call_sid for call in calls]],
        )
        connection.execute("CREATE TEMP TABLE copies (old uuid NOT NULL, new uuid NOT NULL, number int NOT NULL)")
        # Taken out of the tables once: those grow.
        inserts = {name: _insert_of_seeds(connection, name, key) for name, key in _KEYS_OF_CALLS.items()}
        grown, number = 0, 0
        while grown < message_rows:
            with connection.transaction():
                connection.execute("TRUNCATE copies")
                connection.execute(
                    "INSERT INTO copies SELECT session_id, uuidv7(), number "
                    "FROM seeds, generate_series(%s::int, %s::int) AS number",
                    [number, number + _COPIES_AT_ONCE - 1],
                )
                for name, insert in inserts.items():
                    rows = connection.execute(insert).rowcount
                    if name == "call_messages":
                        grown += rows
            number += _COPIES_AT_ONCE
        # As autovacuum leaves it; else it would come in the middle of what is measured.
        connection.execute("VACUUM (ANALYZE)")


def _insert_of_seeds(connection: psycopg.Connection[Any], table: str, key: str) -> sql.Composed:
    """Keep a table's rows of the seeds aside, and return what inserts them for each of the `copies`."""
    of, seeds = sql.Identifier(table), sql.Identifier(f"seeds_of_{table}")
    connection.execute(
        sql.SQL("CREATE TEMP TABLE {} AS SELECT {of}.* FROM {of} JOIN seeds ON {of}.{} = seeds.session_id").format(
            seeds, sql.Identifier(key), of=of
        )
    )
    described = connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(of)).description
    columns = [column.name for column in described or ()]
    values: dict[str, sql.Composable] = {key: sql.SQL("copies.new")}
    values["call_sid"] = sql.SQL("call_sid || '-' || copies.number")
    return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {seeds} JOIN copies ON {seeds}.{} = copies.old").format(
        of,
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(values.get(column) or sql.Identifier(column) for column in columns),
        sql.Identifier(key),
        seeds=seeds,
    )


def _result(measured: list[Measured]) -> Result:
    sheet = Sheet(
        "Growth",
        (
            *("message rows in the archive", "of the empty one", "the limit"),
            *("bridge calls/s", "limit calls/s", "look-up of a call, ms"),
        ),
    )
    figures = []
    empty = measured[0]
    for one in measured:
        # Each ratio within its round, where both met the same noise.
        bridge_ratio, limit_ratio = _ratio(one.bridge, empty.bridge), _ratio(one.limit, empty.limit)
        bridge, limit, look_up = Spread.of(one.bridge), Spread.of(one.limit), median(one.look_up_ms)
        figures.append(
            {
                "message_rows": one.message_rows,
                "ratio_to_empty": bridge_ratio.figures(),
                "limit_ratio_to_empty": limit_ratio.figures(),
                "bridge_calls_per_second": bridge.figures(),
                "limit_calls_per_second": limit.figures(),
                "look_up_ms": look_up,
            }
        )
        ratios = f"{bridge_ratio:.2f}", f"{limit_ratio:.2f}"
        sheet.lines.append((f"{one.message_rows:,}", *ratios, f"{bridge:.0f}", f"{limit:.0f}", f"{look_up:.2f}"))
    return Result({}, {"archives": figures}, [sheet])


def _ratio(these: list[float], those: list[float]) -> Spread:
    return Spread.of([this / that for this, that in zip(these, those, strict=True)])
