"""The command `session-bridge webhooks`: from a provider's callback over HTTP to the archive, with a running worker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

TOKEN = "the auth token of an account"
PUBLIC = "https://calls.example.test/hooks"
COMMAND = Path(sys.executable).with_name("session-bridge")


class Webhooks:
    """A running `session-bridge webhooks`."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [COMMAND, "webhooks", "--port", "0", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        first = self.process.stderr.readline().decode()
        self.lines = [first]
        self.listening: dict[str, Any] = json.loads(first)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as output:
            self.lines += [line.decode() for line in output]

    def post(self, path: str, form: dict[str, str], signature: str = "") -> int:
        url = f"http://127.0.0.1:{self.listening['port']}{path}"
        request = urllib.request.Request(url, urlencode(form).encode(), {"X-Twilio-Signature": signature})
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def stop(self) -> str:
        """End it in an orderly way, and return all that it said."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in (0, -signal.SIGTERM)
        self._reader.join(60)
        return "".join(self.lines)


@pytest.fixture
def hooks(deployment: Any) -> Iterator[Webhooks]:
    secrets = {"TWILIO_AUTH_TOKEN": TOKEN, "EXOTEL_SECRET": "the-path", "WEBHOOKS_PUBLIC_URL": PUBLIC}
    environment = deployment.environment(secrets)
    del environment["DATABASE_URL"]
    running = Webhooks(environment)
    yield running
    running.stop()


def test_a_callback_is_heard_and_the_call_archived(deployment: Any, hooks: Webhooks) -> None:
    assert hooks.listening["paths"] == ["/twilio", "/exotel/{secret}"]
    worker = deployment.worker()
    form = {"CallSid": "CA" + "0" * 32, "CallStatus": "completed", "From": "+15550100", "CallDuration": "60"}
    form |= {"Timestamp": "Sat, 21 Nov 2026 10:01:00 +0000", "SequenceNumber": "3"}
    signature = RequestValidator(TOKEN).compute_signature(f"{PUBLIC}/twilio", form)
    assert hooks.post("/twilio", form | {"From": "+15550101"}, signature) == 403
    assert deployment.asked(form["CallSid"]) is None
    assert hooks.post("/twilio", form, signature) == 200
    deployment.until_archived(form["CallSid"])
    row = deployment.call(form["CallSid"])
    assert (row["status"], row["status_by"], row["status_sequence"]) == ("completed", "twilio", 3)
    assert (row["duration_seconds"], row["finalized_by"], row["from_number"]) == (60, "webhook", "+15550100")
    assert "started_at" in row["inferred"]

    # What comes late is merged by the sweep.
    recording = {"CallSid": form["CallSid"], "RecordingSid": "RE1", "RecordingStatus": "completed"}
    recording |= {"RecordingUrl": "https://recordings.test/RE1", "RecordingDuration": "58"}
    assert (
        hooks.post("/twilio", recording, RequestValidator(TOKEN).compute_signature(f"{PUBLIC}/twilio", recording))
        == 200
    )
    deployment.sweep()
    deployment.until_archived(form["CallSid"])
    row = deployment.call(form["CallSid"])
    assert (row["recording_sid"], row["recording_url"]) == ("RE1", "https://recordings.test/RE1")
    assert row["ended_at"].isoformat() == "2026-11-21T10:01:00+00:00"
    assert deployment.rows("SELECT recording_sid, duration_seconds FROM call_recordings") == [("RE1", 58)]

    assert hooks.post("/exotel/the-path", {"CallSid": "e" * 32, "Status": "busy"}) == 200
    deployment.until_archived("e" * 32)
    assert deployment.call("e" * 32)["end_reason"] == "busy"
    worker.stop()
    said = hooks.stop()
    assert "Traceback" not in said
    assert not any(secret in said for secret in ("5550100", "5550101", TOKEN, "the-path"))


def test_a_redis_user_without_the_channel_takes_callbacks_all_the_same(deployment: Any) -> None:
    deployment.raw.execute_command("ACL", "SETUSER", "deaf", "reset", "on", ">pw", "~*", "+@all")
    redis_url = deployment.redis_url.replace("redis://", "redis://deaf:pw@")
    hooks = Webhooks(deployment.environment({"EXOTEL_SECRET": "the-path", "REDIS_URL": redis_url}))
    assert hooks.post("/exotel/the-path", {"CallSid": "e" * 32, "Status": "completed"}) == 200
    assert deployment.asked("e" * 32) is not None
    hooks.stop()


def test_without_a_provider_it_says_what_to_set(deployment: Any) -> None:
    done = deployment.run("webhooks", "--port", "0")
    assert done.returncode == 2
    assert "SESSION_BRIDGE_TWILIO_AUTH_TOKEN" in done.stderr
    done = deployment.run("webhooks", LIVEKIT_API_KEY="key")
    assert "belong together" in done.stderr


def test_a_secret_is_no_setting_that_is_shown(deployment: Any) -> None:
    shown = deployment.run("settings", "--json", TWILIO_AUTH_TOKEN=TOKEN, STANDARD_SECRET="whsec_c2VjcmV0")
    assert "SESSION_BRIDGE_TWILIO_AUTH_TOKEN" in shown.stdout
    assert TOKEN not in shown.stdout
    assert "c2VjcmV0" not in shown.stdout
