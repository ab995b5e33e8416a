"""The named statements of the `.sql` files beside this: what the worker asks, and what people ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

_HEADING = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(package: str) -> Mapping[str, bytes]:
    """The named statements of the `.sql` files in a package."""
    queries: dict[str, bytes] = {}
    for file in resources.files(package).iterdir():
        if file.name.endswith(".sql"):
            _, *parts = _HEADING.split(file.read_text())
            queries |= {
                name: body.strip().rstrip(";").encode() for name, body in zip(parts[::2], parts[1::2], strict=True)
            }
    return queries


QUERIES: Mapping[str, bytes] = load(__package__ or "")
"""By name; each takes its parameters by name."""
