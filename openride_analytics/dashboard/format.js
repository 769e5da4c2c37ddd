// How numbers, money and times are written: in the reader's locale, in the asked time zone, `null` as a dash.

export const DASH = "–";
const known = new Map();

function formatter(kind, locale, options) {
  const key = `${kind.name} ${locale} ${JSON.stringify(options)}`;
  if (!known.has(key)) known.set(key, new kind(locale, options));
  return known.get(key);
}

const numbers = (options) => formatter(Intl.NumberFormat, undefined, options);

export const missing = (value) => value === null || value === undefined;
export const count = (value) => (missing(value) ? DASH : numbers({ maximumFractionDigits: 0 }).format(value));
export const decimal = (value, digits = 1) =>
  missing(value) ? DASH : numbers({ maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
export const rate = (value) =>
  missing(value)
    ? DASH
    : numbers({ style: "percent", maximumFractionDigits: 1, minimumFractionDigits: 1 }).format(value);
// British English shortens a million to "m", which beside kilometres and minutes reads as another unit.
const SHORT = navigator.language.startsWith("en") ? "en-US" : undefined;
export const compact = (value) =>
  formatter(Intl.NumberFormat, SHORT, { notation: "compact", maximumFractionDigits: 1 }).format(value);

/** An amount as text, exactly as the service sent it: no detour by binary numbers. */
export function money(amount, currency, options = {}) {
  if (missing(amount)) return DASH;
  try {
    return numbers({ style: "currency", currency, currencyDisplay: "code", ...options }).format(amount);
  } catch {
    return `${currency} ${amount}`;
  }
}
export const wholeMoney = (amount, currency) =>
  money(amount, currency, { maximumFractionDigits: 0, minimumFractionDigits: 0 });

/** The currencies of an amount, the platform's own first. */
export function currencies(amounts, first) {
  return Object.keys(amounts ?? {}).sort((a, b) => (b === first) - (a === first) || (a < b ? -1 : 1));
}

export function milliseconds(value) {
  return missing(value) ? DASH : value < 1000 ? `${count(value)} ms` : `${decimal(value / 1000)} s`;
}

export function minutes(value) {
  if (missing(value)) return DASH;
  if (value < 90) return `${decimal(value)} min`;
  return value < 48 * 60 ? `${decimal(value / 60)} h` : `${decimal(value / 1440)} d`;
}

function moments(zone, options) {
  try {
    return formatter(Intl.DateTimeFormat, undefined, { timeZone: zone, ...options });
  } catch {
    return formatter(Intl.DateTimeFormat, undefined, { timeZone: "UTC", ...options });
  }
}

const BUCKET = {
  hour: { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" },
  day: { weekday: "short", day: "numeric", month: "short", year: "numeric" },
  week: { day: "numeric", month: "short", year: "numeric" },
  month: { month: "long", year: "numeric" },
};
const TICK = {
  hour: { hour: "2-digit", minute: "2-digit" },
  day: { day: "numeric", month: "short" },
  week: { day: "numeric", month: "short" },
  month: { month: "short", year: "2-digit" },
};

export function bucket(start, zone, granularity) {
  const text = moments(zone, BUCKET[granularity] ?? BUCKET.day).format(new Date(start));
  return granularity === "week" ? `Week of ${text}` : text;
}
export const tick = (start, zone, granularity) =>
  moments(zone, TICK[granularity] ?? TICK.day).format(new Date(start));
export const moment = (instant, zone) =>
  missing(instant) ? DASH : moments(zone, { dateStyle: "medium", timeStyle: "medium" }).format(new Date(instant));
export const clock = (instant, zone) =>
  missing(instant) ? DASH : moments(zone, { timeStyle: "medium" }).format(new Date(instant));

/** The days of a half-open period. */
export function days(period) {
  const last = new Date(Date.parse(period.end) - 1);
  return moments(period.timezone, { dateStyle: "medium" }).formatRange(new Date(period.start), last);
}

/** The last day of a period, and how far into it the period goes where it does not see its end. */
export function lastDay({ start, end }, zone) {
  const last = new Date(Math.max(new Date(start), new Date(end) - 1));
  const day = moments(zone, { weekday: "short", day: "numeric", month: "short" }).format(last);
  const until = moments(zone, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(new Date(end));
  return until === "00:00" ? day : `${day} until ${until}`;
}
/** `2026-03-01` as that day, wherever the reader is. */
export const calendarDay = (text) => moments("UTC", TICK.day).format(new Date(`${text}T00:00:00Z`));

export function today(zone) {
  const options = { timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit" };
  try {
    return new Intl.DateTimeFormat("en-CA", options).format(new Date());
  } catch {
    return new Date().toISOString().slice(0, 10);
  }
}

const EVENTS = {
  "user.registered": "Registered",
  "booking.created": "Booked",
  "booking.confirmed": "Confirmed",
  "trip.completed": "Trip completed",
};
export const eventName = (type) => EVENTS[type] ?? type;
