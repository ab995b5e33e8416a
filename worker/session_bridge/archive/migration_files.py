"""The files a migration is kept in: `schema/NNNN_name.up.sql`, and `NNNN_name.down.sql` for the way back."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from session_bridge.errors import SchemaError

_FILE_NAME = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)\.(?P<direction>up|down)\.sql")
_CREATES = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:UNLOGGED )?(?:TABLE|(?:MATERIALIZED )?VIEW|(?:UNIQUE )?INDEX|FUNCTION|PROCEDURE)"
    r" (?:IF NOT EXISTS )?(?P<name>\w+)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Migration:
    """One numbered step of the schema, and its way back."""

    version: int
    name: str
    up: str = field(repr=False)
    down: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.version:04d}_{self.name}"

    @cached_property
    def checksum(self) -> str:
        """SHA-256, in hex, of the text that goes up."""
        return hashlib.sha256(self.up.encode()).hexdigest()

    @cached_property
    def creates(self) -> frozenset[str]:
        """The names of the tables, views, indexes and functions that it makes."""
        return frozenset(found["name"].lower() for found in _CREATES.finditer(self.up))


@cache
def load() -> tuple[Migration, ...]:
    """Every migration that this version of the package knows, in order.

    Raises:
        SchemaError: A file lacks its pair, or a number is missing or taken twice; the installation is broken.
    """
    return read_folder(_folder())


def read_folder(folder: Traversable) -> tuple[Migration, ...]:
    """The migrations in a folder, in order; other files are not looked at.

    Raises:
        SchemaError: A file lacks its pair, or a number is missing or taken twice.
    """
    texts: dict[tuple[int, str], dict[str, str]] = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        if found := _FILE_NAME.fullmatch(file.name):
            # Text mode makes "\r\n" a "\n", so that a checkout on Windows has the digest of every other.
            text = file.read_text(encoding="utf-8")
            texts.setdefault((int(found["version"]), found["name"]), {})[found["direction"]] = text
    migrations = []
    for (version, name), pair in sorted(texts.items()):
        for direction in ("up", "down"):
            if direction not in pair:
                raise SchemaError(
                    f"migration {version:04d}_{name} has no {direction} file: "
                    f"add {version:04d}_{name}.{direction}.sql, or install call-session-bridge again"
                )
        migrations.append(Migration(version, name, pair["up"], pair["down"]))
    if [migration.version for migration in migrations] != list(range(1, len(migrations) + 1)) or not migrations:
        found_numbers = ", ".join(map(str, migrations)) or "none"
        raise SchemaError(
            f"the migrations must be numbered 0001, 0002, … without a gap, but there are: {found_numbers}; "
            "install call-session-bridge again"
        )
    return tuple(migrations)


def _folder() -> Traversable:
    packaged = resources.files("session_bridge").joinpath("_schema")
    # An editable installation has no copy: there the files are at the top of the checkout.
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "schema"
