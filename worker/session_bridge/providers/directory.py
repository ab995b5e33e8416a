"""Which providers can be asked: those whose credentials are set."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec

from pydantic import SecretStr

from session_bridge.errors import MissingExtraError
from session_bridge.providers.answer import Line, Provider
from session_bridge.providers.exotel import Exotel
from session_bridge.providers.livekit import LiveKit
from session_bridge.providers.twilio import Twilio
from session_bridge.settings import Settings
from session_bridge.zones import zone_of


class Directory:
    """The providers of one deployment. The HTTP client is not imported before the first of them is asked."""

    def __init__(self, settings: Settings) -> None:
        self._makers = _makers(settings)
        self._seconds = settings.answer_seconds
        self._providers: dict[str, Provider] = {}
        self._close: Callable[[], Awaitable[None]] | None = None

    @property
    def names(self) -> list[str]:
        """The providers that can be asked."""
        return sorted(self._makers)

    def require_extra(self) -> None:
        """Raise MissingExtraError if providers are to be asked and there is nothing to ask them with."""
        if self._makers and find_spec("httpx2") is None:
            raise MissingExtraError(
                f"the credentials of {', '.join(self.names)} are set, and a package to ask with is not installed: "
                "pip install 'call-session-bridge[liveness]', or set SESSION_BRIDGE_QUESTIONS_PER_MINUTE=0"
            )

    def prepare(self) -> None:
        """Get ready to ask, which takes half a second: a process that has other work does it in a thread beforehand.

        Raises MissingExtraError, and SettingsError if the environment leads nowhere.
        """
        self.require_extra()
        if self._makers and not self._providers:
            self._open()

    def find(self, name: str) -> Provider | None:
        """The provider that a live session calls by `name`, if it can be asked."""
        name = name.strip().lower()
        if name not in self._makers:
            return None
        if not self._providers:
            self._open()
        return self._providers[name]

    def _open(self) -> None:
        # The extra may be missing where nobody is ever asked.
        from session_bridge.providers.line import HttpLine  # noqa: PLC0415

        line = HttpLine(self._seconds)
        self._close = line.close
        self._providers = {name: make(line) for name, make in self._makers.items()}

    async def close(self) -> None:
        """Close what is connected."""
        if self._close is not None:
            await self._close()


def _makers(settings: Settings) -> dict[str, Callable[[Line], Provider]]:
    """How to make each provider whose credentials are complete."""
    makers: dict[str, Callable[[Line], Provider]] = {}
    if not settings.questions_per_minute:
        return makers
    not_found = settings.not_found_seconds
    account, pair = settings.twilio_account_sid, _pair(settings.twilio_api_key, settings.twilio_api_secret)
    pair = pair or _pair(account, settings.twilio_auth_token)
    if account and pair:
        user, password = pair
        makers["twilio"] = lambda line: Twilio(line, settings.twilio_url, account, user, password, not_found)
    exotel, keys = settings.exotel_account_sid, _pair(settings.exotel_api_key, settings.exotel_api_token)
    if exotel and keys:
        key, token = keys
        zone = zone_of(settings.exotel_time_zone)
        makers["exotel"] = lambda line: Exotel(line, settings.exotel_url, exotel, key, token, zone, not_found)
    url, signing = settings.livekit_url, _pair(settings.livekit_api_key, settings.livekit_api_secret)
    if url and signing:
        makers["livekit"] = lambda line: LiveKit(line, url, *signing)
    return makers


def _pair(name: str | None, secret: SecretStr | None) -> tuple[str, str] | None:
    return (name, secret.get_secret_value()) if name and secret and secret.get_secret_value() else None
