"""What a campaign found: for people a table, for programs JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from chaos_campaign.faults import CommitWatch, Scene
from chaos_campaign.leftovers import Leftovers
from chaos_campaign.schedule import Kind, Sizes
from chaos_campaign.verify import Findings

# What a worker logs when it has met a bug of its own.
_BUG = "drain.failed"


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of it; `quiet_seconds` went by between the last acknowledgement and an empty Redis."""

    seed: int
    sizes: Sizes
    seconds: float
    quiet_seconds: float
    scene: Scene
    watch: CommitWatch
    findings: Findings
    leftovers: Leftovers
    surprises: list[str]
    log: list[dict[str, Any]]
    """All that the workers logged."""

    @property
    def bugs(self) -> list[str]:
        """Where workers met a bug of their own."""
        return [f"{line['error']} at {line['where']}" for line in self.log if line["event"] == _BUG]

    @property
    def good(self) -> bool:
        """Whether nothing at all is wrong."""
        unwanted = (self._wrong(), self.leftovers.dead, self.leftovers.rejects)
        return not any(unwanted) and self.leftovers.balances(self.sizes.calls)

    def recoveries(self) -> dict[Kind, list[float]]:
        """Seconds from the end of each fault to the next commit, by kind."""
        seconds: dict[Kind, list[float]] = {}
        for struck in self.scene.struck:
            after = self.watch.seconds_to_next(struck.over)
            if after is not None:
                seconds.setdefault(struck.kind, []).append(after)
        return seconds

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        findings, leftovers = self.findings, self.leftovers
        every = [seconds for found in self.recoveries().values() for seconds in found]
        return {
            "good": self.good,
            "seed": self.seed,
            "sizes": asdict(self.sizes),
            "seconds": round(self.seconds, 1),
            "quiet_seconds": round(self.quiet_seconds, 1),
            "calls": self.sizes.calls,
            "events": findings.events,
            "state_fields": findings.fields,
            "faults": {str(kind): times for kind, times in sorted(self._struck().items())},
            "shots_missed": self.scene.missed,
            "lost": len(findings.lost),
            "doubled": len(findings.doubled),
            "altered": len(findings.altered),
            "inconsistent": len(findings.inconsistent),
            "stuck": len(leftovers.stuck),
            "dead": leftovers.dead,
            "rejects": leftovers.rejects,
            "books": {**asdict(leftovers.ledger), "balance": leftovers.balances(self.sizes.calls)},
            "recovery_seconds": {"median": _median(every), "longest": _longest(every)},
            "recovery_seconds_by_kind": {
                str(kind): {"median": _median(found), "longest": _longest(found)}
                for kind, found in sorted(self.recoveries().items())
            },
            "longest_pause_between_commits": round(self.watch.longest_pause(), 2),
            "drains": self.watch.drains,
            "workers_started": self.scene.team.started,
            "workers_that_found_a_server_away": self.scene.team.sent_away,
            "workers_said": dict(sorted(Counter(line["event"] for line in self.log).items())),
            "wrong": self._wrong(),
        }

    def show(self, console: Console) -> None:
        """Print it for people."""
        told = self.as_json()
        console.print(
            _table(
                "Faults",
                ("fault", "times", "to the next commit: median s", "longest s"),
                [
                    (
                        kind,
                        times,
                        told["recovery_seconds_by_kind"].get(kind, {}).get("median"),
                        told["recovery_seconds_by_kind"].get(kind, {}).get("longest"),
                    )
                    for kind, times in told["faults"].items()
                ],
            )
        )
        names = ("calls", "events", "drains", "lost", "doubled", "altered", "inconsistent", "stuck", "dead", "rejects")
        rows: list[tuple[object, ...]] = [(name, told[name]) for name in names]
        rows += [
            ("bugs met by workers", len(self.bugs)),
            ("the books", "balance" if told["books"]["balance"] else "do not balance"),
            ("time to recovery", "median {median} s, longest {longest} s".format(**told["recovery_seconds"])),
            ("longest pause between commits", f"{told['longest_pause_between_commits']} s"),
            ("quiet after", f"{told['quiet_seconds']} s"),
            ("took", f"{told['seconds']} s"),
            ("seed", told["seed"]),
        ]
        console.print(_table("The campaign", ("", ""), rows))
        for name, found in told["wrong"].items():
            for one in found:
                console.print(f"[red]{name}[/]: {one}", markup=True)

    def _wrong(self) -> dict[str, list[str]]:
        others = {"stuck": self.leftovers.stuck, "bug": self.bugs, "surprise": self.surprises}
        return self.findings.shown() | {name: found for name, found in others.items() if found}

    def _struck(self) -> Counter[Kind]:
        return Counter(struck.kind for struck in self.scene.struck)


def _median(seconds: list[float]) -> float | None:
    return round(median(seconds), 2) if seconds else None


def _longest(seconds: list[float]) -> float | None:
    return round(max(seconds), 2) if seconds else None


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", header_style="dim")
    for row in rows:
        table.add_row(*["" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row])
    return table
