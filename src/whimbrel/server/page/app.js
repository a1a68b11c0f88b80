// The chat page: makes the state, the controllers and the views, and connects them. See README.md beside this file.

import * as api from "./api.js";
import { Answers } from "./answers.js";
import { Conversations } from "./conversations.js";
import { Documents } from "./documents.js";
import { el } from "./dom.js";
import { explain, ServerError } from "./errors.js";
import { listenToKeys } from "./keys.js";
import { State } from "./state.js";
import { openStorage } from "./storage.js";
import { barView } from "./views/bar.js";
import { composerView } from "./views/composer.js";
import { loggedIn, showHelp } from "./views/dialogs.js";
import { dropView } from "./views/drop.js";
import { layoutView } from "./views/layout.js";
import { noticesView } from "./views/notices.js";
import { panelView } from "./views/panel.js";
import { sidebarView } from "./views/sidebar.js";
import { threadView } from "./views/thread.js";

const AGAIN = 2000; // milliseconds between attempts to reach the server
const part = (id) => document.getElementById(id);

async function start() {
  const state = new State();
  const storage = await openStorage();
  const app = {};
  noticesView(state, part("notices"));
  app.conversations = new Conversations(state, storage);
  app.documents = new Documents(state, app.conversations);
  app.answers = new Answers(state, app.conversations, app.documents);
  app.layout = layoutView(state, { sidebar: part("sidebar"), main: part("main"), panel: part("panel"), shade: part("shade") });
  app.panel = panelView(state, app, part("panel"));
  const sidebar = sidebarView(state, app, part("sidebar"));
  barView(state, app, part("bar"));
  greeting(part("empty"), state);
  const thread = threadView(state, app, { list: part("messages"), scroller: part("scroller"), empty: part("empty"), dock: part("dock") });
  const composer = composerView(state, app, part("dock"), thread.editLast);
  Object.assign(app, actions(state, app, sidebar, composer));
  dropView(part("drop"), app.addDocuments);
  listenToKeys(state, app);
  listenToLogin(state, app);
  state.on("settings", () => (document.documentElement.dataset.theme = state.settings.theme));

  await app.conversations.restore();
  await app.conversations.refresh();
  if (!(location.hash && (await app.conversations.open(location.hash.slice(1), { remember: false })))) app.conversations.begin();
  app.layout.changed();
  app.focusPrompt();
  if (!storage.persistent) state.notice({ kind: "info", title: "This window keeps nothing", message: "The browser gives it no storage; export what you want to keep.", advice: "" });
  addEventListener("popstate", () => openFromAddress(app));
  addEventListener("pagehide", () => app.conversations.stash());
  await connect(state, app);
}

async function openFromAddress(app) {
  const id = location.hash.slice(1);
  if (!(id && (await app.conversations.open(id, { remember: false })))) app.conversations.begin();
}

/** What views and keys ask for. */
function actions(state, app, sidebar, composer) {
  const touch = matchMedia("(pointer: coarse)"); // there the focus would bring up the keyboard, unasked
  const focusPrompt = () => touch.matches || composer.focus();
  return {
    focusPrompt,
    begin() {
      app.layout.closeDrawer();
      app.conversations.begin();
      focusPrompt();
    },
    async open(id) {
      app.layout.closeDrawer();
      await app.conversations.open(id);
      focusPrompt();
    },
    find() {
      app.layout.toggleSidebar(true);
      sidebar.focusSearch();
    },
    help: showHelp,
    addDocuments(files) {
      app.layout.closeDrawer();
      app.documents.add(files);
      focusPrompt();
    },
    attach(id) {
      app.layout.closeDrawer();
      app.conversations.attach(state.chat, id, state.documents.get(id).name);
      focusPrompt();
    },
    async importFile(file) {
      try {
        const number = await app.conversations.import(await file.text());
        app.layout.closeDrawer();
        state.notice({ kind: "info", title: number === 1 ? "1 conversation was brought back" : `${number} conversations were brought back`, message: "", advice: "" });
      } catch (error) {
        state.notice({ kind: "error", title: "Nothing was imported", message: error.message, advice: "" });
      }
    },
  };
}

/** One login for all that were refused meanwhile; then each tries again. */
function listenToLogin(state, app) {
  let waiting = null;
  state.on("login", async (again) => {
    if (waiting) return void waiting.push(again);
    waiting = [again];
    const given = await loggedIn();
    const all = waiting;
    waiting = null;
    if (!given) return;
    if (!state.models.length) await connect(state, app);
    for (const one of all) one?.();
  });
}

/** Ask for models and documents until the server answers. */
async function connect(state, app) {
  for (;;) {
    try {
      state.models = await api.models();
      state.status = await api.status();
      state.notice({ key: "connection" });
      state.emit("models");
      await app.documents.refresh();
      return;
    } catch (error) {
      state.emit("models");
      if (error instanceof ServerError && error.status === 401) return void state.emit("login", null);
      const { title, advice } = explain(error);
      state.notice({ key: "connection", kind: "error", title, message: "", advice });
      if (error instanceof ServerError && error.status !== 503) return;
    }
    await new Promise((resolve) => setTimeout(resolve, AGAIN));
  }
}

function greeting(root, state) {
  const who = el("span");
  root.append(
    el("img", { src: "page/icon.svg", alt: "", width: "56", height: "56" }),
    el("p", { class: "greeting", text: "What would you like to know?" }),
    el("p", { class: "muted" }, who, "Or drop a document here: it is read once, can be asked as often as you like, and every answer shows what it read."),
  );
  state.on("models settings", () => (who.textContent = state.model ? `${state.model} answers, on this server and nowhere else. ` : ""));
}

start();
