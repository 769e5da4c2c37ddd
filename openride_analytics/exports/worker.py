"""Makes a workbook or a Parquet file out of CSV, in a process of its own: `python -m openride_analytics.exports.worker`.

A process and not a thread: xlsxwriter is plain Python, and a thread of it would hold up the event loop by up to 60 ms at a
time, could not be stopped, and would leave its memory with the service. The order comes as JSON on standard input.
"""

import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

from openride_analytics.exports.order import Order
from openride_analytics.exports.question import ExportBroken

_ERROR_CHARACTERS: Final = 2_000


async def carry_out(order: Order) -> None:
    """Has a process make the file, and waits for it; cancelled, it kills the process. Raises `ExportBroken`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", __name__),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await process.communicate(msgspec.json.encode(order))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ExportBroken(
            f"the worker ended with {process.returncode}: {errors.decode()[-_ERROR_CHARACTERS:]}"
        )


def main() -> None:
    """The process."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    if order.format == "excel":
        from openride_analytics.exports import excel

        excel.write(order)
    else:
        from openride_analytics.exports import parquet

        parquet.write(order.sheets[0], Path(order.path))


if __name__ == "__main__":
    main()
