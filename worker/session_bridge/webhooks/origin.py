"""Where a request comes from and where it was sent to, behind proxies of which only some are believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from session_bridge.errors import SettingsError

Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]


def networks(addresses: Iterable[str], whose: str) -> Networks:
    """Addresses and networks (`10.0.0.0/8`); raises SettingsError for what is neither."""
    found = []
    for address in addresses:
        try:
            found.append(ip_network(address, strict=False))
        except ValueError as error:
            raise SettingsError(f"{whose}: {address} is no address; write 203.0.113.7 or 203.0.113.0/24") from error
    return tuple(found)


def is_among(address: str, listed: Networks) -> bool:
    """Whether this sender's address is in one of these networks; where both protocols are heard, IPv4 comes as IPv6."""
    try:
        sender = ip_address(address)
    except ValueError:
        return False
    as_ipv4 = sender.ipv4_mapped if isinstance(sender, IPv6Address) else None
    return any(sender in network or (as_ipv4 is not None and as_ipv4 in network) for network in listed)


@dataclass(frozen=True, slots=True)
class Origin:
    """How the public URL and the sender of a request are known.

    `public_url` is what stands before the path, `https://calls.example.com`; with it, no header is asked. Without it
    the URL is that of the request, and `X-Forwarded-Proto`, `-Host`, `-Port` and `-For` count if they come from one of
    the `trusted` proxies.
    """

    public_url: str = ""
    trusted: Networks = ()

    @classmethod
    def of(cls, public_url: str | None, trusted_proxies: Iterable[str]) -> Origin:
        """Raises SettingsError if one of the two cannot be used."""
        base = (public_url or "").rstrip("/")
        if base:
            try:
                parts = urlsplit(base)
            except ValueError:
                parts = urlsplit("")
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
                raise SettingsError(f"the public URL {base} is none: write https://calls.example.com")
        return cls(base, networks(trusted_proxies, "the trusted proxies"))

    def url(self, scope: Scope) -> str:
        """The URL as the sender knows it."""
        raw: bytes = scope.get("raw_path") or str(scope["path"]).encode()
        path = raw.partition(b"?")[0].decode("latin-1")
        query: bytes = scope.get("query_string", b"")
        after = f"{path}?{query.decode('latin-1')}" if query else path
        if self.public_url:
            return f"{self.public_url}{after}"
        headers = Headers(scope=scope)
        scheme, host = str(scope.get("scheme", "http")), headers.get("host", "")
        if is_among(_peer(scope), self.trusted):
            scheme = _first(headers, "x-forwarded-proto") or scheme
            host = _first(headers, "x-forwarded-host") or host
            port = _first(headers, "x-forwarded-port")
            if port.isascii() and port.isdigit() and ":" not in host and port != _PORTS.get(scheme):
                host = f"{host}:{port}"
        return f"{scheme}://{host}{after}"

    def address(self, scope: Scope) -> str:
        """The sender's address: the first, counted from here, that is not a trusted proxy's; empty if not known."""
        address = _peer(scope)
        for before in self._forwarded_for(scope):
            if not is_among(address, self.trusted):
                break
            address = before
        return address

    def _forwarded_for(self, scope: Scope) -> Iterator[str]:
        for value in reversed(Headers(scope=scope).getlist("x-forwarded-for")):
            yield from map(_without_port, reversed(value.split(",")))


_PORTS = {"http": "80", "https": "443"}


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").partition(",")[0].strip()


def _without_port(text: str) -> str:
    text = text.strip().strip('"')
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
