// What an answer read: the heat strip of its document and the passages that got most of the attention. A click shows them in the document.

import { el, icon } from "../dom.js";
import { line, percent } from "../format.js";
import { heatStrip } from "./heat.js";

/** Returns {element, update()}. */
export function passagesView(node, app) {
  const element = el("section", { class: "passages", "aria-label": "What this answer read" });
  let shown = null;
  return {
    element,
    update() {
      const passages = node.passages ?? [];
      element.hidden = !passages.length && !node.heat?.length;
      if (element.hidden || shown === node.passages) return;
      shown = node.passages;
      element.replaceChildren(title(node), ...strip(node, app), list(node, passages, app));
    },
  };
}

function title(node) {
  const names = [...new Set((node.passages ?? []).map((passage) => passage.document))];
  return el("h3", {}, icon("document"), "Read in ", names.join(", ") || "the document");
}

function strip(node, app) {
  const id = heatDocument(node);
  if (!node.heat?.length || !id) return [];
  const { element } = heatStrip({
    heat: node.heat,
    counted: node.heatCounted,
    name: "Attention to the document, from its beginning to its end",
    go: (part) => app.panel.showDocument(id, { node, part }),
  });
  return [element];
}

/** The document that the heat is about: the first that was asked, as the server counts them. */
export function heatDocument(node) {
  return node.documents?.[0] ?? node.passages?.[0]?.file_id;
}

function list(node, passages, app) {
  const items = passages.map((passage, index) =>
    el("li", {},
      el("button", { type: "button", class: "passage", on: { click: () => app.panel.showDocument(passage.file_id, { node, passage: index, focus: true }) } },
        el("span", { class: "share", text: percent(passage.score) }),
        el("span", { class: "quote", text: line(passage.text, 180) }))),
  );
  return el("ol", { class: "passage-list" }, ...items);
}
