// The views: which questions each asks, and how its panels lie.

import { sparkline, timeChart } from "./charts.js";
import { h } from "./dom.js";
import * as f from "./format.js";
import { center, hexMap } from "./map.js";
import { amounts, aside, choice, cohorts, EMPTY, facts, funnel, panel, table, tiles } from "./panels.js";
import { HOME, PLACE_METRICS, cohortUnit, granularity, isCurrencyTaken, query } from "./state.js";

const NAMED_PLACES = 10;
const HEX_METRICS = { bookings: true, trips: true, drivers: true };

/** The sections of a view. `view` has `state`, `get(path)`, `go(changes)`, `live`, `signal`, `retry` and `track`. */
export function sections(view) {
  return VIEWS[view.state.tab](questions(view));
}

function questions(view) {
  const { state } = view;
  const buckets = granularity(state);
  const metrics = (name, more = {}) =>
    view.get(`/v1/metrics/${name}?${query(state, name, { granularity: buckets, compare: "previous", ...more })}`);
  const analytics = (name, more = {}) => view.get(`/v1/analytics/${name}?${query(state, name, more)}`);
  const note = (endpoint) => (state.currency && !isCurrencyTaken(endpoint) ? "all currencies" : null);
  return { view, state, buckets, get: view.get, metrics, analytics, note };
}

/** The same, asked only when `first` has come: on a small machine each question makes the others slower. */
function after(first, q) {
  const there = Promise.allSettled(first);
  const wait = (ask) => (...given) => there.then(() => ask(...given));
  return { ...q, get: wait(q.get), metrics: wait(q.metrics), analytics: wait(q.analytics) };
}

