"""The ClickHouse side: what the rest of the service may ask of it.

Two implementations keep these promises: `server.ServerWarehouse` (ClickHouse over its native protocol)
and `embedded.EmbeddedWarehouse` (the same engine inside the process). Both speak the same SQL.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol


class Ids(NamedTuple):
    """Many UUIDs as one text with a space between two, for `IN {name:Ids}`: texts of their own take longer."""

    text: str


Parameter = int | float | bool | str | Sequence[int] | Sequence[str] | Ids
Parameters = Mapping[str, Parameter]
Row = dict[str, Any]
Block = Sequence[Sequence[Any]]
Value = str | bytes | int


FOR_INGEST: Final = ContextVar("for_ingest", default=False)
"""Set in the tasks that store events. They have connections of their own: many questions at once must not hold events up."""


class WarehouseError(Exception):
    """Any failure of the warehouse. The message may hold SQL: for logs, never for users."""


class WarehouseUnavailable(WarehouseError):
    """It could not be reached, gave up, or is overloaded: the same call may succeed later."""


class QueryTooLong(WarehouseError):
    """The query ran past its time limit and was stopped."""


class StatementRefused(WarehouseError):
    """The engine refused the statement: the same call will fail until somebody mends something."""


class ContentRefused(StatementRefused):
    """The engine could not store the content of an insert, wherever it is tried again."""


UNKNOWN_TABLE: Final = 60
_TIMEOUT_EXCEEDED: Final = 159
# Overload, shutdown, lost replicas, read-only tables, a full disk, wrong credentials, a database not there yet: they pass.
# In a cluster also a shard that is away, or goes in the middle of a call: what of a batch is for that one must not be taken
# for what cannot be stored.
_TRANSIENT: Final = frozenset(
    {
        32,  # ATTEMPT_TO_READ_AFTER_EOF
        74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
        75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
        81,  # UNKNOWN_DATABASE
        100,  # UNKNOWN_PACKET_FROM_SERVER
        102,  # UNEXPECTED_PACKET_FROM_SERVER
        164,  # READONLY
        198,  # DNS_ERROR
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        218,  # TABLE_IS_DROPPED
        225,  # NO_ZOOKEEPER
        236,  # ABORTED
        241,  # MEMORY_LIMIT_EXCEEDED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        254,  # NO_ACTIVE_REPLICAS
        279,  # ALL_CONNECTION_TRIES_FAILED
        285,  # TOO_FEW_LIVE_REPLICAS
        286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
        319,  # UNKNOWN_STATUS_OF_INSERT
        369,  # ALL_REPLICAS_ARE_STALE
        394,  # QUERY_WAS_CANCELLED
        425,  # SYSTEM_ERROR
        439,  # CANNOT_SCHEDULE_TASK
        516,  # AUTHENTICATION_FAILED
        999,  # KEEPER_EXCEPTION
        1000,  # POCO_EXCEPTION
    }
)
_CONTENT: Final = frozenset(
    {
        6,  # CANNOT_PARSE_TEXT
        26,  # CANNOT_PARSE_QUOTED_STRING
        27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
        38,  # CANNOT_PARSE_DATE
        41,  # CANNOT_PARSE_DATETIME
        69,  # ARGUMENT_OUT_OF_BOUND
        70,  # CANNOT_CONVERT_TYPE
        72,  # CANNOT_PARSE_NUMBER
        117,  # INCORRECT_DATA
        321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
        349,  # CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
        376,  # CANNOT_PARSE_UUID
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
        407,  # DECIMAL_OVERFLOW
    }
)


def failure(code: int, message: str) -> WarehouseError:
    """What one of ClickHouse's error codes means to a caller."""
    if code == _TIMEOUT_EXCEEDED:
        return QueryTooLong(message)
    if code in _TRANSIENT:
        return WarehouseUnavailable(message)
    return ContentRefused(message) if code in _CONTENT else StatementRefused(message)


