"""What can happen to the log itself: topics deleted and made again, records removed before they were read."""

import asyncio
import time
from random import Random

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from tests.servers.kafka import admin

from .stage import Stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]
GONE_SECONDS = 30.0


def read_some(stage: Stage) -> int:
    """The stream rests, and all of the log is read and committed; how many records that are."""
    stage.producing.rest()
    stage.producing.send_at_once(200)
    stage.check(go_on=False)
    return len(stage.producing.truth.log)


async def topics_made_again(stage: Stage) -> None:
    async with admin(stage.addresses) as client:
        await client.delete_topics(stage.all_topics)
        deadline = time.monotonic() + GONE_SECONDS
        while set(stage.all_topics) & set(await client.list_topics()):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    await stage.create_topics(*stage.all_topics)


def test_topics_deleted_and_made_again_are_read_from_their_beginning(stage: Stage) -> None:
    """The new log is soon longer than the offsets that the services know from the old one."""
    before = read_some(stage)
    asyncio.run(topics_made_again(stage))
    stage.producing.truth.topics_deleted()
    stage.producing.send_at_once(3 * before)
    stage.check()
    time.sleep(2)
    stage.check()


def test_topics_deleted_while_no_service_runs_are_read_from_their_beginning(stage: Stage) -> None:
    before = read_some(stage)
    stage.kill(*stage.services)
    asyncio.run(topics_made_again(stage))
    stage.producing.truth.topics_deleted()
    stage.producing.send_at_once(3 * before)
    stage.check()


def test_records_that_retention_removed_unread_are_reported(stage: Stage, chance: Random) -> None:
    read_some(stage)
    stage.kill(*stage.services)
    truth = stage.producing.truth
    read = truth.ends
    stage.producing.send_at_once(600)
    cuts = {place: chance.randint(read.get(place, 0), end) for place, end in truth.ends.items()}

    async def remove() -> None:
        async with admin(stage.addresses) as client:
            await client.delete_records(
                {TopicPartition(*place): RecordsToDelete(before_offset=cut) for place, cut in cuts.items()}
            )

    asyncio.run(remove())
    lost = {place: truth.lost_before(*place, cut, read.get(place, 0)) for place, cut in cuts.items()}
    ends = {place: end for place, end in truth.ends.items() if end > cuts.get(place, 0)}
    stage.report.say(f"{sum(lost.values())} records removed unread, from {len(ends)} partitions not all")

    stage.check(go_on=False)
    services = stage.services
    services[0].wait_until(
        lambda: (
            sum(service.metric("openride_records_lost_total") for service in services) == sum(lost.values())
        ),
        "report what is lost",
    )
    lines = [line for service in services for line in service.log_lines("records_lost")]
    reported = {(line["topic"], line["partition"]): line["to_offset"] - line["from_offset"] for line in lines}
    assert reported == {place: count for place, count in lost.items() if count}
    listed = [item for service in services for item in service.get_json("/v1/ingest/status")["lost"]]
    assert {
        (item["topic"], item["partition"]): item["to_offset"] - item["from_offset"] for item in listed
    } == reported
