"""What can go wrong with a server of one's own."""

from session_bridge.errors import BridgeError


class EmbeddedServerError(BridgeError):
    """An embedded server did not start, or did not stop."""


class DataFolderInUseError(EmbeddedServerError):
    """Another running server keeps its data in this folder."""


class PortTakenError(EmbeddedServerError):
    """Another program listens on the port."""
