"""The command line: `openride-analytics serve | demo | migrate | ingest | report | keys | erase | rebuild | check-config`."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from openride_analytics import __version__, config, key_commands
from openride_analytics.config import Config, ConfigError
from openride_analytics.dialects import Dialects
from openride_analytics.ops import logs

DEFAULT_CONFIG = Path("config.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 failed, 2 wrong usage or configuration."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "demo":
            from openride_analytics.demo import run  # the made-up platform is of no use elsewhere

            return run.demo(port=options.port)
        if options.command == "ingest":
            from openride_analytics import ingest_files

            kafka = _configured(options.config) if options.kafka else None
            return ingest_files.ingest(options.files, url=options.url, to_kafka=kafka)
        if options.command == "report":
            return _report(options)
        return _on_stores(options)
    except ConfigError as error:
        print(f"openride-analytics: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _on_stores(options: argparse.Namespace) -> int:
    """The commands that use the configured stores. What they need takes a second to load: a mistake is told before."""
    settings = _configured(options.config)
    Dialects(settings.kafka)  # a mistake in them stops the start, also where nothing is read from Kafka yet
    from openride_analytics import checks, maintenance, serve

    if options.command != "keys":  # which are in PostgreSQL alone
        checks.stores_can_be_had(settings)
    if options.command == "check-config":
        # Each server gets its one line; neither its driver nor we say more, and standard output is the configuration.
        logging.disable()
        structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
        print(msgspec.json.format(msgspec.json.encode(config.without_secrets(settings))).decode())
        return asyncio.run(checks.check_servers(settings))
    logs.configure(settings.log)
    match options.command:
        case "migrate":
            return asyncio.run(checks.migrate(settings))
        case "erase":
            return asyncio.run(maintenance.erase_user(settings, maintenance.user_id(options.user)))
        case "rebuild":
            return asyncio.run(maintenance.rebuild_all(settings))
        case "keys":
            return asyncio.run(key_commands.run(settings, options))
        case _:
            return serve.run(settings)


def _report(options: argparse.Namespace) -> int:
    from openride_analytics import report_files  # charts and their like, which no other command needs

    wanted = report_files.Wanted(
        contents=tuple(options.contents),
        format=options.format,
        name=options.name,
        start_date=options.start_date,
        end_date=options.end_date,
        timezone=options.timezone,
        filters=tuple(options.filter),
        output=options.output,
    )
    return report_files.report(
        wanted, _configured(options.config), url=None if options.config else options.url
    )


def _configured(path: Path | None) -> Config:
    if path is None and DEFAULT_CONFIG.exists():
        path = DEFAULT_CONFIG
    return config.load(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openride-analytics", description="Analytics for the OpenRide platform."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *, configured: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        if configured:
            added.add_argument(
                "--config", type=Path, help="a TOML file (default: config.toml, if it is there)"
            )
        return added

    command("serve", "run the service: consumer, HTTP and scheduler in one process")
    demo = command(
        "demo", "run the service on embedded stores with made-up data and a live stream", configured=False
    )
    demo.add_argument("--port", type=int, default=8097, help="HTTP port (default: 8097)")
    command("migrate", "apply the migrations of ClickHouse and PostgreSQL")
    files = command(
        "ingest", "send files of events (NDJSON, also .gz and .zst; - is standard input) to the service"
    )
    files.add_argument("files", nargs="+", metavar="FILE")
    files.add_argument(
        "--url", default="http://127.0.0.1:8097", help="address of the service (default: %(default)s)"
    )
    files.add_argument(
        "--kafka", action="store_true", help="produce to the Kafka topics of the configuration instead"
    )
    key_commands.add_to(command("keys", "make, list and revoke API keys"))
    report = command("report", "make one report as a file, from a running service or (--config) its stores")
    report.add_argument(
        "contents",
        nargs="*",
        default=["overview"],
        metavar="CONTENT",
        help="overview (default), metrics.bookings, …",
    )
    report.add_argument(
        "--format", choices=("pdf", "html", "excel", "csv"), default="pdf", help="default: %(default)s"
    )
    report.add_argument("--name", default="OpenRide overview", help="its title (default: %(default)s)")
    report.add_argument("--start-date", metavar="DAY", help="a day or an instant (default: 30 days ago)")
    report.add_argument("--end-date", metavar="DAY", help="the last day, or an instant (default: today)")
    report.add_argument("--timezone", metavar="ZONE", help="an IANA zone (default: the configuration's)")
    report.add_argument(
        "--filter", action="append", default=[], metavar="NAME=VALUE", help="e.g. city=Ikeja; may be repeated"
    )
    report.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="PATH",
        help="a file or a folder (default: this folder)",
    )
    report.add_argument(
        "--url", default="http://127.0.0.1:8097", help="address of the service (default: %(default)s)"
    )
    erase = command("erase", "remove a user's events and all that is derived from them, for good")
    erase.add_argument("--user", required=True, metavar="ID", help="the user's id (a UUID)")
    command("rebuild", "recompute all that is derived from the stored events, while they are served")
    command("check-config", "print the effective configuration, secrets hidden, and try each server")
    return parser


if __name__ == "__main__":
    sys.exit(main())
