// A map without a map server: the hexagons that the service answers with, a grid of degrees, a scale, and the names
// of the largest places at the middle of their own hexagons.

import { h, onWidth, s } from "./dom.js";
import { compact, count, rate } from "./format.js";

const KM_PER_DEGREE = 111.2;
const LEAST_SPAN = 0.12;
const STEPS = 6;
// Hexagons smaller than this cannot be told apart: then circles stand for them, as large as what happens there.
const LEAST_PIXELS = 12;
const LARGEST_CIRCLE = 22;

const outline = (feature) => feature.geometry.coordinates[0];

function middle(feature) {
  const ring = outline(feature).slice(1);
  return [0, 1].map((axis) => ring.reduce((sum, point) => sum + point[axis], 0) / ring.length);
}

/** The weighted middle of hexagons that have a place: where its name goes. */
export function center(features) {
  const placed = features.filter((feature) => feature.geometry);
  const all = placed.reduce((sum, feature) => sum + feature.properties.value, 0);
  if (!all) return null;
  return [0, 1].map((axis) =>
    placed.reduce((sum, feature) => sum + middle(feature)[axis] * feature.properties.value, 0) / all,
  );
}

export function hexMap(features, { label, height: tallest, names }) {
  // The largest first, so that small circles lie on large ones.
  const placed = features.filter((feature) => feature.geometry).sort((a, b) => b.properties.value - a.properties.value);
  if (!placed.length) return h("p", { class: "empty" }, "No places in this period. Choose a longer one, or fewer filters.");
  const points = placed.flatMap(outline);
  const bounds = [0, 1].map((axis) => {
    const row = points.map((point) => point[axis]);
    return [Math.min(...row), Math.max(...row)];
  });
  const latitude = (bounds[1][0] + bounds[1][1]) / 2;
  const squeeze = Math.cos((latitude * Math.PI) / 180);
  const whole = {
    x: (bounds[0][0] + bounds[0][1]) / 2,
    y: latitude,
    span: Math.max((bounds[0][1] - bounds[0][0]) * squeeze, bounds[1][1] - bounds[1][0], LEAST_SPAN),
  };
  const busiest = placed[0]; // where the middle goes when one looks closer
  const sorted = placed.map((feature) => feature.properties.value).sort((a, b) => a - b);
  const limits = Array.from({ length: STEPS - 1 }, (_, step) => sorted[Math.floor(((step + 1) * sorted.length) / STEPS)]);
  const step = (value) => limits.filter((limit) => value >= limit).length;

  let view = { ...whole };
  let labels = [];
  let draw = () => {};
  const hint = h("p", { class: "hint" });
  const frame = h("div", { class: "mapframe" });
  const look = (change) => {
    view = { ...view, ...change };
    draw();
  };
  const closer = (factor) => {
    const [x, y] = view.span === whole.span ? middle(busiest) : [view.x, view.y];
    const span = Math.min(whole.span, Math.max(LEAST_SPAN, view.span * factor));
    look(span === whole.span ? whole : { x, y, span });
  };
  const button = (name, sign, act) => h("button", { type: "button", "aria-label": name, title: name, onclick: act }, sign);
  const tools = h(
    "div",
    { class: "tools", role: "group", "aria-label": "Map" },
    button("Closer", "+", () => closer(1 / 2.5)),
    button("Farther", "−", () => closer(2.5)),
    button("Whole map", "⤢", () => look(whole)),
  );

  onWidth(frame, (width) => {
    const height = Math.min(tallest, Math.round(width * 1.1)); // a phone shows more than the map
    draw = () => {
      const pixels = (0.9 * Math.min(width, height)) / view.span;
      const fit = view.span === whole.span
        ? Math.min((0.92 * width) / Math.max((bounds[0][1] - bounds[0][0]) * squeeze, LEAST_SPAN), (0.88 * height) / Math.max(bounds[1][1] - bounds[1][0], LEAST_SPAN))
        : pixels;
      const place = ([longitude, lat]) => [
        width / 2 + (longitude - view.x) * squeeze * fit,
        height / 2 - (lat - view.y) * fit,
      ];
      const svg = s("svg", { width, height, role: "img", "aria-label": label });
      grid(svg, width, height, fit, place);
      const [one, , , other] = outline(busiest).map(place);
      const small = Math.hypot(one[0] - other[0], one[1] - other[1]) < LEAST_PIXELS;
      legend.classList.toggle("circles", small);
      for (const feature of placed) {
        const corners = outline(feature).map(place);
        if (corners.every(([x, y]) => x < 0 || y < 0 || x > width || y > height)) continue;
        const hexagon = small ? circle(feature, place) : s("polygon", {
          class: `hex q${step(feature.properties.value)}`,
          points: corners.map((corner) => corner.map((part) => part.toFixed(1)).join()).join(" "),
        });
        hexagon.addEventListener("pointerenter", () => {
          hint.textContent = `${count(feature.properties.value)} here, ${rate(feature.properties.share)} of all`;
        });
        svg.append(hexagon);
      }
      const used = [];
      for (const { name, at } of labels) {
        const [x, y] = place(at);
        const box = [x - 4 * name.length, y - 24, x + 4 * name.length, y - 6];
        const hidden = x < 8 || y < 20 || x > width - 8 || y > height - 8;
        const covered = used.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
        if (hidden || covered) continue;
        used.push(box);
        svg.append(
          s("text", { class: "place", x: Math.min(Math.max(x, 4 * name.length), width - 4 * name.length), y: y - 10, "text-anchor": "middle" }, name),
        );
      }
      drag(svg, fit);
      frame.replaceChildren(svg, tools, hint);
    };
    draw();
  });

  function circle(feature, place) {
    const [cx, cy] = place(middle(feature));
    const r = Math.max(2.5, LARGEST_CIRCLE * Math.sqrt(feature.properties.value / sorted.at(-1)));
    return s("circle", { class: "bubble", cx, cy, r });
  }

  function degrees(at, digits, below, above) {
    const text = Math.abs(at).toFixed(digits);
    return Number(text) ? `${text}° ${at < 0 ? below : above}` : "0°";
  }

  function grid(svg, width, height, fit, place) {
    const size = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].find((degrees) => degrees * fit > 90) ?? 20;
    const digits = size < 0.1 ? 2 : size < 1 ? 1 : 0;
    const sides = { x: width / 2 / fit / squeeze, y: height / 2 / fit };
    for (let at = Math.ceil((view.x - sides.x) / size) * size; at < view.x + sides.x; at += size) {
      const [x] = place([at, 0]);
      svg.append(
        s("line", { class: "rule", x1: x, x2: x, y1: 0, y2: height }),
        x < 0 || x + 44 > width ? "" : s("text", { class: "tick", x: x + 4, y: height - 6 }, degrees(at, digits, "W", "E")),
      );
    }
    for (let at = Math.ceil((view.y - sides.y) / size) * size; at < view.y + sides.y; at += size) {
      const [, y] = place([0, at]);
      svg.append(
        s("line", { class: "rule", x1: 0, x2: width, y1: y, y2: y }),
        y < 16 || y + 16 > height ? "" : s("text", { class: "tick", x: 6, y: y - 4 }, degrees(at, digits, "S", "N")),
      );
    }
    const km = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((far) => (far / KM_PER_DEGREE) * fit > 60) ?? 1000;
    const long = (km / KM_PER_DEGREE) * fit;
    svg.append(
      s("path", { class: "ruler", d: `M${width - 12 - long} ${height - 24}v5h${long}v-5` }),
      s("text", { class: "tick", x: width - 12 - long / 2, y: height - 26, "text-anchor": "middle" }, `${km} km`),
    );
  }

  function drag(svg, fit) {
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "touch") return; // a finger scrolls the page
      const from = { x: event.clientX, y: event.clientY, view };
      const move = (moved) =>
        look({
          span: from.view.span === whole.span ? whole.span * 0.999 : from.view.span,
          x: from.view.x - (moved.clientX - from.x) / fit / squeeze,
          y: from.view.y + (moved.clientY - from.y) / fit,
        });
      const end = () => window.removeEventListener("pointermove", move);
      window.addEventListener("pointermove", move);
      window.addEventListener("pointerup", end, { once: true });
    });
  }

  if (names) {
    const seen = new IntersectionObserver(async (entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      seen.disconnect();
      labels = await names();
      draw();
    });
    seen.observe(frame);
  }
  const legend = h(
    "div",
    { class: "legend steps" },
    h("span", {}, compact(sorted[0])),
    Array.from({ length: STEPS }, (_, index) => h("i", { class: `swatch q${index}` })),
    h("span", {}, compact(sorted.at(-1))),
    h("span", { class: "when for-hexagons" }, "a hexagon, in equal groups"),
    h("span", { class: "for-circles" }, `Areas of the circles: up to ${count(sorted.at(-1))} in a hexagon`),
  );
  return [legend, frame];
}
