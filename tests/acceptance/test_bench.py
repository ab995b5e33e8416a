"""`scripts/bench` in small: everything that it measures is measured, and the contenders wrote the same rows.

What comes out is not looked at: a figure of a test would be one of a machine that is busy with other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmark.profile import STAGES

SCRIPTS = Path(__file__).parents[2] / "scripts"
SECTIONS = {"throughput", "latency", "recorder", "profile", "sweep", "memory", "growth", "lookups"}


def test_everything_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "--quick", "--calls", "40", "--message-rows", "1000", "--json", file],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert set(report) >= SECTIONS
    assert all(report[name] > 0 for name in ("ratio_to_limit", "ratio_to_orm", "latency_ratio", "recorder_us"))
    assert report["verify_failed"] == 0

    # A stage that is no longer there under its name would be missed in one of the two, or in both.
    profiles = report["profile"]["new_calls"], report["profile"]["calls_checkpointed_before"]
    assert {name for profile in profiles for name in profile} >= {stage.name.strip() for stage in STAGES}

    contenders = report["throughput"]["regular"]["contenders"]
    assert {"limit", "bridge", "bridge, 2 workers", "ORM", "plain, tuned"} <= set(contenders)
    assert report["machine"]
    assert report["settings"]["postgresql"]["fsync"] == report["settings"]["postgresql"]["synchronous_commit"] == "on"
