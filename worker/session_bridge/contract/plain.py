"""Events as most writers write them: known fields only, each of its own type.

msgspec reads such an event several times faster than pydantic validates it. It decides nothing: what it declines, for
whatever reason, is for the models to judge, and what it takes, they would have taken just so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Required, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from annotated_types import Ge, Lt
from pydantic import StringConstraints
from pydantic.fields import FieldInfo


class Fields(msgspec.Struct):
    """The fields of one event, its columns first and in their order, with the ways of a dictionary."""

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  # a field has its own type
        return getattr(self, name)

    def __setitem__(self, name: str, value: object) -> None:
        setattr(self, name, value)

    def get(self, name: str) -> Any:  # noqa: ANN401  # a field has its own type
        """The field of this name, None if it has no value or there is none."""
        return getattr(self, name, None)


NOT_PLAIN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a plain decoder raises for an event that the model has to look at."""


def plain_decoder(model: type[Any], columns: tuple[str, ...]) -> Callable[[bytes], Fields]:
    """What reads plain events of the TypedDict `model`, its `columns` first, and raises NOT_PLAIN for all others.

    U+0000 it takes for text like any other: whoever calls it has looked for that.
    """
    return msgspec.json.Decoder(_struct_of(model, columns)).decode


def _struct_of(model: type[Any], columns: tuple[str, ...] = ()) -> type[Fields]:
    """A struct of the same fields as the TypedDict `model`, `columns` first."""
    hints = get_type_hints(model, include_extras=True)
    fields: list[tuple[str, Any] | tuple[str, Any, None]] = []
    for name in [*columns, *[name for name in hints if name not in columns]]:
        hint = hints[name]
        required = get_origin(hint) is Required
        kind = plain_type(get_args(hint)[0] if required else hint)
        fields.append((name, kind) if required else (name, kind, None))
    made = msgspec.defstruct(
        model.__name__,
        fields,
        bases=(Fields,),
        forbid_unknown_fields=True,
        omit_defaults=True,
        kw_only=True,
        gc=False,
    )
    return cast("type[Fields]", made)


def plain_type(annotation: Any) -> Any:  # noqa: ANN401  # types are values here
    """What msgspec calls the type that pydantic calls `annotation`, or a narrower one."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__required_keys__"):
        return _struct_of(annotation)
    if origin is Annotated:
        return Annotated[arguments[0], msgspec.Meta(**_limits(arguments[1]))]
    if origin in (Union, UnionType):
        return Union[tuple(map(plain_type, arguments))]  # noqa: UP007  # made from a tuple
    if origin is list:
        return list[plain_type(arguments[0])]  # type: ignore[misc]  # a type made at run time
    # What may be any JSON is plain only where it is absent: else it has to be looked at from within.
    return None if _is_json(annotation) else annotation


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


def _is_json(annotation: object) -> bool:
    return getattr(annotation, "__name__", "") == "JsonValue"
