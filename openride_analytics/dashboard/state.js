// What is looked at, and its address: each view can be shared, and the browser's back and forward work.

import { today } from "./format.js";

export const TABS = {
  overview: "Overview",
  payments: "Payments",
  growth: "Growth",
  places: "Places",
  supply: "Routes & drivers",
  live: "Live",
};
export const PERIODS = {
  today: "Today",
  "7d": "Last 7 days",
  "30d": "Last 30 days",
  "90d": "Last 90 days",
  month: "This month",
  "last-month": "Last month",
  custom: "Dates",
};
export const GRANULARITIES = { auto: "Automatic", hour: "Hours", day: "Days", week: "Weeks", month: "Months" };
export const PLACE_METRICS = {
  bookings: "Bookings",
  trips: "Trips completed",
  drivers: "Drivers seen",
  users: "Registrations",
  routes: "Routes created",
};

const page = document.documentElement.dataset;
export const HOME = { timezone: page.timezone, currency: page.currency };
const DEFAULTS = {
  tab: "overview",
  period: "30d",
  start_date: "",
  end_date: "",
  granularity: "auto",
  timezone: HOME.timezone,
  state: "",
  city: "",
  currency: "",
  metric: "bookings",
  sort: "earnings",
};
const CHOICES = {
  tab: TABS,
  period: PERIODS,
  granularity: GRANULARITIES,
  metric: PLACE_METRICS,
  sort: { earnings: 1, trips: 1, distance: 1 },
};

/** The view an address stands for. What is not one of a fixed choice is left for the service to judge. */
export function read(search) {
  const given = new URLSearchParams(search);
  const state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    const value = given.get(name);
    if (value && (!CHOICES[name] || Object.hasOwn(CHOICES[name], value))) state[name] = value;
  }
  if (state.start_date || state.end_date) state.period = "custom";
  else if (state.period === "custom") state.period = DEFAULTS.period;
  return state;
}

/** The shortest address of a view. */
export function address(state) {
  const given = new URLSearchParams();
  for (const [name, usual] of Object.entries(DEFAULTS)) {
    if (name === "period" && state.period === "custom") continue;
    if (state[name] !== usual && state[name]) given.set(name, state[name]);
  }
  const text = given.toString();
  return text ? `/?${text}` : "/";
}

export const reset = (state) => ({ ...DEFAULTS, tab: state.tab });

const shifted = (day, by) => {
  const moved = new Date(`${day}T00:00:00Z`);
  moved.setUTCDate(moved.getUTCDate() + by);
  return moved.toISOString().slice(0, 10);
};

/** First and last day as the service takes them; both included. */
export function span(state) {
  const now = today(state.timezone);
  const first = `${now.slice(0, 8)}01`;
  switch (state.period) {
    case "custom":
      return { start_date: state.start_date, end_date: state.end_date };
    case "today":
      return { start_date: now, end_date: now };
    case "month":
      return { start_date: first, end_date: now };
    case "last-month": {
      const end = shifted(first, -1);
      return { start_date: `${end.slice(0, 8)}01`, end_date: end };
    }
    default:
      return { start_date: shifted(now, -Number.parseInt(state.period, 10)), end_date: now };
  }
}

function length(state) {
  const { start_date: start, end_date: end } = span(state);
  const between = (Date.parse(end || today(state.timezone)) - Date.parse(start)) / 86_400_000 + 1;
  return Number.isFinite(between) ? between : 31;
}

export function granularity(state) {
  if (state.granularity !== "auto") return state.granularity;
  const all = length(state);
  return all <= 2 ? "hour" : all <= 120 ? "day" : all <= 500 ? "week" : "month";
}

export function cohortUnit(state) {
  const all = length(state);
  return all <= 14 ? "day" : all <= 200 ? "week" : "month";
}

// Which filters an endpoint takes; people and their doings have no currency.
const BY_PLACE = ["state", "city"];
const ALL = [...BY_PLACE, "currency"];
const FILTERS = { users: BY_PLACE, funnel: BY_PLACE, cohort: BY_PLACE, retention: BY_PLACE };
const GEOGRAPHIC = { bookings: ALL, trips: ALL };

/** The query of a metrics or analytics endpoint for this view. */
export function query(state, endpoint, more = {}) {
  const filters =
    endpoint === "geographic" ? (GEOGRAPHIC[more.metric] ?? BY_PLACE) : (FILTERS[endpoint] ?? ALL);
  const asked = { ...span(state), timezone: state.timezone };
  for (const name of filters) asked[name] = state[name];
  const given = Object.entries({ ...asked, ...more }).filter(([, value]) => value !== "");
  return new URLSearchParams(given).toString();
}

export const isCurrencyTaken = (endpoint) => !FILTERS[endpoint];
