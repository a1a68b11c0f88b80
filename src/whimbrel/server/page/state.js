// What the page knows, in one object that views read and listen to. Controllers (conversations, answers, documents) change it
// and say what changed; views never change it themselves.
//
// Events: conversations (the list) · opened (another conversation is shown) · path (messages were added, or a branch was chosen)
// · node (a message changed: its id) · runs (an answer began or ended) · documents · attached · models · status · settings · notice · login

import { DEFAULTS, loadSettings, saveSettings, checked } from "./settings.js";

export class State {
  #handlers = new Map();

  settings = loadSettings();
  /** [{id, title, created, updated, chosen, documents, names}], the latest first */
  conversations = [];
  /** {conversation, tree}: what is shown */
  chat = null;
  /** running answers by the id of their message */
  runs = new Map();
  /** {id, until}: a conversation that another tab writes into, or wrote into just now */
  elsewhere = null;
  /** documents that the server knows, by id */
  documents = new Map();
  models = [];
  /** what /v1/status said last, or null */
  status = null;

  on(events, handler) {
    for (const event of events.split(" ")) {
      if (!this.#handlers.has(event)) this.#handlers.set(event, []);
      this.#handlers.get(event).push(handler);
    }
  }

  emit(event, detail) {
    for (const handler of this.#handlers.get(event) ?? []) handler(detail);
  }

  /** Change settings and keep them. */
  set(changes) {
    for (const [name, value] of Object.entries(changes)) this.settings[name] = checked(name, value);
    saveSettings(this.settings);
    this.emit("settings", changes);
  }

  resetSettings() {
    const { theme, model, sidebar } = this.settings;
    this.set({ ...DEFAULTS, theme, model, sidebar });
  }

  /** The model that is asked: the chosen one if the server has it, else the server's default. */
  get model() {
    const ids = this.models.map((model) => model.id);
    if (ids.includes(this.settings.model)) return this.settings.model;
    return this.models.find((model) => model.meta?.default)?.id ?? ids[0] ?? "";
  }

  /** The running answer of the conversation that is shown, or undefined. */
  get run() {
    return [...this.runs.values()].find((run) => run.chat.conversation.id === this.chat?.conversation.id);
  }

  /** Whether another tab writes an answer of the conversation that is shown. */
  get writtenElsewhere() {
    return this.elsewhere?.id === this.chat?.conversation.id && Date.now() < (this.elsewhere?.until ?? 0);
  }

  /** Something to tell: {kind: "error" | "info", title, message, advice, actions?}. */
  notice(notice) {
    this.emit("notice", notice);
  }
}
