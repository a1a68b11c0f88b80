// The tree of a conversation: every message has a parent, every parent may have several children (an edited question, a
// second answer), and one child of each is chosen. The chosen ones from the root down are the conversation that is shown.
//
// Pure data, no DOM and no storage. Nodes are plain objects; the tree owns `id`, `parent`, `order` and leaves the rest alone.

/** The parent of first messages. */
export const ROOT = "root";

/** An identifier that no other conversation has. (crypto.randomUUID is missing where a page came over plain HTTP.) */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Tree {
  #nodes = new Map();
  #children = new Map();
  #last = -1;

  /**
   * @param nodes messages in any order, as `nodes()` gives them; those whose parent is missing are left out
   * @param chosen id of the chosen child by parent; parents that are not in it have their last child chosen
   */
  constructor(nodes = [], chosen = {}) {
    this.chosen = {};
    const sorted = [...nodes].sort((a, b) => a.order - b.order);
    for (const node of sorted) {
      if (node.parent === ROOT || this.#nodes.has(node.parent)) this.#insert(node);
    }
    for (const [parent, child] of Object.entries(chosen)) {
      if (this.#nodes.get(child)?.parent === parent) this.chosen[parent] = child;
    }
  }

  #insert(node) {
    this.#nodes.set(node.id, node);
    if (!this.#children.has(node.parent)) this.#children.set(node.parent, []);
    this.#children.get(node.parent).push(node.id);
    this.chosen[node.parent] = node.id;
    this.#last = Math.max(this.#last, node.order);
  }

  get size() {
    return this.#nodes.size;
  }

  get(id) {
    return this.#nodes.get(id);
  }

  /** All messages, those of other branches too. */
  nodes() {
    return [...this.#nodes.values()];
  }

  /** Add a message under `parent` (an id or ROOT) and choose it. */
  add(parent, fields) {
    if (parent !== ROOT && !this.#nodes.has(parent)) throw new Error(`no message ${parent} to answer to`);
    const node = { id: newId(), ...fields, parent, order: this.#last + 1 };
    this.#insert(node);
    return node;
  }

  /** The chosen messages from the first to the last. */
  path() {
    const path = [];
    for (let id = this.chosen[ROOT]; id !== undefined; id = this.chosen[id]) path.push(this.#nodes.get(id));
    return path;
  }

  /** The chosen messages from the first to `id`, itself included; as if `id` were chosen. */
  pathTo(id) {
    const path = [];
    for (let node = this.#nodes.get(id); node; node = this.#nodes.get(node.parent)) path.unshift(node);
    return path;
  }

  /** The last chosen message, or undefined. */
  leaf() {
    return this.path().at(-1);
  }

  /** Ids of the versions of a message, itself included, oldest first. */
  versions(id) {
    return this.#children.get(this.#nodes.get(id).parent);
  }

  hasChildren(id) {
    return this.#children.has(id);
  }

  /** Show this version of a message, and below it what was last chosen there. */
  choose(id) {
    this.chosen[this.#nodes.get(id).parent] = id;
  }

  /** Show the version `by` places further (or back); at the ends nothing changes. Returns the id that is shown. */
  step(id, by) {
    const versions = this.versions(id);
    const at = Math.min(Math.max(versions.indexOf(id) + by, 0), versions.length - 1);
    this.choose(versions[at]);
    return versions[at];
  }
}
