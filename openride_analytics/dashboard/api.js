// The service's answers: one request for equal questions, time-outs, problems in words, the key, the stream.

import { byId } from "./dom.js";

const TIMEOUT_MS = 30_000;
const SILENCE_MS = 30_000;

/** What went wrong, in words a reader can use. `again` is after how many seconds a new try makes sense. */
export class Problem extends Error {
  constructor(title, detail, { status = 0, fields = [], again = 0 } = {}) {
    super(title);
    Object.assign(this, { title, detail, status, fields, again });
  }
}

let key = null;
try {
  key = sessionStorage.getItem("api-key");
} catch {}
let asking = null;

function askForKey(refused) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key");
    if (refused) {
      byId("key-why").textContent =
        "The service did not accept that key: it may be mistyped, expired or revoked. Try another one.";
    }
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.querySelector("input").value.trim();
        asking = null;
        if (dialog.returnValue !== "use" || !given) return resolve(false);
        key = given;
        dialog.querySelector("form").reset();
        dialog.returnValue = "";
        try {
          sessionStorage.setItem("api-key", key);
        } catch {}
        resolve(true);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

async function request(path, options) {
  for (;;) {
    const used = key;
    const headers = { ...options.headers, ...(used ? { Authorization: `Bearer ${used}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401) return response;
    await response.body?.cancel();
    if (key !== used) continue; // another request has got one meanwhile
    if (!(await askForKey(used !== null))) return response;
  }
}

async function problemOf(response) {
  const { status } = response;
  const sent = await response.json().catch(() => ({}));
  const again = Number(response.headers.get("Retry-After")) || 5;
  const detail = sent.detail ?? "";
  if (status === 400)
    return new Problem("This view cannot be asked for", detail, { status, fields: sent.errors ?? [] });
  if (status === 401) return new Problem("A key is needed", "Reload the page to enter one.", { status });
  if (status === 403)
    return new Problem("Not allowed with this key", detail || "Ask for a key with the scope “read”.", { status });
  if (status === 429) return new Problem("Too many requests", "The page tries again by itself.", { status, again });
  if (status === 503)
    return new Problem("The data store does not answer", "The page tries again by itself.", { status, again });
  if (status === 504)
    return new Problem("The query took too long", "Choose a shorter period or larger buckets.", { status });
  return new Problem("The service made a mistake", detail || `It answered with status ${status}.`, { status });
}

/** A getter for one view: equal questions are asked once, all end with the view. */
export function asker(signal) {
  const asked = new Map();
  return (path) => {
    if (!asked.has(path)) asked.set(path, answer(path, signal));
    return asked.get(path);
  };
}

async function answer(path, signal) {
  // Waiting for a key takes a person's time, which is not the service's: the limit is on each attempt.
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  try {
    response = await request(path, { signal: AbortSignal.any([signal, limit]) });
    if (response.ok) return await response.json();
  } catch (error) {
    if (signal.aborted) throw error;
    if (limit.aborted) throw new Problem("No answer in time", "Choose a shorter period, or try again.");
    throw new Problem("The service cannot be reached", "The page tries again by itself.", { again: 5 });
  }
  throw await problemOf(response);
}

/**
 * The event stream, for ever: read by `fetch`, because EventSource cannot carry a key. Comes back by itself after
 * a break or a silence, and rests while the page is hidden.
 */
export function stream(path, onMessage, onState) {
  let wait = 1000;
  let current = null;
  let timer = 0;

  async function run() {
    if (document.hidden || current) return;
    const own = (current = new AbortController());
    let silence = 0;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => own.abort(), SILENCE_MS);
    };
    try {
      const response = await request(path, { signal: own.signal, headers: { Accept: "text/event-stream" } });
      if (!response.ok) throw await problemOf(response);
      alive();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        alive();
        const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) {
          const lines = block.split("\n").filter((line) => line.startsWith("data:"));
          if (!lines.length) continue;
          wait = 1000;
          onState("live");
          onMessage(JSON.parse(lines.map((line) => line.slice(5)).join("\n")));
        }
      }
    } catch {
      // Whatever ended it: a new connection is the remedy.
    }
    clearTimeout(silence);
    if (current === own) current = null;
    if (document.hidden) return;
    onState("away");
    clearTimeout(timer);
    timer = setTimeout(run, wait * (0.8 + 0.4 * Math.random()));
    wait = Math.min(wait * 2, 30_000);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      current?.abort();
      current = null;
    } else run();
  });
  run();
}
