"""The process that draws and lays out a report: `python -m openride_analytics.reports.render`.

V8 (which draws the charts) and the typesetter take some 200 MB; here they are given back when the report is done, a report
that takes too long can be stopped, and none can take the service with it. The work comes as JSON on standard input.
"""

import sys
from pathlib import Path
from typing import Final, Literal

import msgspec
import vl_convert
from msgspec import Struct

from openride_analytics.reports import page, pdf
from openride_analytics.reports.charts import HEIGHT, resized
from openride_analytics.reports.document import Document

PICTURE_WIDTH: Final = 536
PICTURE_HEIGHT: Final = 220
_SHARPNESS: Final = 2


class Work(Struct, frozen=True, kw_only=True):
    """What to make: the file in that format (None: no file), and the document's pictures as `picture-<n>.png` beside it."""

    document: Document
    format: Literal["pdf", "html"] | None
    path: str


def main() -> None:
    """Does one work."""
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    path = Path(work.path)
    vl_convert.register_font_directory(str(pdf.FONTS))
    _draw_pictures(work.document, path.parent)
    if work.format is None:
        return
    drawn = _draw_charts(work.document, path.parent)
    {"pdf": pdf, "html": page}[work.format].write(work.document, drawn, path)
    for file in drawn.values():
        file.unlink()


def _draw_pictures(document: Document, folder: Path) -> None:
    for number, chart in enumerate(document.pictures):
        # Rankings are as high as they have bars.
        height = max(PICTURE_HEIGHT, chart.spec["height"] + PICTURE_HEIGHT - HEIGHT)
        spec = resized(chart.spec, PICTURE_WIDTH, height)
        picture = vl_convert.vegalite_to_png(spec, scale=_SHARPNESS)
        (folder / f"picture-{number}.png").write_bytes(picture)


def _draw_charts(document: Document, folder: Path) -> dict[int, Path]:
    everything = [*document.pictures, *(chart for section in document.sections for chart in section.charts)]
    drawn: dict[int, Path] = {}
    for number, chart in enumerate(everything):
        file = folder / f"chart-{number}.svg"
        file.write_text(vl_convert.vegalite_to_svg(chart.spec), encoding="utf-8")
        drawn[id(chart)] = file
    return drawn


if __name__ == "__main__":
    main()
