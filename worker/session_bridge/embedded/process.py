"""A server's process, which does not outlive ours."""

from __future__ import annotations

import os
import signal
import subprocess

from session_bridge.embedded.account import Account

# The guard reads the server's process id, then waits for the end of its input, which comes when we have ended, however
# that was. SIGCONT: a server that was halted would not hear of it.
GUARD = 'read -r pid || exit 0; read -r _; kill -s "$1" "$pid"; kill -s CONT "$pid"'

# The server's own process tells the guard its id before it becomes the server, so that there is no moment at which it
# runs unguarded. From then on what it prints goes to the log.
LAUNCH = 'echo $$ && exec "$@" >&2'


class ServerProcess:
    """A running server and its guard.

    Both are sessions of their own: Ctrl-C in our terminal reaches neither, so that we can end our work on the server
    before we stop it.
    """

    def __init__(
        self,
        command: list[str],
        *,
        end_signal: signal.Signals,
        log: int,
        lock: int,
        account: Account,
        environment: dict[str, str],
    ) -> None:
        """Start the server; it inherits the descriptors `log` and `lock`, which stay the caller's to close."""
        self._end_signal = end_signal
        reads, self._lifeline = os.pipe()
        try:
            # Every program closes the lifeline as it starts: only we hold it open, and forks of ours, if any.
            self._guard = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", GUARD, "guard", end_signal.name.removeprefix("SIG")],
                stdin=reads,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reads)
        try:
            self._server = account.popen(
                ["/bin/sh", "-c", LAUNCH, "launch", *command],
                stdout=self._lifeline,
                stderr=log,
                inherited=(lock,),
                environment=environment,
                own_session=True,
            )
        except BaseException:
            self._dismiss_guard()
            raise

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    def ended(self) -> bool:
        """Whether the server has ended. Once it has, its id may be another's, so the guard is sent away first."""
        if self._server.returncode is None and self._server.poll() is not None:
            self._dismiss_guard()
        return self._server.returncode is not None

    def end(self, with_signal: signal.Signals | None = None, patience: float = 30.0) -> None:
        """Ask the server to end and wait for it; after `patience` seconds, make it."""
        if self.ended():
            return
        self._server.send_signal(with_signal or self._end_signal)
        self._server.send_signal(signal.SIGCONT)
        try:
            self._server.wait(patience)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        self._guard.kill()
        self._guard.wait()
        os.close(self._lifeline)
