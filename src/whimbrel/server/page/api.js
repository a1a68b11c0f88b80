// The server, as functions. Every address is relative to the page, so that it works behind a prefix, and never leaves the server.

import { ServerError, Unreachable } from "./errors.js";

const address = (path) => new URL(path, document.baseURI).href;

/** A response that is a success. Throws ServerError, Unreachable, or the AbortError of `signal`. */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(address(path), { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error.message);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After"));
  let fields = {};
  try {
    fields = (await response.json()).error ?? {};
  } catch {
    // not one of ours: a proxy's, perhaps
  }
  return new ServerError(response.status, fields, Number.isFinite(seconds) ? seconds : null);
}

const json = async (path, options) => (await request(path, options)).json();

export const models = async () => (await json("v1/models")).data;
export const status = () => json("v1/status");
export const files = async () => (await json("v1/files")).data;
export const file = (id) => json(`v1/files/${encodeURIComponent(id)}`);
export const fileText = async (id) => (await request(`v1/files/${encodeURIComponent(id)}/text`)).text();
export const removeFile = (id) => json(`v1/files/${encodeURIComponent(id)}`, { method: "DELETE" });

/** Send a document; it is read in the background. */
export function upload(document, model, signal) {
  const form = new FormData();
  form.append("purpose", "user_data");
  if (model) form.append("model", model);
  form.append("file", document, document.name);
  return json("v1/files", { method: "POST", body: form, signal });
}

/** The states of a document while it is being read. */
export async function* fileEvents(id, signal) {
  yield* events(await request(`v1/files/${encodeURIComponent(id)}/events`, { signal }));
}

/** The chunks of an answer; `ignored` is told which fields the server did not act on. */
export async function* chat(body, signal, ignored) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const names = response.headers.get("X-Ignored-Params");
  if (names) ignored(names);
  yield* events(response);
}

/** Give the server its key; it answers with a cookie. False: that is not the key. */
export async function login(key) {
  try {
    await request("login", { method: "POST", body: new URLSearchParams({ key }) });
    return true;
  } catch (error) {
    if (error instanceof ServerError && error.status === 401) return false;
    throw error;
  }
}

const STATUS = { invalid_request_error: 400, authentication_error: 401, rate_limit_error: 429 }; // of an error in a stream

/** The JSON of server-sent events; an `error` in one is thrown. "[DONE]" gives {done: true}. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue; // names of events, comments, blank lines
        const data = line.slice(5).trim();
        const event = data === "[DONE]" ? { done: true } : JSON.parse(data);
        if (event.error) throw new ServerError(STATUS[event.error.type] ?? 500, event.error);
        yield event;
      }
    }
  } catch (error) {
    if (error.name === "TypeError") throw new Unreachable(error.message); // "network error" in the middle
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
