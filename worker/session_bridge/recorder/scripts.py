"""Lua scripts of a room, each one text with its digest."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script's text, and the digest by which a server that has loaded it knows it."""

    text: bytes
    digest: str

    @classmethod
    def load(cls, *names: str, package: str = __package__) -> Script:
        """The files `<name>.lua` of a package, one after the other; `times` is always this room's own."""
        parts = [files(__package__ if name == "times" else package).joinpath(f"{name}.lua") for name in names]
        text = b"\n".join(part.read_bytes() for part in parts)
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())
