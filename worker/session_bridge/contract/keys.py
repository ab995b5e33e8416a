"""Every Redis key the bridge reads or writes, and nothing else knows their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

DEFAULT_PREFIX = "session:"
DEFAULT_NAMESPACE = "session-bridge"
MAX_CALL_SID_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names for one deployment.

    `prefix` begins every live session; `namespace` begins every key of our own, so that two
    deployments on one Redis never meet.
    """

    prefix: str = DEFAULT_PREFIX
    namespace: str = DEFAULT_NAMESPACE

    def session(self, call_sid: str) -> str:
        """The hash that holds one live call."""
        return f"{self.prefix}{call_sid}"

    def call_sid(self, key: str) -> str:
        """The call SID of a live session's key."""
        return key.removeprefix(self.prefix)

    @property
    def ready(self) -> str:
        """Sorted set: call SID, scored by the epoch millisecond at which it is due to be drained."""
        return f"{self.namespace}:ready"

    @property
    def checkpoints(self) -> str:
        """Sorted set like `ready`, of calls that still live and are to be written down without release."""
        return f"{self.namespace}:checkpoints"

    @property
    def opened(self) -> str:
        """Sorted set: call SID a recorder opened, scored by when; the sweep enters it into the books."""
        return f"{self.namespace}:opened"

    @property
    def in_hand(self) -> str:
        """Hash: call SID to the number of claims that ended without an outcome (a worker died with it)."""
        return f"{self.namespace}:in-hand"

    @property
    def attempts(self) -> str:
        """Hash: call SID to the number of drains that failed by its data."""
        return f"{self.namespace}:attempts"

    def asked(self, call_sid: str) -> str:
        """Hash: what was heard when a provider was asked whether this call lives, and when it may be asked again."""
        return f"{self.namespace}:asked:{call_sid}"

    @property
    def questions(self) -> str:
        """Sorted set: the questions to providers of the last minute, scored by their epoch millisecond."""
        return f"{self.namespace}:questions"

    def paused(self, provider: str) -> str:
        """String with a TTL: this provider is not to be asked before it has expired."""
        return f"{self.namespace}:paused:{provider}"

    @property
    def archive(self) -> str:
        """String: the identity of the archive this namespace drains into."""
        return f"{self.namespace}:archive"

    @property
    def sweep(self) -> str:
        """Hash: where the sweep's round through the keys stands."""
        return f"{self.namespace}:sweep"

    @property
    def doctor(self) -> str:
        """Hash: what `session-bridge doctor` saw of the server last, to tell what has happened since."""
        return f"{self.namespace}:doctor"

    @property
    def rates(self) -> str:
        """String: the rates, as JSON, for recorders that watch a call's cost."""
        return f"{self.namespace}:rates"

    @property
    def budgets(self) -> str:
        """String: up to which moment of the archive's clock recorders were told of changed budgets."""
        return f"{self.namespace}:budgets"

    def budget(self, tenant_id: str, user_id: str) -> str:
        """Hash: a user's budget, what was told of it, and what the user's live calls cost. It names nobody."""
        whose = hashlib.sha256(f"{len(tenant_id)}:{tenant_id}{user_id}".encode("utf-8", "surrogateescape"))
        return f"{self.namespace}:budget:{whose.hexdigest()[:32]}"

    def spend(self, call_sid: str) -> str:
        """Hash: what one live call costs, by recorder, and what was told of it."""
        return f"{self.namespace}:spend:{call_sid}"

    @property
    def failover(self) -> str:
        """Hash: which writes may be missing since the last failover that a worker saw."""
        return f"{self.namespace}:failover"

    @property
    def wake(self) -> str:
        """Channel: a message here makes sleeping workers look at the ready set at once."""
        return f"{self.namespace}:wake"

    @property
    def workers(self) -> str:
        """Sorted set: the name of each running worker, scored by the epoch millisecond of its last sign of life."""
        return f"{self.namespace}:workers"

    @property
    def queue(self) -> str:
        """Sorted set: arq's queue."""
        return f"{self.namespace}:queue"

    def queued_job(self, job_id: str) -> str:
        """String: one job of arq's queue; arq has chosen the name."""
        return f"arq:job:{job_id}"


def check_call_sid(call_sid: str) -> str:
    """Return `call_sid` if it can name a call, else raise ValueError.

    A call SID is any non-empty text of at most 255 characters that UTF-8 can carry and PostgreSQL can hold.
    """
    if not 1 <= len(call_sid) <= MAX_CALL_SID_LENGTH:
        raise ValueError(f"a call SID has 1 to {MAX_CALL_SID_LENGTH} characters; this one has {len(call_sid)}")
    if "\x00" in call_sid or not _encodes(call_sid):
        raise ValueError("a call SID is text that UTF-8 can carry, without U+0000")
    return call_sid


def is_call_sid(text: str) -> bool:
    """Whether `text` can name a call."""
    try:
        check_call_sid(text)
    except ValueError:
        return False
    return True


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
