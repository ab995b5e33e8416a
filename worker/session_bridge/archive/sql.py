"""The named statements of the `.sql` files beside this: what the worker asks, and what people ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


_FILES = ("queries.sql", "search.sql", "reports.sql")


def _load() -> Mapping[str, bytes]:
    named: dict[str, str] = {}
    for file in _FILES:
        _, *parts = _HEADING.split(resources.files(__package__ or "").joinpath(file).read_text())
        named |= dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: body.strip().rstrip(";").encode() for name, body in named.items()}


QUERIES: Mapping[str, bytes] = _load()
"""By name; each takes its parameters by name."""
