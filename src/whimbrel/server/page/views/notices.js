// Notices: what went wrong outside of an answer, or is worth knowing. They stay until they are closed; the plain ones go by themselves.

import { el, icon, iconButton } from "../dom.js";

const STAY = 6000; // milliseconds of a notice that asks for nothing

export function noticesView(state, root) {
  state.on("notice", ({ kind, title, message, advice, key }) => {
    if (key) root.querySelector(`[data-key="${key}"]`)?.remove();
    if (!title) return;
    const text = el("p", {}, el("strong", { text: title }), " ", [message, advice].filter(Boolean).join(" "));
    const element = el("div", { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status", "data-key": key }, icon(kind === "error" ? "warning" : "check"), text);
    element.append(iconButton("close", "Close this notice", () => element.remove()));
    root.append(element);
    if (kind !== "error") setTimeout(() => element.remove(), STAY);
  });
}
