"""The machine that was measured on."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from sysconfig import get_config_var
from typing import Any

from benchmark.lab import Lab

_PACKAGES = ("psycopg", "redis", "hiredis", "arq", "pydantic", "SQLAlchemy")


def describe(lab: Lab) -> dict[str, Any]:
    """Processor, memory, system and versions, and how this Python was configured.

    Without `--enable-optimizations` it was built without a profile of itself, unless, as Debian does, by another way.
    """
    return {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "python_compiler": platform.python_compiler(),
        "python_config_args": get_config_var("CONFIG_ARGS"),
        **lab.versions(),
        **{name.lower(): version(name) for name in _PACKAGES},
    }


def _line(file: str, name: str) -> str | None:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)