const VIEWS = {
  overview(q) {
    const [bookings, trips] = ["bookings", "trips"].map((name) => q.metrics(name)); // the first numbers that are there
    const next = after([bookings], q);
    const [payments, users] = ["payments", "users"].map((name) => next.metrics(name));
    const further = after([payments, trips, users], q);
    const alone = { granularity: "none", compare: "" }; // tables of the whole period
    return [
      tiles(q.view, "Key numbers", [
        { name: "Bookings", metric: "bookings.created", from: bookings, field: "created", kind: "count" },
        { name: "Gross booking value", metric: "bookings.gross_booking_value", from: bookings, field: "gross_booking_value", kind: "money" },
        { name: "Conversion", metric: "bookings.conversion_rate", from: bookings, field: "conversion_rate", kind: "rate" },
        { name: "Net revenue", metric: "payments.net_revenue", from: payments, field: "net_revenue", kind: "money" },
        { name: "Trips completed", metric: "trips.completed", from: trips, field: "completed", kind: "count" },
        { name: "On time", metric: "trips.on_time_rate", from: trips, field: "on_time_rate", kind: "rate" },
        { name: "Active users", metric: "users.active_users", from: users, field: "active_users", kind: "count" },
        { name: "New users", metric: "users.registrations", from: users, field: "registrations", kind: "count" },
      ]),
      bookingsChart(q, bookings, "w8"),
      nowPanel(q, "w4"),
      funnelPanel(further, "w5"),
      cohortPanel(further, "w7"),
      mapPanel(further, "w7", 320),
      placesTable(further, "w5", 9),
      routesTable(further, "w7", 8, alone),
      driversTable(further, "w5", 8, alone),
      ingestPanel(further, "w12"),
    ];
  },

  payments(q) {
    const payments = q.metrics("payments");
    const part = (name, key, size, extra) =>
      panel(q.view, name, {
        size,
        answers: [payments],
        draw: (answer) =>
          table(name, [{ name: "Name", cell: (row) => row.value ?? "unknown" }, ...extra], answer.breakdowns[key] ?? []),
      });
    const outcomes = [
      { name: "Succeeded", num: true, cell: (row) => f.count(row.succeeded), bar: (row) => row.succeeded },
      { name: "Success", num: true, cell: (row) => f.rate(row.success_rate) },
    ];
    return [
      tiles(q.view, "Key numbers", [
        { name: "Revenue", metric: "payments.revenue", from: payments, field: "revenue", kind: "money" },
        { name: "Net revenue", metric: "payments.net_revenue", from: payments, field: "net_revenue", kind: "money" },
        { name: "Refunded", metric: "payments.refunded_amount", from: payments, field: "refunded_amount", kind: "money" },
        { name: "Refund rate", metric: "payments.refund_rate", from: payments, field: "refund_rate", kind: "rate", lowerIsBetter: true },
        { name: "Payments begun", metric: "payments.initiated", from: payments, field: "initiated", kind: "count" },
        { name: "Success rate", metric: "payments.success_rate", from: payments, field: "success_rate", kind: "rate" },
        { name: "Median time", metric: "payments.p50_processing_time_ms", from: payments, field: "p50_processing_time_ms", kind: f.milliseconds, lowerIsBetter: true },
        { name: "95th percentile", metric: "payments.p95_processing_time_ms", from: payments, field: "p95_processing_time_ms", kind: f.milliseconds, lowerIsBetter: true },
      ]),
      revenueCharts(q, payments),
      panel(q.view, "Outcomes", {
        size: "w12",
        answers: [payments],
        draw: (answer) =>
          timeChart({
            ...frame(q, answer, "Outcomes of payments"),
            lines: [line("Succeeded", "succeeded", 0), line("Failed", "failed", 1), line("Refunded", "refunded", 3)],
          }),
      }),
      part("Methods", "payment_method", "w6 left", outcomes),
      part("Providers", "provider", "w6 left", outcomes),
      part("Why payments fail", "error_code", "w6 tall", [
        { name: "Failed", num: true, cell: (row) => f.count(row.failed), bar: (row) => row.failed },
      ]),
    ];
  },

  growth(q) {
    const users = q.metrics("users");
    const further = after([users], q);
    return [
      tiles(q.view, "Key numbers", [
        { name: "Active users", metric: "users.active_users", from: users, field: "active_users", kind: "count" },
        { name: "New users", metric: "users.registrations", from: users, field: "registrations", kind: "count" },
        { name: "All users", metric: "users.total_users", from: users, field: "total_users", kind: "count" },
        { name: "Stickiness", metric: "users.stickiness", from: users, field: "stickiness", kind: "rate" },
        { name: "Active on the last day", metric: "users.dau", from: users, field: "dau", kind: "count", ofLastDay: true },
        { name: "In the last 7 days", metric: "users.wau", from: users, field: "wau", kind: "count" },
        { name: "Drivers verified", metric: "users.kyc_completion_rate", from: users, field: "kyc_completion_rate", kind: "rate" },
        { name: "Drivers with a route", metric: "users.driver_activation_rate", from: users, field: "driver_activation_rate", kind: "rate" },
      ]),
      panel(q.view, "Active users", {
        size: "w8",
        note: q.note("users"),
        answers: [users],
        draw: (answer) =>
          timeChart({ ...frame(q, answer, "Active users"), lines: [line("Active users", "active_users", 0)] }),
      }),
      panel(q.view, "New users", {
        size: "w4",
        note: q.note("users"),
        answers: [users],
        draw: (answer) =>
          timeChart({ ...frame(q, answer, "New users"), kind: "bars", lines: [line("Registrations", "registrations", 2)] }),
      }),
      funnelPanel(further, "w5"),
      cohortPanel(further, "w7"),
      panel(q.view, "Retention", {
        size: "w12",
        note: q.note("retention") ?? "active on day N after registration",
        answers: [further.analytics("retention", { days: "1,3,7,14,30,60" })],
        draw: (answer) =>
          table(
            "Retention",
            [
              { name: "Day", cell: (row) => `Day ${row.day}` },
              { name: "Share", num: true, cell: (row) => f.rate(row.rate), bar: (row) => row.rate ?? 0 },
              { name: "Active", num: true, cell: (row) => f.count(row.retained) },
              { name: "Of", num: true, cell: (row) => f.count(row.eligible) },
            ],
            answer.days,
          ),
      }),
    ];
  },

  places: (q) => [mapPanel(q, "w8", 560), placesTable(q, "w4 beside", 200)],

  supply(q) {
    const trips = q.metrics("trips");
    const further = after([trips], q);
    const drivers = further.metrics("drivers", { sort: q.state.sort, limit: "25" });
    const routes = further.metrics("routes", { limit: "25" });
    const kilometres = (value) => (f.missing(value) ? f.DASH : `${f.decimal(value)} km`);
    return [
      tiles(q.view, "Key numbers", [
        { name: "Active drivers", metric: "drivers.active_drivers", from: drivers, field: "active_drivers", kind: "count" },
        { name: "Active routes", metric: "routes.active_routes", from: routes, field: "active_routes", kind: "count" },
        { name: "Utilization", metric: "routes.utilization", from: routes, field: "utilization", kind: "rate" },
        { name: "Trips completed", metric: "trips.completed", from: trips, field: "completed", kind: "count" },
        { name: "Completion", metric: "trips.completion_rate", from: trips, field: "completion_rate", kind: "rate" },
        { name: "On time", metric: "trips.on_time_rate", from: trips, field: "on_time_rate", kind: "rate" },
        { name: "Median distance", metric: "trips.p50_distance_km", from: trips, field: "p50_distance_km", kind: kilometres },
        { name: "Driver earnings", metric: "trips.driver_earnings", from: trips, field: "driver_earnings", kind: "money" },
      ]),
      panel(q.view, "Drivers at work", {
        size: "w8",
        answers: [drivers],
        draw: (answer) =>
          timeChart({
            ...frame(q, answer, "Drivers at work"),
            lines: [line("With trips", "active_drivers", 0), line("Seen on the road", "online_drivers", 2)],
          }),
      }),
      panel(q.view, "Earnings of a driver", {
        size: "w4",
        answers: [drivers],
        draw: (answer) => earnings(answer.summary.earnings),
      }),
      routesTable(further, "w7", 25),
      driversTable(further, "w5", 25),
    ];
  },

  live: (q) => [nowPanel(q, "w8"), ingestPanel(q, "w4")],
};

