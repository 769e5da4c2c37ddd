"""Charts as Vega-Lite specifications: over time, and rankings.

A specification is plain data, made here and drawn elsewhere (`render`), by vl-convert, which needs no browser. Times are drawn
by the clock of the period's zone: they are handed over as that clock shows them, on a scale that knows no other zone.
Colours are Okabe and Ito's, which people with any colour vision can tell apart; lines differ in their dashes as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from openride_analytics.period import Period
from openride_analytics.reports import wording
from openride_analytics.reports.document import Chart

FONT: Final = "Inter"
INK: Final = "#1d2733"
SOFT: Final = "#5b6875"
HAIRLINE: Final = "#e3e8ed"
PALETTE: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_DASHES: Final = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [1, 3])
_SCHEMA: Final = "https://vega.github.io/schema/vega-lite/v6.json"
WIDTH: Final = 360
HEIGHT: Final = 210

_MOST_BARS: Final = 62
_MOST_DOTS: Final = 31
_MOST_TICKS: Final = 8
_BAR_SHARE: Final = 0.8
_LENGTHS: Final = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
    "month": timedelta(days=30),
}
_FALLBACK_FONTS: Final = f"{FONT}, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Line:
    """One measure by bucket, None where there is none."""

    label: str
    values: Sequence[float | None]


def over_time(
    title: str,
    period: Period,
    partial: Sequence[bool],
    lines: Sequence[Line],
    *,
    unit: str,
    currency: str | None = None,
) -> Chart | None:
    """Bars for one measure in few buckets, lines else; None where there is no course to see.

    `unit` is `ratio`, or what the axis is called. What is not over yet is drawn pale, or dashed.
    """
    starts = period.buckets
    if len(starts) < 2 or not any(value for line in lines for value in line.values):
        return None
    as_bars = len(lines) == 1 and unit != "ratio" and len(starts) <= _MOST_BARS
    axis = _time_axis(period, starts)
    value_axis = _value_axis(unit, currency, [value for line in lines for value in line.values])
    layers = (
        _bars(period, starts, partial, lines[0])
        if as_bars
        else _lines(period, starts, partial, lines, dots=len(starts) <= _MOST_DOTS)
    )
    for layer in layers:
        layer["encoding"]["x"] = {**axis, **layer["encoding"]["x"]}
        layer["encoding"]["y"] = {**value_axis, "field": "v", "type": "quantitative"}
    bucket = period.granularity
    unfinished = any(partial) and ("pale" if as_bars else "dashed")
    named = "per" if unit != "ratio" else "by"
    subtitle = f"{named} {bucket}" + (f", {currency}" if currency else "")
    if unfinished:
        subtitle += f" · {unfinished}: not over yet"
    return Chart(
        title=title,
        subtitle=subtitle,
        alt=_alt(title, period, starts, lines, unit, currency),
        spec=_spec({"layer": layers}, HEIGHT),
    )


def ranking(title: str, subtitle: str, items: Sequence[tuple[str, float, str]], axis: str) -> Chart | None:
    """Horizontal bars in the given order; an item is a label, a value, and the value's text."""
    if len(items) < 2 or not any(value for _, value, _ in items):
        return None
    rows = [
        {"label": label, "value": value, "text": text, "n": n} for n, (label, value, text) in enumerate(items)
    ]
    y = {
        "field": "n",
        "type": "ordinal",
        "sort": "ascending",
        "axis": {
            # By number, so that two items of the same name stay two bars.
            "labelExpr": "datum.value == null ? '' : "
            + " : ".join(f"datum.value == {n} ? {_js(label)}" for n, (label, _, _) in enumerate(items))
            + " : ''",
            "title": None,
            "ticks": False,
            "domain": False,
            "labelLimit": 130,
            "labelPadding": 6,
            "labelColor": INK,
        },
    }
    most = max(value for _, value, _ in items)
    x = {
        "field": "value",
        "type": "quantitative",
        "scale": {"domain": [0, most * 1.22]},
        "axis": {"title": axis, "labels": False, "ticks": False, "grid": False, "domain": False},
    }
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "bar", "color": PALETTE[0], "height": {"band": 0.62}, "cornerRadiusEnd": 1.5},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11, "color": INK},
            "encoding": {"x": x, "y": y, "text": {"field": "text"}},
        },
    ]
    height = max(HEIGHT, 22 * len(items) + 40)
    first = "; ".join(f"{label}: {text}" for label, _, text in items[:5])
    return Chart(
        title=title,
        subtitle=subtitle,
        alt=f"Bar chart. {title}, {subtitle}. {first}.",
        spec=_spec({"data": {"values": rows}, "layer": layers}, height),
    )


