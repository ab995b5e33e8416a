"""`session-bridge up` and `play`: the whole bridge in one process, and calls to try it with."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from session_bridge import log
from session_bridge.archive.migrations import migrate
from session_bridge.cli.output import EXIT_ERROR, console, errors, print_facts, print_json, print_table
from session_bridge.embedded import EmbeddedServers
from session_bridge.embedded.programs import postgres_programs
from session_bridge.errors import BridgeError, MissingExtraError
from session_bridge.jobs import serve, stop_on_signals
from session_bridge.service import addresses, open_bridge
from session_bridge.settings import Settings, load_settings, without_password
from session_bridge.simulate import Campaign, Report, run_campaign
from session_bridge.simulate.campaign import PATIENCE_SECONDS
from session_bridge.simulate.play import DEFAULT_SPEED
from session_bridge.simulate.tally import Transcript

DEFAULT_FOLDER = ".session-bridge"

_CALLS = click.IntRange(1, 100_000)
_speed_option = click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_SPEED,
    show_default=True,
    help="How many times as fast as it was spoken a call is played.",
)
_seed_option = click.option(
    "--seed", type=int, help="Play the same conversations again, as calls of their own; drawn if left out."
)


@click.command("play")
@click.argument("calls", type=_CALLS, metavar="N")
@_seed_option
@_speed_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def play_command(*, calls: int, seed: int | None, speed: float, as_json: bool) -> None:
    """Play N simulated calls on the servers of REDIS_URL and DATABASE_URL.

    They go through the recorder as real ones do. A worker must run somewhere; this waits until it has archived them,
    and says how long that took, counted from the hang-up or, where a line broke, from the end of the grace. Exit
    status 1 if a call is missing from the archive.
    """
    settings = load_settings()
    _configure_log(settings)
    report = asyncio.run(_check_and_play(settings, Campaign(calls, _seed_or_new(seed), speed)))
    if as_json:
        print_json(asdict(report))
    else:
        _print_report(report)
    if not report.archived:
        raise BridgeError(
            f"none of the {calls} calls was archived within {PATIENCE_SECONDS:.0f} s: no worker seems to run; start "
            "`session-bridge worker` with the same settings, and it will archive them"
        )
    if not report.complete:
        raise BridgeError(
            f"{calls - report.archived} calls were not archived, and none was for {PATIENCE_SECONDS:.0f} s: look at "
            "the workers' log and at `session-bridge status`; the calls wait in Redis"
        )


@click.command("up")
@click.option("--play", "calls", type=_CALLS, metavar="N", help="Play N simulated calls, and show what became of them.")
@click.option("--exit", "and_exit", is_flag=True, help="End when that is done instead of waiting for Ctrl-C.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder in which the embedded servers keep their data.",
)
@_seed_option
@_speed_option
@click.option(
    "--workers",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Workers in this process; a health port is the first one's.",
)
def up_command(*, calls: int | None, and_exit: bool, data: Path, seed: int | None, speed: float, workers: int) -> None:
    """Run the whole bridge: both servers, the archive's tables, and a worker.

    With REDIS_URL and DATABASE_URL set, those servers are used. With neither, a Valkey and a PostgreSQL of one's own
    are started on this machine; their data stay in a folder, and the next start goes on with them.

    \b
    session-bridge up --play 25           see it work, and keep it running
    session-bridge up --play 25 --exit    the same as a check: status 0 if all calls were archived
    """  # noqa: D301  # click keeps the lines after this mark as they are
    settings = load_settings()
    _configure_log(settings)
    campaign = None if calls is None else Campaign(calls, _seed_or_new(seed), speed)
    plan = _Plan(campaign, workers, and_exit, embedded=settings.redis_url is None)
    with _servers(settings, data) as running:
        _migrate(running)
        done = asyncio.run(_up(running, plan))
    if not done:
        sys.exit(EXIT_ERROR)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What `up` was asked to do."""

    campaign: Campaign | None
    workers: int
    and_exit: bool
    embedded: bool


# -- starting ---------------------------------------------------------------------------------------------------------


