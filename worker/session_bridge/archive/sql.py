"""The named statements of the `.sql` files beside this: what the worker asks, and what people ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def _load() -> Mapping[str, bytes]:
    queries: dict[str, bytes] = {}
    for file in resources.files(__package__ or "").iterdir():
        if file.name.endswith(".sql"):
            _, *parts = _HEADING.split(file.read_text())
            queries |= {
                name: body.strip().rstrip(";").encode() for name, body in zip(parts[::2], parts[1::2], strict=True)
            }
    return queries


QUERIES: Mapping[str, bytes] = _load()
"""By name; each takes its parameters by name."""
