"""Functions of the user's own, that a setting names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from session_bridge.errors import SettingsError


def load_function(variable: str, name: str) -> Callable[..., Any]:
    """The function that `name`, the `module:function` in the environment variable, is.

    Raises SettingsError if there is none.
    """
    module, colon, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function) if colon else None
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{variable}={name} cannot be imported ({error}); write module:function of something on the worker's path"
        ) from error
    if not callable(found):
        raise SettingsError(f"{variable}={name} names no function; write module:function")
    return found  # type: ignore[no-any-return]  # whoever names it vouches for its shape
