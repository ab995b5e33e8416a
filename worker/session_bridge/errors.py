"""Errors a user of the bridge can meet. Each message says what happened and what to do next."""

from __future__ import annotations


class BridgeError(Exception):
    """The base of every error of ours.

    `retryable` says, once for each type, whether trying the same thing again may succeed.
    """

    retryable = False


class SettingsError(BridgeError):
    """A setting, or a combination of settings, that the bridge refuses to run with."""


class MissingExtraError(BridgeError):
    """A command needs packages that this installation left out."""


class SchemaError(BridgeError):
    """The archive's tables are not what this version needs, or are not ours."""


class WrongArchiveError(BridgeError):
    """The sessions in this Redis belong to another archive."""


class UnsupportedServerError(BridgeError):
    """A server that the bridge cannot keep its promises on."""


class RedisUnavailableError(BridgeError):
    """Redis cannot be reached, or answers that it cannot serve now."""

    retryable = True


class ArchiveUnavailableError(BridgeError):
    """PostgreSQL cannot be reached, or its trouble is its own and will pass."""

    retryable = True


class DataRefusedError(BridgeError):
    """PostgreSQL refused what was written, for what it says and not for the server's state."""


class TransactionTimeoutError(BridgeError):
    """A transaction ran into its time limit; counted apart, because one call may be the cause."""

    retryable = True


class LockedError(TransactionTimeoutError):
    """What a transaction needed was locked by another one for too long: no call is to blame."""


class UnknownCallError(BridgeError):
    """Neither Redis nor the archive knows this call SID."""


class UntrustedCallbackError(BridgeError):
    """A webhook's request is not proven to be its provider's: the signature, the secret or the address is wrong."""


class UnreadableCallbackError(BridgeError):
    """A webhook's request is its provider's, and its body cannot be read."""


class UnreadableReportError(UnreadableCallbackError):
    """A provider's callback that lacks what it must have; the provider is answered 400 with these words."""


class SearchError(BridgeError):
    """A search that cannot be made, for what it asks or for what is missing."""


class RedactionError(BridgeError):
    """A redactor failed: what it should have looked at is not kept, and waits in Redis until the redactor is mended."""

    retryable = True


class ExportError(BridgeError):
    """A month could not be written to files, or what is there is not what was written."""


class RolesError(BridgeError):
    """A role that cannot be made, or cannot be let to do what is asked for it."""