const frame = (q, answer, label) => ({
  label,
  series: answer.series,
  zone: answer.period.timezone,
  granularity: q.buckets,
});

const line = (name, field, color) => ({ name, color, value: (item) => item[field], text: f.count });

function bookingsChart(q, bookings, size) {
  return panel(q.view, "Bookings", {
    size,
    answers: [bookings],
    draw: (answer) =>
      timeChart({
        ...frame(q, answer, "Bookings"),
        lines: [
          line("Created", "created", 0),
          line("Confirmed", "confirmed", 2),
          line("Completed", "completed", 3),
          line("Cancelled", "cancelled", 1),
        ],
      }),
  });
}

/** One chart a currency: amounts of two never share an axis. */
function revenueCharts(q, payments) {
  return panel(q.view, "Revenue", {
    size: "w12",
    answers: [payments],
    draw: (answer) => {
      const all = f.currencies(answer.summary.revenue, HOME.currency);
      if (!all.length) return EMPTY();
      return h(
        "div",
        { class: `small-multiples n${Math.min(all.length, 3)}` },
        all.map((currency) =>
          h(
            "div",
            {},
            timeChart({
              ...frame(q, answer, `Revenue in ${currency}`),
              kind: "bars",
              whole: false,
              lines: [
                {
                  name: currency,
                  color: 0,
                  value: (item) => Number(item.revenue[currency] ?? 0),
                  text: (value) => f.wholeMoney(String(value), currency),
                },
              ],
            }),
          ),
        ),
      );
    },
  });
}

function funnelPanel(q, size) {
  return panel(q.view, "From registration to trip", {
    size,
    note: q.note("funnel") ?? "within 7 days",
    answers: [q.analytics("funnel")],
    draw: funnel,
  });
}

function cohortPanel(q, size) {
  const unit = cohortUnit(q.state);
  return panel(q.view, "Who comes back", {
    size,
    note: q.note("cohort") ?? `by ${unit} of registration`,
    answers: [q.analytics("cohort", { unit })],
    draw: (answer) => cohorts(answer, unit),
  });
}

function mapPanel(q, size, height) {
  const metric = HEX_METRICS[q.state.metric] ? q.state.metric : "bookings";
  const resolution = q.state.city ? "8" : q.state.state ? "7" : "5";
  const hexagons = (more) => q.analytics("geographic", { metric, level: "h3", format: "geojson", ...more });
  return panel(q.view, `Map: ${PLACE_METRICS[metric].toLowerCase()}`, {
    size,
    answers: [hexagons({ resolution })],
    draw: (answer) =>
      hexMap(answer.features, {
        height,
        label: `Map of ${PLACE_METRICS[metric].toLowerCase()} by hexagon; the table of places has the numbers`,
        names: q.state.city ? null : () => names(q, hexagons),
      }),
  });
}

/**
 * Where the largest states (of one state: cities) lie. A name that cannot be placed is left out. Each is a question, so
 * one is asked after the other, and for as long as the page is open they stay where they were found.
 */
