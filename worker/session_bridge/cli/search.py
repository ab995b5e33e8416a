"""`session-bridge search` and `embeddings`: finding calls by what was said in them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import click
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.text import Text

from session_bridge.archive.embeddings import Model, forget_model, known_models
from session_bridge.archive.search import Filters, Hit, Place, search, search_by_meaning
from session_bridge.cli.output import console, errors, print_json, print_table
from session_bridge.cli.since import SINCE
from session_bridge.errors import SearchError
from session_bridge.service import open_readers
from session_bridge.settings import Settings, load_settings
from session_bridge.upkeep.embed import embed_archived, embedder_of, required_embedder
from session_bridge.upkeep.loop import upkeep_connections

# Around what was found, for the terminal: no text in the archive's messages is likely to hold them.
_MARK, _UNMARK = "\x02", "\x03"


@dataclass(frozen=True, slots=True)
class _Question:
    """What was asked on the command line."""

    text: str
    filters: Filters
    place: Place
    speaker: str | None
    semantic: bool


@click.command("search")
@click.argument("query")
@click.option(
    "--in",
    "place",
    type=click.Choice([place.value for place in Place]),
    help="What is searched; calls, or messages with --speaker.",
)
@click.option("--tenant", help="Only calls of this tenant.")
@click.option("--agent", help="Only calls with this agent, by id or name.")
@click.option("--since", type=SINCE, help="Only calls since then: 7d, 12h, or a date.")
@click.option("--speaker", help="Only what this speaker said, by name or role (user, assistant).")
@click.option("--semantic", is_flag=True, help="Search by meaning instead of by words.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most this many answers.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
def search_command(
    *,
    query: str,
    place: str | None,
    tenant: str | None,
    agent: str | None,
    since: datetime | None,
    speaker: str | None,
    semantic: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Find calls, messages or chunks by their words, the best first.

    Words must all occur, in any of their forms: each call is searched in its own language, where PostgreSQL knows it.
    "Quotes" make a phrase, OR an alternative, and -word excludes. The whole query is one argument.

    \b
    session-bridge search 'refund "wrong address" -delivery' --since 7d
    session-bridge search 'manager' --speaker user
    session-bridge search 'opening hours' --in chunks
    session-bridge search 'the caller was angry' --semantic
    """  # noqa: D301  # click keeps the lines after this mark as they are
    if speaker is not None and (semantic or place not in (None, Place.MESSAGES)):
        raise click.UsageError("--speaker is for messages: leave --in and --semantic out")
    if semantic and place not in (None, Place.CALLS):
        raise click.UsageError("--semantic finds calls: leave --in out")
    marks = ("<mark>", "</mark>") if as_json else (_MARK, _UNMARK)
    where = Place(place) if place else Place.MESSAGES if speaker is not None else Place.CALLS
    question = _Question(query, Filters(tenant, agent, since, limit, *marks), where, speaker, semantic)
    hits = asyncio.run(_ask(load_settings(), question))
    if as_json:
        print_json([asdict(hit) for hit in hits])
        return
    for hit in hits:
        _print(hit)
    if not hits:
        console.print("nothing found")


async def _ask(settings: Settings, question: _Question) -> list[Hit]:
    embedder = required_embedder(settings) if question.semantic else None
    async with open_readers(settings) as connections:
        if embedder is None:
            return await search(connections, question.text, question.filters, question.place, question.speaker)
        [vector] = await embedder.embed([question.text])
        return await search_by_meaning(connections, vector, embedder.model, question.filters)


def _print(hit: Hit) -> None:
    who = " ".join(filter(None, (hit.agent_name or hit.agent_id, hit.tenant_id and f"({hit.tenant_id})")))
    line = Text.assemble(
        (hit.call_sid, "bold"),
        (f"  {hit.called_at:%Y-%m-%d %H:%M}  {hit.rank:.3f}", "dim"),
        f"  {who}" if who else "",
    )
    if hit.source is not None:
        line.append(f"  {hit.source}", "cyan")
    if hit.number is not None:
        line.append(f" #{hit.number}", "dim")
    console.print(line)
    snippet = Text("  ")
    for place, piece in enumerate(" ".join(hit.snippet.split()).split(_MARK)):
        found, unmark, rest = piece.partition(_UNMARK)
        snippet.append(found, "bold yellow" if place and unmark else "")
        snippet.append(rest)
    console.print(snippet)


@click.command("embeddings")
@click.option("--update", is_flag=True, help="Embed now what no worker has embedded yet.")
@click.option("--forget", metavar="MODEL", help="Delete what calls were embedded into with this model.")
@click.option("--json", "as_json", is_flag=True, help="Print the models as JSON.")
def embeddings_command(*, update: bool, forget: str | None, as_json: bool) -> None:
    """List the models that calls were embedded with, and how far each has come.

    A worker with SESSION_BRIDGE_EMBEDDING set embeds what is archived within some seconds. When a new model has come as
    far as the old one, the old one may be forgotten.
    """
    settings = load_settings()
    models = asyncio.run(_models(settings, forget, update=update))
    if as_json:
        print_json([asdict(model) for model in models])
    elif models:
        columns = ("model", "dimensions", "archived through", "first used", "last used")
        rows = [(m.model, m.dimension, m.archived_through, m.first_used_at, m.last_used_at) for m in models]
        print_table("models", columns, rows)
    else:
        console.print("no calls were embedded: set SESSION_BRIDGE_EMBEDDING=module:function for a worker")


async def _models(settings: Settings, forget: str | None, *, update: bool) -> list[Model]:
    async with upkeep_connections(settings) as connections:
        await connections.require_current()
        if forget is not None:
            embedder = embedder_of(settings)
            if embedder is not None and embedder.model == forget:
                raise SearchError(f"{forget} is the model of these settings, and a worker would embed everything again")
            if await forget_model(connections, forget) is None:
                raise SearchError(f"no calls were embedded with {forget}: `session-bridge embeddings` lists the models")
        if update:
            columns = (SpinnerColumn(), TextColumn("{task.description}"))
            with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
                task = progress.add_task("embedding")

                def show(calls: int) -> None:
                    progress.update(task, description=f"{calls:,} calls embedded")

                overlap = timedelta(seconds=settings.transaction_seconds * 2 + 60)
                done = await embed_archived(connections, required_embedder(settings), overlap, show)
            if done is None:
                raise SearchError("a worker embeds calls with this model already: it needs no help")
        return await known_models(connections)
