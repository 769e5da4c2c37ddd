"""Two instances of the service, killed and started again and again: each due report arrives, and once.

Once more is right only where an instance was killed between the mail server's answer and its record: then the second mail
has the Message-ID of the first, so it shows as one.
"""

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import asyncpg
import pytest

from tests.integration.running import Sections, ServiceProcess
from tests.reporting import body
from tests.servers.smtp import SmtpServer

INSTANCES = 2
PATIENCE_SECONDS = 120.0


class Instance(ServiceProcess):
    """Makes small reports, and does not wait for long."""

    def program(self) -> Sequence[str]:
        return [sys.executable, "-m", "tests.integration.reports_launcher"]


def configured(clickhouse_url: str, postgres_url: str, smtp: SmtpServer, folder: str) -> Sections:
    return {
        "clickhouse": {"url": clickhouse_url},
        "postgres": {"url": postgres_url},
        "smtp": smtp.config,
        "storage": {"data_dir": folder},  # one for both: where their reports are kept
    }


async def make_due(postgres_url: str) -> None:
    """All schedules, now."""
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("UPDATE report_schedules SET next_due_at = now()")
    finally:
        await connection.close()


async def states(postgres_url: str) -> dict[str, int]:
    """How many runs are in each state."""
    connection = await asyncpg.connect(postgres_url)
    try:
        rows = await connection.fetch("SELECT state, count(*) AS runs FROM report_runs GROUP BY state")
    finally:
        await connection.close()
    return {row["state"]: row["runs"] for row in rows}


def arrived(smtp: SmtpServer, count: int) -> bool:
    return len(smtp.counts()) >= count


def run(due: int, kills: int, config: Sections, postgres_url: str, smtp: SmtpServer, seed: int) -> None:
    chance = random.Random(seed)
    recipients = [f"{number}@openride.test" for number in range(due)]
    # A mail server that takes its time, so that instances die in the middle of it.
    smtp.delay_seconds = 0.05
    with ExitStack() as stack:
        instances = [stack.enter_context(Instance(config)) for _ in range(INSTANCES)]
        for instance in instances:
            instance.wait_until_ready()
        for recipient in recipients:
            instances[0].post_json(
                "/v1/reports/schedule", body(recipients=[{"email": recipient}], frequency="monthly", day=31)
            )
        asyncio.run(make_due(postgres_url))
        for number in range(kills):
            # The next kill comes when some more have arrived, so somewhere in their midst.
            wanted = due * (number + 1) // (kills + 2)
            instances[0].wait_until(partial(arrived, smtp, wanted), "go on", PATIENCE_SECONDS)
            victim = instances[number % INSTANCES]
            time.sleep(chance.random() * 0.1)
            if chance.random() < 0.7:
                victim.kill()
            else:
                victim.terminate()
            victim.start()
        instances[0].wait_until(
            lambda: asyncio.run(states(postgres_url)) == {"delivered": due}, "deliver all", PATIENCE_SECONDS
        )
    mails = {recipient: [mail.message_id for mail in smtp.to(recipient)] for recipient in recipients}
    assert set(smtp.counts()) == set(recipients)
    assert {recipient: len(set(ids)) for recipient, ids in mails.items()} == dict.fromkeys(recipients, 1)
    ids = list(itertools.chain.from_iterable(set(ids) for ids in mails.values()))
    assert len(set(ids)) == due
    repeated = sum(len(ids) - 1 for ids in mails.values())
    # A killed instance had at most so many mails under way.
    assert repeated <= kills * 4
    assert max(map(len, mails.values())) <= 1 + kills


def test_each_due_report_arrives_once_under_kills(
    clickhouse_url: str, postgres_url: str, smtp: SmtpServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = configured(clickhouse_url, postgres_url, smtp, str(tmp_path_factory.mktemp("reports")))
    run(60, 4, config, postgres_url, smtp, seed=1)


@pytest.mark.faults
@pytest.mark.timeout(1_200)
def test_five_hundred_due_reports_arrive_once_under_kills(
    clickhouse_url: str, postgres_url: str, smtp: SmtpServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = configured(clickhouse_url, postgres_url, smtp, str(tmp_path_factory.mktemp("reports")))
    run(500, 25, config, postgres_url, smtp, seed=2)
