"""`openride-analytics keys create | list | revoke`: API keys, also before the first one is there."""

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from openride_analytics import postgres
from openride_analytics.access import SCOPES, audit, keys
from openride_analytics.config import Config, ConfigError

# From the environment only: arguments are seen by everybody on a machine.
_KEY_VARIABLE: Final = "OPENRIDE_KEY"
_LONGEST_NAME: Final = 100


def authorization() -> dict[str, str]:
    """The header for a running service, with the key in the environment; none without one."""
    key = os.environ.get(_KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}


def refusal(status: int, scope: str) -> str | None:
    """What to do about a service that answers with 401 or 403; None for any other status."""
    if status == 401:
        return f"the service wants a key with the scope `{scope}`: set {_KEY_VARIABLE} (`openride-analytics keys create`)"
    if status == 403:
        return f"the key in {_KEY_VARIABLE} does not have the scope `{scope}`: `openride-analytics keys create` makes one"
    return None


def add_to(parser: argparse.ArgumentParser) -> None:
    """The actions of the command and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("--name", required=True, help="what it is for")
    create.add_argument(
        "--scope",
        required=True,
        action="append",
        choices=SCOPES,
        help="what it may do; may be repeated; admin: everything",
    )
    create.add_argument("--expires-days", type=int, metavar="DAYS", help="default: valid until it is revoked")
    create.add_argument(
        "--requests-per-minute", type=int, metavar="N", help="its own limit; 0: none (default: as configured)"
    )
    actions.add_parser("list", help="list the keys")
    revoke = actions.add_parser("revoke", help="end a key for good")
    revoke.add_argument("id", help="its id, the middle part of the key")


async def run(config: Config, options: argparse.Namespace) -> int:
    """Runs one of the actions; 1 where that was not possible."""
    try:
        async with postgres.opened(config) as pool:
            return await _run(pool, options)
    except asyncpg.UndefinedTableError:
        said = "the tables are not there: run `openride-analytics migrate`, or start the service once"
    except keys.TooManyKeys:
        said = f"there are {keys.MOST_KEYS} keys that may be used: revoke some first"
    except (ImportError, *postgres.AWAY) as error:
        said = f"PostgreSQL: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    print(f"openride-analytics: {said}", file=sys.stderr)
    return 1


async def _run(pool: "asyncpg.Pool[asyncpg.Record]", options: argparse.Namespace) -> int:
    match options.action:
        case "create":
            expires_at = _checked(options)
            text, row = await keys.create(
                pool,
                name=options.name,
                scopes=options.scope,
                expires_at=expires_at,
                requests_per_minute=options.requests_per_minute,
                by=audit.operator(),
            )
            print(text)
            print(f"key {row['id']} is made; it is shown this once, keep it in a safe place", file=sys.stderr)
        case "list":
            print(f"{'id':<18}{'state':<9}{'scopes':<24}{'expires':<12}{'last used':<18}name")
            for row in await keys.listed(pool):
                print(
                    f"{row['id']:<18}{_state(row):<9}{','.join(row['scopes']):<24}{_text(row['expires_at'], 10):<12}"
                    f"{_text(row['last_used_at'], 16):<18}{row['name']}"
                )
        case _:
            if await keys.revoke(pool, options.id, by=audit.operator()) is None:
                print(f"openride-analytics: there is no key {options.id!r}", file=sys.stderr)
                return 1
            print(f"key {options.id} is revoked; all instances refuse it within {keys.READ_SECONDS:g} s")
    return 0


def _checked(options: argparse.Namespace) -> datetime | None:
    """When a new key ends; raises `ConfigError` for what cannot be."""
    name, days, limit = options.name, options.expires_days, options.requests_per_minute
    if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
        raise ConfigError(f"--name: must be 1 to {_LONGEST_NAME} printable characters")
    if limit is not None and not 0 <= limit <= 1_000_000:
        raise ConfigError("--requests-per-minute: must be 0 to 1000000")
    if days is None:
        return None
    if not 1 <= days <= 36_500:
        raise ConfigError("--expires-days: must be 1 to 36500")
    return datetime.now(UTC) + timedelta(days=days)


def _state(row: "asyncpg.Record") -> str:
    if row["revoked_at"]:
        return "revoked"
    return "expired" if row["expires_at"] and row["expires_at"] <= datetime.now(UTC) else "valid"


def _text(at: datetime | None, length: int) -> str:
    return at.isoformat()[:length] if at else "-"
