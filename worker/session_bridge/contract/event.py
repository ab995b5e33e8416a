"""Events in memory: one class a family, its columns in their order, which msgspec can fill from JSON.

msgspec reads an event several times faster than pydantic validates it. It decides nothing: it reads only events as most
writers write them, known fields only, each of its own type. What it declines, for whatever reason, is for the models to
judge, and what it takes, they would have taken just so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Required, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from annotated_types import Ge, Lt
from pydantic import StringConstraints
from pydantic.fields import FieldInfo

# What the JSON names of our own fields begin with; drawn anew in each process, so that no writer can name them.
_OURS = os.urandom(8).hex()


class Columns(msgspec.Struct):
    """Something with the columns of a table as its attributes, in their order."""

    if TYPE_CHECKING:
        # The classes are made from the models; what a column holds is written there.
        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401
        def __setattr__(self, name: str, value: object) -> None: ...
        def __init__(self, **columns: object) -> None: ...


class Event(Columns, kw_only=True, gc=False):
    """One event: its id in its family, when it happened if that is known, and its fields by column name.

    `timestamp` is in the form of `contract.times.canonical_time`, which sorts as time does; `extra` has the fields that
    no column has, as JSON text. In an event that was only just decoded, times and JSON are still as they came.
    """

    event_id: str = msgspec.field(default="", name=f"{_OURS}event_id")
    timestamp: str | None = None

    if TYPE_CHECKING:

        def __init__(self, **columns: object) -> None: ...


_Columns = TypeVar("_Columns", bound=Columns)

NOT_PLAIN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for an event that the model has to look at."""


def class_of(model: type[Any], columns: Sequence[str], computed: Sequence[str], base: type[_Columns]) -> type[_Columns]:
    """The subclass of `base` for what the TypedDict `model` describes.

    Its own fields are `columns`, then the `computed` ones, which no JSON sets, and then what else the model has.
    """
    hints = get_type_hints(model, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, None]] = []
    for name in columns:
        required = get_origin(hints[name]) is Required
        kind = plain_type(get_args(hints[name])[0] if required else hints[name])
        fields.append((name, kind) if required else (name, kind, None))
    fields += [(name, str | float | None, None) for name in computed]
    others = [name for name in hints if name not in columns and name not in base.__struct_fields__]
    fields += [(name, plain_type(hints[name]), None) for name in others]
    if "timestamp" in hints:
        fields.append(("timestamp", plain_type(hints["timestamp"]), None))
    made = msgspec.defstruct(
        model.__name__,
        fields,
        bases=(base,),
        rename={name: f"{_OURS}{name}" for name in computed},
        forbid_unknown_fields=True,
        kw_only=True,
        gc=False,
    )
    return cast("type[_Columns]", made)


_parts: dict[type[Any], type[Columns]] = {}


def part_class(model: type[Any], columns: Sequence[str], computed: Sequence[str]) -> type[Columns]:
    """The class for parts of events that the TypedDict `model` describes, also where another model mentions it."""
    _parts[model] = class_of(model, columns, computed, Columns)
    return _parts[model]


def plain_type(annotation: Any) -> Any:  # noqa: ANN401  # types are values here
    """What msgspec calls the type that pydantic calls `annotation`, or a narrower one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__required_keys__"):
        return _parts[annotation]
    if origin is Annotated:
        return Annotated[arguments[0], msgspec.Meta(**limits)] if (limits := _limits(arguments[1])) else arguments[0]
    if origin in (Union, UnionType):
        return Union[tuple(map(plain_type, arguments))]  # noqa: UP007  # made from a tuple
    if origin is list:
        return list[plain_type(arguments[0])]  # type: ignore[misc]  # a type made at run time
    return Any if getattr(annotation, "__name__", "") == "JsonValue" else annotation


def _limits(info: object) -> Mapping[str, Any]:
    if isinstance(info, StringConstraints):
        return {"min_length": info.min_length, "max_length": info.max_length}
    limits: dict[str, Any] = {}
    if isinstance(info, FieldInfo):
        for limit in info.metadata:
            if isinstance(limit, Ge):
                limits["ge"] = limit.ge
            elif isinstance(limit, Lt):
                limits["le"] = limit.lt - 1  # type: ignore[operator]  # whole numbers
    return limits
