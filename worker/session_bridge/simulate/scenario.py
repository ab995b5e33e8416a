"""What a scenario is made of: a conversation in stages, with words to choose from and facts to fill in.

A text may hold `{names}` of the scenario's facts. Where several texts stand, one is drawn for each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from session_bridge.simulate.knowledge import KnowledgeBase

Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the agent calls before it answers; texts in `output` are filled in like any other."""

    name: str
    arguments: Texts
    """Names of facts."""
    output: Mapping[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Exchange:
    """The caller says something, and the agent answers."""

    caller: Texts
    agent: Texts
    takes: Texts = ()
    """Facts that the agent takes from what the caller said."""
    looks_up: str = ""
    """What the agent asks the knowledge base for, if it does."""
    tool: ToolUse | None = None
    objection: str = ""
    """What kind of objection the caller raises, if one."""
    chance: float = 1.0
    """How often the exchange is a part of the call at all."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A node of the agent's workflow, with what is said in it."""

    node_id: str
    name: str
    entered_because: str
    exchanges: tuple[Exchange, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of call."""

    name: str
    language: str
    agent_name: str
    direction: str
    facts: Mapping[str, Texts]
    """The values a fact may have, one of which is drawn for each call."""
    greeting: Texts
    stages: tuple[Stage, ...]
    unclear: tuple[Exchange, ...]
    """Exchanges that may slip in anywhere, because a line is bad or a mind wanders."""
    knowledge: KnowledgeBase
    topics: Texts
    summary: str
    last_stage: str = "completed"
    follow_up: Mapping[str, str] = field(default_factory=dict)
    """What the agent writes down at the end beside the facts it took."""
