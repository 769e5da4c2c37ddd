// The parts views are made of: a panel with its states (waiting, problem, empty, there), tiles, tables, funnel, cohorts.

import { Problem } from "./api.js";
import { sparkline } from "./charts.js";
import { h } from "./dom.js";
import {
  DASH,
  calendarDay,
  count,
  currencies,
  decimal,
  eventName,
  lastDay,
  minutes,
  missing,
  money,
  rate,
  wholeMoney,
} from "./format.js";
import { HOME } from "./state.js";

export const EMPTY = () =>
  h("p", { class: "empty" }, "Nothing in this period. Choose a longer one, or fewer filters.");

let ids = 0;

/** A section that waits for `answers` and then shows what `draw` makes of them. Problems are told in their place. */
export function panel(view, title, { size, note, tools, answers, draw }) {
  const id = `panel-${(ids += 1)}`;
  const body = h("div", { class: "body", "aria-busy": "true" }, h("div", { class: "skeleton" }));
  const section = h(
    "section",
    { class: `panel ${size}`, "aria-labelledby": id },
    h("div", { class: "top" }, h("h2", { id }, title), note ? h("p", { class: "note" }, note) : null, tools),
    body,
  );
  view.track(
    Promise.all(answers).then(
      (all) => body.replaceChildren(...[draw(...all)].flat(Infinity)),
      (error) => {
        if (view.signal.aborted) return;
        body.replaceChildren(trouble(error, view.retry));
        throw error;
      },
    ),
    () => body.removeAttribute("aria-busy"),
  );
  return section;
}

export function trouble(error, retry) {
  const known = error instanceof Problem;
  if (!known) console.error(error);
  return h(
    "div",
    { class: "trouble" },
    h("strong", {}, known ? error.title : "This part cannot be shown"),
    h("p", {}, known ? error.detail : "Reload the page; if it stays, tell who runs the service."),
    h("button", { type: "button", onclick: retry }, "Try again"),
  );
}

/** A quick choice inside a panel that is part of the address. */
export function choice(label, choices, chosen, choose) {
  const select = h(
    "select",
    { "aria-label": label, onchange: () => choose(select.value) },
    Object.entries(choices).map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
  );
  return select;
}

const number = (value, name) => h("data", { value: missing(value) ? "" : String(value), "data-metric": name });

/** How a number moved since the period before. Never by colour alone. */
function change(now, before, { points, lowerIsBetter } = {}) {
  if (missing(now) || missing(before) || (!points && before === 0)) {
    return h("span", { class: "change flat" }, h("span", { class: "unseen" }, "change not known "), DASH);
  }
  const by = points ? (now - before) * 100 : (now - before) / before;
  const text = points ? `${decimal(Math.abs(by))} pp` : rate(Math.abs(by));
  const flat = Math.abs(points ? by / 100 : by) < 0.0005;
  const good = flat ? "flat" : by > 0 !== Boolean(lowerIsBetter) ? "good" : "bad";
  return h(
    "span",
    { class: `change ${good}` },
    h("span", { "aria-hidden": "true" }, flat ? "" : by > 0 ? "▲ " : "▼ "),
    h("span", { class: "unseen" }, flat ? "unchanged " : by > 0 ? "up " : "down "),
    text,
  );
}

const KINDS = { count, rate, km: (value) => (missing(value) ? DASH : `${decimal(value)} km`) };

/**
 * Key numbers with their change and course. Each tile is
 * `{name, metric, from: promise, field, kind: count|rate|money|function, lowerIsBetter}`.
 */
export function tiles(view, label, list) {
  return h(
    "section",
    { class: "tiles", "aria-label": label },
    list.map((tile) => {
      const body = h("div", { class: "body", "aria-busy": "true" }, h("div", { class: "skeleton" }));
      view.track(
        tile.from.then(
          (answer) => body.replaceChildren(...tileBody(tile, answer).flat().filter(Boolean)),
          (error) => {
            if (view.signal.aborted) return;
            body.replaceChildren(h("p", { class: "value" }, DASH), h("p", { class: "sub" }, error.title ?? "No answer"));
            throw error;
          },
        ),
        () => body.removeAttribute("aria-busy"),
      );
      return h("div", { class: "tile" }, h("h2", {}, tile.name), body);
    }),
  );
}

function tileBody(tile, answer) {
  const now = answer.summary[tile.field];
  const before = answer.previous?.summary[tile.field];
  if (tile.kind === "money") return moneyTile(tile, answer, now, before);
  const text = (KINDS[tile.kind] ?? tile.kind)(now);
  const value = number(now, tile.metric);
  value.textContent = text;
  // Days of the week differ, and the last one may not be over: a number of one day says of which.
  const when = tile.ofLastDay && answer.previous ? `, ${lastDay(answer.previous.period, answer.period.timezone)}` : "";
  const was = answer.previous ? `before ${(KINDS[tile.kind] ?? tile.kind)(before)}${when}` : null;
  return [
    h("p", { class: "value" }, value),
    h("p", { class: "sub" }, change(now, before, { points: tile.kind === "rate", ...tile }), was ? h("span", {}, was) : null),
    tile.field in (answer.series[0] ?? {}) ? sparkline(answer.series, (item) => item[tile.field]) : null,
  ];
}