def resized(spec: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """The same chart in another size."""
    return {**spec, "width": width, "height": height}


def _js(text: str) -> str:
    """A string of Vega's expression language."""
    return "'" + "".join(f"\\u{ord(c):04x}" if c in "'\\<" or ord(c) < 32 else c for c in text) + "'"


def _bars(
    period: Period, starts: list[datetime], partial: Sequence[bool], line: Line
) -> list[dict[str, Any]]:
    half = _LENGTHS[period.granularity] * _BAR_SHARE / 2
    rows = [
        {"a": _wall(start, period) - _ms(half), "b": _wall(start, period) + _ms(half), "v": value, "p": part}
        for start, part, value in zip(starts, partial, line.values, strict=True)
    ]
    return [
        {
            "data": {"values": rows},
            "mark": {"type": "bar", "color": PALETTE[0]},
            "encoding": {
                "x": {"field": "a", "type": "temporal"},
                "x2": {"field": "b"},
                "y2": {"datum": 0},
                "fillOpacity": {"condition": {"test": "datum.p", "value": 0.35}, "value": 1},
            },
        }
    ]


def _lines(
    period: Period, starts: list[datetime], partial: Sequence[bool], lines: Sequence[Line], *, dots: bool
) -> list[dict[str, Any]]:
    whole: list[dict[str, Any]] = []
    tail: list[dict[str, Any]] = []
    for line in lines:
        rows = [
            {"t": _wall(start, period), "v": value, "s": line.label, "p": part}
            for start, part, value in zip(starts, partial, line.values, strict=True)
        ]
        whole += [row for row in rows if not row["p"]]
        for before, row in zip([None, *rows], rows, strict=False):
            if row["p"]:
                tail += [row] if before is None else [before, row]
    labels = [line.label for line in lines]
    x = {"field": "t", "type": "temporal"}
    several = len(lines) > 1
    color = {
        "field": "s",
        "type": "nominal",
        "title": None,
        "scale": {"domain": labels, "range": list(PALETTE[: len(labels)])},
        "legend": {"symbolType": "stroke", "symbolSize": 260} if several else None,
    }
    dash = {
        "field": "s",
        "type": "nominal",
        "title": None,
        "scale": {"domain": labels, "range": list(_DASHES[: len(labels)])},
        "legend": {"symbolType": "stroke", "symbolSize": 260} if several else None,
    }
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": whole},
            "mark": {
                "type": "line",
                "strokeWidth": 2,
                "strokeJoin": "round",
                "invalid": "break-paths-show-path-domains",
                **({"point": {"size": 22, "filled": True}} if dots else {}),
            },
            "encoding": {"x": x, "color": color, "strokeDash": dash},
        }
    ]
    if tail:
        layers += [
            {
                "data": {"values": tail},
                "mark": {"type": "line", "strokeWidth": 1.5, "strokeDash": [2, 3], "opacity": 0.7},
                "encoding": {"x": x, "color": color},
            },
            {
                "data": {"values": [row for row in tail if row["p"]]},
                "mark": {"type": "point", "size": 34, "filled": False, "strokeWidth": 1.5, "fill": "white"},
                "encoding": {"x": x, "color": color},
            },
        ]
    return layers


