"""Every setting: where it comes from, what it is, and which combinations are refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from session_bridge.contract.fields import (
    DEFAULT_GRACE_SECONDS,
    DEFAULT_IGNORE_FIELDS,
    DEFAULT_MAX_EVENTS,
    DEFAULT_MAX_FIELD_BYTES,
    DEFAULT_TTL_SECONDS,
)
from session_bridge.contract.keys import DEFAULT_NAMESPACE, DEFAULT_PREFIX, Keys
from session_bridge.errors import SettingsError
from session_bridge.recorder.address import check_address

PREFIX = "SESSION_BRIDGE_"
_LONGEST_SCHEMA = 63


class Settings(BaseSettings):
    """The settings of one deployment, read from the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    redis_url: str | None = Field(
        None,
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis or Valkey that holds the live sessions (redis://, rediss://, unix://, redis+sentinel://)",
    )
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="PostgreSQL 15 or newer that holds the archive",
    )
    queue_redis_url: str | None = Field(None, description="Redis of the arq queue; REDIS_URL if not set")
    key_prefix: str = Field(DEFAULT_PREFIX, min_length=1, description="what the key of every live session begins with")
    namespace: str = Field(DEFAULT_NAMESPACE, min_length=1, description="what every key of our own begins with")
    db_schema: str = Field(
        "public",
        min_length=1,
        max_length=_LONGEST_SCHEMA,
        validation_alias=AliasChoices(f"{PREFIX}SCHEMA", "db_schema"),
        description="PostgreSQL schema of the archive's tables",
    )
    ttl_seconds: int = Field(DEFAULT_TTL_SECONDS, ge=1, description="how long a live session lives without a write")
    grace_seconds: float = Field(DEFAULT_GRACE_SECONDS, ge=0, description="how long a disconnect waits for a return")
    lease_seconds: float = Field(
        30, ge=2, le=3600, description="how long a claim lasts; a transaction's time limit is half of it"
    )
    sweep_seconds: float = Field(30, ge=1, le=3600, description="how often the sweep looks for what nobody asked for")
    idle_seconds: float = Field(600, gt=0, description="silence after which a live call is checkpointed")
    abandon_seconds: float = Field(3600, gt=0, description="silence after which a live call is closed as abandoned")
    checkpoint_seconds: float = Field(
        300, gt=0, description="how often a long call is brought up to date in the archive"
    )
    batch_size: int = Field(50, ge=1, le=1000, description="calls drained in one transaction")
    concurrency: int = Field(2, ge=1, le=64, description="transactions of one worker at once")
    max_attempts: int = Field(8, ge=1, description="drains that fail by a call's data before it is dead")
    outcome: str = Field("", description="module:function that decides a call's outcome; empty for the default")
    ignore_fields: Annotated[tuple[str, ...], NoDecode] = Field(
        DEFAULT_IGNORE_FIELDS, description="globs of fields that are working state and not record, set apart by commas"
    )
    max_field_bytes: int = Field(DEFAULT_MAX_FIELD_BYTES, ge=1024, description="a larger field becomes a reject")
    max_events: int = Field(DEFAULT_MAX_EVENTS, ge=1, description="events of one call; those past it become rejects")
    metric_unit: Literal["ms", "s"] = Field("ms", description="unit of latencies that come without one")
    time_zone: str = Field("UTC", description="zone of times that come without one")
    shutdown_seconds: float = Field(10, ge=0, description="how long SIGTERM waits for drains under way")
    sweep_keys: int = Field(10_000, ge=1, description="keys a sweep looks at in one run")
    sweep_limit: int = Field(1000, ge=1, description="calls a sweep asks to be drained in one run")
    health_port: int | None = Field(
        None, ge=0, le=65_535, description="port of a worker's /live, /ready and /metrics; none if not set, 0 for any"
    )
    health_host: str = Field("127.0.0.1", min_length=1, description="address on which that port listens")
    log_format: Literal["console", "json"] = Field("console", description="log lines for people or for programs")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least level that is logged"
    )

    @field_validator("ignore_fields", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("queue_redis_url")
    @classmethod
    def _redis_address(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                check_address(value)
            except ValueError as error:
                # Its own words would quote the address, and with it the password.
                raise ValueError(
                    "not the address of a Redis: write redis://host:port/db, rediss://, unix:// or "
                    "redis+sentinel://host:port,host:port/service/db"
                ) from error
        return value

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError("no such time zone; write a name like Asia/Kolkata") from error
        return value

    @model_validator(mode="after")
    def _refuse_what_loses_data(self) -> Settings:
        if (self.redis_url is None) != (self.database_url is None):
            given, missing = ("REDIS_URL", "DATABASE_URL") if self.redis_url else ("DATABASE_URL", "REDIS_URL")
            raise ValueError(f"{given} is set and {missing} is not; set both, or neither for embedded servers")
        if self.ttl_seconds < 2 * self.sweep_seconds:
            raise ValueError(
                f"{PREFIX}TTL_SECONDS={self.ttl_seconds} is shorter than two sweeps ({PREFIX}SWEEP_SECONDS="
                f"{self.sweep_seconds:g}): a session could expire unseen; make one longer or the other shorter"
            )
        if self.abandon_seconds < self.idle_seconds:
            raise ValueError(
                f"{PREFIX}ABANDON_SECONDS={self.abandon_seconds:g} is shorter than {PREFIX}IDLE_SECONDS="
                f"{self.idle_seconds:g}: a call would be closed before it is checkpointed"
            )
        if self.namespace.startswith(self.key_prefix):
            raise ValueError(
                f"{PREFIX}NAMESPACE={self.namespace} begins with {PREFIX}KEY_PREFIX={self.key_prefix}: "
                "our own keys would be taken for live sessions"
            )
        return self

    @property
    def keys(self) -> Keys:
        """The names of this deployment's Redis keys."""
        return Keys(self.key_prefix, self.namespace)

    @property
    def zone(self) -> tzinfo:
        """The zone of times that come without one."""
        return ZoneInfo(self.time_zone)

    @property
    def transaction_seconds(self) -> float:
        """A transaction's time limit."""
        return self.lease_seconds / 2


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as `session-bridge settings` shows it."""

    name: str
    value: str
    source: str
    meaning: str


def load_settings(**given: object) -> Settings:
    """The settings of the environment, `given` before it. Raises SettingsError with every reason in one line."""
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        reasons = []
        for detail in error.errors():
            place = ".".join(map(str, detail["loc"]))
            message = detail["msg"].removeprefix("Value error, ")
            reasons.append(f"{environment_name(place)}: {message}" if place else message)
        raise SettingsError("; ".join(reasons)) from error


def environment_name(field: str) -> str:
    """The environment variable of a setting."""
    if field.upper() in ("REDIS_URL", "DATABASE_URL") or field.startswith(PREFIX):
        return field.upper()
    return f"{PREFIX}{'SCHEMA' if field == 'db_schema' else field.upper()}"


def setting_lines(settings: Settings, environment: Mapping[str, str] = os.environ) -> list[SettingLine]:
    """Every setting with its value (passwords left out), where it came from, and what it means."""
    lines = []
    for field, info in Settings.model_fields.items():
        name = environment_name(field)
        value = getattr(settings, field)
        shown = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        if field.endswith("_url"):
            shown = without_password(shown)
        source = "environment" if name in environment else "default" if value == info.default else "command line"
        lines.append(SettingLine(name, shown, source, info.description or ""))
    return lines


def without_password(url: str) -> str:
    """`url` with its password replaced by three stars."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}"))
