// Tool calls of an answer: name and arguments as they come, then a box for each result, which goes back to the model.

import { el, icon } from "../dom.js";

/** Returns {element, update()}. */
export function callsView(node, state, app) {
  const list = el("div", { class: "calls" });
  const send = el("button", { class: "primary", text: "Send the result" });
  const form = el("form", { class: "call-form" }, list, send);
  const cards = [];

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const missing = cards.find((card) => !card.result.value.trim());
    if (missing) return missing.result.focus();
    app.focusPrompt();
    return app.answers.giveResults(node, new Map(node.toolCalls.map((call, index) => [call.id, cards[index].result.value])));
  });

  return {
    element: form,
    update() {
      const calls = node.toolCalls ?? [];
      form.hidden = !calls.length;
      calls.forEach((call, index) => {
        if (!cards[index]) {
          cards[index] = callCard(call);
          list.append(cards[index].element);
        }
        cards[index].update(call);
      });
      const open = node.state !== "running" && !state.runs.has(node.id) && !state.chat.tree.hasChildren(node.id);
      for (const card of cards) card.field.hidden = !open;
      send.hidden = !open;
      send.textContent = calls.length > 1 ? "Send the results" : "Send the result";
    },
  };
}

function callCard({ name }) {
  const text = el("pre", { tabindex: "0", role: "group", "aria-label": `Arguments of ${name}` });
  const result = el("textarea", { rows: "2", placeholder: "What the tool gave back", "aria-label": `Result of ${name}` });
  const field = el("label", { class: "field" }, "Result", result);
  const title = el("h3", { class: "call-title" }, icon("tool"), "Calls ", el("code", { text: name }));
  let shown = "";
  return {
    element: el("div", { class: "card call" }, title, text, field),
    field,
    result,
    update(call) {
      const pretty = indented(call.arguments);
      if (pretty !== shown) text.textContent = shown = pretty;
    },
  };
}

/** JSON with line breaks once it is complete. */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
