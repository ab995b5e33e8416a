"""Providers' credentials and addresses: taken whole or not at all, and shown to nobody."""

from __future__ import annotations

from typing import Any

import pytest

from session_bridge.errors import SettingsError
from session_bridge.providers.directory import Directory
from session_bridge.settings import load_settings, setting_lines

TWILIO = {"twilio_account_sid": "AC1", "twilio_auth_token": "opensesame"}
EXOTEL = {"exotel_account_sid": "acme1", "exotel_api_key": "key", "exotel_api_token": "opensesame"}
LIVEKIT = {"livekit_url": "wss://example.test", "livekit_api_key": "key", "livekit_api_secret": "opensesame"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, []),
        (TWILIO, ["twilio"]),
        ({"twilio_account_sid": "AC1", "twilio_api_key": "SK1", "twilio_api_secret": "opensesame"}, ["twilio"]),
        (TWILIO | EXOTEL | LIVEKIT, ["exotel", "livekit", "twilio"]),
        (TWILIO | EXOTEL | LIVEKIT | {"questions_per_minute": 0}, []),
        *[({name: value for name, value in every.items() if name != left_out}, [])
          for every in (TWILIO, EXOTEL, LIVEKIT) for left_out in every],
    ],
)  # fmt: skip
def test_a_provider_is_asked_if_its_credentials_are_complete(given: dict[str, Any], names: list[str]) -> None:
    assert Directory(load_settings(**given)).names == names


def test_no_secret_is_shown() -> None:
    settings = load_settings(**TWILIO, **EXOTEL, **LIVEKIT, twilio_api_secret="opensesame")
    assert "opensesame" not in repr(settings)
    lines = {line.name: line.value for line in setting_lines(settings, {})}
    assert "opensesame" not in str(lines)
    assert lines["SESSION_BRIDGE_TWILIO_ACCOUNT_SID"] == "AC1"
    directory = Directory(settings)
    for name in directory.names:
        assert "opensesame" not in repr(directory.find(name))


@pytest.mark.parametrize(
    "url",
    ["http:", "example.test", "ftp://example.test", "https://", "https://user:opensesame@example.test",
     "https://example.test/?key=opensesame", "https://example.test:port", "https://exam ple.test", "http://[::1"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["twilio_url", "exotel_url", "livekit_url"])
def test_an_address_that_is_none_is_refused_and_not_quoted(name: str, url: str) -> None:
    with pytest.raises(SettingsError, match=f"SESSION_BRIDGE_{name.upper()}") as refused:
        load_settings(**{name: url})
    assert "opensesame" not in str(refused.value)


def test_a_zone_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="SESSION_BRIDGE_EXOTEL_TIME_ZONE"):
        load_settings(exotel_time_zone="Bombay")
