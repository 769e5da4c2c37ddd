"""What a statement for one server becomes on a cluster of ClickHouse: the only place that knows how tables are spread.

The migrations are written for one server. On a cluster each of their tables lies twice on every host:

- in the **shard database** (`openride_shard`) as it is defined, with the rows of this shard;
- in the service's **own database** (`openride`) under the same name, as a Distributed table over all shards.

So whoever asks or inserts names tables as ever. `incoming`, which keeps nothing, and its views are in the own database of
every host: the host that gets an insert parses it and sends each row to the shard it belongs to. What is about stored rows
(mutations, TTL, TRUNCATE, OPTIMIZE) is done in the shard databases.

A row's shard follows from its sorting key, or there would be nothing to replace it by: from the event's id where the table
is one of `BY_EVENT`, else from the whole key.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from openride_analytics.warehouse import StatementRefused, quoted

BY_EVENT: Final = frozenset({"events", "driver_locations", "event_ids", "histories", "buried", "facts"})
"""Tables whose rows lie side by side with those of the same `event_id`."""

BESIDE: Final = frozenset({"events", "driver_locations", "event_ids"})
"""Those of them that mutations of the others look into by the event: into the rows of the same shard. All other tables are
asked on all shards: what there is of a booking, payment or trip in `histories` lies on several."""

LANDING: Final = frozenset({"incoming"})
"""Tables that keep nothing: views of them run where the insert came in, all other views where the rows are stored."""

SETTINGS: Final[dict[str, str | int]] = {
    # Rows are on their shards' disks when an insert is acknowledged, those included that views send on.
    "distributed_foreground_insert": 1,
    # What a subquery or a joined table finds is gathered from all shards, once, by the host that was asked.
    "distributed_product_mode": "global",
    # INSERT … SELECT groups over all shards, and puts each row where it belongs.
    "parallel_distributed_insert_select": 0,
    # An answer without one of the shards would be a wrong one.
    "skip_unavailable_shards": 0,
}

REPLICATED_SETTINGS: Final[dict[str, str | int]] = {
    # Who has written reads the same replica, as long as it is there, whichever host is asked.
    "load_balancing": "in_order",
    "prefer_localhost_replica": 0,
    # Mutations look into other tables; what they find there was written before them.
    "allow_nondeterministic_mutations": 1,
}


@dataclass(frozen=True)
class Cluster:
    """A cluster as the servers' `remote_servers` name it, and the service's own database on it.

    `replicated`: a shard has several hosts that share their rows by a Keeper, which also carries statements to all hosts
    (`ON CLUSTER`). Without it each shard is one host, and the service sends statements to each.
    """

    name: str
    database: str
    replicated: bool = False

    @property
    def shard_database(self) -> str:
        """Where the rows are."""
        return f"{self.database}_shard"

    @property
    def settings(self) -> dict[str, str | int]:
        """What every connection sets."""
        return SETTINGS | REPLICATED_SETTINGS if self.replicated else SETTINGS

    def create_databases(self, shards: int) -> list[str]:
        """The statements for every host. How many shards there are is written down where their rows are."""
        return [
            f"CREATE DATABASE IF NOT EXISTS `{self.database}`{self._on_cluster} ENGINE = Atomic",
            (
                f"CREATE DATABASE IF NOT EXISTS `{self.shard_database}`{self._on_cluster} ENGINE = Atomic"
                f" COMMENT {quoted(shards_text(shards))}"
            ),
        ]

    def on_hosts(self, sql: str) -> str:
        """A SELECT from `system` tables, from those of all hosts; of a shard's replicas, those that are there."""
        text = re.sub(r"\bsystem\.(\w+)", rf"clusterAllReplicas({quoted(self.name)}, system.\1)", sql)
        return f"{text.rstrip()}\nSETTINGS skip_unavailable_shards = 1" if self.replicated else text

    def placed(self, statement: str) -> list[str]:
        """What is to be run on every host for a statement about tables; none: it is none, and is run as it is.

        Raises `StatementRefused` for statements that a migration for a cluster must not contain.
        """
        text = _without_comments(statement).strip().rstrip(";")
        if not re.match(
            r"(CREATE|ALTER|DROP|TRUNCATE|OPTIMIZE|RENAME|EXCHANGE|ATTACH|DETACH|DELETE)\b", text
        ):
            return []
        if (found := _ABOUT_TABLES.fullmatch(text)) is None:
            raise StatementRefused(f"on a cluster there is no place for: {text[:100]}")
        verb, name, rest = found["verb"], found["name"], found["rest"]
        match verb.partition(" IF ")[0]:
            case "CREATE TABLE":
                return self._table(verb, name, rest)
            case "CREATE MATERIALIZED VIEW" if rest.startswith(" TO "):
                return [self._view(verb, name, rest)]
            case "CREATE VIEW":
                return [self._about(verb, self.database, name, self._named(rest))]
            case "DROP TABLE" | "DROP VIEW":
                verb = f"{verb.partition(' IF ')[0]} IF EXISTS"
                return [
                    self._about(verb, database, name, rest)
                    for database in (self.database, self.shard_database)
                ]
            case "ALTER TABLE":
                return self._altered(verb, name, rest)
            case "CREATE MATERIALIZED VIEW":
                raise StatementRefused(f"on a cluster {name} must write TO a table, and at each insert")
            case _:
                return [self._of_rows(verb, name, rest)]

    def _altered(self, verb: str, name: str, rest: str) -> list[str]:
        if rest.lstrip().startswith("MODIFY QUERY"):
            return [self._view(verb, name, rest)]
        if name in LANDING:
            return [self._about(verb, self.database, name, rest)]
        placed = [self._of_rows(verb, name, rest)]
        # The other changes of the same statement (a new column becomes part of the key) are of the rows alone.
        if columns := [change for change in _changes(rest) if _OF_COLUMNS.match(change)]:
            placed.append(self._about(verb, self.database, name, ",".join(columns)))
        return placed

    def _of_rows(self, verb: str, name: str, rest: str) -> str:
        named = self._named(rest, beside=BESIDE if name in BY_EVENT else frozenset())
        # Mutations are carried out without the settings of who asks for them: `distributed_product_mode` is none of theirs.
        everywhere = _outside_strings(named, lambda piece: _IN_SUBQUERY.sub(r"GLOBAL \g<0>", piece))
        return self._about(verb, self.shard_database, name, everywhere)

    def _table(self, verb: str, name: str, rest: str) -> list[str]:
        if name in LANDING and re.search(r"\bENGINE = Null\b", rest):
            return [self._about(verb, self.database, name, rest)]
        engine, key = _ENGINE.search(rest), _SORTING_KEY.search(rest)
        if engine is None or key is None:
            raise StatementRefused(f"on a cluster {name} must be in LANDING, or a MergeTree with a key")
        stored = rest
        if self.replicated:
            arguments = [
                quoted(f"/clickhouse/tables/{{shard}}/{self.shard_database}/{name}"),
                quoted("{replica}"),
                *([engine["arguments"]] if engine["arguments"] else []),
            ]
            replicated = f"ENGINE = Replicated{engine['name']}({', '.join(arguments)})"
            stored = rest[: engine.start()] + replicated + rest[engine.end() :]
        columns = "event_id" if name in BY_EVENT else key["columns"] or key["column"]
        whole = ", ".join(
            (quoted(self.name), quoted(self.shard_database), quoted(name), f"cityHash64({columns})")
        )
        return [
            self._about(verb, self.shard_database, name, stored),
            self._about(
                verb,
                self.database,
                name,
                f" AS {self.shard_database}.{name}\nENGINE = Distributed({whole})",
            ),
        ]

    def _view(self, verb: str, name: str, rest: str) -> str:
        rest = re.sub(r"^ TO (?=\w+\b(?!\.))", f" TO {self.database}.", rest)
        source = _source(rest)
        if source in LANDING:
            return self._about(verb, self.database, name, self._named(rest))
        # Of a table with rows: it sees what is stored on its shard. What it writes goes to where that belongs.
        return self._about(verb, self.shard_database, name, self._named(rest, beside={source}))

    def _about(self, verb: str, database: str, name: str, rest: str) -> str:
        return f"{verb} {database}.{name}{self._on_cluster}{rest}"

    @property
    def _on_cluster(self) -> str:
        return f" ON CLUSTER {quoted(self.name)}" if self.replicated else ""

    def _named(self, text: str, beside: frozenset[str] | set[str] = frozenset()) -> str:
        """Tables named with their database: those `beside` in the shard's, the others in the own one."""
        own_names = set(re.findall(r"\b(\w+)\s+AS\s*\(", text))

        def named(found: re.Match[str]) -> str:
            name = found["name"]
            if name in own_names:
                return found[0]
            return f"{found['before']}{self.shard_database if name in beside else self.database}.{name}"

        return _outside_strings(text, lambda piece: _TABLES.sub(named, piece))


