// A document beside the conversation: its text, the passages that an answer read marked in it, and the heat strip above it.
//
// The text is cut into chunks at line breaks, so that a browser lays out only those in sight; marks are elements inside of them.
// Positions from the server count code points; inside this module all positions are UTF-16 units.

import { el, iconButton } from "../dom.js";
import { explain } from "../errors.js";
import { count, percent } from "../format.js";
import { heatStrip } from "./heat.js";
import { heatDocument } from "./passages.js";

const CHUNK = 4000; // units, about
const FRAMES = 5; // within which a position is found

/** Returns {element, show(id, {node, passage, part})} */
export function documentView(state, app) {
  const tools = el("div", { class: "document-tools" });
  const text = el("div", { class: "document-text", tabindex: "0", role: "region", "aria-label": "Text of the document" });
  const element = el("div", { class: "document" }, tools, text);
  let turns = 0; // calls of scrollTo: a later one ends an earlier one
  let current = null; // {id, document, chunks, node, ranges, strip}

  async function show(id, { node = null, passage = null, part = null } = {}) {
    if (current?.id !== id) await load(id);
    if (!current || current.id !== id) return;
    if (current.node !== node) mark(node);
    if (passage !== null) goToPassage(passage);
    else if (part !== null) goToPart(part);
  }

  async function load(id) {
    current = null;
    tools.replaceChildren();
    text.replaceChildren(el("p", { class: "muted", text: "Fetching the text…" }));
    try {
      const document = await app.documents.text(id);
      const chunks = cut(document.text).map(([start, end]) => ({ start, end, element: el("div", { class: "chunk" }) }));
      current = { id, document, chunks, node: undefined, ranges: [] };
      for (const chunk of chunks) fill(chunk);
      text.replaceChildren(...chunks.map((chunk) => chunk.element));
      text.scrollTop = 0;
    } catch (error) {
      const { title, message, advice } = explain(error);
      text.replaceChildren(el("p", { class: "problem", role: "alert", text: [`${title}.`, message, advice].filter(Boolean).join(" ") }));
    }
  }

  /** Draw a chunk's text with the parts of the passages that lie in it. */
  function fill({ start, end, element: chunk }) {
    const whole = current.document.text;
    const nodes = [];
    let at = start;
    for (const range of current.ranges) {
      const [from, to] = [Math.max(range.start, at), Math.min(range.end, end)];
      if (from >= to) continue;
      if (from > at) nodes.push(whole.slice(at, from));
      nodes.push(el("mark", { "data-passage": String(range.index), class: range.index === current.passage ? "current" : null, text: whole.slice(from, to) }));
      at = to;
    }
    nodes.push(whole.slice(at, end));
    chunk.replaceChildren(...nodes);
  }

  function mark(node) {
    const points = current.document.points;
    const old = current.ranges;
    current.node = node;
    current.passage = null;
    current.ranges = (node?.passages ?? [])
      .map(({ file_id: file, start, end, score }, index) => ({ file, index, start: points.toUnits(start), end: points.toUnits(end), score }))
      .filter((range) => range.file === current.id)
      .sort((a, b) => a.start - b.start);
    refill([...old, ...current.ranges]);
    drawTools();
  }

  function refill(ranges) {
    for (const chunk of current.chunks) {
      if (ranges.some((range) => range.start < chunk.end && range.end > chunk.start)) fill(chunk);
    }
  }

  function drawTools() {
    const { node, ranges } = current;
    const rows = [];
    current.strip = null;
    if (node?.heat?.length && heatDocument(node) === current.id) {
      current.strip = heatStrip({ heat: node.heat, counted: node.heatCounted, name: "Attention to this document, from its beginning to its end", go: goToPart });
      rows.push(current.strip.element);
    }
    if (ranges.length) {
      current.place = el("span", { class: "place", role: "status" });
      const back = iconButton("back", "Passage before", () => walk(-1));
      const forward = iconButton("forward", "Next passage", () => walk(1));
      rows.push(el("div", { class: "walk" }, back, current.place, forward));
      placed();
    }
    tools.replaceChildren(...rows);
  }

  /** Passages in the order of the text. */
  function walk(by) {
    const { ranges, passage } = current;
    const at = ranges.findIndex((range) => range.index === passage);
    const next = at < 0 ? (by > 0 ? 0 : ranges.length - 1) : (at + by + ranges.length) % ranges.length;
    goToPassage(ranges[next].index);
  }

  function placed() {
    const { ranges, passage, place } = current;
    const at = ranges.findIndex((range) => range.index === passage);
    const range = ranges[at];
    place.textContent = range ? `Passage ${at + 1} of ${ranges.length} · ${percent(range.score)} of the attention` : `${ranges.length === 1 ? "1 passage was" : `${ranges.length} passages were`} read most`;
  }

  function goToPassage(index) {
    const range = current.ranges.find((one) => one.index === index);
    if (!range) return;
    current.passage = index;
    for (const marked of text.querySelectorAll("mark")) marked.classList.toggle("current", marked.dataset.passage === String(index));
    placed();
    current.strip?.show(partAt(range.start));
    scrollTo(range.start);
  }

  function goToPart(part) {
    const [start, end] = [partStart(part), partStart(part + 1)];
    current.strip?.show(part);
    scrollTo(start);
    flash(start, end);
  }

  /** Where a part of the heat begins; even steps where the server doesn't say. */
  function partStart(part) {
    const { node, document } = current;
    const parts = node.heat.length;
    if (part >= parts) return document.text.length;
    const point = node.heatStarts?.[part] ?? Math.floor((document.points.length * part) / parts);
    return document.points.toUnits(point);
  }

  function partAt(unit) {
    const parts = current.node.heat.length;
    let part = 0;
    while (part + 1 < parts && partStart(part + 1) <= unit) part += 1;
    return part;
  }

  /** Bring a position into the upper third; again in the next frames, as what was out of sight gets its true height. */
  async function scrollTo(unit) {
    const turn = ++turns;
    for (let frame = 0; frame < FRAMES && turn === turns && current; frame += 1) {
      const range = rangeOf(unit, unit + 1);
      if (!range) return;
      const rectangle = range.getClientRects()[0] ?? range.getBoundingClientRect();
      text.scrollTop += rectangle.top - text.getBoundingClientRect().top - text.clientHeight / 3;
      await new Promise(requestAnimationFrame);
    }
  }

  /** A DOM range of text[start, end). */
  function rangeOf(start, end) {
    const [first, last] = [pointOf(start), pointOf(Math.max(start, end - 1))];
    if (!first || !last) return null;
    const range = document.createRange();
    range.setStart(...first);
    range.setEnd(last[0], Math.min(last[1] + 1, last[0].length));
    return range;
  }

  function pointOf(unit) {
    const bounded = Math.min(unit, current.document.text.length - 1);
    const chunk = current.chunks.find(({ end }) => bounded < end);
    if (!chunk) return null;
    let left = bounded - chunk.start;
    const walker = document.createTreeWalker(chunk.element, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (left < node.length) return [node, left];
      left -= node.length;
    }
    return null;
  }

  /** Show which part was meant, in browsers that can mark a range without touching the text. */
  function flash(start, end) {
    const range = globalThis.Highlight && rangeOf(start, end);
    if (range) CSS.highlights.set("part", new Highlight(range));
  }

  return {
    element,
    show,
    focus: () => text.focus(),
    title: (id) => state.documents.get(id)?.name ?? state.chat.conversation.names?.[id] ?? "Document",
    subtitle: (id) => {
      const tokens = state.documents.get(id)?.tokens;
      return tokens ? `${count(tokens)} tokens` : "";
    },
  };
}

/** [start, end] of pieces of about CHUNK units that end with a line. */
function cut(text) {
  const pieces = [];
  for (let start = 0; start < text.length; ) {
    const line = text.indexOf("\n", Math.min(start + CHUNK, text.length));
    const end = line < 0 || line - start > 4 * CHUNK ? Math.min(whole(text, start + (line < 0 ? text.length : 2 * CHUNK)), text.length) : line + 1;
    pieces.push([start, end]);
    start = end;
  }
  return pieces;
}

/** Not between the halves of one character. */
function whole(text, at) {
  return /[\ud800-\udbff]/.test(text[at - 1] ?? "") ? at + 1 : at;
}
