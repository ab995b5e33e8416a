"""How much is measured, and how its progress is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmark.team import WorkerSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the benchmark.

    `calls` are those of one round, of the regular size, and `message_rows` what growth fills the archive with; `quick`
    takes little of everything, to see that all of it works and where the figures lie.
    """

    quick: bool
    rounds: int
    calls: int
    message_rows: int
    sizes: tuple[str, ...] = ("regular",)
    settings: WorkerSettings = field(default_factory=WorkerSettings)

    def pick(self, quick: int, full: int) -> int:
        """One of two amounts."""
        return quick if self.quick else full


class Steps:
    """The progress bar. It is drawn between measured pieces only: one that moves by itself would be measured too."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def expect(self, steps: int) -> None:
        """So many more steps will come."""
        total = self._bar.tasks[self._task].total or 0
        self._bar.update(self._task, total=total + steps)

    def begin(self, what: str) -> None:
        """Name the step that begins."""
        self._bar.update(self._task, description=what, refresh=True)

    def done(self) -> None:
        """One step is over."""
        self._bar.advance(self._task)
        self._bar.refresh()


@contextmanager
def open_steps(console: Console) -> Iterator[Steps]:
    """A bar that stands below what is printed meanwhile."""
    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        yield Steps(bar, bar.add_task("", total=0))
