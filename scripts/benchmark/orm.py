"""The ORM: SQLAlchemy, an object for every row, one `add_all` and one commit a call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import redis
from sqlalchemy import MetaData, Table, create_engine
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, registry
from typing_extensions import override

from benchmark.contender import Contender, Piece, piece
from benchmark.handmade import BOOK, CONTENTS, lines_of
from benchmark.lab import KEYS, Lab
from benchmark.readymade import expected_rows
from benchmark.workload import LiveCall
from session_bridge.archive.journal import JOURNAL
from session_bridge.archive.tables import CHILDREN, SESSIONS

_MAPPED = (BOOK, SESSIONS.name, *(table.name for table in CHILDREN), JOURNAL.name)
_WARM_UP = 5


@dataclass(slots=True)
class Orm(Contender):
    """One process, one session, one call after the other; the hash is read, taken apart, and deleted in the end."""

    @override
    def run(self, lab: Lab, calls: list[LiveCall]) -> Piece:
        engine = create_engine(lab.database_url.replace("postgresql://", "postgresql+psycopg://"))
        metadata, models = MetaData(), registry()
        try:
            tables = {name: Table(name, metadata, autoload_with=engine) for name in (*_MAPPED, CONTENTS)}
            classes = {name: _model(models, tables[name]) for name in _MAPPED}
            with Session(engine, expire_on_commit=False) as session:
                # The first statements of each form are compiled, and that is done once.
                lab.fill(calls[:_WARM_UP])
                _archive_all(calls[:_WARM_UP], lab.redis, session, classes, tables[CONTENTS])
                lab.empty_archive()
                lab.fill(calls)
                with piece(lab, len(calls), [os.getpid()]) as measured:
                    _archive_all(calls, lab.redis, session, classes, tables[CONTENTS])
        finally:
            models.dispose()
            engine.dispose()
        lab.require(expected_rows(calls), self.name)
        return measured


def _model(models: registry, table: Table) -> type:
    model = type(table.name, (), {})
    models.map_imperatively(model, table)
    return model


def _archive_all(
    calls: list[LiveCall], live: redis.Redis, session: Session, classes: Mapping[str, type], contents: Table
) -> None:
    for call in calls:
        _archive(call.call_sid, live, session, classes, contents)


def _archive(call_sid: str, live: redis.Redis, session: Session, classes: Mapping[str, type], contents: Table) -> None:
    key = KEYS.session(call_sid)
    lines = lines_of(call_sid, live.hgetall(key))  # type: ignore[arg-type]  # redis-py types it for both its clients
    session.add_all([classes[name](**line) for name in classes for line in lines.get(name, ())])
    if lines[CONTENTS]:
        session.execute(insert(contents).on_conflict_do_nothing(), lines[CONTENTS])
    session.commit()
    session.expunge_all()
    live.delete(key)
