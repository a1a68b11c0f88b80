// An answer: thinking, text, tool calls, what it waits for, what went wrong, what it read, how fast it was. Each part draws itself
// when its data are there; a growing text is appended to.

import { copyText, el, icon, iconButton } from "../dom.js";
import { count, duration, speed } from "../format.js";
import { MarkdownView } from "../markdown.js";
import { callsView } from "./calls.js";
import { passagesView } from "./passages.js";
import { versionsView } from "./versions.js";

export function answerView(node, state, app) {
  const parts = [thinkingView(node), textView(node), callsView(node, state, app), waitingView(node, state), problemView(node, state, app)];
  parts.push(passagesView(node, app), footView(node, state, app));
  const name = el("h2", { class: "unseen", text: "Answer" });
  const element = el("li", { class: "message answer", "data-node": node.id }, name, ...parts.map((part) => part.element));
  return {
    element,
    update() {
      element.classList.toggle("running", state.runs.has(node.id));
      for (const part of parts) part.update();
    },
  };
}

function textView(node) {
  const element = el("div", { class: "text" });
  const markdown = new MarkdownView(element);
  return {
    element,
    update() {
      markdown.set(node.content ?? "");
      element.hidden = !node.content;
    },
  };
}

function thinkingView(node) {
  const title = el("summary");
  const text = el("div", { class: "thought" });
  const element = el("details", { class: "thinking" }, title, text);
  let shown = 0;
  return {
    element,
    update() {
      const thought = node.reasoning ?? "";
      element.hidden = !thought;
      if (thought.length < shown) text.textContent = "";
      if (thought.length !== shown) text.append(thought.slice(text.textContent ? shown : 0));
      shown = thought.length;
      const over = node.content || node.toolCalls || node.state !== "running";
      const label = over ? `Thought for ${duration(node.reasoningSeconds ?? 0)}` : "Thinking…";
      if (title.textContent !== label) title.textContent = label;
    },
  };
}

/** What the answer waits for, with a bar where its length is known. */
function waitingView(node, state) {
  const label = el("span");
  const fill = el("span", { class: "fill" });
  const bar = el("div", { class: "progress", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  const element = el("div", { class: "waiting" }, el("p", {}, el("span", { class: "pulse" }), label), bar);
  return {
    element,
    update() {
      const phase = state.runs.get(node.id)?.phase;
      element.hidden = !phase || phase.kind === "writing";
      if (element.hidden) return;
      label.textContent = waitingText(phase);
      bar.hidden = phase.done === undefined;
      const done = Math.round((phase.done ?? 0) * 100);
      fill.style.width = `${done}%`;
      bar.setAttribute("aria-valuenow", String(done));
    },
  };
}

function waitingText(phase) {
  const left = phase.left === null || phase.left === undefined ? "" : ` · ${duration(phase.left)} left`;
  if (phase.kind === "document") return `Waiting until ${phase.name} is read${left}`;
  if (phase.kind === "loading") return "The model is being loaded";
  if (phase.kind === "reading") return `Reading ${count(phase.processed)} of ${count(phase.total)} tokens${left}`;
  return "Waiting";
}

function problemView(node, state, app) {
  const element = el("div", { class: "problem-card", role: "group", "aria-label": "What went wrong" });
  let shown = null;
  let timer = 0;

  function actions({ action, after }) {
    if (action === "login") return [button("Enter the key", () => state.emit("login", () => app.answers.retry(node)))];
    const settings = action === "settings" ? [button("Open the settings", () => app.panel.show("settings"))] : [];
    const retry = button("Try again", () => app.answers.retry(node));
    if (after) countDown(retry, after);
    return action ? [retry, ...settings] : [];
  }

  function countDown(retry, seconds) {
    clearInterval(timer);
    const until = Date.now() + seconds * 1000;
    const show = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      retry.textContent = left > 0 ? `Try again (in ${left} s)` : "Try again";
      if (left <= 0) clearInterval(timer);
    };
    timer = setInterval(show, 250);
    show();
  }

  return {
    element,
    update() {
      const problem = node.state === "failed" ? node.error : null;
      element.hidden = !problem;
      if (problem === shown) return;
      shown = problem;
      if (!problem) return;
      const text = el("p", {}, el("strong", { text: problem.title }), " ", [problem.message, problem.advice].filter(Boolean).join(" "));
      element.replaceChildren(icon("warning"), el("div", {}, text, el("div", { class: "problem-actions" }, ...actions(problem))));
    },
  };
}

const button = (text, click) => el("button", { type: "button", class: "plain", text, on: { click } });

/** Copy, retry, versions; and what there is to know: how it ended, how fast it was. */
function footView(node, state, app) {
  const versions = versionsView(node, state, app, "this answer");
  const copy = iconButton("copy", "Copy the answer", () => copyText(node.content, copy));
  const retry = iconButton("retry", "Answer again", () => app.answers.retry(node));
  const end = el("span", { class: "end" });
  const facts = el("span", { class: "facts" });
  const element = el("div", { class: "foot" }, el("div", { class: "tools" }, versions.element, copy, retry), end, facts);
  return {
    element,
    update() {
      const run = state.runs.get(node.id);
      versions.update();
      copy.hidden = Boolean(run) || !node.content;
      retry.hidden = Boolean(run) || (node.state === "failed" && !node.content);
      const live = run?.speed ? `${speed(run.speed)} tokens/s` : "";
      end.textContent = run ? "" : endText(node, state);
      facts.textContent = run ? live : factsText(node);
      facts.title = run ? "" : factsTitle(node);
      element.hidden = Boolean(run) && !live;
    },
  };
}

function endText(node, state) {
  if (node.state === "stopped") return "Stopped";
  if (node.state === "running" && state.writtenElsewhere) return "Being written in another window";
  if (node.state === "running") return "Interrupted: the page was closed while this was written";
  if (node.state === "failed") return node.content ? "Broke off" : "";
  if (node.finish === "length") return "Cut off at the longest answer that the settings, or the model, allow";
  return "";
}

function factsText(node) {
  const { timings } = node;
  if (!timings) return node.model ?? "";
  const written = timings.predicted_per_second ? `${speed(timings.predicted_per_second)} tokens/s` : "";
  return [node.model, `${count(timings.predicted_n)} tokens`, written].filter(Boolean).join(" · ");
}

function factsTitle({ timings, usage }) {
  if (!timings) return "";
  const parts = [`read ${count(timings.prompt_n)} tokens`];
  if (timings.prompt_per_second) parts.push(`at ${speed(timings.prompt_per_second)} tokens/s`);
  if (timings.cache_n) parts.push(`and found ${count(timings.cache_n)} read before`);
  const text = `It ${parts.join(" ")}`;
  return usage?.truncated_tokens ? `${text}; ${count(usage.truncated_tokens)} tokens of the prompt were cut off` : text;
}
