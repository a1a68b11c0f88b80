// ‹ 2/3 ›: which version of a message is shown, and the way to the others. Nothing where there is one only.

import { el, iconButton } from "../dom.js";

/** Returns {element, update()}. */
export function versionsView(node, state, app, what) {
  const step = (by) => {
    const shown = app.conversations.step(state.chat, node.id, by);
    document.querySelector(`[data-node="${shown}"] .versions button[data-by="${by}"]`)?.focus();
  };
  const back = iconButton("back", `Previous version of ${what}`, () => step(-1), { "data-by": "-1" });
  const forward = iconButton("forward", `Next version of ${what}`, () => step(1), { "data-by": "1" });
  const place = el("span", { class: "place" });
  const element = el("div", { class: "versions", role: "group", "aria-label": `Versions of ${what}` }, back, place, forward);
  return {
    element,
    update() {
      const versions = state.chat.tree.versions(node.id);
      const at = versions.indexOf(node.id);
      element.hidden = versions.length < 2;
      place.textContent = `${at + 1}/${versions.length}`;
      back.setAttribute("aria-disabled", String(at === 0));
      forward.setAttribute("aria-disabled", String(at === versions.length - 1));
    },
  };
}