def _time_axis(period: Period, starts: list[datetime]) -> dict[str, Any]:
    walls = [start.astimezone(period.timezone) for start in starts]
    crosses_years = walls[0].year != walls[-1].year
    labels = "utcFormat(datum.value, '%-d %b')"
    match period.granularity:
        case "hour":
            step = next(step for step in (1, 2, 3, 6, 12, 24, 10**6) if len(walls) / step <= _MOST_TICKS + 1)
            if step > 24:
                ticks = _thinned([wall for wall in walls if wall.hour == 0] or walls[:1])
            else:
                ticks = [wall for wall in walls if wall.hour % step == 0 and wall.minute == 0] or walls[:1]
                labels = "utchours(datum.value) == 0 ? " + labels + " : utcFormat(datum.value, '%H:%M')"
        case "month":
            ticks = _thinned(walls, 5)
            labels = "utcFormat(datum.value, '%b %Y')"
        case "day" if len(walls) > _MOST_BARS:
            ticks = _thinned([wall for wall in walls if wall.day == 1] or walls[:1], 5)
            labels = f"utcFormat(datum.value, '{'%b %Y' if crosses_years else '%-d %b'}')"
        case "day" if len(walls) > 2 * _MOST_TICKS:
            ticks = walls[::-1][:: 7 * math.ceil(len(walls) / 7 / _MOST_TICKS)]
        case _:
            ticks = _thinned(walls)
    edge = _ms(_LENGTHS[period.granularity] * 0.6)
    return {
        "axis": {
            "values": [_wall(tick, period) for tick in ticks],
            "labelExpr": labels,
            "title": f"{period.granularity.capitalize()}, {period.timezone.key}",
            "grid": False,
            "tickColor": SOFT,
            "domainColor": SOFT,
            "labelFlush": True,
            "labelOverlap": "greedy",
        },
        "scale": {
            "type": "utc",
            "nice": False,
            "domain": [_wall(starts[0], period) - edge, _wall(starts[-1], period) + edge],
        },
    }


def _thinned(walls: list[datetime], most: int = _MOST_TICKS) -> list[datetime]:
    return walls[:: max(1, math.ceil(len(walls) / most))]


def _value_axis(unit: str, currency: str | None, values: Sequence[float | None]) -> dict[str, Any]:
    axis: dict[str, Any] = {"tickCount": 4, "domain": False, "ticks": False, "gridColor": HAIRLINE}
    if unit == "ratio":
        return {
            "axis": {**axis, "format": ".0%", "title": None},
            "scale": {"domain": [0, 1]},
        }
    most = max((value or 0 for value in values), default=0)
    least = min((value or 0 for value in values), default=0)
    sign = _js(wording.sign(currency) if currency else "")
    # "G" is for gigabytes; people say billion.
    number = (
        "replace(format(abs(datum.value), '~s'), 'G', 'B')"
        if most >= 10_000
        else "format(abs(datum.value), ',~f')"
    )
    axis |= {"labelExpr": f"(datum.value < 0 ? '−' : '') + {sign} + {number}", "title": currency or unit}
    if currency is None and most < 4:
        axis |= {"tickMinStep": 1}
    return {"axis": axis, "scale": {"domainMin": min(0, least), "nice": 4}}


def _alt(
    title: str,
    period: Period,
    starts: list[datetime],
    lines: Sequence[Line],
    unit: str,
    currency: str | None,
) -> str:
    """What a reader who can't see the chart should know of it: its kind, and the range of each measure."""
    said = [f"Chart over time. {title}, {len(starts)} {period.granularity}s, {wording.span(period)}."]
    for line in lines:
        known = [
            (value, start) for value, start in zip(line.values, starts, strict=True) if value is not None
        ]
        if not known:
            continue
        most, when = max(known, key=lambda pair: pair[0])
        least, _ = min(known, key=lambda pair: pair[0])

        def text(value: float) -> str:
            if currency:
                return wording.money(Decimal(str(round(value, 2))), currency, "short")
            return wording.percent(value) if unit == "ratio" else f"{value:,.6g}"

        said.append(f"{line.label}: {text(least)} to {text(most)}, most in {wording.bucket(when, period)}.")
    return " ".join(said)


def _wall(at: datetime, period: Period) -> int:
    """The zone's clock as if it were UTC's, in milliseconds."""
    return int(at.astimezone(period.timezone).replace(tzinfo=UTC).timestamp() * 1000)


def _ms(length: timedelta) -> int:
    return int(length / timedelta(milliseconds=1))


def _spec(content: dict[str, Any], height: int) -> dict[str, Any]:
    return {
        "$schema": _SCHEMA,
        "width": WIDTH,
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "background": "white",
        "padding": 2,
        **content,
        "config": {
            "font": _FALLBACK_FONTS,
            "view": {"stroke": None},
            "axis": {
                "labelColor": SOFT,
                "labelFontSize": 11,
                "titleColor": SOFT,
                "titleFontSize": 11,
                "titleFontWeight": "normal",
                "titlePadding": 8,
            },
            "legend": {
                "orient": "top",
                "direction": "horizontal",
                "labelFontSize": 11,
                "labelColor": INK,
                "offset": 6,
                "columnPadding": 14,
                "title": None,
            },
        },
    }
