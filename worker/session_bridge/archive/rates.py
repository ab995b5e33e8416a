"""The archive's rates: read by workers, set on command."""

from __future__ import annotations

from datetime import datetime

from session_bridge.archive.connection import ArchiveConnections, fetch, run
from session_bridge.contract.rates import Rate, RateBook


async def read_rates(connections: ArchiveConnections) -> RateBook:
    """Every rate there is."""
    async with connections.transaction() as connection:
        return RateBook([Rate(*row) for row in await fetch(connection, "rates")])


async def set_rate(connections: ArchiveConnections, rate: Rate) -> int:
    """Let `rate` hold from its beginning on; the one before it ends there. Returns its id.

    It holds until its own end, or until a later rate for the same thing begins. Raises DataRefusedError for what the
    archive does not take.
    """
    what = _what(rate.service, rate.provider, rate.model, rate.unit, rate.valid_from)
    async with connections.transaction() as connection:
        await run(connection, "lock_rates")
        await run(connection, "end_rate", **what)
        await run(connection, "replace_rate", **what)
        [[rate_id]] = await fetch(
            connection,
            "enter_rate",
            **what,
            price_cents=rate.price_cents,
            currency=rate.currency,
            step=rate.step,
            until=rate.valid_to,
        )
        return int(rate_id)


async def end_rate(
    connections: ArchiveConnections, service: str, provider: str, model: str, unit: str, *, at: datetime
) -> bool:
    """Let the rate that holds at a moment end there; False if there is none."""
    async with connections.transaction() as connection:
        await run(connection, "lock_rates")
        return bool(await run(connection, "end_rate", **_what(service, provider, model, unit, at)))


def _what(service: str, provider: str, model: str, unit: str, at: datetime) -> dict[str, object]:
    return {"service": service, "provider": provider, "model": model, "unit": unit, "at": at}