function moneyTile(tile, answer, now, before) {
  const [first, ...others] = currencies(now, HOME.currency);
  if (!first) return [h("p", { class: "value" }, DASH), h("p", { class: "sub" }, "no amounts")];
  const value = number(now[first], `${tile.metric}.${first}`);
  value.title = money(now[first], first);
  value.append(h("small", {}, first), " ", wholeMoney(now[first], first).replace(first, "").trim());
  const rest = others.map((currency) => {
    const item = number(now[currency], `${tile.metric}.${currency}`);
    item.title = money(now[currency], currency);
    item.textContent = wholeMoney(now[currency], currency);
    return item;
  });
  return [
    h("p", { class: "value" }, value),
    h(
      "p",
      { class: "sub" },
      change(Number(now[first]), missing(before?.[first]) ? null : Number(before[first])),
      rest.flatMap((item) => [" ", item]),
    ),
    sparkline(answer.series, (item) => Number(item[tile.field]?.[first] ?? 0)),
  ];
}

// Tables of fewer rows are not drawn out to the height of the panel beside them.
const LEAST_FILLING = 7;
const LEAST_COHORTS_FILLING = 4;

const classOf = (column) => [column.num && "num", column.minor && "minor"].filter(Boolean).join(" ") || null;

/**
 * A table of records. Columns are `{name, cell(row), num, bar(row)}`; `bar` is a share of the column's largest;
 * a `minor` column is left out where there is no room.
 */
export function table(label, columns, rows) {
  if (!rows.length) return EMPTY();
  const most = columns.map((column) => (column.bar ? Math.max(...rows.map(column.bar)) : 0));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": label },
    h(
      "table",
      { class: rows.length < LEAST_FILLING ? null : "filling" },
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: classOf(column) }, column.name)))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            columns.map((column, index) =>
              h(
                index ? "td" : "th",
                { class: classOf(column), scope: index ? null : "row" },
                column.bar
                  ? h("span", { class: "barred" }, bar(column.bar(row) / (most[index] || 1)), h("span", {}, column.cell(row)))
                  : column.cell(row),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

function bar(share) {
  const fill = h("i", { class: "fill" });
  fill.style.inlineSize = `${(100 * Math.max(0, Math.min(1, share))).toFixed(1)}%`;
  return h("span", { class: "track", "aria-hidden": "true" }, fill);
}

/** What stands smaller behind a name, or under it. */
export const aside = (text) => ["\u2002", h("span", { class: "aside" }, text)];

/** Amounts of several currencies, each for itself. */
export const amounts = (by) => {
  const all = currencies(by, HOME.currency);
  return all.length ? all.map((currency) => h("span", { class: "amount" }, wholeMoney(by[currency], currency))) : DASH;
};

export function funnel(answer) {
  const steps = answer.steps;
  if (!steps.length || !steps[0].users) return EMPTY();
  return h(
    "ol",
    { class: "funnel" },
    steps.map((step, index) => {
      const users = number(step.users, `funnel.${step.event_type}`);
      users.textContent = count(step.users);
      return h(
        "li",
        {},
        h("div", { class: "step" }, h("span", {}, eventName(step.event_type)), h("b", {}, users), h("span", { class: "share" }, rate(step.rate_from_start))),
        bar(step.rate_from_start ?? 0),
        index
          ? h(
              "p",
              { class: "sub" },
              `${rate(step.rate_from_previous)} of the step before, ${minutes(step.median_minutes_from_previous)} in the median`,
              step.still_open ? `, ${count(step.still_open)} may still go on` : "",
            )
          : h("p", { class: "sub" }, step.still_open ? `${count(step.still_open)} may still go on` : "of the period"),
      );
    }),
  );
}

const UNITS = { day: "Day", week: "Week", month: "Month" };

export function cohorts(answer, unit) {
  const filled = answer.cohorts.filter((cohort) => cohort.size);
  if (!filled.length) return EMPTY();
  const last = Math.max(...filled.flatMap((cohort) => cohort.cells.map((cell) => cell.period)));
  const periods = Array.from({ length: last + 1 }, (_, period) => period);
  const highest = Math.max(...filled.flatMap((cohort) => cohort.cells.map((cell) => cell.rate ?? 0)), 0.01);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Cohorts" },
    h(
      "table",
      { class: filled.length < LEAST_COHORTS_FILLING ? "cohorts" : "cohorts filling" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, `${UNITS[unit]} of`),
          h("th", { scope: "col", class: "num" }, "Users"),
          periods.map((period) => h("th", { scope: "col", class: "num" }, h("span", { class: "unseen" }, `${UNITS[unit]} `), String(period))),
        ),
      ),
      h(
        "tbody",
        {},
        filled.map((cohort) => {
          const cells = new Map(cohort.cells.map((cell) => [cell.period, cell]));
          return h(
            "tr",
            {},
            h("th", { scope: "row" }, calendarDay(cohort.cohort)),
            h("td", { class: "num" }, count(cohort.size)),
            periods.map((period) => {
              const cell = cells.get(period);
              if (!cell) return h("td", { class: "none" });
              const heat = missing(cell.rate) ? 0 : Math.min(5, Math.floor((cell.rate / highest) * 6));
              return h(
                "td",
                {
                  class: `num heat q${heat}${cell.partial ? " partial" : ""}`,
                  title: `${count(cell.active)} of ${count(cohort.size)}${cell.partial ? ", not over yet" : ""}`,
                },
                missing(cell.rate) ? DASH : decimal(cell.rate * 100, 0),
                h("span", { class: "unseen" }, cell.partial ? " %, not over yet" : " %"),
              );
            }),
          );
        }),
      ),
    ),
    h("p", { class: "sub" }, "Per cent of the cohort that booked. Underlined by dashes: not over yet."),
  );
}

/** Pairs of a name and a number, in a grid. */
export const facts = (list) =>
  h("dl", { class: "facts" }, list.map(([name, value, metric]) => h("div", {}, h("dt", {}, name), h("dd", { "data-live": metric }, value))));
