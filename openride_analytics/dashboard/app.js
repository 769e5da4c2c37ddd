// The page: its controls, its address, its theme; draws the view anew whenever the address says another.

import { asker, stream } from "./api.js";
import { byId, h } from "./dom.js";
import * as f from "./format.js";
import { GRANULARITIES, HOME, PERIODS, TABS, address, granularity, query, read, reset, span } from "./state.js";
import { sections } from "./views.js";

const REFRESH_MS = 60_000;
const LIVE_REFRESH_MS = 5_000;
const HISTORY = 150;
const form = byId("filters");
const fields = form.elements;
let state = read(location.search);
let view = null;

// --- What the stream brings -------------------------------------------------------------------------------------

const live = {
  answer: null,
  away: false,
  history: [],
  followers: new Set(),
  follow(act, signal) {
    this.followers.add(act);
    signal.addEventListener("abort", () => this.followers.delete(act));
  },
};

function feed(text, away) {
  const line = byId("feed");
  const said = away ? "Live numbers interrupted" : "Live";
  line.className = `feed ${away ? "bad" : "good"}`;
  if (line.textContent !== said) line.textContent = said;
  live.away = away;
  for (const act of live.followers) act();
}

function follow() {
  stream(
    "/v1/metrics/realtime/stream?interval_seconds=2",
    (answer) => {
      live.answer = answer;
      live.history.push({ start: answer.period.end, rate: answer.summary.events_per_second });
      if (live.history.length > HISTORY) live.history.shift();
      fresh(answer.data_through);
      for (const act of live.followers) act();
    },
    (now) => {
      if (live.away !== (now === "away") || !byId("feed").textContent) feed(now, now === "away");
    },
  );
}

// --- Controls ---------------------------------------------------------------------------------------------------

const option = (value, text, chosen) => h("option", { value, selected: value === chosen }, text);

function offer(name, choices, chosen) {
  const all = new Map(choices);
  if (chosen && !all.has(chosen)) all.set(chosen, chosen);
  fields[name].replaceChildren(...[...all].map(([value, text]) => option(value, text, chosen)));
}

const zone = (name) => [name, name.replaceAll("_", " ")];
let zones = ["UTC", HOME.timezone].map(zone);

/** Hundreds, which would come before the first numbers. */
function showZones() {
  const all = new Set(["UTC", HOME.timezone, ...(Intl.supportedValuesOf?.("timeZone") ?? [])]);
  zones = [...all].sort().map(zone);
  offer("timezone", zones, state.timezone);
}

let places = [];
let currencies = [];

function showControls() {
  const { start_date: start, end_date: end } = span(state);
  offer("period", Object.entries(PERIODS), state.period);
  offer("granularity", Object.entries(GRANULARITIES), state.granularity);
  offer("timezone", zones, state.timezone);
  showPlaces();
  showCurrencies();
  fields.start_date.value = start.slice(0, 10);
  fields.end_date.value = end.slice(0, 10);
  byId("tabs").replaceChildren(
    ...Object.entries(TABS).map(([tab, name]) =>
      h(
        "li",
        {},
        h(
          "a",
          {
            href: address({ ...state, tab }),
            "aria-current": tab === state.tab ? "page" : null,
            onclick: (event) => {
              if (event.metaKey || event.ctrlKey || event.shiftKey) return;
              event.preventDefault();
              go({ tab });
              byId("heading").scrollIntoView({ block: "nearest" });
              document.querySelector("#tabs [aria-current]").focus();
            },
          },
          name,
        ),
      ),
    ),
  );
  document.querySelector("#tabs [aria-current]").scrollIntoView({ inline: "nearest", block: "nearest" });
  form.hidden = state.tab === "live"; // which is about now and all places
  byId("heading").textContent = TABS[state.tab];
  document.title = `${TABS[state.tab]} · OpenRide Analytics`;
}

function showPlaces() {
  const states = [...new Set(places.map((place) => place.state).filter(Boolean))].sort();
  const cities = places.filter((place) => place.city && (!state.state || place.state === state.state));
  offer("state", [["", "All"], ...states.map((name) => [name, name])], state.state);
  offer("city", [["", "All"], ...cities.map((place) => [place.city, place.city]).sort()], state.city);
}

function showCurrencies() {
  offer("currency", [["", "All"], ...currencies.map((name) => [name, name])], state.currency);
}

