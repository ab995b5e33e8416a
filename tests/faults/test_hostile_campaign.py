"""`scripts/chaos --hostile` in small: a worker of limited memory, sessions of any bytes, each byte accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos_campaign.accounting import Kept, unaccounted

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process holds is read from /proc")
def test_a_worker_of_limited_memory_bears_them_and_every_byte_is_somewhere(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "chaos_campaign", "--hostile", "40", "--seed", "11", "--json", file],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["wrong"] == []
    assert report["sessions"] == report["neighbours"] >= 40
    assert report["rejected"] > 50
    assert (report["dead"], report["kills"] >= 4) == (1, True)


LOST = {
    b"message:1": b'{"role": "user", "content": "here", "content": "nowhere"}',
    b"message:2": b'{"role": "user", "content": "cut sho"}',
    b"own": b"nowhere at all",
    b":": b'{"here": 1}',
    b"dtmf:1": b'{"nowhere": 1}',
    b"metric:1": b'{"metric_type": "m", "value": 1234567}',
}


@pytest.mark.parametrize("field", LOST)
def test_what_is_nowhere_is_seen(field: bytes) -> None:
    """The campaign's own judge has to be able to say no."""
    rows: dict[str, list[dict[str, Any]]] = {
        "call_messages": [{"event_id": "1", "role": "user", "content": "here"}, {"event_id": "2", "content": "cut"}],
        "call_sessions": [{"extra": {"other": "x"}}],
        "call_events": [{"event_id": "1", "payload": {"else": 1}}],
        "call_metrics": [{"event_id": "1", "metric_type": "m", "value": 123456}],
    }
    assert list(unaccounted({field: LOST[field]}, Kept(rows)))
    assert not list(unaccounted({field: LOST[field]}, Kept(rows, {field: [LOST[field]]})))


def test_what_only_looks_like_an_event_is_looked_for_as_the_text_it_is() -> None:
    text = '{"\\u0000": 1}'
    kept = Kept({"call_sessions": [{"extra": {":": text}}]})
    assert not list(unaccounted({b":": text.encode()}, kept))
    assert list(unaccounted({b":": text.encode() + b" "}, Kept({"call_sessions": [{"extra": {":": "{}"}}]})))
