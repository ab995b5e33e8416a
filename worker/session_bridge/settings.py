"""Every setting: where it comes from, what it is, and which combinations are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from decimal import Decimal
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
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
from session_bridge.zones import zone_of

PREFIX = "SESSION_BRIDGE_"
_LONGEST_SCHEMA = 63
_PASSWORD = re.compile(r"^([^:/?]+:?//[^:/?]*):.*(?=@)")
_PASSWORD_OPTION = re.compile(r"(password\s*=\s*)(?:'(?:\\.|[^'\\])*'|[^&\s]*)")


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
    read_database_url: str | None = Field(
        None, description="a replica of the archive for show, explain, search and stats; DATABASE_URL if not set"
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
    role_prefix: str = Field(
        "session_bridge", min_length=1, max_length=50, description="what the archive's roles in PostgreSQL begin with"
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
    batch_size: int = Field(200, ge=1, le=1000, description="calls drained in one transaction")
    concurrency: int = Field(2, ge=1, le=64, description="transactions of one worker at once")
    max_attempts: int = Field(8, ge=1, description="drains that fail by a call's data before it is dead")
    outcome: str = Field("", description="module:function that decides a call's outcome; empty for the default")
    embedding: str = Field("", description="module:function that turns texts into vectors, for search by meaning")
    embedding_model: str = Field("", description="the name of its model; another one embeds every call anew")
    refresh_seconds: float = Field(300, ge=1, le=86_400, description="how often the worker refreshes the metric views")
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
    questions_per_minute: int = Field(
        60, ge=0, le=100_000, description="most questions a minute to providers whether a call lives; 0 asks nobody"
    )
    answer_seconds: float = Field(5, ge=0.1, le=10, description="how long a provider has for its answer")
    not_found_seconds: float = Field(
        86_400, gt=0, description="how long a provider must go on not knowing a silent call before it is abandoned"
    )
    twilio_account_sid: str | None = Field(None, description="Twilio account to ask whether a call lives")
    twilio_auth_token: SecretStr | None = Field(None, description="its auth token, which it signs webhooks with too")
    twilio_api_key: str | None = Field(None, description="an API key of it (SK…), instead of the auth token")
    twilio_api_secret: SecretStr | None = Field(None, description="that key's secret")
    twilio_url: str = Field("https://api.twilio.com", description="Twilio's API; another one for another region")
    exotel_account_sid: str | None = Field(None, description="Exotel account to ask whether a call lives")
    exotel_api_key: str | None = Field(None, description="its API key")
    exotel_api_token: SecretStr | None = Field(None, description="its API token")
    exotel_url: str = Field("https://api.exotel.com", description="Exotel's API; https://api.in.exotel.com for Mumbai")
    exotel_time_zone: str = Field("Asia/Kolkata", description="zone of Exotel's times, which come without one")
    livekit_url: str | None = Field(None, description="LiveKit server to ask whether a room lives (wss:// or https://)")
    livekit_api_key: str | None = Field(None, description="its API key, which it signs webhooks with too")
    livekit_api_secret: SecretStr | None = Field(None, description="that key's secret")
    rates: bool = Field(True, description="whether calls are rated by provider_rates where nobody reported their cost")
    rates_seconds: float = Field(60, ge=0, description="how often a worker reads rates and budgets anew")
    credits: Literal["off", "allow_negative", "floor"] = Field(
        "off", description="whether ended calls are deducted from user_credits, below nothing or down to a floor"
    )
    credit_floor_cents: Decimal = Field(
        Decimal(0), allow_inf_nan=False, description="the balance below which `floor` takes nothing"
    )
    credit_currency: str = Field("USD", min_length=1, max_length=64, description="currency in which calls are deducted")
    redact: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="what is taken from every text before it is kept: cards, emails, phones, module:function"
    )
    retention_months: int = Field(12, ge=1, description="whole months before the present one that retention keeps")
    retention_automatic: bool = Field(False, description="whether the worker runs the retention, once a day")
    retention_folder: str = Field(
        "", description="folder for a month's Parquet files, written before it is dropped; empty for none"
    )
    health_port: int | None = Field(
        None, ge=0, le=65_535, description="port of a worker's /live, /ready and /metrics; none if not set, 0 for any"
    )
    health_host: str = Field("127.0.0.1", min_length=1, description="address on which that port listens")
    webhooks_host: str = Field("127.0.0.1", min_length=1, description="address on which the webhooks listen")
    webhooks_port: int = Field(8090, ge=0, le=65_535, description="port of the webhooks; 0 takes any free one")
    webhooks_public_url: str | None = Field(
        None,
        description="what stands before the path where providers call, https://calls.example.com; signatures hold it",
    )
    webhooks_trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-* headers are believed, set apart by commas"
    )
    webhooks_max_bytes: int = Field(DEFAULT_MAX_FIELD_BYTES, ge=1024, description="a larger body is answered 413")
    exotel_secret: SecretStr | None = Field(None, description="last part of the path of Exotel's webhooks")
    exotel_addresses: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="addresses or networks from which Exotel's webhooks may come; none for everywhere"
    )
    plivo_auth_token: SecretStr | None = Field(None, description="auth token that Plivo signs webhooks with")
    plivo_signature: Literal["v3", "v2"] = Field(
        "v3", description="version of Plivo's signatures; v2 does not cover the body"
    )
    vapi_secret: SecretStr | None = Field(None, description="secret in a header of Vapi's webhooks")
    vapi_header: str = Field("X-Vapi-Secret", min_length=1, description="name of that header")
    retell_api_key: SecretStr | None = Field(None, description="API key that Retell signs webhooks with")
    elevenlabs_secret: SecretStr | None = Field(None, description="secret that ElevenLabs signs webhooks with")
    standard_secret: SecretStr | None = Field(
        None, description="secret of Standard Webhooks, whsec_…, for everybody else"
    )
    log_format: Literal["console", "json"] = Field("console", description="log lines for people or for programs")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least level that is logged"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_not_set(cls, value: object, info: ValidationInfo) -> object:
        """A compose file's `DATABASE_URL=` is no address: libpq would make one of the machine's own defaults."""
        field = cls.model_fields[info.field_name or ""]
        return None if field.default is None and isinstance(value, str) and not value.strip() else value

    @field_validator("ignore_fields", "redact", "webhooks_trusted_proxies", "exotel_addresses", mode="before")
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
                raise ValueError(f"not the address of a Redis: {error}") from error
        return value

    @field_validator("twilio_url", "exotel_url", "livekit_url")
    @classmethod
    def _provider_address(cls, value: str | None) -> str | None:
        if value is not None and not is_provider_address(value):
            raise ValueError("not the address of an API: write https://host, without user, password or query")
        return value

    @field_validator("time_zone", "exotel_time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        zone_of(value)
        return value

    @model_validator(mode="after")
    def _refuse_what_loses_data(self) -> Settings:
        self._refuse_half_a_deployment()
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
        if self.embedding_model and not self.embedding:
            raise ValueError(
                f"{PREFIX}EMBEDDING_MODEL={self.embedding_model} is set and {PREFIX}EMBEDDING is not: "
                "name the function that embeds as module:function"
            )
        if self.namespace.startswith(self.key_prefix):
            raise ValueError(
                f"{PREFIX}NAMESPACE={self.namespace} begins with {PREFIX}KEY_PREFIX={self.key_prefix}: "
                "our own keys would be taken for live sessions"
            )
        return self

    def _refuse_half_a_deployment(self) -> None:
        if (self.redis_url is None) != (self.database_url is None):
            given, missing = ("REDIS_URL", "DATABASE_URL") if self.redis_url else ("DATABASE_URL", "REDIS_URL")
            raise ValueError(f"{given} is set and {missing} is not; set both, or neither for embedded servers")

    @property
    def keys(self) -> Keys:
        """The names of this deployment's Redis keys."""
        return Keys(self.key_prefix, self.namespace)

    @property
    def zone(self) -> tzinfo:
        """The zone of times that come without one."""
        return zone_of(self.time_zone)

    @property
    def transaction_seconds(self) -> float:
        """A transaction's time limit."""
        return self.lease_seconds / 2


