"""What commands print: tables and words for people, JSON for programs, one clear line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from io import TextIOWrapper
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from session_bridge.errors import BridgeError, SettingsError

EXIT_ERROR, EXIT_USAGE = 1, 2

# What is told may hold anything, a SID in brackets for one, and has its style from Text.
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn our errors into one line on standard error and an exit status: 2 for settings, 1 for the rest."""
    try:
        yield
    except BridgeError as error:
        errors.print(Text.assemble(("session-bridge: ", "bold red"), " ".join(str(error).split())))
        sys.exit(EXIT_USAGE if isinstance(error, SettingsError) else EXIT_ERROR)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "session_bridge":
            raise
        errors.print(f"session-bridge: {error.name} is not installed: pip install 'call-session-bridge[worker]'")
        sys.exit(EXIT_ERROR)


def bear_any_text() -> None:
    """Print what standard output cannot encode as escapes: a call may speak any language, a terminal may not."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_json(value: object) -> None:
    """`value` as JSON, for programs; in ASCII where standard output is not in UTF-8."""
    narrow = sys.stdout.encoding.lower().replace("-", "") != "utf8"
    click.echo(json.dumps(value, default=_plain, ensure_ascii=narrow, indent=2))


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows as a table; numbers to the right."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[place], int | float | Decimal | None) for row in rows)
        # The first column is what one looks for, also by a program: it stays whole.
        table.add_column(
            column, justify="right" if numeric else "left", header_style="dim", overflow="fold", no_wrap=place == 0
        )
    for row in rows:
        table.add_row(*[Text("" if cell is None else _cell(cell)) for cell in row])
    console.print(table)


def _cell(cell: object) -> str:
    if isinstance(cell, datetime):
        return cell.isoformat(sep=" ", timespec="seconds")
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return str(cell)


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line; what is empty is left out."""
    shown = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        console.print(Text.assemble((name.ljust(width), "dim"), "  ", _cell(value)))
