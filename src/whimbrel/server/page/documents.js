// Documents: sent to the server, read there once, asked in any conversation. This module follows their reading.
//
// An entry: {id, name, bytes, status: "uploading" | "processing" | "processed" | "error", progress: {processed, total,
// seconds_left} | null, tokens, details, created}. Before the server has named it, an upload's id begins with "upload-".

import * as api from "./api.js";
import { announce } from "./dom.js";
import { explain, ServerError } from "./errors.js";
import { CodePoints } from "./format.js";
import { newId } from "./tree.js";

const POLL = 1000; // milliseconds between questions where the stream of events broke off

export class Documents {
  #texts = new Map();
  #watched = new Set();
  #waiting = new Set();

  constructor(state, conversations) {
    this.state = state;
    this.conversations = conversations;
  }

  async refresh() {
    const known = new Map((await api.files()).reverse().map((file) => [file.id, entry(file)])); // later ones are put behind them
    for (const [id, document] of this.state.documents) if (document.status === "uploading") known.set(id, document);
    this.state.documents = known;
    this.#changed();
    for (const document of known.values()) if (document.status === "processing") this.#watch(document.id);
  }

  /** Send files and make the conversation that is shown about them. */
  add(files) {
    return Promise.all(files.map((file) => this.#add(file)));
  }

  async #add(file) {
    const uploadId = `upload-${newId()}`;
    const { chat } = this.state;
    this.#put({ id: uploadId, name: file.name, bytes: file.size, status: "uploading", progress: null, created: Date.now() / 1000 });
    this.conversations.attach(chat, uploadId, file.name);
    try {
      const sent = entry(await api.upload(file, this.state.model));
      this.state.documents.delete(uploadId);
      this.#put(sent);
      this.conversations.replaceDocument(chat, uploadId, sent.id);
      if (sent.status === "processing") this.#watch(sent.id);
      else this.#changed();
    } catch (error) {
      this.state.documents.delete(uploadId);
      this.conversations.detach(chat, uploadId);
      this.#changed();
      this.#tell(error, `${file.name} was not taken`, () => this.add([file]));
    }
  }

  #tell(error, title, again) {
    const { message, advice, title: why } = explain(error);
    if (error.status === 401) this.state.emit("login", again);
    else this.state.notice({ kind: "error", title, message: message || `${why}.`, advice });
  }

  #put(document) {
    this.state.documents.set(document.id, document);
    this.#changed();
  }

  #changed() {
    this.state.emit("documents");
    for (const check of this.#waiting) check();
  }

  /** Follow a document until it is read: by the server's events, or by asking where they break off. */
  async #watch(id) {
    if (this.#watched.has(id)) return;
    this.#watched.add(id);
    try {
      for await (const event of api.fileEvents(id)) this.#update(id, event);
    } catch {
      // asked for below
    }
    while (this.state.documents.has(id)) {
      try {
        this.#put(entry(await api.file(id)));
        this.#judge(this.state.documents.get(id));
      } catch (error) {
        if (error instanceof ServerError && error.status === 404) this.state.documents.delete(id);
        this.#changed();
      }
      if (this.state.documents.get(id)?.status !== "processing") break;
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
    this.#watched.delete(id);
  }

  /** Nobody can ask a document that could not be read: it is taken off, and the reason is said. */
  #judge({ id, name, status, details }) {
    if (status === "processed") announce(`${name} is read`);
    if (status !== "error") return;
    this.conversations.detach(this.state.chat, id);
    this.state.notice({ kind: "error", title: `${name} could not be read`, message: details && `${details}.`, advice: "" });
  }

  #update(id, event) {
    const document = this.state.documents.get(id);
    const progress = event.progress ?? ("processed" in event ? event : document?.progress);
    if (document) this.#put({ ...document, progress, tokens: event.tokens ?? document.tokens });
  }

  /** Resolves once the document is read; `report(share, secondsLeft)` until then. Throws what went wrong with it. */
  ready(id, signal, report) {
    return new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        this.#waiting.delete(check);
        settle(value);
      };
      const check = () => {
        const document = this.state.documents.get(id);
        if (signal.aborted) return finish(reject, signal.reason);
        if (!document && !id.startsWith("upload-")) return finish(resolve); // unknown here: the server says what it is
        if (!document) return finish(reject, new Error("The document was not taken by the server; add it again"));
        if (document.status === "processed") return finish(resolve);
        if (document.status === "error") {
          return finish(reject, new ServerError(400, { message: `${document.name} could not be read: ${document.details || "no reason was given"}` }));
        }
        return report(...progressOf(document));
      };
      this.#waiting.add(check);
      signal.addEventListener("abort", check);
      check();
    });
  }

  /** {text, points} of a document, fetched once. */
  text(id) {
    if (!this.#texts.has(id)) {
      const fetched = api.fileText(id).then((text) => ({ text, points: new CodePoints(text) }));
      fetched.catch(() => this.#texts.delete(id));
      this.#texts.set(id, fetched);
    }
    return this.#texts.get(id);
  }

  async remove(id) {
    try {
      await api.removeFile(id);
      this.state.documents.delete(id);
      this.#texts.delete(id);
      this.conversations.detach(this.state.chat, id);
      this.#changed();
    } catch (error) {
      this.#tell(error, "The document was not deleted", () => this.remove(id));
    }
  }
}

/** Of the server's file object. */
function entry(file) {
  return {
    id: file.id,
    name: file.filename,
    bytes: file.bytes,
    status: file.status === "uploaded" ? "processing" : file.status,
    progress: file.progress ?? null,
    tokens: file.tokens ?? null,
    details: file.status_details ?? "",
    created: file.created_at,
  };
}

/** [share read, seconds left or null] */
export function progressOf({ progress }) {
  if (!progress?.total) return [0, null];
  return [progress.processed / progress.total, progress.seconds_left ?? null];
}
