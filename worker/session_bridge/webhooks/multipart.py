"""Forms in several parts, as some HTTP clients send every form: RFC 7578, in the frame of RFC 2046, 5.1.1."""

from __future__ import annotations

from email.message import Message
from email.parser import HeaderParser
from email.utils import collapse_rfc2231_value

_PARSER = HeaderParser()
# The library takes the square of their length for them, and whoever sent them may not be known yet.
_LONGEST_HEAD = 2000


def form_of(body: bytes, content_type: str, most: int) -> list[tuple[str, str]]:
    """The fields of a form in their order, files left out.

    Only the lines that head a part are parsed; the body itself is no more than cut. Raises ValueError if it is no such
    form, did not come whole, is not in UTF-8 or has more than `most` parts.
    """
    try:
        boundary = _headers(f"Content-Type: {content_type}").get_boundary()
        if not boundary:
            raise ValueError("it has no boundary")
        _before, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), most + 1)
        if not parts or not parts.pop().startswith(b"--"):
            raise ValueError("it has no end")
        return [field for part in parts if (field := _field(part)) is not None]
    except (LookupError, TypeError) as error:  # as the library meets some heads that are none
        raise ValueError("it has a head that cannot be read") from error


def _field(part: bytes) -> tuple[str, str] | None:
    head, _, content = part.partition(b"\r\n\r\n")
    headers = _headers(head.decode().strip())
    name = headers.get_param("name", header="content-disposition")
    if name is None or headers.get_filename() is not None:
        return None
    return collapse_rfc2231_value(name), content.decode()


def _headers(text: str) -> Message:
    if len(text) > _LONGEST_HEAD:
        raise ValueError("it has a head that is too long")
    return _PARSER.parsestr(f"{text}\r\n\r\n")
