"""The campaign of `scripts/chaos` in small, with a seed that is always the same: it runs in about a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_nothing_is_lost_and_nothing_doubled(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "chaos_campaign", "--short", "--seed", "5", "--json", file],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert report["good"]
    assert {name: report[name] for name in ("lost", "doubled", "altered", "inconsistent", "stuck", "dead")} == {
        **dict.fromkeys(("lost", "doubled", "altered", "inconsistent", "stuck", "dead"), 0)
    }
    assert report["books"]["archived"] == report["calls"] == 150
    assert report["events"] > 10_000
    assert sum(report["faults"].values()) == 6 + 3 + 2 + 8 + 2
