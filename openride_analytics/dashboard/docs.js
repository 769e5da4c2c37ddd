// The page to try the API: every operation of the OpenAPI document, with a form that sends it. All of it comes from /schema.

import { byId, h } from "./dom.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const LONGEST_SHOWN = 200_000;

let components = {};
const key = byId("api-key");
try {
  key.value = sessionStorage.getItem("api-key") ?? "";
  key.addEventListener("change", () => sessionStorage.setItem("api-key", key.value.trim()));
} catch {}

/** Paragraphs, and `code` between backticks: the only mark-up that descriptions use. */
function prose(text, tag = "p") {
  return (text ?? "")
    .split("\n\n")
    .filter((part) => part.trim())
    .map((part) => h(tag, { class: "prose" }, inline(part)));
}

const inline = (text) =>
  (text ?? "").split(/`([^`]*)`/).map((part, index) => (index % 2 ? h("code", {}, part) : part));

function resolved(schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ? { title: name, ...components[name] } : (schema ?? {});
}

function variants(schema) {
  return (schema.oneOf ?? schema.anyOf ?? []).map(resolved).filter((each) => each.type !== "null");
}

function kindOf(given) {
  const schema = resolved(given);
  const choices = variants(schema);
  if (choices.length) return choices.map(kindOf).join(" or ");
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  const type = [schema.type ?? "any"].flat().join(" or ");
  if (type === "array") return `list of ${kindOf(schema.items)}`;
  return schema.format ? `${type} (${schema.format})` : type;
}

/** What is inside of a schema: its fields, those of its items or values, or of its only variant. */
function inner(given) {
  const schema = resolved(given);
  if (schema.properties) return schema;
  if (schema.items) return inner(schema.items);
  if (typeof schema.additionalProperties === "object") return inner(schema.additionalProperties);
  const choices = variants(schema);
  return choices.length === 1 ? inner(choices[0]) : null;
}

/** The fields of a schema; what lies deeper is made when somebody looks. */
function shape(given) {
  const schema = inner(given);
  if (!schema) return h("p", { class: "prose" }, kindOf(given));
  const rows = Object.entries(schema.properties).map(([name, field]) => {
    const line = [
      h("span", { class: "name" }, name),
      " ",
      h("span", { class: "kind" }, kindOf(field)),
      " ",
      h("span", { class: "says" }, inline(resolved(field).description)),
    ];
    if (!inner(field)) return h("li", {}, line);
    return h("li", {}, opening(h("summary", {}, line), () => shape(field)));
  });
  return h("ul", { class: "shape" }, rows);
}

/** Details whose content is made when they are first opened. */
function opening(summary, make, attributes) {
  const details = h("details", attributes, summary);
  details.addEventListener("toggle", () => details.open && details.append(make()), { once: true });
  return details;
}

/** A value that a schema would take, for a start. */
function sample(given) {
  const schema = resolved(given);
  if (schema.examples?.length) return schema.examples[0];
  if (schema.enum) return schema.enum[0];
  const [first] = variants(schema);
  if (first) return sample(first);
  if (schema.properties) {
    const needed = schema.required?.length ? schema.required : Object.keys(schema.properties);
    return Object.fromEntries(needed.map((name) => [name, sample(schema.properties[name])]));
  }
  if (schema.items) return Object.keys(schema.items).length > 1 || schema.items.$ref ? [sample(schema.items)] : [];
  return { integer: 0, number: 0, boolean: false, object: {} }[[schema.type].flat()[0]] ?? "";
}

function parameterField({ name, required, description, schema }) {
  const { enum: choices, examples } = resolved(schema);
  const control = choices
    ? h("select", { name, required }, h("option", { value: "" }, "—"), choices.map((each) => h("option", {}, each)))
    : h("input", { name, required, placeholder: examples?.[0] ?? "", autocomplete: "off" });
  const need = required && h("span", { class: "need" }, " required");
  return h("label", {}, h("span", { class: "name" }, name, need || null), control, h("small", {}, inline(description)));
}

function bodyFields(content) {
  const types = Object.keys(content);
  const text = (type) => {
    const example = sample(content[type].schema);
    return typeof example === "string" ? example : JSON.stringify(example, null, 2);
  };
  const area = h("textarea", { name: "body", spellcheck: "false" });
  area.value = text(types[0]);
  const type = h(
    "select",
    { name: "type", onchange: () => (area.value = text(type.value)) },
    types.map((each) => h("option", {}, each)),
  );
  return h(
    "div",
    { class: "body" },
    h("h3", {}, "Body"),
    h("label", {}, h("small", {}, "Media type"), type),
    h("label", {}, h("small", {}, "Content"), area),
    opening(h("summary", {}, "Its fields"), () => shape(content[type.value].schema), { class: "numbers" }),
  );
}

/** The request that a form stands for. */
function requestOf(method, path, parameters, form) {
  const given = new FormData(form);
  const query = new URLSearchParams();
  let filled = path;
  for (const { name, in: where } of parameters) {
    const value = given.get(name);
    if (where === "path") filled = filled.replace(`{${name}}`, encodeURIComponent(value));
    else if (where === "query" && value) query.append(name, value);
  }
  const headers = {};
  if (given.has("body")) headers["Content-Type"] = given.get("type");
  const search = query.toString();
  return { method, headers, body: given.get("body") ?? undefined, url: filled + (search && `?${search}`) };
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

function curl({ method, url, headers, body }) {
  const parts = ["curl", ...(method === "GET" ? [] : ["-X", method]), quoted(location.origin + url)];
  if (key.value) parts.push('-H "Authorization: Bearer $OPENRIDE_KEY"');
  for (const [name, value] of Object.entries(headers)) parts.push("-H", quoted(`${name}: ${value}`));
  if (body !== undefined) parts.push("--data-binary", quoted(body));
  return parts.join(" ");
}

const shortened = (text) =>
  text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}\n… ${text.length} characters in all` : text;

