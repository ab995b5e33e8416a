"""A real PostgreSQL and a real Valkey on this machine, for development, demonstrations and tests.

The programs come from wheels (the `[embedded]` extra) or from the system. The servers listen on 127.0.0.1 alone, ask
for no password, and end with the process that started them, however it ends. They are not for production: whoever can
open a connection on this machine is their superuser.
"""

from session_bridge.embedded.errors import DataFolderInUseError, EmbeddedServerError
from session_bridge.embedded.pair import EmbeddedServers
from session_bridge.embedded.postgres import EmbeddedPostgres
from session_bridge.embedded.valkey import EmbeddedValkey

__all__ = [
    "DataFolderInUseError",
    "EmbeddedPostgres",
    "EmbeddedServerError",
    "EmbeddedServers",
    "EmbeddedValkey",
]
