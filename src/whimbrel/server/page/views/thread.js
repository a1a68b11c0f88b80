// The messages of the conversation that is shown. Elements are kept as long as their message is: a branch that is chosen, or a
// message that is added, changes what comes after it and nothing else. Growing answers are drawn at most once a frame.

import { iconButton } from "../dom.js";
import { answerView } from "./answer.js";
import { questionView, resultView } from "./question.js";

const VIEWS = { user: questionView, assistant: answerView, tool: resultView };
const NEAR = 80; // pixels from the end within which the page follows a growing answer

/** `parts`: {list, scroller, empty, toEnd} elements; `app`: controllers. Returns {editLast()}. */
export function threadView(state, app, { list, scroller, empty, dock }) {
  const views = new Map();
  const dirty = new Set();
  let follows = true;
  let shown = null;

  const toEnd = iconButton("down", "To the latest message", () => stick(), { class: "icon-button to-end" });
  toEnd.hidden = true;
  dock.append(toEnd);

  function stick() {
    follows = true;
    scroller.scrollTop = scroller.scrollHeight;
    toEnd.hidden = true;
  }

  scroller.addEventListener(
    "scroll",
    () => {
      follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR;
      toEnd.hidden = follows;
    },
    { passive: true },
  );
  new ResizeObserver(() => follows && stick()).observe(list);

  function draw() {
    const path = state.chat.tree.path();
    const wanted = new Set(path.map((node) => node.id));
    for (const [id, view] of views) {
      if (wanted.has(id) && view.node === state.chat.tree.get(id)) continue;
      view.element.remove();
      views.delete(id);
    }
    path.forEach((node, index) => {
      if (!views.has(node.id)) views.set(node.id, { node, ...VIEWS[node.role](node, state, app) });
      const { element } = views.get(node.id);
      if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
    });
    empty.hidden = path.length > 0;
    update();
  }

  /** Draw all, or only what is dirty. */
  function update(only) {
    for (const [id, view] of views) if (!only || only.has(id)) view.update();
    if (follows) scroller.scrollTop = scroller.scrollHeight;
  }

  state.on("opened", () => {
    for (const view of views.values()) view.element.remove();
    views.clear();
    shown = state.chat;
    draw();
    stick();
  });
  state.on("path", () => {
    draw();
    if (state.run) stick();
  });
  state.on("node", (id) => {
    if (!views.has(id)) return;
    if (!dirty.size) {
      requestAnimationFrame(() => {
        update(dirty);
        dirty.clear();
      });
    }
    dirty.add(id);
  });
  state.on("runs attached", () => shown && update());

  return {
    /** Edit the last question. False: there is none. */
    editLast() {
      const last = state.chat.tree.path().findLast((node) => node.role === "user");
      views.get(last?.id)?.edit();
      return Boolean(last);
    },
  };
}
