// The left side: conversations to open, find, rename, delete and export; documents that the server has read; the program's state.

import { chooseFile, el, icon, iconButton } from "../dom.js";
import { bytes, count, day, duration, line, percent } from "../format.js";
import { progressOf } from "../documents.js";
import { asked, confirmed } from "./dialogs.js";
import { menuButton } from "./menu.js";

/** Returns {focusSearch()}. */
export function sidebarView(state, app, root) {
  const search = el("input", { type: "search", id: "search", placeholder: "Find", "aria-label": "Find conversations", "aria-keyshortcuts": "Control+K", autocomplete: "off" });
  const begin = el("button", { type: "button", class: "new", "aria-keyshortcuts": "Alt+N", on: { click: () => app.begin() } }, icon("add"), "New conversation");
  const list = el("ul", { class: "side-list", id: "conversations", "aria-label": "Conversations" });
  const nothing = el("p", { class: "muted side-none" });
  const documents = el("ul", { class: "side-list", id: "documents", "aria-label": "Documents" });
  const add = iconButton("add", "Add a document", () => chooseFile("", true, (files) => app.addDocuments(files)));
  const noDocuments = el("p", { class: "muted side-none", text: "None yet. Drop one on the page." });
  const more = menuButton({ name: "more", label: "All conversations", entries: () => allEntries(state, app) });
  const brand = el("div", { class: "brand" }, el("img", { src: "page/icon.svg", alt: "", width: "26", height: "26" }), el("span", { text: "whimbrel" }), iconButton("close", "Close the list", () => app.layout.toggleSidebar(), { class: "icon-button only-narrow" }));
  root.append(
    brand,
    begin,
    el("section", { class: "side-conversations" }, el("div", { class: "side-head" }, el("h2", { text: "Conversations" }), more), el("div", { class: "search" }, icon("search"), search), list, nothing),
    el("section", { class: "side-documents" }, el("div", { class: "side-head" }, el("h2", { text: "Documents" }), add), documents, noDocuments),
    footer(state, app),
  );

  let found = null; // what the search gave, or null without one

  function drawConversations() {
    const shown = state.conversations.filter((one) => !found || found.has(one.id));
    list.replaceChildren(...shown.map((one) => conversationItem(one, found?.get(one.id), state, app, search.value)));
    nothing.textContent = found ? "Nothing found." : "They are kept in this browser only.";
    nothing.hidden = shown.length > 0;
  }

  async function find() {
    const words = search.value.trim();
    found = words ? await app.conversations.search(words) : null;
    drawConversations();
  }

  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    const first = list.querySelector("button");
    if (event.key === "Enter" && search.value && first) first.click();
    else if (event.key === "ArrowDown" && first) first.focus();
    else if (event.key === "Escape" && search.value) {
      search.value = "";
      find();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.querySelectorAll(".side-open")];
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    (buttons[next] ?? (next < 0 ? search : buttons[at])).focus();
    event.preventDefault();
  });

  state.on("conversations opened runs", drawConversations);
  state.on("documents attached opened", () => {
    drawDocuments(documents, state, app);
    noDocuments.hidden = state.documents.size > 0;
  });
  return {
    focusSearch() {
      search.focus();
      search.select();
    },
  };
}

function allEntries(state, app) {
  return [
    { icon: "import", label: "Import conversations…", run: () => chooseFile(".json,application/json", false, ([file]) => app.importFile(file)) },
    ...(state.conversations.length ? [{ icon: "export", label: "Export all as JSON", run: () => app.conversations.exportJson() }] : []),
  ];
}

/** What can be done with a conversation; the bar above it has the same. */
export function conversationEntries({ id, title }, app) {
  const rename = async () => {
    const given = await asked("Rename the conversation", "Title", title);
    if (given?.trim()) await app.conversations.setTitle(id, given);
  };
  const remove = async () => {
    if (await confirmed("Delete this conversation?", `“${title}” is deleted from this browser, with all its branches. It can't be brought back.`, "Delete")) await app.conversations.remove(id);
  };
  return [
    { icon: "edit", label: "Rename…", run: rename },
    { icon: "export", label: "Export as Markdown", run: () => app.conversations.exportMarkdown(id) },
    { icon: "export", label: "Export as JSON", run: () => app.conversations.exportJson(id) },
    { icon: "remove", label: "Delete…", run: remove },
  ];
}

