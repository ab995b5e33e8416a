"""What the migrations make, as far as its name and kind go: what an archive must have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from session_bridge.archive.migration_files import load

_MADE = re.compile(
    r"^(?P<verb>CREATE|DROP) (?:OR REPLACE |UNLOGGED |UNIQUE )*"
    r"(?P<kind>TABLE|MATERIALIZED VIEW|VIEW|INDEX|FUNCTION|TRIGGER) (?:IF (?:NOT )?EXISTS )?(?P<name>\w+)",
    re.MULTILINE,
)
_BOOK = "session_bridge_migrations"
_PLACE_KEPT = re.compile(r"^(?!--|\s*$)", re.MULTILINE)


@cache
def expected() -> Mapping[str, frozenset[str]]:
    """The names of what the migrations make and leave, by kind: `TABLE`, `VIEW`, `INDEX` and so on."""
    made: dict[str, str] = {_BOOK: "TABLE"}
    triggers: set[str] = set()
    for migration in load():
        for found in _MADE.finditer(migration.up):
            if found["kind"] == "TRIGGER":
                # It may have the name of its function.
                (triggers.add if found["verb"] == "CREATE" else triggers.discard)(found["name"])
            elif found["verb"] == "CREATE":
                made[found["name"]] = found["kind"]
            else:
                made.pop(found["name"], None)
    kinds = ("TABLE", "MATERIALIZED VIEW", "VIEW", "INDEX", "FUNCTION")
    names = {kind: frozenset(name for name, its_kind in made.items() if its_kind == kind) for kind in kinds}
    return names | {"TRIGGER": frozenset(triggers)}


@cache
def does_something(version: int) -> bool:
    """Whether a migration is more than a place that is kept for one."""
    return any(one.version == version and _PLACE_KEPT.search(one.up) for one in load())
