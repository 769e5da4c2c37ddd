// Charts as SVG, drawn at their real width. A bucket that is not over yet is dashed (lines) or hatched (bars); each
// chart can be walked through with the arrow keys and has its numbers as a table.

import { h, onWidth, s } from "./dom.js";
import { bucket, compact, missing, tick } from "./format.js";

const HEIGHT = 232;
const MARGIN = { top: 10, right: 12, bottom: 24, left: 48 };
let patterns = 0;

/** Round steps that end above `highest`. */
function scale(highest, whole) {
  const rough = Math.max(highest, whole ? 4 : Number.MIN_VALUE) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const usable = whole ? Math.max(1, Math.ceil(step)) : step;
  const top = Math.max(Math.ceil(highest / usable) * usable, usable);
  return Array.from({ length: Math.round(top / usable) + 1 }, (_, index) => index * usable);
}

/** Buckets that have begun: those of the rest of today have nothing to show. */
export const begun = (series) => series.filter(({ start }) => Date.parse(start) <= Date.now());

/** Points as path data, with a gap where a value is missing. */
function path(points) {
  let pen = "M";
  return points
    .map((point) => {
      if (!point) return (pen = "M"), "";
      const part = `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      pen = "L";
      return part;
    })
    .join("");
}

/**
 * A chart over time of one or several lines (`kind: "bars"` for one row of bars).
 * `lines` are `{name, color, value(bucket), text(value)}`, where value is a number or null.
 */
export function timeChart({ label, series, lines, zone, granularity, kind = "line", axis = compact, whole = true }) {
  const shown = begun(series);
  const values = lines.map((line) => shown.map((item) => line.value(item)));
  if (!shown.length || values.every((row) => row.every((value) => !value))) {
    return h("p", { class: "empty" }, "Nothing in this period. Choose a longer one, or fewer filters.");
  }
  const readings = lines.map(() => h("b"));
  const when = h("span", { class: "when" });
  const legend = h(
    "div",
    { class: "legend" },
    lines.map((line, index) =>
      h("span", { class: "key" }, h("i", { class: `swatch c${line.color}` }), line.name, readings[index]),
    ),
    when,
  );
  const plot = h("div", {
    class: "plot",
    role: "slider",
    tabindex: "0",
    "aria-label": `${label}: bucket by bucket with the arrow keys`,
    "aria-valuemin": "1",
    "aria-valuemax": String(shown.length),
  });
  const describe = (index) =>
    `${bucket(shown[index].start, zone, granularity)}${shown[index].partial ? ", not over yet" : ""}`;
  let at = shown.length - 1;
  let mark = () => {};

  function point(index, visible = true) {
    at = Math.max(0, Math.min(shown.length - 1, index));
    const texts = lines.map((line, row) => line.text(values[row][at]));
    plot.setAttribute("aria-valuenow", String(at + 1));
    plot.setAttribute(
      "aria-valuetext",
      `${describe(at)}: ${lines.map((line, row) => `${line.name} ${texts[row]}`).join(", ")}`,
    );
    readings.forEach((reading, row) => (reading.textContent = visible ? texts[row] : ""));
    when.textContent = visible ? describe(at) : "";
    mark(visible);
  }

  plot.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: shown.length - 1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    point(steps[event.key]);
  });
  plot.addEventListener("focus", () => point(at));
  plot.addEventListener("blur", () => point(at, false));

  onWidth(plot, (width) => {
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const ticks = scale(Math.max(...values.flat().map((value) => value ?? 0)), whole);
    const top = ticks.at(-1);
    const slot = inner.width / (kind === "bars" ? shown.length : Math.max(shown.length - 1, 1));
    const x = (index) => MARGIN.left + (kind === "bars" || shown.length === 1 ? slot * (index + 0.5) : slot * index);
    const y = (value) => MARGIN.top + inner.height * (1 - value / top);
    const svg = s("svg", { width, height: HEIGHT, "aria-hidden": "true", focusable: "false" });

    for (const value of ticks) {
      svg.append(
        s("line", { class: value ? "rule" : "base", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
        s("text", { class: "tick", x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, axis(value)),
      );
    }
    const every = Math.max(1, Math.ceil(shown.length / Math.max(2, Math.floor(inner.width / 76))));
    for (let index = (shown.length - 1) % every; index < shown.length; index += every) {
      const anchor = x(index) + 28 > width ? "end" : "middle";
      svg.append(
        s(
          "text",
          { class: "tick", x: anchor === "end" ? width - MARGIN.right : x(index), y: HEIGHT - 6, "text-anchor": anchor },
          tick(shown[index].start, zone, granularity),
        ),
      );
    }

    if (kind === "bars") bars(svg, slot, x, y);
    else lines.forEach((line, row) => drawLine(svg, line, values[row], x, y));

    const cursor = s("line", { class: "cursor", y1: MARGIN.top, y2: MARGIN.top + inner.height, visibility: "hidden" });
    const dots = lines.map((line) => s("circle", { class: `dot c${line.color}`, r: 4, visibility: "hidden" }));
    svg.append(cursor, ...dots);
    mark = (visible) => {
      cursor.setAttribute("x1", x(at));
      cursor.setAttribute("x2", x(at));
      cursor.setAttribute("visibility", visible ? "visible" : "hidden");
      dots.forEach((dot, row) => {
        const value = values[row][at];
        dot.setAttribute("cx", x(at));
        dot.setAttribute("cy", y(value ?? 0));
        dot.setAttribute("visibility", visible && !missing(value) && kind !== "bars" ? "visible" : "hidden");
      });
    };
    svg.addEventListener("pointermove", (event) => {
      const from = event.clientX - svg.getBoundingClientRect().left - MARGIN.left;
      point(kind === "bars" ? Math.floor(from / slot) : Math.round(from / slot));
    });
    svg.addEventListener("pointerleave", () => point(at, document.activeElement === plot));
    plot.replaceChildren(svg);
    point(at, document.activeElement === plot);
  });

  function drawLine(svg, line, row, x, y) {
    const points = row.map((value, index) => (missing(value) ? null : [x(index), y(value)]));
    const open = shown.at(-1).partial ? points.length - 1 : points.length;
    svg.append(s("path", { class: `line c${line.color}`, d: path(points.slice(0, open)) }));
    points.forEach((spot, index) => {
      const alone = spot && !points[index - 1] && !points[index + 1] && index < open;
      if (alone) svg.append(s("circle", { class: `dot c${line.color}`, cx: spot[0], cy: spot[1], r: 2.5 }));
    });
    if (open < points.length && points[open]) {
      svg.append(
        s("path", { class: `line open c${line.color}`, d: path(points.slice(Math.max(open - 1, 0))) }),
        s("circle", { class: `dot hollow c${line.color}`, cx: points[open][0], cy: points[open][1], r: 3 }),
      );
    }
  }

  function bars(svg, slot, x, y) {
    const hatch = `hatch-${(patterns += 1)}`;
    svg.append(
      s(
        "defs",
        {},
        s(
          "pattern",
          { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
          s("rect", { class: "hatch-back", width: 6, height: 6 }),
          s("rect", { class: `c${lines[0].color} column`, width: 2.5, height: 6 }),
        ),
      ),
    );
    const width = Math.max(1, Math.min(slot * 0.72, 36));
    values[0].forEach((value, index) => {
      if (!value) return;
      const partial = shown[index].partial;
      const place = { x: x(index) - width / 2, y: y(value), width, height: Math.max(y(0) - y(value), 1) };
      svg.append(
        partial
          ? s("rect", { ...place, fill: `url(#${hatch})` })
          : s("rect", { ...place, class: `column c${lines[0].color}` }),
      );
    });
  }

  return [legend, plot, numbers({ label, shown, lines, values, zone, granularity })];
}