function conversationItem(conversation, match, state, app, words) {
  const { id, title, updated } = conversation;
  const current = state.chat?.conversation.id === id;
  const running = [...state.runs.values()].some((run) => run.chat.conversation.id === id);
  const under = match && match !== title ? around(match, words) : running ? "being answered" : day(updated);
  const open = el("button", { type: "button", class: "side-open", "aria-current": current ? "true" : null, on: { click: () => app.open(id) } }, el("span", { class: "side-title", text: title }), el("span", { class: "side-under", text: under }));
  const menu = menuButton({ name: "more", label: `More for “${line(title, 40)}”`, class: "side-more", entries: () => conversationEntries(conversation, app) });
  return el("li", { class: current ? "current" : null }, open, menu);
}

/** The place of a text where the first word was found. */
function around(text, words) {
  const at = text.toLocaleLowerCase().indexOf(words.trim().split(/\s+/)[0].toLocaleLowerCase());
  return line(`${at > 20 ? "…" : ""}${text.slice(Math.max(0, at - 20))}`, 60);
}

/** Items are kept, and only their texts change: progress comes several times a second. */
function drawDocuments(list, state, app) {
  const wanted = [...state.documents.values()].reverse().sort((a, b) => b.created - a.created); // of one second, the later first
  const old = new Map([...list.children].map((item) => [item.dataset.document, item]));
  const items = wanted.map((document) => {
    const item = old.get(document.id) ?? documentItem(document, state, app);
    item.draw(document);
    return item;
  });
  if (items.length !== list.children.length || items.some((item, index) => list.children[index] !== item)) list.replaceChildren(...items);
}

function documentItem({ id, name }, state, app) {
  const under = el("span", { class: "side-under" });
  const fill = el("span", { class: "fill" });
  const bar = el("span", { class: "progress", role: "progressbar", "aria-label": `Reading ${name}`, "aria-valuemin": "0", "aria-valuemax": "100" }, fill);
  const open = el("button", { type: "button", class: "side-open", on: { click: () => app.panel.showDocument(id, { focus: true }) } }, el("span", { class: "side-title", text: name }), under);
  const remove = async () => {
    if (await confirmed("Delete this document?", `“${name}” and what was read of it are deleted from the server.`, "Delete")) await app.documents.remove(id);
  };
  const menu = menuButton({
    name: "more",
    label: `More for “${line(name, 40)}”`,
    class: "side-more",
    entries: () => [
      { icon: "clip", label: "Ask it in this conversation", run: () => app.attach(id) },
      { icon: "document", label: "Show its text", run: () => app.panel.showDocument(id, { focus: true }) },
      { icon: "remove", label: "Delete…", run: remove },
    ],
  });
  const item = el("li", { "data-document": id }, open, menu, bar);
  item.draw = (document) => {
    const [done, left] = progressOf(document);
    under.textContent = documentText(document, done, left);
    under.classList.toggle("problem", document.status === "error");
    under.title = document.details;
    bar.hidden = document.status !== "processing";
    fill.style.width = `${done * 100}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(done * 100)));
    open.disabled = document.status === "uploading";
    item.classList.toggle("current", state.chat?.conversation.documents.includes(id) ?? false);
  };
  return item;
}

/** The state of a document in a few words. */
export function documentText({ status, tokens, bytes: size }, done, left) {
  if (status === "uploading") return "being sent";
  if (status === "error") return "could not be read";
  if (status === "processing") return done ? `reading ${percent(done)}${left === null ? "" : ` · ${duration(left)} left`}` : "waiting to be read";
  return tokens ? `${count(tokens)} tokens` : bytes(size);
}

function footer(state, app) {
  const text = el("span");
  const models = el("button", { type: "button", class: "state-line", "aria-keyshortcuts": "Alt+M", on: { click: () => app.panel.toggle("models") } }, el("span", { class: "dot" }), text);
  const THEMES = { auto: "light", light: "dark", dark: "auto" };
  const theme = iconButton("auto", "Theme", () => state.set({ theme: THEMES[state.settings.theme] }));
  const drawTheme = () => {
    const name = state.settings.theme;
    const label = `Theme: ${name === "auto" ? "as the system" : name}`;
    theme.replaceChildren(icon(name));
    theme.setAttribute("aria-label", label);
    theme.title = label;
  };
  const draw = () => {
    const loaded = state.models.filter((model) => model.meta?.state === "loaded").length;
    const own = state.status ? ` · ${bytes(state.status.memory.resident)}` : "";
    text.textContent = state.models.length ? `${loaded === 1 ? "1 model" : `${loaded} models`}${own}` : "no connection";
    models.title = "Models and memory";
    models.classList.toggle("off", !state.models.length);
  };
  state.on("models status", draw);
  state.on("settings", drawTheme);
  draw();
  drawTheme();
  return el("footer", { class: "side-foot" }, models, theme, iconButton("help", "Keys and help", () => app.help()));
}
