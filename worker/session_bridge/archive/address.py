"""The address of PostgreSQL, in either form that libpq takes."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict

from session_bridge.errors import SettingsError
from session_bridge.recorder.address import ESCAPES


def parameters_of(database_url: str) -> dict[str, str | int | None]:
    """What `database_url` says, by libpq's names. Raises SettingsError if it is no address."""
    try:
        parameters = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        parameters = {"port": "none"}
    ports = str(parameters.get("port") or "").split(",")
    if all(port.isdecimal() or not port for port in ports):
        return parameters
    # The driver's own words quote the address, and with it perhaps the password.
    raise SettingsError(
        "DATABASE_URL is not an address of PostgreSQL: write postgresql://user:password@host:5432/database; " + ESCAPES
    )
