// Answers: ask the server, and let its chunks grow a message. Several may run at once, in several conversations.
//
// A run is an answer in progress: {chat, node, phase, tokens, speed, stop(), discard()}. Its phase says what it waits for:
// {kind: "waiting"} · {kind: "document", name, done, left} · {kind: "loading"} · {kind: "reading", done, processed, total, left}
// · {kind: "writing"}; `done` is a share of one, `left` seconds or null.

import * as api from "./api.js";
import { announce } from "./dom.js";
import { Broken, explain, ServerError } from "./errors.js";
import { chatRequest } from "./request.js";

const SAVE_EVERY = 400; // milliseconds between writes of a growing answer
const LOADING_PAUSE = 1500;

export class Answers {
  constructor(state, conversations, documents) {
    this.state = state;
    this.conversations = conversations;
    this.documents = documents;
  }

  /** Ask `text` at the end of the conversation that is shown. */
  send(text) {
    const { chat } = this.state;
    const question = this.conversations.add(chat, this.conversations.end(chat), { role: "user", content: text });
    return this.#answer(chat, question.id);
  }

  /** Ask something else instead of `node`, as a branch. */
  edit(node, text) {
    const { chat } = this.state;
    this.stop();
    const question = this.conversations.add(chat, node.parent, { role: "user", content: text });
    return this.#answer(chat, question.id);
  }

  /** Another answer beside `node`; in its place if it has nothing to keep. */
  retry(node) {
    const { chat } = this.state;
    this.stop();
    const empty = !node.content && !node.reasoning && !node.toolCalls?.length;
    if (!empty) return this.#answer(chat, node.parent);
    const { id, parent, order, conversation, role } = node;
    for (const name of Object.keys(node)) delete node[name];
    Object.assign(node, { id, parent, order, conversation, role, content: "", created: Date.now(), state: "running", model: this.state.model });
    return this.#run(chat, node);
  }

  /** Give the results of a message's calls, `results` by the call's id, and go on. */
  giveResults(node, results) {
    const { chat } = this.state;
    let parent = node.id;
    for (const { id, name } of node.toolCalls) {
      parent = this.conversations.add(chat, parent, { role: "tool", content: results.get(id), toolCallId: id, toolName: name }).id;
    }
    return this.#answer(chat, parent);
  }

  /** Stop the answer of the conversation that is shown. What is there of it stays. */
  stop() {
    this.state.run?.stop();
  }

  #answer(chat, parent) {
    const node = this.conversations.add(chat, parent, { role: "assistant", content: "", state: "running", model: this.state.model });
    return this.#run(chat, node);
  }

  async #run(chat, node) {
    const run = new Run(chat, node);
    this.state.runs.set(node.id, run);
    this.#changed(run);
    this.state.emit("runs");
    try {
      await this.#waitForDocuments(run);
      await this.#stream(run);
      node.state = "done";
    } catch (error) {
      this.#failed(run, error);
    }
    this.state.runs.delete(node.id);
    if (!run.discarded) await this.conversations.save(node);
    this.state.emit("node", node.id);
    this.state.emit("runs", run);
    if (this.state.chat === chat) announce(spoken(node));
  }

  async #waitForDocuments(run) {
    for (const id of run.chat.conversation.documents) {
      const name = run.chat.conversation.names[id] ?? "the document";
      await this.documents.ready(id, run.signal, (done, left) => {
        run.phase = { kind: "document", name, done, left };
        this.#changed(run);
      });
    }
  }

  /** Ask until the model is loaded, then take the chunks. */
  async #stream(run) {
    const { chat, node } = run;
    const path = chat.tree.pathTo(node.parent);
    const documents = [...chat.conversation.documents];
    if (documents.length) node.documents = documents;
    const body = chatRequest({ path, documents, settings: this.state.settings, model: node.model });
    for (;;) {
      try {
        run.phase = { kind: "waiting" };
        this.#changed(run);
        return await this.#take(run, body);
      } catch (error) {
        if (error.code === "context_length_exceeded" && body.max_tokens) {
          delete body.max_tokens; // less than that is left after the prompt: the context's end is the limit
          continue;
        }
        const loading = error instanceof ServerError && error.status === 503 && error.code !== "does_not_fit";
        if (!loading || !(await this.#isLoading())) throw error;
        run.phase = { kind: "loading" };
        this.#changed(run);
        await pause(LOADING_PAUSE, run.signal);
      }
    }
  }

  async #isLoading() {
    try {
      await api.request("health");
      return false;
    } catch (error) {
      return error.status === 503;
    }
  }

  async #take(run, body) {
    const ignored = (names) =>
      this.state.notice({ kind: "info", title: "Not everything was used", message: `The server does not know: ${names}.`, advice: "" });
    let complete = false;
    for await (const chunk of api.chat(body, run.signal, ignored)) {
      complete ||= Boolean(chunk.done);
      if (run.take(chunk)) this.#changed(run);
      if (performance.now() - run.saved > SAVE_EVERY) {
        run.saved = performance.now();
        this.conversations.save(run.node);
      }
    }
    if (!complete && !run.node.finish) throw new Broken();
  }

  #failed(run, error) {
    const { node } = run;
    if (error.name === "AbortError") node.state = "stopped";
    else {
      node.state = "failed";
      node.error = explain(error);
      if (error.status === 401) this.state.emit("login", () => this.#again(run));
    }
  }

  /** After the login: the same question again, where it is still shown and still unanswered. */
  #again({ chat, node }) {
    if (this.state.chat === chat && node.state === "failed") this.retry(node);
  }

  #changed(run) {
    this.state.emit("node", run.node.id);
  }
}

