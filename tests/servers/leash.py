"""Runs one server and ends it when the test process ends, however that happens.

A program of its own, started by `process.Server`, which holds the other end of its standard input. The
kernel's parent-death signal alone would not do: it fires when the *thread* that started the server ends, and
asyncio's worker threads end with the test's event loop.

Arguments: the folder to remove with the server, the number of the signal that stops it, the system user to
run it as (or an empty text), then the command. Prints the server's process id and ends with its exit status.
"""

import ctypes
import os
import resource
import select
import shutil
import signal
import subprocess
import sys

GRACE_SECONDS = 5
PR_SET_PDEATHSIG = 1


def tie_to_leash() -> None:
    """In the server, before it begins: end with the leash, and leave no core file when it aborts."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(folder: str, stop_signal: int, user: str | None, command: list[str]) -> int:
    """Run the command until it ends or nobody holds this process's standard input any more."""
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd=folder,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        preexec_fn=tie_to_leash,  # noqa: PLW1509  this process has one thread
    )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()

    ended = os.pidfd_open(server.pid)
    either = select.poll()
    either.register(ended, select.POLLIN)
    either.register(sys.stdin.fileno(), 0)  # reports the hang-up only
    if ended not in (descriptor for descriptor, _ in either.poll()):
        server.send_signal(stop_signal)
        server.send_signal(signal.SIGCONT)
        try:
            server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return server.wait()


if __name__ == "__main__":
    status = run(sys.argv[1], int(sys.argv[2]), sys.argv[3] or None, sys.argv[4:])
    sys.exit(status if status >= 0 else 128 - status)