/** Sends, and shows what comes: text as it arrives, anything else as a file. */
async function send(request, result, signal) {
  const began = performance.now();
  const line = h("p", { role: "status" }, "Waiting for the answer…");
  const shown = h("pre", { tabindex: "0" });
  result.replaceChildren(h("pre", { class: "curl" }, curl(request)), line);
  try {
    const authorization = key.value ? { Authorization: `Bearer ${key.value.trim()}` } : {};
    const response = await fetch(request.url, {
      method: request.method,
      headers: { ...request.headers, ...authorization },
      body: request.body,
      signal,
    });
    const type = response.headers.get("Content-Type") ?? "";
    const facts = ["X-Cache", "Age", "Retry-After", "Location", "WWW-Authenticate"]
      .filter((name) => response.headers.has(name))
      .map((name) => `${name}: ${response.headers.get(name)}`);
    const took = `${Math.round(performance.now() - began)} ms`;
    line.textContent = [`${response.status} ${response.statusText}`.trim(), took, type, ...facts].join(" · ");
    if (!/json|text|xml/.test(type) && response.body && type) {
      const name = /filename="?([^";]+)/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "answer";
      const href = URL.createObjectURL(await response.blob());
      result.append(h("p", {}, h("a", { href, download: name }, `Save ${name}`)));
      return;
    }
    result.append(shown);
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = (await reader?.read()) ?? { done: true };
      if (done) break;
      text += value;
      if (type.startsWith("text/event-stream")) shown.textContent = text.slice(-LONGEST_SHOWN);
    }
    shown.textContent = shortened(type.includes("json") && text && type !== "application/x-ndjson" ? pretty(text) : text);
  } catch (error) {
    if (signal.aborted) line.textContent += " · stopped";
    else line.textContent = "The service cannot be reached.";
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function trial(method, path, operation) {
  const parameters = operation.parameters ?? [];
  const content = operation.requestBody?.content;
  const result = h("div", { class: "result" });
  const stop = h("button", { type: "button", hidden: true }, "Stop");
  const form = h(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        const running = new AbortController();
        stop.onclick = () => running.abort();
        stop.hidden = false;
        await send(requestOf(method.toUpperCase(), path, parameters, form), result, running.signal);
        stop.hidden = true;
      },
    },
    parameters.length ? [h("h3", {}, "Parameters"), h("div", { class: "fields" }, parameters.map(parameterField))] : [],
    content ? bodyFields(content) : [],
    h("p", { class: "act" }, h("button", { type: "submit" }, "Send"), stop),
  );
  return [form, result];
}

function answers(responses) {
  return Object.entries(responses).map(([status, { description, content }]) => {
    const [type, media] = Object.entries(content ?? {})[0] ?? [];
    const line = [h("span", { class: "name" }, status), " ", h("span", { class: "says" }, inline(description))];
    if (!media || !inner(media.schema)) return h("li", {}, line);
    const kind = h("span", { class: "kind" }, ` ${type}`);
    return h("li", {}, opening(h("summary", {}, line, kind), () => shape(media.schema)));
  });
}

function operationOf(method, path, operation) {
  const summary = h(
    "summary",
    {},
    h("span", { class: method === "get" ? "method" : "method changes" }, method.toUpperCase()),
    h("span", { class: "path" }, path),
    h("span", { class: "what" }, operation.summary ?? ""),
  );
  const content = () =>
    h(
      "div",
      {},
      prose(operation.description),
      trial(method, path, operation),
      h("h3", {}, "Answers"),
      h("ul", { class: "shape" }, answers(operation.responses)),
    );
  const words = `${method} ${path} ${operation.summary} ${operation.description}`.toLowerCase();
  return opening(summary, content, { class: "operation", id: operation.operationId, "data-words": words });
}

function find() {
  const wanted = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("#operations section")) {
    let any = false;
    for (const each of section.querySelectorAll(".operation")) {
      each.hidden = !wanted.every((word) => each.dataset.words.includes(word));
      any ||= !each.hidden;
    }
    section.hidden = !any;
  }
}

function reveal() {
  const named = location.hash ? byId(decodeURIComponent(location.hash.slice(1))) : null;
  if (!named?.classList.contains("operation")) return;
  named.open = true;
  named.scrollIntoView();
}

async function main() {
  const response = await fetch("/schema");
  if (!response.ok) throw new Error(`status ${response.status}`);
  const document_ = await response.json();
  components = document_.components?.schemas ?? {};
  const byTag = new Map();
  for (const [path, methods] of Object.entries(document_.paths)) {
    for (const method of METHODS.filter((each) => methods[each])) {
      const tag = methods[method].tags?.[0] ?? "Others";
      byTag.set(tag, [...(byTag.get(tag) ?? []), operationOf(method, path, methods[method])]);
    }
  }
  byId("about").append(...prose(document_.info.description));
  byId("operations").append(
    ...[...byTag].map(([tag, operations]) => h("section", { "aria-label": tag }, h("h2", {}, tag), operations)),
  );
  byId("state").textContent = "";
  byId("find").addEventListener("input", find);
  byId("above").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", reveal);
  reveal();
}

main().catch((error) => {
  byId("state").textContent = `The document at /schema could not be read (${error.message}). Reload the page to try again.`;
});