@contextmanager
def _servers(settings: Settings, data: Path) -> Iterator[Settings]:
    """The settings with the addresses of running servers in them; those that were started here end with the block."""
    if settings.redis_url is not None:
        redis_url, database_url = (without_password(url) for url in addresses(settings))
        print_facts({"PostgreSQL": f"{database_url} (yours)", "Redis": f"{redis_url} (yours)"})
        yield settings
        return
    folder = data.absolute()
    servers = EmbeddedServers(folder)
    with _busy(f"starting PostgreSQL and Valkey in {folder}"), _heeding_interrupts(servers.stop):
        servers.start()
    try:
        print_facts({"PostgreSQL": servers.database_url, "Valkey": servers.redis_url, "data": str(folder)})
        yield load_settings(redis_url=servers.redis_url, database_url=servers.database_url)
    finally:
        with _busy("stopping PostgreSQL and Valkey"):
            servers.stop()


@contextmanager
def _heeding_interrupts(undo: Callable[[], None]) -> Iterator[None]:
    """An interrupt ends this block, also one that Python dropped because it came while a finalizer ran."""
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(number, frame)

    usual = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if interrupted:
        undo()
        raise KeyboardInterrupt


def _busy(doing: str) -> AbstractContextManager[object]:
    """A line that says what is being waited for, where somebody may be looking."""
    return errors.status(doing) if errors.is_terminal else nullcontext()


def _migrate(settings: Settings) -> None:
    with _busy("making the archive's tables"):
        applied = migrate(addresses(settings)[1], settings.db_schema)
    steps = ", ".join(str(step.migration) for step in applied)
    console.print(f"archive migrated: {steps}" if steps else "archive up to date")