class Run {
  phase = { kind: "waiting" };
  tokens = 0;
  saved = performance.now();
  discarded = false;
  #first = 0;
  #thinking = 0;
  #abort = new AbortController();

  constructor(chat, node) {
    this.chat = chat;
    this.node = node;
  }

  get signal() {
    return this.#abort.signal;
  }

  stop() {
    this.#abort.abort();
  }

  /** Stop, and keep nothing: the conversation is being deleted. */
  discard() {
    this.discarded = true;
    this.stop();
  }

  /** Tokens per second of writing so far, or null while that says nothing. */
  get speed() {
    const seconds = (performance.now() - this.#first) / 1000;
    return this.tokens > 2 && seconds > 0.2 ? (this.tokens - 1) / seconds : null;
  }

  /** Put a chunk into the message. Whether anything changed. */
  take(chunk) {
    if (chunk.prompt_progress) return this.#progress(chunk.prompt_progress);
    const { node } = this;
    if (chunk.timings) node.timings = chunk.timings;
    if (chunk.usage) node.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return Boolean(chunk.usage);
    if (choice.passages) node.passages = choice.passages;
    if (choice.heat) node.heat = choice.heat;
    if (choice.heat_starts) node.heatStarts = choice.heat_starts;
    if (choice.heat_counted) node.heatCounted = choice.heat_counted;
    if (choice.finish_reason) node.finish = choice.finish_reason;
    return this.#delta(choice.delta ?? {}, chunk.tokens ?? 1) || Boolean(choice.finish_reason);
  }

  #progress({ total, cached, processed, time_ms: milliseconds }) {
    const read = processed - cached;
    const left = read > 0 && milliseconds > 300 ? ((total - processed) * milliseconds) / read / 1000 : null;
    this.phase = { kind: "reading", done: total ? processed / total : 0, processed, total, left };
    return true;
  }

  #delta(delta, tokens) {
    const { node } = this;
    const thought = delta.reasoning_content ?? "";
    if (!thought && !delta.content && !delta.tool_calls) return false;
    this.#first ||= performance.now();
    this.tokens += tokens;
    this.phase = { kind: "writing" };
    if (thought) {
      this.#thinking ||= performance.now();
      node.reasoning = (node.reasoning ?? "") + thought;
      node.reasoningSeconds = (performance.now() - this.#thinking) / 1000;
    }
    node.content += delta.content ?? "";
    for (const call of delta.tool_calls ?? []) this.#call(call);
    return true;
  }

  #call({ index, id, function: named }) {
    const calls = (this.node.toolCalls ??= []);
    calls[index] ??= { id: id ?? "", name: named?.name ?? "", arguments: "" };
    calls[index].arguments += named?.arguments ?? "";
  }
}

/** What a screen reader hears of an answer, once, when it is complete. */
function spoken(node) {
  if (node.state === "failed") return `${node.error.title}. ${node.error.message} ${node.error.advice}`;
  const calls = (node.toolCalls ?? []).map((call) => `Calls ${call.name}.`).join(" ");
  const text = node.content.length > 3000 ? `${node.content.slice(0, 3000)} … The answer is longer.` : node.content;
  return `${node.state === "stopped" ? "Stopped." : "Answer:"} ${text} ${calls}`;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
