"""The service with a fault built in: run instead of `python -m openride_analytics`, with the same arguments.

A program of its own, so that the service holds no hooks for its tests. What the environment says:

- `FAULT_POINT=commit:before:3`: SIGKILL before (`after`, or a moment into: `during`) the third call of a named function.
- `FAULT_KILL_AFTER_SECONDS=0.7`: SIGKILL then, wherever the process is, its start included.
- `FAULT_CLOCK_SECONDS=-3600`: the service's clock is wrong by so much (`time.time` and `datetime.now` in its modules;
  the clocks that measure intervals are right, as on a machine whose date is wrong).
- `FAULT_SESSION_SECONDS=3`: the group's session timeout, so that a killed member's partitions are free sooner.
- `FAULT_BROKEN=commits_first`: a wrong service, to see that the suite notices (see `BREAKS`).
"""

import asyncio
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import wraps
from itertools import count
from typing import Any

from aiokafka import AIOKafkaConsumer

from openride_analytics import cli, migrations
from openride_analytics.cache import RedisCache
from openride_analytics.ingest import pipeline
from openride_analytics.ingest.kafka import KafkaSource
from openride_analytics.ingest.topics import DeadLetterTopic
from openride_analytics.warehouse import WarehouseError
from openride_analytics.warehouse.server import ServerWarehouse

Function = Callable[..., Awaitable[Any]]

POINTS: dict[str, tuple[Any, str]] = {
    "migrate": (migrations, "migrate"),
    "fetch": (AIOKafkaConsumer, "getmany"),
    "insert": (ServerWarehouse, "insert"),
    "settle": (pipeline, "settle_clashes"),
    "bury": (ServerWarehouse, "execute"),
    "dead_letters": (pipeline, "store_dead_letters"),
    "publish": (DeadLetterTopic, "publish"),
    "data_changed": (RedisCache, "data_changed"),
    "commit": (AIOKafkaConsumer, "commit"),
    "revoked": (KafkaSource, "on_partitions_revoked"),
    "assigned": (KafkaSource, "on_partitions_assigned"),
}
"""Where a service can be killed: what holds each function, and its name there."""

A_MOMENT_SECONDS = 0.002


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def mortal(function: Function, when: str, call: int, counts: Callable[..., bool]) -> Function:
    """The function, whose `call`-th call among those that `counts` is the process's end."""
    calls = count(1)

    @wraps(function)
    async def until_then(*arguments: Any, **named: Any) -> Any:
        last = counts(*arguments) and next(calls) == call
        if last and when == "before":
            die()
        if last and when == "during":
            asyncio.get_running_loop().call_later(A_MOMENT_SECONDS, die)
        result = await function(*arguments, **named)
        if last and when == "after":
            die()
        return result

    return until_then


def counts_always(*_: Any) -> bool:
    return True


def counts_letters(_warehouse: Any, letters: Sequence[Any]) -> bool:
    return bool(letters)


def counts_tombstones(_warehouse: Any, statement: str, *_: Any) -> bool:
    return "INSERT INTO" in statement


COUNTS: dict[str, Callable[..., bool]] = {"dead_letters": counts_letters, "bury": counts_tombstones}


def set_point(text: str) -> None:
    point, when, call = text.split(":")
    holder, name = POINTS[point]
    setattr(holder, name, mortal(getattr(holder, name), when, int(call), COUNTS.get(point, counts_always)))


def shift_clock(seconds: float) -> None:
    shift = timedelta(seconds=seconds)
    right = time.time

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + shift

    modules = [module for name, module in sys.modules.items() if name.startswith("openride_analytics.")]
    for module in modules:
        if getattr(module, "time", None) is right:
            vars(module)["time"] = lambda: right() + seconds
        if "datetime.now(" in inspect.getsource(module):
            vars(module)["datetime"] = Shifted


def shorten_session(seconds: float) -> None:
    make = AIOKafkaConsumer.__init__

    @wraps(make)
    def shorter(self: Any, *topics: str, **options: Any) -> None:
        own = {
            "session_timeout_ms": int(seconds * 1000),
            "heartbeat_interval_ms": int(seconds * 200),
            "rebalance_timeout_ms": 10_000,
        }
        make(self, *topics, **(own | options if "group_id" in options else options))

    AIOKafkaConsumer.__init__ = shorter


async def _nothing(*_: Any) -> None:
    pass


def break_commits_first() -> None:
    """Offsets are committed when records are handed over, not when they are stored."""
    put = pipeline.Pipeline.put_at_once

    async def put_and_believe(self: Any, *arguments: Any) -> pipeline.Stored:
        _ = await put(self, *arguments)
        done: pipeline.Stored = asyncio.get_running_loop().create_future()
        done.set_result([])
        return done

    vars(pipeline)["Pipeline"].put_at_once = put_and_believe


def break_settles_nothing() -> None:
    """Ids with two contents are left as they are."""
    vars(pipeline)["settle_clashes"] = _nothing


def break_drops_dead_letters() -> None:
    """Refused records are not kept."""

    async def believe(_: Any, letters: Any) -> list[Any]:
        return list(letters)

    vars(pipeline)["store_dead_letters"] = believe


def break_gives_up() -> None:
    """A batch that could not be stored is not tried again."""
    attempt = pipeline.Pipeline._try

    async def attempt_once(self: Any, *arguments: Any) -> Any:
        try:
            return await attempt(self, *arguments)
        except WarehouseError:
            return []

    vars(pipeline)["Pipeline"]._try = attempt_once


BREAKS = {
    "commits_first": break_commits_first,
    "settles_nothing": break_settles_nothing,
    "drops_dead_letters": break_drops_dead_letters,
    "gives_up": break_gives_up,
}


def kill_later(seconds: float) -> None:
    timer = threading.Timer(seconds, die)
    timer.daemon = True
    timer.start()


def build_in(environment: dict[str, str]) -> None:
    if seconds := environment.get("FAULT_SESSION_SECONDS"):
        shorten_session(float(seconds))
    if broken := environment.get("FAULT_BROKEN"):
        BREAKS[broken]()
    if point := environment.get("FAULT_POINT"):
        set_point(point)
    if seconds := environment.get("FAULT_CLOCK_SECONDS"):
        shift_clock(float(seconds))
    if seconds := environment.get("FAULT_KILL_AFTER_SECONDS"):
        kill_later(float(seconds))


if __name__ == "__main__":
    build_in(dict(os.environ))
    sys.exit(cli.main())