form.addEventListener("change", ({ target }) => {
  const { name, value } = target;
  if (name === "start_date" || name === "end_date") {
    if (!fields.start_date.value || !fields.end_date.value) return;
    go({ period: "custom", start_date: fields.start_date.value, end_date: fields.end_date.value });
  } else if (name === "period" && value !== "custom") {
    go({ period: value, start_date: "", end_date: "" });
  } else if (name === "period") {
    go({ period: "custom", ...span(state) });
  } else if (name === "state") {
    go({ state: value, city: "" });
  } else {
    go({ [name]: value });
  }
});
form.addEventListener("submit", (event) => event.preventDefault());
byId("reset").addEventListener("click", () => show(reset(state)));
byId("more").addEventListener("click", () => {
  const all = form.classList.toggle("all");
  byId("more").setAttribute("aria-expanded", String(all));
  byId("more").textContent = all ? "Fewer filters" : "More filters";
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
const showTheme = () => (byId("theme").textContent = theme() === "dark" ? "Light" : "Dark");
byId("theme").setAttribute("aria-label", "Switch between dark and light");
byId("theme").addEventListener("click", () => {
  const chosen = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem("theme", chosen);
  } catch {}
  showTheme();
});
dark.addEventListener("change", showTheme);

// --- Views ------------------------------------------------------------------------------------------------------

function go(changes) {
  show({ ...state, ...changes });
}

function show(next) {
  const there = address(next);
  if (there !== location.pathname + location.search) history.pushState(null, "", there);
  state = next;
  draw();
}

window.addEventListener("popstate", () => {
  state = read(location.search);
  draw();
});

let newest = "";
function fresh(through) {
  if (!through || through < newest) return;
  newest = through;
  byId("fresh").textContent = `Data through ${f.moment(through, state.timezone)}`;
}

/**
 * Draws the view of the address. A refresh leaves what is there until its successor has come. The promise is kept when the
 * first of its parts is there.
 */
function draw({ quietly = false } = {}) {
  view?.end.abort();
  const end = new AbortController();
  const pending = [];
  const failures = [];
  const ask = asker(end.signal);
  view = {
    end,
    signal: end.signal,
    state,
    live,
    go,
    retry: () => draw(),
    get: (path) => {
      const answer = ask(path);
      answer.then((found) => {
        fresh(found.data_through);
        if (found.period && !end.signal.aborted) byId("span").textContent = periodText(found.period);
      }, () => {});
      return answer;
    },
    track: (promise, settled) => {
      pending.push(promise.catch((error) => failures.push(error)).finally(settled));
    },
  };
  const own = view;
  byId("problem").replaceChildren();
  byId("problem").className = "";
  const grid = h("div", { class: "grid" }, sections(own)); // first of all: the questions are on their way
  if (!quietly) {
    byId("span").textContent = "";
    showControls();
    byId("view").replaceChildren(grid);
  }

  Promise.all(pending).then(() => {
    if (end.signal.aborted) return;
    if (!quietly && state.tab !== "live") offerFilters(own);
    if (quietly && !failures.length) byId("view").replaceChildren(grid);
    report(failures, quietly);
    clearTimeout(timer);
    const again = Math.min(...failures.map((error) => error.again || Infinity), Infinity);
    const usual = state.tab === "live" ? LIVE_REFRESH_MS : REFRESH_MS;
    timer = setTimeout(refresh, Number.isFinite(again) ? again * 1000 : usual, Number.isFinite(again));
  });
  return Promise.race(pending);
}

let timer = 0;

/** Not under the hands of somebody who is in the middle of the page, nor while nobody looks. */
function refresh(failed) {
  const busy = byId("view").contains(document.activeElement) || byId("view").querySelector("details[open], :hover.plot");
  if (document.hidden || (busy && !failed)) {
    timer = setTimeout(refresh, 5000, failed);
    return;
  }
  draw({ quietly: !failed });
}

const periodText = (period) => `${f.days(period)}, ${period.timezone.replaceAll("_", " ")}`;

/** The choices of the filters, once for a period; without them the filters stay as they are. */
let offered = "";
async function offerFilters(own) {
  const { state: now } = own;
  const whole = { ...now, state: "", city: "", currency: "" };
  const key = query(whole, "geographic", { metric: "bookings" });
  if (offered === key) return;
  try {
    const [geographic, payments] = await Promise.all([
      own.get(`/v1/analytics/geographic?${query(whole, "geographic", { metric: "bookings", level: "city" })}`),
      // The very question of the views that show payments.
      own.get(`/v1/metrics/payments?${query(whole, "payments", { granularity: granularity(whole), compare: "previous" })}`),
    ]);
    if (own.signal.aborted) return;
    offered = key;
    places = geographic.places;
    showPlaces();
    currencies = f.currencies(payments.summary.revenue, HOME.currency);
    showCurrencies();
  } catch {
    // The panels say what is wrong.
  }
}

function report(failures, quietly) {
  const bad = failures.find((error) => error.status === 400);
  const worst = bad ?? failures[0];
  if (!worst) {
    if (!quietly) byId("announce").textContent = `${TABS[state.tab]}: all numbers are there.`;
    return;
  }
  byId("announce").textContent = "";
  const parts = bad?.fields.map(({ field, message }) => h("li", {}, h("code", {}, field), ` ${message}`));
  byId("problem").className = "banner";
  byId("problem").replaceChildren(
    h("strong", {}, worst.title ?? "Something went wrong"),
    " ",
    worst.detail ?? "",
    parts?.length ? h("ul", {}, parts) : "",
    h("button", { type: "button", onclick: () => (bad ? show(reset(state)) : draw()) }, bad ? "Reset the filters" : "Try again"),
  );
}

showTheme();
draw().then(() => {
  showZones();
  follow(); // its numbers cost the store something too
});
