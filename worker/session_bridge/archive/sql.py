"""The named statements of `queries.sql`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _load() -> Mapping[str, bytes]:
    text = resources.files(__package__ or "").joinpath("queries.sql").read_text()
    _, *parts = _HEADING.split(text)
    return {name: body.strip().rstrip(";").encode() for name, body in zip(parts[::2], parts[1::2], strict=True)}


QUERIES: Mapping[str, bytes] = _load()
"""By name; each takes its parameters by name."""