async function names(q, hexagons) {
  const level = q.state.state ? "city" : "state";
  const found = [];
  try {
    const answer = await q.analytics("geographic", { metric: "bookings", level });
    const largest = answer.places.filter((place) => place[level]).slice(0, NAMED_PLACES);
    for (const place of largest) {
      const name = place[level];
      const key = JSON.stringify([place.state, name]);
      if (!middles.has(key)) {
        const at = center((await hexagons({ resolution: "5", [level]: name })).features);
        if (at) middles.set(key, at);
      }
      if (middles.has(key)) found.push({ name, at: middles.get(key) });
    }
  } catch {
    // Those that were found are shown.
  }
  return found;
}

const middles = new Map();

function placesTable(q, size, limit) {
  const { metric, state } = q.state;
  const level = state || q.state.tab === "places" ? "city" : "state";
  const tools = choice("Of the places", PLACE_METRICS, metric, (value) => q.view.go({ metric: value }));
  return panel(q.view, "Places", {
    size,
    tools,
    note: q.state.currency && !["bookings", "trips"].includes(metric) ? "all currencies" : null,
    answers: [q.analytics("geographic", { metric, level })],
    draw: (answer) =>
      table(
        "Places",
        [
          { name: level === "city" ? "City" : "State", cell: (row) => placeLink(q, row, level) },
          { name: PLACE_METRICS[metric], num: true, cell: (row) => f.count(row.value), bar: (row) => row.value },
          { name: "Share", num: true, cell: (row) => f.rate(row.share) },
        ],
        answer.places.slice(0, limit),
      ),
  });
}

function placeLink(q, row, level) {
  const name = row[level];
  if (f.missing(name)) return "unknown";
  const changes = level === "city" ? { state: row.state ?? "", city: name } : { state: name, city: "" };
  return [
    h("button", { type: "button", class: "link", onclick: () => q.view.go(changes) }, name),
    level === "city" && row.state && !q.state.state ? aside(row.state) : null,
  ];
}

function routesTable(q, size, limit, asked) {
  return panel(q.view, "Top routes", {
    size,
    answers: [q.metrics("routes", { limit: String(limit), ...asked })],
    draw: (answer) =>
      table(
        "Top routes",
        [
          { name: "Route", cell: (row) => [row.route_name || row.route_id.slice(0, 8), row.origin_city ? aside(`${row.origin_city} → ${row.destination_city ?? f.DASH}`) : null] },
          { name: "Bookings", num: true, cell: (row) => f.count(row.bookings), bar: (row) => row.bookings },
          { name: "Confirmed", num: true, minor: true, cell: (row) => f.count(row.confirmed) },
          { name: "Full", num: true, cell: (row) => f.rate(row.utilization) },
          { name: "Revenue", num: true, cell: (row) => amounts(row.revenue) },
        ],
        answer.popular,
      ),
  });
}

function driversTable(q, size, limit, asked) {
  const { sort } = q.state;
  const sorts = { earnings: "by earnings", trips: "by trips", distance: "by distance" };
  return panel(q.view, "Top drivers", {
    size,
    tools: choice("Order of the drivers", sorts, sort, (value) => q.view.go({ sort: value })),
    answers: [q.metrics("drivers", { sort, limit: String(limit), ...asked })],
    draw: (answer) =>
      table(
        "Top drivers",
        [
          { name: "Driver", cell: (row) => h("code", { title: row.driver_id }, row.driver_id.slice(0, 8)) },
          { name: "Trips", num: true, cell: (row) => f.count(row.trips), bar: sort === "trips" ? (row) => row.trips : null },
          { name: "km", num: true, cell: (row) => f.count(row.distance_km), bar: sort === "distance" ? (row) => row.distance_km : null },
          { name: "Earnings", num: true, cell: (row) => amounts(row.earnings) },
        ],
        answer.top,
      ),
  });
}

function earnings(byCurrency) {
  const all = f.currencies(byCurrency, HOME.currency);
  if (!all.length) return EMPTY();
  const rows = ["p10", "p25", "p50", "p75", "p90", "p99", "max", "mean"];
  const names = { p50: "Median", max: "Highest", mean: "Mean" };
  return table(
    "Earnings of a driver",
    [
      { name: "Drivers", cell: (row) => names[row] ?? `${row.slice(1)}th percentile` },
      ...all.map((currency) => ({
        name: currency,
        num: true,
        cell: (row) => f.wholeMoney(byCurrency[currency][row], currency).replace(currency, "").trim(),
      })),
    ],
    rows,
  );
}

