// Where a question is written: the box, what it is about, send and stop. What is being written is kept per conversation.

import { announce, chooseFile, el, icon, iconButton } from "../dom.js";
import { documentText } from "./sidebar.js";
import { progressOf } from "../documents.js";

const DRAFT = "whimbrel.draft.";

/** Returns {focus()}. */
export function composerView(state, app, root, editLast) {
  const prompt = el("textarea", { id: "prompt", rows: "1", "aria-label": "Message", placeholder: "Ask something" });
  const clip = iconButton("clip", "Add a document", () => chooseFile("", true, (files) => app.addDocuments(files)));
  const send = iconButton("send", "Send", () => submit(), { class: "icon-button go" });
  const stop = iconButton("stop", "Stop", () => app.answers.stop(), { class: "icon-button go stop", "aria-keyshortcuts": "Escape" });
  const about = el("ul", { class: "about", "aria-label": "Documents that this conversation is about" });
  const hint = el("p", { class: "hint" });
  const form = el("form", { id: "composer", on: { submit: (event) => event.preventDefault() } }, about, el("div", { class: "write" }, clip, prompt, send, stop));
  root.append(form, hint);

  function submit() {
    const text = prompt.value.trim();
    if (!text) return prompt.focus();
    if (state.run) return announce("Stop the running answer first, with Escape");
    prompt.value = "";
    keepDraft();
    grow();
    app.answers.send(text);
    return prompt.focus();
  }

  /** As high as its text, up to what the stylesheet allows. */
  function grow() {
    prompt.style.height = "auto";
    prompt.style.height = `${prompt.scrollHeight}px`;
    send.setAttribute("aria-disabled", String(!prompt.value.trim()));
  }

  const draftKey = () => DRAFT + (state.chat.tree.size ? state.chat.conversation.id : "new");
  function keepDraft() {
    try {
      if (prompt.value) localStorage.setItem(draftKey(), prompt.value);
      else localStorage.removeItem(draftKey());
    } catch {
      // no storage: it lasts as long as the page
    }
  }

  prompt.addEventListener("input", () => {
    grow();
    keepDraft();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.altKey) submit();
    else if (event.key === "ArrowUp" && !prompt.value && !state.run && editLast()) {
      // the question has the focus now
    } else return;
    event.preventDefault();
  });
  prompt.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    app.addDocuments([...event.clipboardData.files]);
  });

  function drawRunning() {
    const running = Boolean(state.run);
    const had = document.activeElement === stop || document.activeElement === send;
    send.hidden = running;
    stop.hidden = !running;
    if (had) (running ? stop : send).focus();
  }

  /** Chips are kept, and only their texts change: progress comes several times a second, and one may have the focus. */
  function drawDocuments() {
    const { documents, names } = state.chat.conversation;
    const old = new Map([...about.children].map((chip) => [chip.dataset.document, chip]));
    const chips = documents.map((id) => old.get(id) ?? documentChip(id, names[id] ?? id, state, app));
    for (const chip of chips) chip.draw();
    if (chips.length !== old.size || chips.some((chip, index) => about.children[index] !== chip)) about.replaceChildren(...chips);
    about.hidden = !chips.length;
    prompt.placeholder = chips.length ? "Ask about it" : "Ask something";
  }

  state.on("opened", () => {
    try {
      prompt.value = localStorage.getItem(draftKey()) ?? "";
    } catch {
      prompt.value = "";
    }
    grow();
    drawRunning();
    drawDocuments();
  });
  state.on("runs", drawRunning);
  state.on("attached documents", drawDocuments);
  state.on("models", () => (hint.textContent = state.models.length ? "" : "Connecting to the server…"));
  return { focus: () => prompt.focus() };
}

function documentChip(id, name, state, app) {
  const said = el("span", { class: "chip-state" });
  const fill = el("span", { class: "fill" });
  const bar = el("span", { class: "progress", role: "progressbar", "aria-label": `Reading ${name}`, "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  const open = el("button", { type: "button", class: "chip-open", on: { click: () => app.panel.showDocument(id, { focus: true }) } }, icon("document"), el("span", { class: "chip-name", text: name }), said);
  const off = iconButton("close", `Take ${name} off this conversation`, () => {
    app.conversations.detach(state.chat, id);
    app.focusPrompt();
  });
  const chip = el("li", { "data-document": id }, open, off, bar);
  chip.draw = () => {
    const document = state.documents.get(id);
    const [done, left] = document ? progressOf(document) : [0, null];
    const missing = !document && state.models.length > 0;
    chip.className = `chip ${document?.status ?? (missing ? "error" : "")}`;
    said.textContent = document ? documentText(document, done, left) : missing ? "not on the server" : "";
    open.disabled = !document || document.status === "uploading";
    bar.hidden = document?.status !== "processing";
    bar.setAttribute("aria-valuenow", String(Math.round(done * 100)));
    fill.style.width = `${done * 100}%`;
  };
  return chip;
}
