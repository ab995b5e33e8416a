"""The providers that the settings name. A provider's library is imported only if it is named."""

from __future__ import annotations

from pydantic import SecretStr

from session_bridge.errors import SettingsError
from session_bridge.settings import Settings
from session_bridge.webhooks.callback import Provider
from session_bridge.webhooks.exotel import Exotel

# ruff: noqa: PLC0415  # see above


def providers_of(settings: Settings) -> list[Provider]:
    """The providers of which a secret is set; raises SettingsError if there is none, MissingExtraError."""
    found: list[Provider] = []
    if token := _value(settings.twilio_auth_token):
        from session_bridge.webhooks.twilio import Twilio

        found.append(Twilio(token))
    if secret := _value(settings.exotel_secret):
        found.append(Exotel.of(secret, settings.exotel_addresses, settings.exotel_time_zone))
    key, secret = settings.livekit_api_key or "", _value(settings.livekit_api_secret)
    if bool(key) != bool(secret):
        raise SettingsError("SESSION_BRIDGE_LIVEKIT_API_KEY and SESSION_BRIDGE_LIVEKIT_API_SECRET belong together")
    if key:
        from session_bridge.webhooks.livekit import LiveKit

        found.append(LiveKit(key, secret))
    if token := _value(settings.plivo_auth_token):
        from session_bridge.webhooks.plivo import Plivo

        found.append(Plivo(token, settings.plivo_signature))
    if secret := _value(settings.vapi_secret):
        from session_bridge.webhooks.vapi import Vapi

        found.append(Vapi(secret, settings.vapi_header))
    if key := _value(settings.retell_api_key):
        from session_bridge.webhooks.retell import Retell

        found.append(Retell(key))
    if secret := _value(settings.elevenlabs_secret):
        from session_bridge.webhooks.elevenlabs import ElevenLabs

        found.append(ElevenLabs(secret))
    if secret := _value(settings.standard_secret):
        from session_bridge.webhooks.standard import Standard

        found.append(Standard(secret))
    if not found:
        raise SettingsError(
            "no provider's webhooks can be heard: set the secret of one, SESSION_BRIDGE_TWILIO_AUTH_TOKEN for example; "
            "`session-bridge settings` lists them all"
        )
    return found


def _value(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret else ""