function numbers({ label, shown, lines, values, zone, granularity }) {
  const details = h("details", { class: "numbers" }, h("summary", {}, "Numbers"));
  const fill = () => {
    const rows = shown.map((item, index) => [
      h("th", { scope: "row" }, bucket(item.start, zone, granularity), item.partial ? " (not over yet)" : ""),
      lines.map((line, row) => h("td", { class: "num" }, line.text(values[row][index]))),
    ]);
    details.append(
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "group", "aria-label": `${label}, as a table` },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "From"), lines.map((line) => h("th", { scope: "col", class: "num" }, line.name)))),
          h("tbody", {}, rows.map((row) => h("tr", {}, row))),
        ),
      ),
    );
  };
  details.addEventListener("toggle", fill, { once: true });
  return details;
}

/** A line without axes, for beside a number; the numbers themselves are elsewhere. */
export function sparkline(series, value) {
  const shown = begun(series);
  const points = shown.map((item) => value(item));
  const highest = Math.max(...points.map((point) => point ?? 0));
  const lowest = Math.min(...points.map((point) => point ?? highest)) * 0.8;
  const svg = s("svg", { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" });
  if (points.length < 2 || !highest) return svg;
  const spots = points.map((point, index) =>
    missing(point)
      ? null
      : [(100 * index) / (points.length - 1), 26 - (24 * (point - lowest)) / (highest - lowest || 1)],
  );
  const open = shown.at(-1).partial ? spots.length - 1 : spots.length;
  if (spots.every(Boolean)) svg.append(s("path", { class: "area", d: `${path(spots)}V28H0Z` }));
  svg.append(s("path", { class: "line", d: path(spots.slice(0, open)) }));
  if (open < spots.length) svg.append(s("path", { class: "line open", d: path(spots.slice(Math.max(open - 1, 0))) }));
  return svg;
}