function nowPanel(q, size) {
  const { live, signal } = q.view;
  const wide = q.state.tab === "live";
  const body = h("div", { class: "body" });
  const show = () => {
    if (!live.answer) {
      body.replaceChildren(live.away ? h("p", { class: "empty" }, "The stream does not answer. It is tried again.") : h("div", { class: "skeleton" }));
      return;
    }
    const now = live.answer.summary;
    const rows = [
      ["Trips on the road", f.count(now.active_trips), "active_trips"],
      ["Drivers on the road", f.count(now.active_drivers), "active_drivers"],
      ["Bookings", f.count(now.bookings_created), "bookings_created"],
      ["Confirmed", f.count(now.bookings_confirmed), "bookings_confirmed"],
      ["Payments", f.count(now.payments_succeeded), "payments_succeeded"],
      ["Failed payments", f.count(now.payments_failed), "payments_failed"],
      ["Trips begun", f.count(now.trips_started), "trips_started"],
      ["Trips completed", f.count(now.trips_completed), "trips_completed"],
      ["Active riders", f.count(now.active_riders), "active_riders"],
      ["Cancelled", f.count(now.bookings_cancelled), "bookings_cancelled"],
      ["Revenue", amounts(now.revenue), "revenue"],
      ["Events a second", f.decimal(now.events_per_second), "events_per_second"],
    ];
    body.replaceChildren(
      h("div", { class: live.away ? "old" : "" }, facts(rows)),
      wide ? h("div", { class: "pulse" }, sparkline(live.history, (item) => item.rate), h("p", { class: "sub" }, `Events a second since this page was opened; stored ${f.decimal(now.ingest_lag_seconds ?? null)} s after they came (95 %)`)) : "",
    );
  };
  live.follow(show, signal);
  show();
  const id = "now-title";
  return h(
    "section",
    { class: `panel ${size}`, "aria-labelledby": id },
    h("div", { class: "top" }, h("h2", { id }, "Just now"), h("p", { class: "note" }, "last 60 minutes, all places")),
    body,
  );
}

const STATES = {
  ok: "Events are stored as they come.",
  retrying: "A batch cannot be stored just now; it is tried again.",
  paused: "Storing fails and there is no room for more: reading has stopped.",
  starting: "The service is starting.",
};

function ingestPanel(q, size) {
  return panel(q.view, "Ingest", {
    size,
    note: "this instance, since its start",
    answers: [q.get("/v1/ingest/status")],
    draw: (status) => {
      const rejected = Object.entries(status.rejected);
      const lost = status.lost.reduce((sum, gap) => sum + gap.to_offset - gap.from_offset, 0);
      return [
        h("p", { class: `state ${status.state === "ok" ? "good" : "bad"}` }, STATES[status.state] ?? status.state),
        facts([
          ["Stored", f.count(status.stored)],
          ["A second (1 min)", f.decimal(status.stored_per_second.last_minute)],
          ["A second (5 min)", f.decimal(status.stored_per_second.last_5_minutes)],
          ["Waiting", f.count(status.waiting_events)],
          ["Rejected", f.count(rejected.reduce((sum, [, number]) => sum + number, 0))],
          ["Kafka", { off: "not used", ok: "connected", away: "away", held: "held" }[status.kafka] ?? status.kafka],
          ["Behind", status.kafka === "off" ? f.DASH : f.count(status.lag_events)],
          ["Lost", status.kafka === "off" ? f.DASH : f.count(lost)],
        ]),
        status.lag_unknown_since
          ? h("p", { class: "sub" }, `How far behind is not known since ${f.moment(status.lag_unknown_since, q.state.timezone)}`)
          : "",
        status.last_error
          ? h("p", { class: "sub" }, `Last failure: ${status.last_error.error} (${status.last_error.part}), ${f.moment(status.last_error.at, q.state.timezone)}`)
          : "",
        rejected.length
          ? table("Rejected, by reason", [{ name: "Rejected because", cell: ([reason]) => reason }, { name: "Records", num: true, cell: ([, number]) => f.count(number), bar: ([, number]) => number }], rejected)
          : "",
        status.partitions.length
          ? table(
              "Partitions",
              [
                { name: "Topic", cell: (row) => row.topic },
                { name: "Partition", num: true, cell: (row) => String(row.partition) },
                { name: "Behind", num: true, cell: (row) => f.count(row.lag_events) },
                { name: "Seconds", num: true, cell: (row) => f.decimal(row.lag_seconds) },
                { name: "Remark", cell: (row) => row.error || (row.assigned ? "" : "elsewhere") },
              ],
              status.partitions,
            )
          : "",
      ];
    },
  });
}
