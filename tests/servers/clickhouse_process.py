"""ClickHouse behind its native and HTTP ports, from the engine in libchdb.so: a program of its own.

The library's `query_stable_v2` is clickhouse-local's main function. Its query opens the ports and then reads
standard input, a pipe that this process holds itself and closes on SIGTERM: so the query ends in good order,
and with it the server.

Arguments: the library, the data folder, the native port, the HTTP port, and perhaps a configuration file.
"""

import ctypes
import os
import signal
import sys
import threading

SERVE = """
SYSTEM START LISTEN TCP;
SYSTEM START LISTEN HTTP;
SELECT * FROM file('/dev/stdin', LineAsString) FORMAT Null
"""


class LocalResult(ctypes.Structure):
    """`struct local_result_v2` of chdb.h."""

    _fields_ = [  # type: ignore[mutable-override]
        ("buf", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("_vec", ctypes.c_void_p),
        ("elapsed", ctypes.c_double),
        ("rows_read", ctypes.c_uint64),
        ("bytes_read", ctypes.c_uint64),
        ("error_message", ctypes.c_char_p),
    ]


def serve(library: str, data: str, tcp_port: int, http_port: int, config: str = "") -> str | None:
    """Serve until SIGTERM; the engine's complaint if there was one."""
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    # The main thread is inside the library, where Python's signal handlers do not run: a thread waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_close_on_sigterm, args=(writing,), daemon=True).start()

    arguments = [
        "clickhouse",
        f"--path={data}",
        "--listen_host=127.0.0.1",
        f"--tcp_port={tcp_port}",
        f"--http_port={http_port}",
        "--logger.console",
        "--log-level=error",
        # For mutations too, which know no session's settings: see ClickHouseServer for what breaks off inside a packet.
        "--async_query_sending_for_remote=0",
        f"--query={SERVE}",
        *([f"--config-file={config}"] if config else []),
    ]
    engine = ctypes.CDLL(library)
    engine.query_stable_v2.restype = ctypes.POINTER(LocalResult)
    result = engine.query_stable_v2(
        len(arguments), (ctypes.c_char_p * len(arguments))(*(argument.encode() for argument in arguments))
    )
    complaint = result.contents.error_message if result else b"no result"
    return complaint.decode(errors="replace") if complaint else None


def _close_on_sigterm(writing: int) -> None:
    signal.sigwait({signal.SIGTERM})
    os.close(writing)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:]))
