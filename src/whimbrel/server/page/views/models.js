// Models and memory: what the server can answer with, what is loaded, how much memory that takes, who is being answered.
// Asked for every two seconds while it is in sight.

import * as api from "../api.js";
import { el, icon } from "../dom.js";
import { explain } from "../errors.js";
import { bytes, count, speed } from "../format.js";

const EVERY = 2000;
const STATES = { loaded: "loaded", loading: "being loaded", unloaded: "on disk" };

/** Returns {element, opened(), closed()}. */
export function modelsView(state) {
  const element = el("div", { class: "models" });
  let timer = 0;
  let drawn = "";

  async function refresh() {
    try {
      state.status = await api.status();
      state.emit("status");
      draw(state.status);
    } catch (error) {
      const { title, advice } = explain(error);
      drawn = "";
      element.replaceChildren(el("p", { class: "problem", text: `${title}. ${advice}` }));
    }
  }

  function draw(status) {
    const same = JSON.stringify(status);
    if (same === drawn) return;
    drawn = same;
    const focused = document.activeElement?.dataset?.model;
    element.replaceChildren(memory(status), activity(status), ...status.models.map((model) => card(state, model)));
    if (focused) element.querySelector(`[data-model="${CSS.escape(focused)}"]`)?.focus();
  }

  return {
    element,
    opened() {
      refresh();
      timer = setInterval(() => !document.hidden && refresh(), EVERY);
    },
    closed: () => clearInterval(timer),
  };
}

function memory({ memory: { resident, available, total } }) {
  const whole = total ?? resident + available;
  const meter = (share, name) => {
    const fill = el("span", { class: `fill ${name}` });
    fill.style.width = `${Math.min(100, share * 100)}%`;
    return fill;
  };
  const others = Math.max(0, whole - available - resident);
  const bar = el("div", { class: "meter", role: "meter", "aria-label": "Memory", "aria-valuemin": "0", "aria-valuemax": String(whole), "aria-valuenow": String(resident), "aria-valuetext": `whimbrel ${bytes(resident)}, free ${bytes(available)}` }, meter(resident / whole, "own"), meter(others / whole, "others"));
  return el("section", {}, el("h3", { text: "Memory" }), bar, el("dl", { class: "facts-list" }, ...pair("whimbrel", bytes(resident), "own"), ...pair("other programs", bytes(others), "others"), ...pair("free", bytes(available), "free")));
}

function activity({ sequences, tokens_per_second: rate }) {
  const waiting = sequences.waiting ? `, ${count(sequences.waiting)} waiting` : "";
  return el("section", {}, el("h3", { text: "Now" }), el("p", { text: `${sequences.running === 1 ? "1 answer" : `${count(sequences.running)} answers`} running${waiting} · ${speed(rate ?? 0)} tokens/s over the last minute` }));
}

const pair = (name, value, mark) => [el("dt", { class: mark ? `key ${mark}` : null, text: name }), el("dd", { text: value })];

function card(state, { id, meta = {} }) {
  const facts = [];
  const add = (name, value) => value !== null && value !== undefined && value !== "" && facts.push(...pair(name, value));
  add("context", meta.context && `${count(meta.context)} tokens${meta.trained_context && meta.trained_context !== meta.context ? ` (trained for ${count(meta.trained_context)})` : ""}`);
  add("size", meta.bytes && bytes(meta.bytes));
  add("weights", meta.weights);
  add("attention", meta.attention);
  add("at a time", meta.max_sequences && `${count(meta.max_sequences)} answers`);
  add("tools", meta.tools === undefined ? "" : meta.tools ? String(meta.tools === true ? "yes" : meta.tools) : "no");
  add("thinking", meta.thinking === undefined ? "" : meta.thinking ? "yes" : "no");
  add("instructions", meta.isa);
  const chosen = state.model === id;
  const choose = el("button", { type: "button", class: "plain", "data-model": id, "aria-pressed": String(chosen), hidden: state.models.length < 2, text: chosen ? "Asked now" : "Ask this one", on: { click: () => state.set({ model: id }) } });
  const warnings = [...(meta.warnings ?? []), ...(meta.error ? [meta.error] : [])].map((text) => el("p", { class: "warning" }, icon("warning"), text));
  return el("section", { class: `card model ${meta.state ?? ""}` }, el("header", {}, el("h3", { text: id }), el("span", { class: "state", text: STATES[meta.state] ?? meta.state ?? "" })), el("dl", { class: "facts-list" }, ...facts), ...warnings, choose);
}
