// Conversations: open, begin, change, keep, find, export. Every change is written to the browser's storage at once.

import { download } from "./dom.js";
import { fileName, fromJson, toJson, toMarkdown } from "./export.js";
import { line } from "./format.js";
import { newId, ROOT, Tree } from "./tree.js";

const PARTIAL = "whimbrel.partial";
const ELSEWHERE = 3000; // milliseconds without news after which another tab is no longer taken to be writing

export class Conversations {
  constructor(state, storage) {
    this.state = state;
    this.storage = storage;
    storage.listen((id) => this.#changedElsewhere(id));
  }

  async refresh() {
    this.state.conversations = await this.storage.conversations();
    this.state.emit("conversations");
  }

  /** An empty conversation; it is kept from its first message on. */
  begin() {
    const now = Date.now();
    const conversation = { id: newId(), title: "New conversation", created: now, updated: now, chosen: {}, documents: [], names: {} };
    this.#show({ conversation, tree: new Tree() });
    history.pushState(null, "", location.pathname + location.search);
  }

  /** Show a kept conversation. False: it is not there. */
  async open(id, { remember = true } = {}) {
    const chat = await this.#load(id);
    if (!chat) return false;
    this.#show(chat);
    if (remember) history.pushState(null, "", `#${id}`);
    return true;
  }

  /** From the storage; what is `known` of its messages is brought up to date, so that their views stay. */
  async #load(id, known = new Tree()) {
    const running = [...this.state.runs.values()].find((run) => run.chat.conversation.id === id);
    if (running) return running.chat;
    const conversation = (await this.storage.conversations()).find((one) => one.id === id);
    if (!conversation) return null;
    const messages = (await this.storage.messages(id)).map((message) => Object.assign(known.get(message.id) ?? {}, message));
    return { conversation, tree: new Tree(messages, conversation.chosen) };
  }

  #show(chat) {
    this.state.chat = chat;
    this.state.emit("opened");
  }

  /** Another tab wrote something. */
  async #changedElsewhere(id) {
    await this.refresh();
    const shown = () => this.state.chat?.conversation.id === id && !this.state.run;
    if (!shown()) return;
    const chat = await this.#load(id, this.state.chat.tree);
    if (!chat || !shown()) return;
    this.state.chat = chat;
    this.state.elsewhere = { id, until: Date.now() + ELSEWHERE };
    this.state.emit("path");
    setTimeout(() => this.state.emit("runs"), ELSEWHERE + 100);
  }

  /** Add a message under `parent` and keep it. */
  add(chat, parent, fields) {
    const { conversation, tree } = chat;
    const first = tree.size === 0;
    const node = tree.add(parent, { conversation: conversation.id, created: Date.now(), ...fields });
    if (first) {
      conversation.title = line(fields.content, 60) || conversation.title;
      if (this.state.chat === chat) history.replaceState(null, "", `#${conversation.id}`);
    }
    conversation.updated = Date.now();
    this.#keepChosen(chat);
    this.storage.saveAll(conversation, [node]).then(() => this.refresh(), (error) => this.#notKept(error));
    if (this.state.chat === chat) this.state.emit("path");
    return node;
  }

  #keepChosen({ conversation, tree }) {
    conversation.chosen = { ...tree.chosen };
  }

  #notKept(error) {
    this.state.notice({ kind: "error", title: "This could not be kept", message: error?.message ?? "", advice: "The browser's storage may be full: export and delete old conversations." });
  }

  /** Keep a message that changed. */
  save(node) {
    return this.storage.saveMessage(node).catch((error) => this.#notKept(error));
  }

  /** Where the next message goes: below the last one, or at the root. */
  end(chat) {
    return chat.tree.leaf()?.id ?? ROOT;
  }

  /** Show the version of a message that is `by` places further. */
  step(chat, id, by) {
    const shown = chat.tree.step(id, by);
    this.#keepChosen(chat);
    this.#saveConversation(chat.conversation);
    this.state.emit("path");
    return shown;
  }

  /** Which documents a conversation is about. They count from the next message on. */
  attach(chat, id, name) {
    const { conversation } = chat;
    if (conversation.documents.includes(id)) return;
    conversation.documents = [...conversation.documents, id];
    conversation.names = { ...conversation.names, [id]: name };
    this.#afterAttaching(chat);
  }

  detach(begun, id) {
    const chat = this.#live(begun);
    chat.conversation.documents = chat.conversation.documents.filter((one) => one !== id);
    this.#afterAttaching(chat);
  }

  /** An upload has its name on the server now. The conversation may have been left, or opened anew, meanwhile. */
  replaceDocument(begun, uploadId, id) {
    const chat = this.#live(begun);
    const { conversation } = chat;
    if (!conversation.documents.includes(uploadId)) return;
    conversation.documents = conversation.documents.map((one) => (one === uploadId ? id : one));
    const { [uploadId]: name, ...others } = conversation.names;
    conversation.names = { ...others, [id]: name };
    this.#afterAttaching(chat);
  }

  #live(chat) {
    return this.state.chat.conversation.id === chat.conversation.id ? this.state.chat : chat;
  }

  #afterAttaching(chat) {
    if (chat.tree.size) this.#saveConversation(chat.conversation);
    this.state.emit("attached");
  }

  #saveConversation(conversation) {
    return this.storage.saveConversation(conversation).then(() => this.refresh(), (error) => this.#notKept(error));
  }

  async setTitle(id, title) {
    const kept = this.state.chat.conversation.id === id ? this.state.chat.conversation : this.state.conversations.find((one) => one.id === id);
    kept.title = line(title, 120) || kept.title;
    await this.#saveConversation(kept);
    this.state.emit("attached");
  }

  async remove(id) {
    for (const run of this.state.runs.values()) if (run.chat.conversation.id === id) run.discard();
    await this.storage.remove(id);
    if (this.state.chat.conversation.id === id) this.begin();
    await this.refresh();
  }

  search(words) {
    return this.storage.search(words);
  }

  // --- files

  async exportMarkdown(id) {
    const { conversation, tree } = await this.#load(id);
    const name = (file) => conversation.names?.[file] ?? file;
    download(fileName(conversation.title, "md"), toMarkdown(conversation, tree, name), "text/markdown");
  }

  /** One conversation, or all without an id. */
  async exportJson(id) {
    const chosen = (await this.storage.conversations()).filter((one) => !id || one.id === id);
    const whole = await Promise.all(chosen.map(async (conversation) => ({ conversation, messages: await this.storage.messages(conversation.id) })));
    download(id ? fileName(chosen[0].title, "json") : "whimbrel-conversations.json", toJson(whole), "application/json");
  }

  /** Bring back exported conversations and show the first. Throws an Error for a file that is none. */
  async import(text) {
    const whole = fromJson(text);
    for (const { conversation, messages } of whole) await this.storage.saveAll(conversation, messages);
    await this.refresh();
    if (whole.length) await this.open(whole[0].conversation.id);
    return whole.length;
  }

  // --- what a closing page leaves behind

  /** Put running answers where it takes no time: the database may not finish before the page is gone. */
  stash() {
    const nodes = [...this.state.runs.values()].map((run) => run.node);
    try {
      if (nodes.length) localStorage.setItem(PARTIAL, JSON.stringify(nodes));
    } catch {
      // too long: the database has all but the last moment of it
    }
  }

  async restore() {
    try {
      const nodes = JSON.parse(localStorage.getItem(PARTIAL)) ?? [];
      localStorage.removeItem(PARTIAL);
      for (const node of nodes) await this.storage.saveMessage(node);
    } catch {
      // damaged, or no storage: nothing to restore
    }
  }
}