class RedisSettings(Settings):
    """The settings of a process that only writes live sessions, and needs no address of the archive."""

    def _refuse_half_a_deployment(self) -> None:
        if self.redis_url is None:
            raise ValueError("REDIS_URL is not set: set it to the Redis in which the live sessions are")


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as `session-bridge settings` shows it."""

    name: str
    value: str
    source: str
    meaning: str


def load_settings(kind: type[Settings] = Settings, /, **given: object) -> Settings:
    """The settings of the environment, `given` before it. Raises SettingsError with every reason in one line."""
    try:
        return kind(**given)  # type: ignore[arg-type]  # pydantic checks them
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
        told = name in environment and value is not None
        source = "environment" if told else "default" if value == info.default else "command line"
        lines.append(SettingLine(name, shown, source, info.description or ""))
    return lines


def is_provider_address(url: str) -> bool:
    """Whether this can be the address of a provider's API."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or "@" in parts.netloc or set(url) & set(" \t\r\n"))
    return plain and bool(parts.hostname) and parts.scheme in ("https", "http", "wss", "ws")


def without_password(url: str) -> str:
    """`url`, or an address in libpq's `key=value` form, with its passwords replaced by three stars each."""
    return _PASSWORD_OPTION.sub(r"\1***", _PASSWORD.sub(r"\1:***", url))