def shards_text(shards: int) -> str:
    """How the number of shards is written down."""
    return f"{shards} shards"


_ABOUT_TABLES: Final = re.compile(
    r"(?P<verb>(?:CREATE TABLE|CREATE MATERIALIZED VIEW|CREATE VIEW|ALTER TABLE|DROP TABLE|DROP VIEW|TRUNCATE TABLE"
    r"|OPTIMIZE TABLE|DELETE FROM)(?: IF (?:NOT )?EXISTS)?) (?P<name>\w+)(?P<rest>(?:\s.*)?)",
    re.DOTALL,
)
_ENGINE: Final = re.compile(r"\bENGINE = (?P<name>\w*MergeTree)(?:\((?P<arguments>[^)]*)\))?")
_SORTING_KEY: Final = re.compile(
    r"^ORDER BY (?:\((?P<columns>(?:[^()]|\([^()]*\))*)\)|(?P<column>.+))$", re.MULTILINE
)
_OF_COLUMNS: Final = re.compile(r"\s*(ADD|DROP|MODIFY|ALTER|RENAME|CLEAR|COMMENT) COLUMN\b")
# A table's name, but no function (table functions, and what ARRAY JOIN takes apart) and no name with a database.
_TABLES: Final = re.compile(r"(?P<before>(?:\bFROM|(?<!ARRAY )\bJOIN)\s+)(?P<name>\w+)\b(?!\s*[(.])")
_IN_SUBQUERY: Final = re.compile(r"\b(?:NOT )?IN\s*\(\s*SELECT\b")
_STRINGS: Final = re.compile(r"('(?:[^'\\]|\\.)*')", re.DOTALL)
_STRINGS_AND_COMMENTS: Final = re.compile(rf"{_STRINGS.pattern}|\s*--[^\n]*", re.DOTALL)


