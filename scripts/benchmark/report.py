"""What a measurement comes to: figures for a file, tables for the screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Sheet:
    """A table. The first column names what was measured."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""


@dataclass(slots=True)
class Result:
    """One measurement: the numbers by which it is judged, all its figures, and how they are shown."""

    headline: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    sheets: list[Sheet] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some figures."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure."""
        return cls(median(figures), min(figures), max(figures))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.least:{spec}} to {self.most:{spec}})"

    def figures(self) -> dict[str, float]:
        """As the file has it."""
        return {"median": self.median, "min": self.least, "max": self.most}


def quantile(figures: Sequence[float], part: float) -> float:
    """The figure below which that part of them lies; of at least one."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def show(console: Console, result: Result) -> None:
    """Print the tables of a result."""
    for sheet in result.sheets:
        table = Table(title=sheet.title, caption=sheet.note or None, title_justify="left", caption_justify="left")
        table.add_column(sheet.columns[0], no_wrap=True)
        for column in sheet.columns[1:]:
            table.add_column(column, justify="right")
        for line in sheet.lines:
            table.add_row(*line)
        console.print(table)


def write(file: Path, about: dict[str, Any], results: dict[str, Result]) -> None:
    """Write everything to a file: the headlines first, then the machine and the settings, then every figure."""
    document: dict[str, Any] = {}
    for result in results.values():
        document |= {name: round(value, 4) for name, value in result.headline.items()}
    document |= about
    for name, result in results.items():
        document[name] = result.figures
    file.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
