"""Databases that belong to one test, on a server that many share."""

import secrets
from urllib.parse import urlsplit

import asyncpg
from asynch.connection import Connection


async def fresh_database(url: str) -> str:
    """Create an empty database with a random name on the server of `url`; the url of that database.

    Schemes: `clickhouse` (the database's engine is Atomic) and `postgresql`.
    """
    name = f"test_{secrets.token_hex(8)}"
    if urlsplit(url).scheme == "clickhouse":
        await _execute(url, f"CREATE DATABASE {name} ENGINE = Atomic")
    else:
        await _execute(url, f"CREATE DATABASE {name}")
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def drop_database(url: str) -> None:
    """Drop the database that `fresh_database` has made, also while somebody is still connected to it."""
    name = urlsplit(url).path.removeprefix("/")
    if urlsplit(url).scheme == "clickhouse":
        server = urlsplit(url)._replace(path="/default").geturl()
        await _execute(server, f"DROP DATABASE IF EXISTS {name} SYNC")
    else:
        server = urlsplit(url)._replace(path="/postgres").geturl()
        await _execute(server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    if urlsplit(url).scheme == "clickhouse":
        async with Connection(dsn=url) as clickhouse, clickhouse.cursor() as cursor:
            await cursor.execute(statement)
    else:
        postgres = await asyncpg.connect(url)
        try:
            await postgres.execute(statement)
        finally:
            await postgres.close()
