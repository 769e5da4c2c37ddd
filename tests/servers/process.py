"""The life of one server process: start, stop, kill, pause; and how a fixture says that it can't be had.

The servers of this package say how they are started and when they are ready; everything else is here. The
calls block until they have taken effect, so tests with an event loop to keep free use `asyncio.to_thread`.
"""

import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, NoReturn, Self, TypeVar

import psutil
import pytest

LEASH = Path(__file__).with_name("leash.py")
HOST = "127.0.0.1"
# Below the ports that Linux hands to clients: a client that keeps trying a port of that range while its
# server is down can be given the very same port as its own, connect to itself and keep the server out.
PORTS = range(15_000, 32_000)
LOG_TAIL_CHARACTERS = 6_000


class ServerUnavailableError(Exception):
    """The machine lacks what the server needs (a program, a download): its tests cannot run here."""


class ServerFailedError(RuntimeError):
    """The server was there and did not start or stop; the message ends with the end of its log."""


def free_port() -> int:
    """A TCP port that nothing listens on, the same for the whole life of a server."""
    while True:
        # Not `random`, which is seeded alike before each test and in each process.
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


ServerT = TypeVar("ServerT", bound="Server")


class Server(ABC):
    """A server with its data, its log and its ports; the data outlive the process, until `close`.

    With an address of a server that runs elsewhere, it is only a holder of that address: `start` and `stop`
    do nothing, and a test that kills, pauses or restarts it is skipped.
    """

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_seconds: ClassVar[float] = 60.0
    stop_seconds: ClassVar[float] = 30.0

    def __init__(self, *, elsewhere: bool = False) -> None:
        self.elsewhere = elsewhere
        self._temporary = TemporaryDirectory(
            prefix=f"openride-{self.name.lower()}-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        self.log = self.folder / "server.log"
        self._log_start = 0
        self._leash: subprocess.Popen[str] | None = None
        self._process: psutil.Process | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What to run; called before each start, so the place to make the data folder as well."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server answers; asked every few milliseconds while it starts."""

    def system_user(self) -> str | None:
        """The user to run it as, for a server that refuses to be root's."""
        return None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return int(self._running().pid)

    @property
    def running(self) -> bool:
        """Whether the process is there (a paused one is)."""
        return self.elsewhere or (self._leash is not None and self._leash.poll() is None)

    def start(self) -> None:
        """Start it and wait until it answers; nothing if it runs already."""
        if self.running:
            return
        if platform.system() != "Linux":
            raise ServerUnavailableError("the tests run servers on Linux only")
        self._release()
        command = self.command()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._leash = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(LEASH)),
                    *(str(self.folder), str(int(self.stop_signal)), self.system_user() or ""),
                    *command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # an interrupt typed at the tests is not for the server
            )
        assert self._leash.stdout is not None
        pid = self._leash.stdout.readline()
        try:
            self._process = psutil.Process(int(pid))
        except (ValueError, psutil.NoSuchProcess):
            self._leash.wait(self.stop_seconds)
            self._fail("could not be run")
        self._await_ready()

    def stop(self) -> None:
        """Ask it to end, as an operator would, and wait for it."""
        if self.elsewhere or not self.running:
            return
        process, leash = self._running(), self._leash
        assert leash is not None
        process.send_signal(self.stop_signal)
        self.resume()
        try:
            leash.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self._fail(f"did not stop within {self.stop_seconds} s")
        self._release()

    def kill(self) -> None:
        """End it without a warning, and whatever it has started (SIGKILL)."""
        self.must_be_ours()
        if not self.running:
            return
        assert self._leash is not None
        family = self._family()
        for process in family:
            _signal(process, signal.SIGKILL)
        # The leash knows when the server has ended; a zombie may still have threads that run.
        self._leash.wait(self.stop_seconds)
        self._release()
        while not all(_ended(process) for process in family[1:]):
            time.sleep(0.01)

    def pause(self) -> None:
        """Make it hang (SIGSTOP): its ports stay open, nothing is answered."""
        self.must_be_ours()
        for process in self._family():
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self.must_be_ours()
        for process in self._family():
            _signal(process, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it, if it runs, and start it again on the same ports and data."""
        self.must_be_ours()
        self.stop()
        self.start()

    def ensure_running(self) -> None:
        """Bring back a server that has ended, does not answer, or was left paused; same ports, same data."""
        if self.elsewhere:
            return
        if self.running:
            self.resume()
            try:
                self._await_ready(seconds=5.0)
            except ServerFailedError:
                self.kill()
        self.start()

    def close(self) -> None:
        """Stop it and remove its data."""
        try:
            self.stop()
        finally:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._temporary.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def logged(self) -> str:
        """What the server has written since it was last started."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def must_be_ours(self) -> None:
        """Skip the test if the server is not the tests' own: for tests that break it by other means."""
        if self.elsewhere:
            pytest.skip(f"the {self.name} server of the environment is not the tests' own to stop")

    def _await_ready(self, seconds: float | None = None) -> None:
        deadline = time.monotonic() + (seconds or self.start_seconds)
        while not self.ready():
            if not self.running:
                self._fail("ended while starting")
            if time.monotonic() > deadline:
                if seconds is None:
                    self.kill()
                self._fail("did not get ready in time")
            time.sleep(0.02)

    def _running(self) -> psutil.Process:
        if self._process is None:
            raise ServerFailedError(f"{self.name} is not running")
        return self._process

    def _family(self) -> list[psutil.Process]:
        """The server and its descendants, the server first, so that it starts no others meanwhile."""
        process = self._running()
        try:
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _release(self) -> None:
        """Let go of the ended leash's pipes."""
        self._process = None
        if self._leash is not None:
            leash, self._leash = self._leash, None
            with leash:  # closes them and waits
                pass

    def _fail(self, what: str) -> NoReturn:
        if not self.running:
            self._release()
        raise ServerFailedError(f"{self.name} {what}; its log ends:\n{self.logged()[-LOG_TAIL_CHARACTERS:]}")


def _ended(process: psutil.Process) -> bool:
    try:
        # An orphan is a zombie until the first process of the machine collects it; it holds nothing any more.
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def do_without(name: str, reason: ServerUnavailableError) -> NoReturn:
    """Ends a test that needs what cannot be had: skips it, or, with CI=true, fails it.

    A pipeline that quietly tests nothing is worse than none.
    """
    message = f"no {name} to be had: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@contextmanager
def lent(server: ServerT) -> Iterator[ServerT]:
    """For a fixture: the server, running, until the end of the session."""
    try:
        server.__enter__()
    except ServerUnavailableError as reason:
        do_without(server.name, reason)
    try:
        yield server
    finally:
        server.close()
