"""The producers of the stream: one on Kafka, one over HTTP, beside the test in a thread of their own."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, Self

import httpx
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from .stream import Stream, Truth

CODECS = (None, "gzip", "snappy", "lz4", "zstd")
PATIENCE_SECONDS = 180
"""Longer than any outage that a fault causes."""
HTTP_EVENTS = 10


class Producing(threading.Thread):
    """Sends some `rate` records a second from `start` to `end`, in small portions, and notes what was acknowledged.

    `partitions` may grow meanwhile; `urls` are services of which one at a time gets some events over HTTP.
    """

    def __init__(
        self,
        address: str,
        prefix: str,
        stream: Stream,
        *,
        seed: int,
        urls: Callable[[], list[str]],
        rate: int,
    ) -> None:
        super().__init__(name="producing", daemon=True)
        self.truth = Truth()
        self.partitions = 2
        self.rate = rate
        self._address = address
        self._prefix = prefix
        self._stream = stream
        self._random = Random(seed)
        self._urls = urls
        self._wanted = threading.Event()
        self._ending = False
        self._resting = [threading.Event(), threading.Event()]
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._wanted.set()
        self.join(PATIENCE_SECONDS)

    def go_on(self) -> None:
        self._raise_failure()
        for resting in self._resting:
            resting.clear()
        self._wanted.set()

    def rest(self) -> None:
        """Returns when all that was sent is acknowledged."""
        self._wanted.clear()
        for resting in self._resting:
            while not resting.wait(0.2):
                self._raise_failure()
                assert self.is_alive()

    def send_at_once(self, count: int) -> None:
        """So many records as fast as possible, while the stream rests."""

        async def send() -> None:
            producer = await self._connected()
            try:
                await self._send(producer, self._stream.take(count))
            finally:
                await producer.stop()

        asyncio.run(send())

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the producer failed, which says nothing about the service") from self._failure

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as failure:  # noqa: BLE001  # raised in the test's own thread
            self._failure = failure

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._rounds(self._resting[0], self._over_kafka))
            tasks.create_task(self._rounds(self._resting[1], self._over_http))

    async def _rounds(self, resting: threading.Event, send: Callable[[], Any]) -> None:
        while not self._ending:
            if self._wanted.is_set():
                await send()
            resting.set()
            await asyncio.sleep(0.05)

    @property
    def _sending(self) -> bool:
        return self._wanted.is_set() and not self._ending

    async def _over_kafka(self) -> None:
        producer = await self._connected()
        try:
            while self._sending:
                portion = self._stream.take(self._random.randint(1, self.rate // 2))
                await self._send(producer, portion)
                await asyncio.sleep(len(portion) / self.rate)
        finally:
            await producer.stop()

    async def _connected(self) -> AIOKafkaProducer:
        """A producer, as soon as the broker is there."""
        while True:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._address,
                enable_idempotence=True,
                compression_type=self._random.choice(CODECS),
                request_timeout_ms=PATIENCE_SECONDS * 1000,
            )
            try:
                await producer.start()
                return producer
            except (KafkaError, OSError):
                await producer.stop()
                await asyncio.sleep(0.2)

    async def _send(self, producer: AIOKafkaProducer, portion: list[Any]) -> None:
        unacknowledged = []
        for record in portion:
            topic = f"{self._prefix}.openride.events.{record.kind}"
            partition = self._random.randrange(self.partitions)
            sent = await producer.send(topic, record.value, key=b"a key", partition=partition)
            unacknowledged.append((record, sent))
        for record, sent in unacknowledged:
            at = await sent
            self.truth.log[at.topic, at.partition, at.offset] = record

    async def _over_http(self) -> None:
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            while self._sending:
                events = self._stream.take_events(HTTP_EVENTS)
                if await self._post(client, b"\n".join(msgspec.json.encode(event) for event in events)):
                    self.truth.posted += events
                await asyncio.sleep(1.0)

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> bool:
        """Until one of the services has accepted it, or nobody wants it any more."""
        headers = {"Content-Type": "application/x-ndjson"}
        while not self._ending:
            with suppress(httpx.TransportError, IndexError):
                url = self._random.choice(self._urls())
                answer = await client.post(f"{url}/v1/events", content=body, headers=headers)
                if answer.status_code == httpx.codes.ACCEPTED:
                    assert answer.json()["accepted"] == HTTP_EVENTS
                    return True
                assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
            await asyncio.sleep(0.2)
        return False
