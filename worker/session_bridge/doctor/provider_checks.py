"""Whether the providers that are to be asked about silent calls answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from session_bridge.doctor.checks import Answer, Check, Patient, Verdict, advice, is_loopback, ok, problem
from session_bridge.errors import MissingExtraError, SettingsError
from session_bridge.providers.answer import Word
from session_bridge.providers.directory import Directory
from session_bridge.settings import environment_name

# What must be set for a provider to be asked. Twilio takes a key and its secret instead of the token, too.
_NEEDS = {
    "twilio": ("twilio_account_sid", "twilio_auth_token"),
    "exotel": ("exotel_account_sid", "exotel_api_key", "exotel_api_token"),
    "livekit": ("livekit_url", "livekit_api_key", "livekit_api_secret"),
}
_TITLES = {"twilio": "Twilio", "exotel": "Exotel", "livekit": "LiveKit"}


def _check(name: str) -> Callable[[Patient], Awaitable[Answer]]:
    async def check(patient: Patient) -> Answer:
        return await _examine(name, patient)

    return check


async def _examine(name: str, patient: Patient) -> Answer:
    settings, title = patient.settings, _TITLES[name]
    if not settings.questions_per_minute:
        return ok("not asked: SESSION_BRIDGE_QUESTIONS_PER_MINUTE is 0")
    directory = Directory(settings)
    if name not in directory.names:
        missing = [environment_name(field) for field in _NEEDS[name] if not getattr(settings, field)]
        if len(missing) == len(_NEEDS[name]):
            return ok("not asked whether a silent call lives: no credentials are set")
        return advice(
            "only some of its credentials are set, and it is not asked whether a silent call lives",
            f"set {', '.join(missing)} as well, if it is to be asked",
        )
    try:
        directory.require_extra()
        # Importing the HTTP client and reading the certificates takes a moment: the other checks go on beside it.
        provider = await asyncio.to_thread(directory.find, name)
    except MissingExtraError as error:
        return problem(str(error), "install the extra: workers do not start without it")
    except SettingsError as error:
        return problem(str(error), "correct it: workers do not start with it")
    try:
        assert provider is not None
        answer = await provider.try_credentials()
    finally:
        await directory.close()
    url = getattr(settings, f"{name}_url")
    if answer.refused:
        return problem(
            f"{title} at {url} does not accept the credentials that are set: {answer.why}",
            f"correct {', '.join(environment_name(field) for field in _NEEDS[name])}, or the address if the account is "
            "in another region: until then no silent call is closed for which it would have to be asked",
        )
    if answer.word is not Word.LIVE:
        return Answer(
            Verdict.UNKNOWN,
            f"{title} at {url}: {answer.why}",
            "try again; until it answers, silent calls are kept and asked about again",
        )
    parts = urlsplit(url)
    if parts.scheme in ("http", "ws") and not is_loopback(parts.hostname or ""):
        return advice(f"it answers, and is asked without TLS at {url}", "write the address with https:// or wss://")
    return ok("it answers, and accepts the credentials that are set")


PROVIDER_CHECKS = tuple(Check(f"providers.{name}", title, _check(name)) for name, title in _TITLES.items())
"""In the order in which they are shown."""
