// A question, which can be edited (the edit becomes a branch), and the result of a tool's call.

import { el, iconButton, copyText } from "../dom.js";
import { versionsView } from "./versions.js";

export function questionView(node, state, app) {
  const body = el("div", { class: "bubble", text: node.content });
  const versions = versionsView(node, state, app, "this question");
  const copy = iconButton("copy", "Copy the question", () => copyText(node.content, copy));
  const change = iconButton("edit", "Edit the question", () => edit());
  const tools = el("div", { class: "tools" }, versions.element, copy, change);
  const element = el("li", { class: "message question", "data-node": node.id }, el("h2", { class: "unseen", text: "You" }), body, tools);

  function edit() {
    if (element.classList.contains("editing")) return;
    const area = el("textarea", { value: node.content, "aria-label": "The question, to be edited", rows: "2" });
    const close = () => {
      form.replaceWith(body, tools);
      element.classList.remove("editing");
    };
    const submit = (event) => {
      event?.preventDefault();
      if (!area.value.trim()) return;
      close();
      app.answers.edit(node, area.value.trim());
      app.focusPrompt();
    };
    const form = el(
      "form",
      { class: "edit", on: { submit } },
      area,
      el("div", { class: "edit-actions" },
        el("button", { type: "button", class: "plain", text: "Cancel", on: { click: () => (close(), change.focus()) } }),
        el("button", { class: "primary", text: "Send" })),
    );
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        close();
        change.focus();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
      else return;
      event.stopPropagation();
    });
    element.classList.add("editing");
    tools.remove();
    body.replaceWith(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  return { element, edit, update: () => versions.update() };
}

/** What a tool gave back, as it was sent to the model. */
export function resultView(node) {
  const result = el("pre", { tabindex: "0", role: "group", "aria-label": `Result of ${node.toolName}`, text: node.content });
  const title = el("h2", { class: "call-title" }, "Result of ", el("code", { text: node.toolName }));
  return { element: el("li", { class: "message result", "data-node": node.id }, el("div", { class: "card" }, title, result)), update() {} };
}