class Warehouse(Protocol):
    """Where events are stored and questions are asked.

    Every call is bounded in time and may be cancelled: a cancelled insert may or may not have been stored, which is
    harmless, as inserting the same again changes nothing.
    """

    @property
    def stored_in(self) -> str:
        """The database that holds the rows, as `system` tables call it."""
        ...

    async def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """The rows of a SELECT, by column name. Parameters are bound as `{name:Type}`, `Ids` as `{name:Ids}` behind an IN
        (here and in `execute`, but not in statements about tables).

        Values come as int, float, str, bool, None, lists and dicts of them: queries cast everything else to these
        (decimals and ids to text, times to milliseconds), so that both implementations answer alike.
        Raises `WarehouseUnavailable`, `QueryTooLong`, `StatementRefused`.
        """
        ...

    async def query_hosts(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """The same for `system` tables, which speak of one host each: as if those of all hosts were one.

        `{stored_in:String}` is bound. Raises as `query` does.
        """
        ...

    def stream(
        self, sql: str, parameters: Parameters | None = None, *, timeout_seconds: float
    ) -> AbstractAsyncContextManager[AsyncIterator[Block]]:
        """The rows of a SELECT in blocks of its columns, as the engine makes them and the caller takes them.

        Values as from `query`. A few blocks are held at a time, whatever the number of rows. The time limit is that of the
        whole, the caller's own pauses included. Leaving the context before the end stops the query in the engine. Raises
        as `query` does, also between two blocks.
        """
        ...

    async def execute(
        self, statement: str, parameters: Parameters | None = None, *, timeout_seconds: float | None = None
    ) -> None:
        """Runs a statement without a result (DDL, INSERT … SELECT) to its end. Raises as `query` does.

        Its time limit is that of an insert, unless it gets one of its own. Statements about tables are written as for a
        single server; on a cluster they are run on all hosts, and have to be repeatable.
        """
        ...

    async def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        """Stores rows whose columns are String or Int64. Returns once the engine has acknowledged them to the end.

        Raises as `query` does, and `ContentRefused` where the rows themselves are at fault.
        """
        ...

    async def create_database(self) -> None:
        """Makes sure that the configured database is there. Raises as `query` does.

        And `ConfigError` where the cluster is not the one that the rows were laid out for.
        """
        ...

    async def close(self) -> None:
        """Lets running calls end for a few seconds, then cuts them off."""
        ...


# The same for both implementations, so that they answer alike.
SETTINGS: Final[Mapping[str, str | int]] = {
    # An insert is stored when it is acknowledged, in one part, however many small blocks it came in.
    "async_insert": 0,
    # Repeats within one insert wait for a merge, like all others: readers use FINAL.
    "optimize_on_insert": 0,
    # The views of an insert, beside each other; but none of them in several parts, as a user's profile might have it.
    "parallel_view_processing": 1,
    "max_insert_threads": 1,
    "max_partitions_per_insert_block": 0,  # late events of many months must not fail a batch
    # The partition follows from the sorting key's time: the same key never lies in two partitions.
    "do_not_merge_across_partitions_select_final": 1,
    # All parts of one statement see the same state of a table.
    "enable_shared_storage_snapshot_in_query": 1,
    "join_use_nulls": 1,
    "max_query_size": 16_777_216,  # lists of ids are bound parameters of a statement
}


def parameter_text(value: Parameter) -> str:
    """A parameter's value in the escaped text form that `{name:Type}` is read from."""
    if isinstance(value, str):
        return _escaped(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Ids):
        return _escaped(value.text)
    return "[" + ",".join(quoted(item) if isinstance(item, str) else str(item) for item in value) + "]"


def parameter_literal(value: Parameter) -> str:
    """`parameter_text` as a string literal of ClickHouse's SQL."""
    return quoted(parameter_text(value))


_IDS: Final = re.compile(r"\{(\w+):Ids\}")


def with_ids(sql: str, table: Callable[[str], str]) -> str:
    """The statement with a subquery for each `{name:Ids}`, of the ids in the `text` of the table for that name."""
    return _IDS.sub(
        lambda ids: f"(SELECT toUUID(arrayJoin(splitByChar(' ', text))) FROM {table(ids[1])})", sql
    )


def quoted(text: str) -> str:
    """A string literal of ClickHouse's SQL."""
    return "'" + _escaped(text).replace("'", "\\'") + "'"


def _escaped(text: str) -> str:
    return text if _is_plain(text) else text.translate(_ESCAPES)


def _is_plain(text: str) -> bool:
    """Surely nothing to escape: to look for it first is many times as fast as to translate megabytes of ids."""
    if text.isascii():
        return len(text.encode().translate(None, _ESCAPED)) == len(text)
    return text.isprintable() and "\\" not in text


_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
_ESCAPED: Final = bytes(_ESCAPES)
