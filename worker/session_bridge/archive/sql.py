"""The named statements of the `.sql` files beside this module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _load(file: str) -> Mapping[str, bytes]:
    text = resources.files(__package__ or "").joinpath(file).read_text()
    _, *parts = _HEADING.split(text)
    return {name: body.strip().rstrip(";").encode() for name, body in zip(parts[::2], parts[1::2], strict=True)}


QUERIES: Mapping[str, bytes] = {**_load("queries.sql"), **_load("retention.sql")}
"""By name; each takes its parameters by name."""