def _without_comments(statement: str) -> str:
    text = _STRINGS_AND_COMMENTS.sub(lambda found: found[1] or "", statement)
    return re.sub(r"\n\s*\n", "\n", text)


def _changes(rest: str) -> list[str]:
    """The parts of an ALTER, as its commas outside of brackets and strings part them."""
    found, depth, start = [], 0, 0
    blanked = _STRINGS.sub(lambda string: "'" * len(string[0]), rest)
    for place, sign in enumerate(blanked):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            found.append(rest[start:place])
            start = place + 1
    return [*found, rest[start:]]


def _outside_strings(text: str, change: Callable[[str], str]) -> str:
    """The text with its pieces changed, but for the string literals."""
    pieces = _STRINGS.split(text)
    return "".join(piece if number % 2 else change(piece) for number, piece in enumerate(pieces))


def _source(select: str) -> str:
    """The table whose inserts a view sees: what its outermost FROM names, or that of the subquery in its place."""
    depth = 0
    for found in re.finditer(r"[()]|\bFROM\s+(?P<first>\(|\w+)", _STRINGS.sub("''", select)):
        if (first := found["first"]) is None:
            depth += 1 if found[0] == "(" else -1
        elif depth == 0 and first != "(":
            return first
        elif depth == 0:
            return _source(_STRINGS.sub("''", select)[found.end() :])
        elif first == "(":
            depth += 1
    raise StatementRefused("on a cluster a view must be of a table")
