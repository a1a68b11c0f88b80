// History, kept in this browser and nowhere else: IndexedDB with one record per conversation and one per message, so that a
// growing answer writes itself only. Where the browser gives no database (some private windows), memory takes its place, and
// `persistent` says so. Other tabs hear of every change.

const NAME = "whimbrel";
const VERSION = 1;

/** The database, or its substitute in memory. */
export async function openStorage() {
  try {
    return new Storage(await open());
  } catch {
    return new Memory();
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("messages", { keyPath: "id" }).createIndex("conversation", "conversation");
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older database"));
  });
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const finished = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });

class Storage {
  persistent = true;
  #database;
  #channel = new BroadcastChannel(NAME);

  constructor(database) {
    this.#database = database;
    database.onversionchange = () => database.close(); // a newer page in another tab
  }

  /** Call `heard` with the id of a conversation that another tab changed. */
  listen(heard) {
    this.#channel.onmessage = (event) => heard(event.data);
  }

  #write(id, stores, work) {
    const transaction = this.#database.transaction(stores, "readwrite");
    work(...stores.map((name) => transaction.objectStore(name)));
    return finished(transaction).then(() => this.#channel.postMessage(id));
  }

  /** All conversations without their messages, the latest first. */
  async conversations() {
    const all = await done(this.#database.transaction("conversations").objectStore("conversations").getAll());
    return all.sort((a, b) => b.updated - a.updated);
  }

  messages(conversation) {
    const store = this.#database.transaction("messages").objectStore("messages");
    return done(store.index("conversation").getAll(conversation));
  }

  saveConversation(conversation) {
    return this.#write(conversation.id, ["conversations"], (store) => store.put(conversation));
  }

  saveMessage(message) {
    return this.#write(message.conversation, ["messages"], (store) => store.put(message));
  }

  /** A conversation and messages of it, all or nothing. */
  saveAll(conversation, messages) {
    return this.#write(conversation.id, ["conversations", "messages"], (conversations, store) => {
      conversations.put(conversation);
      for (const message of messages) store.put(message);
    });
  }

  async remove(id) {
    const messages = await this.messages(id);
    return this.#write(id, ["conversations", "messages"], (conversations, store) => {
      conversations.delete(id);
      for (const message of messages) store.delete(message.id);
    });
  }

  /** {conversation: the first text that holds all `words`}; of titles, questions and answers, in any branch. */
  async search(words) {
    const found = new Map();
    const holds = matcher(words);
    for (const conversation of await this.conversations()) {
      if (holds(conversation.title)) found.set(conversation.id, conversation.title);
    }
    await new Promise((resolve, reject) => {
      const request = this.#database.transaction("messages").objectStore("messages").openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return resolve();
        const { conversation, content } = cursor.value;
        if (!found.has(conversation) && holds(content)) found.set(conversation, content);
        cursor.continue();
      };
    });
    return found;
  }
}

class Memory {
  persistent = false;
  #conversations = new Map();
  #messages = new Map();

  listen() {}

  async conversations() {
    return [...this.#conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  async messages(conversation) {
    return [...this.#messages.values()].filter((message) => message.conversation === conversation);
  }

  async saveConversation(conversation) {
    this.#conversations.set(conversation.id, structuredClone(conversation));
  }

  async saveMessage(message) {
    this.#messages.set(message.id, structuredClone(message));
  }

  async saveAll(conversation, messages) {
    await this.saveConversation(conversation);
    for (const message of messages) await this.saveMessage(message);
  }

  async remove(id) {
    this.#conversations.delete(id);
    for (const message of await this.messages(id)) this.#messages.delete(message.id);
  }

  async search(words) {
    const holds = matcher(words);
    const found = new Map();
    for (const { id, title } of this.#conversations.values()) if (holds(title)) found.set(id, title);
    for (const { conversation, content } of this.#messages.values()) {
      if (!found.has(conversation) && holds(content)) found.set(conversation, content);
    }
    return found;
  }
}

/** Whether a text holds every word, upper and lower case alike. */
function matcher(words) {
  const wanted = words.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  return (text) => {
    const lower = (text ?? "").toLocaleLowerCase();
    return wanted.every((word) => lower.includes(word));
  };
}
