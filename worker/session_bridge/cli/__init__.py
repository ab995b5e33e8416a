"""The command `session-bridge`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; says which extra to install where packages are missing."""
    try:
        from session_bridge.cli.app import app  # noqa: PLC0415  # the base installation has nothing to import here
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "session_bridge":
            raise
        command = " ".join(["session-bridge", *sys.argv[1:2]])
        extra = "webhooks" if sys.argv[1:2] == ["webhooks"] else "worker"
        sys.exit(f"`{command}` needs packages that are not installed: pip install 'call-session-bridge[{extra}]'")
    app(prog_name="session-bridge")