async def _up(settings: Settings, plan: _Plan) -> bool:
    """Be the workers, and meanwhile do the rest; whether all went well."""
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        # There is one port to tell of health at, and so one worker that has it.
        others = [settings.model_copy(update={"health_port": None})] * (plan.workers - 1)
        bridges = [await stack.enter_async_context(open_bridge(given)) for given in (settings, *others)]
        serving = [asyncio.create_task(serve(bridge, stop=stop)) for bridge in bridges]
        doing = asyncio.create_task(_do(settings, plan))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([doing, stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            interrupted = doing.cancel()
            stop.set()
            await asyncio.wait([doing, stopping])
            # A worker that ended by itself has a reason, which comes out here.
            await asyncio.gather(*serving)
    if interrupted:
        errors.print("stopped")
        return not plan.and_exit
    return doing.result()


async def _do(settings: Settings, plan: _Plan) -> bool:
    complete, played = True, None
    if plan.campaign is not None:
        report = await _play(settings, plan.campaign)
        _print_report(report)
        complete = report.complete
        if not complete:
            errors.print(f"session-bridge: {report.calls - report.archived} calls wait in Redis for the next start")
        if report.transcript is not None:
            played = report.transcript.call_sid
    if not plan.and_exit:
        _print_next_steps(settings, played, embedded=plan.embedded)
        await asyncio.Event().wait()
    return complete


# -- playing ----------------------------------------------------------------------------------------------------------


def _seed_or_new(seed: int | None) -> int:
    return secrets.randbelow(1_000_000) if seed is None else seed


async def _check_and_play(settings: Settings, campaign: Campaign) -> Report:
    async with open_bridge(settings):
        pass  # servers that cannot be used are told now, not after a long wait for calls to arrive
    return await _play(settings, campaign)


async def _play(settings: Settings, campaign: Campaign) -> Report:
    with _bar(settings) as bar:
        recording = bar.add_task("recorded", total=campaign.calls)
        archiving = bar.add_task("archived", total=campaign.calls)

        def show(recorded: int, archived: int) -> None:
            bar.update(recording, completed=recorded)
            bar.update(archiving, completed=archived)

        return await run_campaign(campaign, settings, show)


@contextmanager
def _bar(settings: Settings) -> Iterator[Progress]:
    """A progress bar that log lines go above of instead of into."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        # In the place of sys.stderr there is now something that knows of the bar.
        _configure_log(settings)
        yield bar
    _configure_log(settings)


def _configure_log(settings: Settings) -> None:
    """Log to what sys.stderr is at the moment; only warnings, unless the environment asks for more."""
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    log.configure(settings.log_format, level, key=settings.namespace)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


# -- telling ----------------------------------------------------------------------------------------------------------


def _print_report(report: Report) -> None:
    console.print(
        f"\n{report.archived} of {report.calls} calls archived in {report.seconds:.1f} s (seed {report.seed})",
        style="bold green" if report.complete else "bold red",
    )
    if report.transcript is None:
        return
    endings = ", ".join(f"{count} {ending}" for ending, count in report.endings.items() if count)
    hang_up = f"median {report.median_ms:,.0f} ms, p99 {report.p99_ms:,.0f} ms"
    print_facts({"from hang-up to archived": hang_up, "how they ended": endings})
    console.print()
    rows = [*report.rows.items(), ("together", sum(report.rows.values()))]
    print_table("rows by table", ("table", "rows"), rows)
    _print_transcript(report.transcript)


def _print_transcript(transcript: Transcript) -> None:
    console.print(f"\none of them: {transcript.scenario}, {transcript.language}", style="bold")
    print_facts({"call SID": transcript.call_sid, "outcome": transcript.outcome, "summary": transcript.summary})
    width = max((len(line.speaker) for line in transcript.lines), default=0)
    for line in transcript.lines:
        minutes, seconds = divmod(round((line.start_ms or 0) / 1000), 60)
        speaker = (f"{line.speaker.ljust(width)}  ", "cyan" if line.speaker == "caller" else "magenta")
        console.print(Text.assemble((f"{minutes:>3}:{seconds:02}  ", "dim"), speaker, line.text))


def _print_next_steps(settings: Settings, played: str | None, *, embedded: bool) -> None:
    redis_url, database_url = addresses(settings)
    keys = settings.keys
    session, ready = keys.session("my-call-1"), keys.ready
    message = '{"role": "user", "content": "Hello?"}'
    lines = []
    if embedded:
        programs = Path(sys.executable).parent
        # Started by a script, this environment's programs are in our PATH alone.
        if os.environ.get("VIRTUAL_ENV") != sys.prefix and sys.prefix != sys.base_prefix:
            lines.append(f"export PATH={shlex.quote(str(programs))}:$PATH")
        lines += [f"export REDIS_URL={redis_url}", f"export DATABASE_URL={database_url}"]
    tool = "redis-cli" if shutil.which("redis-cli") else "valkey-cli" if shutil.which("valkey-cli") else ""
    if tool:
        call = [
            f"{tool} -u $REDIS_URL HSET {session} provider test message:1 {shlex.quote(message)}",
            f"{tool} -u $REDIS_URL ZADD {ready} $(date +%s)000 my-call-1",
        ]
    else:
        call = [
            "python - <<'END'",
            "import os, time, redis",
            "r = redis.Redis.from_url(os.environ['REDIS_URL'])",
            f"r.hset({session!r}, mapping={{'provider': 'test', 'message:1': {message!r}}})",
            f"r.zadd({ready!r}, {{'my-call-1': int(time.time() * 1000)}})",
            "END",
        ]
    query = "select call_sid, status, outcome, total_messages from call_sessions order by id desc limit 10"
    lines += [
        "",
        "# a call that was played, and more of them" if played else "# simulated calls",
        *([f"session-bridge show {shlex.quote(played)}"] if played else []),
        "session-bridge play 5",
        "",
        "# a call of your own, in any language: write its hash, then say that it is over",
        *call,
        "session-bridge show my-call-1",
        "",
        "# the archive",
        f'{_psql()} "$DATABASE_URL" -c "{query}"',
    ]
    console.print("\nthe worker runs; Ctrl-C ends it. In another terminal:\n", style="bold")
    console.print(Text("\n".join(lines).strip()))


def _psql() -> str:
    """psql: the system's, else the one that came with the embedded server."""
    if shutil.which("psql"):
        return "psql"
    try:
        bundled = postgres_programs() / "psql"
    except MissingExtraError:
        return "psql"
    return shlex.quote(str(bundled)) if bundled.exists() else "psql"
