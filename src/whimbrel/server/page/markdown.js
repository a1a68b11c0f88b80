// Markdown as models write it, without HTML: text -> blocks (pure), and blocks -> DOM made of elements and text nodes only,
// so whatever a model says stays text. Known: headings, paragraphs, fenced code, lists, quotes, tables, rules; strong, emphasis,
// strikethrough, code, links (http and https only), pictures (as links: the page asks no other server for anything).
//
// MarkdownView shows a text that grows. A block that a whole later line has followed can't change any more and is never touched again.

import { el, icon, copyText } from "./dom.js";

const DEPTH = 8; // quotes and lists inside each other; what is deeper is shown as plain text
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,6})([-*+]|\d{1,9}[.)])(?:[ \t]+(.*)|[ \t]*)$/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/**
 * The blocks of a text. Each has `type` and `at`, the position in `text` where its first line begins.
 * heading {level, text} · paragraph {text} · code {language, text, closed} · quote {blocks} · rule
 * list {ordered, start, items: blocks[]} · table {align, head: text[], rows: text[][]}
 */
export function parse(text, depth = 0) {
  const lines = text.split("\n");
  const at = [];
  for (let i = 0, position = 0; i < lines.length; position += lines[i].length + 1, i += 1) at.push(position);
  const blocks = [];
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) {
      i += 1;
      continue;
    }
    const [block, next] = readBlock(lines, i, depth);
    blocks.push({ ...block, at: at[i] });
    i = next;
  }
  return blocks;
}

/** The block that begins at line i, and the line after it. */
function readBlock(lines, i, depth) {
  const line = lines[i];
  const fence = FENCE.exec(line);
  if (fence) return readCode(lines, i, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, text: heading[2] }, i + 1];
  if (RULE.test(line)) return [{ type: "rule" }, i + 1];
  if (depth < DEPTH && QUOTE.test(line)) return readQuote(lines, i, depth);
  if (depth < DEPTH && ITEM.test(line)) return readList(lines, i, depth);
  if (isTable(lines, i)) return readTable(lines, i);
  return readParagraph(lines, i, depth);
}

function readCode(lines, i, [, indent, fence, info]) {
  const closing = new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*$`);
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const body = [];
  let next = i + 1;
  while (next < lines.length && !closing.test(lines[next])) {
    body.push(indent ? lines[next].replace(strip, "") : lines[next]);
    next += 1;
  }
  const closed = next < lines.length;
  const language = info.trim().split(/\s/)[0];
  return [{ type: "code", language, text: body.join("\n"), closed }, closed ? next + 1 : next];
}

function readQuote(lines, i, depth) {
  const body = [];
  let next = i;
  while (next < lines.length && QUOTE.test(lines[next])) body.push(lines[next++].replace(QUOTE, ""));
  return [{ type: "quote", blocks: parse(body.join("\n"), depth + 1) }, next];
}

/** A list goes on over blank lines as long as items or indented lines follow. */
function readList(lines, i, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[i])[2]);
  const base = ITEM.exec(lines[i])[1].length;
  const bodies = [];
  let width = 0;
  let next = i;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const item = ITEM.exec(line);
    const indent = line.length - line.trimStart().length;
    if (item && indent <= base + 1 && !RULE.test(line)) {
      if (/\d/.test(item[2]) !== ordered) break;
      width = indent + item[2].length + 1;
      bodies.push([item[3] ?? ""]);
    } else if (!line.trim()) {
      const later = lines.slice(next, next + 3).find((other) => other.trim());
      if (later === undefined || !(ITEM.test(later) || later.startsWith("  "))) break;
      bodies.at(-1).push("");
    } else if (indent > base + 1) {
      bodies.at(-1).push(line.slice(Math.min(indent, width)));
    } else if (lines[next - 1].trim() && !startsBlock(lines, next, depth)) {
      bodies.at(-1).push(line); // a paragraph that goes on
    } else break;
  }
  const items = bodies.map((body) => parse(body.join("\n"), depth + 1));
  const start = ordered ? Number.parseInt(ITEM.exec(lines[i])[2], 10) : undefined;
  return [{ type: "list", ordered, start, items }, next];
}

function isTable(lines, i) {
  const columns = (line) => cells(line).length;
  return (
    lines[i].includes("|") && i + 1 < lines.length && TABLE_RULE.test(lines[i + 1]) && columns(lines[i]) === columns(lines[i + 1])
  );
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function readTable(lines, i) {
  const head = cells(lines[i]);
  const align = cells(lines[i + 1]).map((mark) => {
    const [left, right] = [mark.startsWith(":"), mark.endsWith(":")];
    return left && right ? "center" : right ? "right" : "left";
  });
  const rows = [];
  let next = i + 2;
  while (next < lines.length && lines[next].trim() && lines[next].includes("|")) {
    const row = cells(lines[next++]);
    rows.push(head.map((_, column) => row[column] ?? ""));
  }
  return [{ type: "table", align, head, rows }, next];
}

function readParagraph(lines, i, depth) {
  let next = i + 1;
  while (next < lines.length && lines[next].trim() && !startsBlock(lines, next, depth)) next += 1;
  return [{ type: "paragraph", text: lines.slice(i, next).map((line) => line.trim()).join("\n") }, next];
}

/** Whether line i ends a paragraph before it. */
function startsBlock(lines, i, depth) {
  const line = lines[i];
  return (
    FENCE.test(line) || HEADING.test(line) || RULE.test(line) || (depth < DEPTH && (QUOTE.test(line) || startsList(line))) || isTable(lines, i)
  );
}

/** Only a list that begins with 1 interrupts a paragraph: "in the year\n1984. was" is no list. */
function startsList(line) {
  const item = ITEM.exec(line);
  return Boolean(item && item[3] && (!/\d/.test(item[2]) || Number.parseInt(item[2], 10) === 1));
}

const FULL = 60; // characters of a line that may have been wrapped
const ESCAPED = /[!-/:-@[-`{-~]/;
const LINK = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+["'][^"'\n]*["'])?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]*[^\s<>"'`.,:;!?)\]}*_~]/iy;
const MARKS = { "***": "both", ___: "both", "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };

/**
 * The inside of a paragraph: text | {type: "code", text} | {type: "break"} | {type: "link", href, inside} |
 * {type: "strong" | "em" | "del", inside}; no links inside of links. Linear in the text: a mark that found no partner is not searched for again.
 */
export function parseInline(text, depth = 0, links = true) {
  const out = [];
  const dead = new Set();
  let plain = "";
  const push = (node) => {
    if (plain) out.push(plain);
    plain = "";
    out.push(node);
  };
  for (let i = 0; i < text.length; ) {
    const character = text[i];
    let found;
    if (character === "\n" && wrapped(text, i)) found = [" ", i + 1];
    else if (character === "\n") found = [{ type: "break" }, i + 1];
    else if (character === "\\" && ESCAPED.test(text[i + 1] ?? "")) {
      plain += text[i + 1];
      i += 2;
      continue;
    } else if (character === "`") found = readCodeSpan(text, i, dead);
    else if (links && (character === "[" || (character === "!" && text[i + 1] === "["))) found = readLink(text, i, depth);
    else if (links && (character === "h" || character === "H")) found = readAddress(text, i);
    else if ("*_~".includes(character)) found = readMark(text, i, depth, links, dead);
    if (found) {
      push(found[0]);
      i = found[1];
    } else {
      const run = /^(?:`+|\*+|_+|~+)/.exec(text.slice(i, i + 64)); // marks without a partner stay together
      plain += run ? run[0] : character;
      i += run ? run[0].length : 1;
    }
  }
  if (plain) out.push(plain);
  return out;
}

/** Whether a line ends at i because it was full, not because it was over: then it goes on after a space. */
function wrapped(text, i) {
  const length = i - (text.lastIndexOf("\n", i - 1) + 1);
  return length >= FULL && /\p{Ll}/u.test(text[i + 1] ?? "");
}

function readCodeSpan(text, i, dead) {
  const fence = /`+/y;
  fence.lastIndex = i;
  const mark = fence.exec(text)[0];
  if (dead.has(mark)) return undefined;
  for (let from = i + mark.length; ; ) {
    const end = text.indexOf(mark, from);
    if (end < 0) break;
    let after = end + mark.length;
    if (text[after] !== "`") {
      const inside = text.slice(i + mark.length, end).replaceAll("\n", " ");
      return [{ type: "code", text: /^ .*[^ ].* $/.test(inside) ? inside.slice(1, -1) : inside }, after];
    }
    while (text[after] === "`") after += 1;
    from = after;
  }
  dead.add(mark);
  return undefined;
}

/** An address that may be followed: http and https; anything else (javascript:, data:, file:) is none. */
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

function readLink(text, i, depth) {
  LINK.lastIndex = i;
  const match = LINK.exec(text);
  if (!match || depth >= DEPTH) return undefined;
  const href = safeAddress(match[2]);
  const label = match[1] || match[2];
  if (!href) return [{ type: "plain", text: match[0] }, LINK.lastIndex];
  return [{ type: "link", href, inside: text[i] === "!" ? [label] : parseInline(label, depth + 1, false) }, i + match[0].length];
}

function readAddress(text, i) {
  if (i > 0 && /[\w/]/.test(text[i - 1])) return undefined;
  ADDRESS.lastIndex = i;
  const match = ADDRESS.exec(text);
  const href = match && safeAddress(match[0]);
  return href ? [{ type: "link", href, inside: [match[0]] }, i + match[0].length] : undefined;
}

function readMark(text, i, depth, links, dead) {
  const character = text[i];
  const length = runLength(text, i);
  if (length > 3 || (character === "~" && length !== 2)) return undefined;
  const mark = character.repeat(length);
  const start = i + length;
  const wordBefore = i > 0 && /[\p{L}\p{N}]/u.test(text[i - 1]);
  if (depth >= DEPTH || dead.has(mark) || start >= text.length || /\s/.test(text[start])) return undefined;
  if (character === "_" && wordBefore) return undefined;
  const end = closing(text, start, mark);
  if (end < 0) {
    dead.add(mark);
    return undefined;
  }
  const inside = parseInline(text.slice(start, end), depth + 1, links);
  const type = MARKS[mark];
  const node = type === "both" ? { type: "strong", inside: [{ type: "em", inside }] } : { type, inside };
  return [node, end + length];
}

/** Where the mark's partner begins, or -1: a run as long as the mark, or of three, which ends what is inside it first. */
function closing(text, start, mark) {
  for (let at = text.indexOf(mark[0], start); at >= 0; ) {
    const run = runLength(text, at);
    const opens = /[\s\\]/.test(text[at - 1]);
    const inWord = mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[at + run] ?? "");
    if (!opens && !inWord && (run === mark.length || (run === 3 && mark[0] !== "~"))) return at + run - mark.length;
    at = text.indexOf(mark[0], at + run);
  }
  return -1;
}

function runLength(text, at) {
  let length = 1;
  while (text[at + length] === text[at]) length += 1;
  return length;
}

const INLINE = {
  code: (node) => el("code", { text: node.text }),
  break: () => el("br"),
  plain: (node) => document.createTextNode(node.text),
  link: (node) => el("a", { href: node.href, target: "_blank", rel: "noopener noreferrer" }, ...renderInline(node.inside)),
  strong: (node) => el("strong", {}, ...renderInline(node.inside)),
  em: (node) => el("em", {}, ...renderInline(node.inside)),
  del: (node) => el("del", {}, ...renderInline(node.inside)),
};

function renderInline(nodes) {
  return nodes.map((node) => (typeof node === "string" ? document.createTextNode(node) : INLINE[node.type](node)));
}

const inline = (text) => renderInline(parseInline(text));

const BLOCK = {
  heading: (block) => el(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.text)),
  paragraph: (block) => el("p", {}, ...inline(block.text)),
  rule: () => el("hr"),
  quote: (block) => el("blockquote", {}, ...block.blocks.map(renderBlock)),
  code: renderCode,
  list: renderList,
  table: renderTable,
};

function renderBlock(block) {
  return BLOCK[block.type](block);
}

function renderCode(block) {
  const code = el("code", { text: block.text });
  const copy = el("button", { type: "button", class: "quiet", on: { click: () => copyText(code.textContent, copy) } }, icon("copy"), "Copy");
  const name = block.language || "text";
  const pre = el("pre", { tabindex: "0", role: "group", "aria-label": `Code, ${name}` }, code);
  return el("div", { class: "code" }, el("div", { class: "code-bar" }, el("span", { text: name }), copy), pre);
}

function renderList(block) {
  const list = el(block.ordered ? "ol" : "ul", block.ordered && block.start !== 1 ? { start: String(block.start) } : {});
  for (const blocks of block.items) {
    const [first, ...rest] = blocks;
    const task = first?.type === "paragraph" ? /^\[([ xX])\] /.exec(first.text) : null;
    const content = first?.type === "paragraph" ? [...inline(task ? first.text.slice(4) : first.text)] : first ? [renderBlock(first)] : [];
    if (task) content.unshift(el("span", { class: "task", role: "img", "aria-label": task[1] === " " ? "not done" : "done", text: task[1] === " " ? "☐ " : "☑ " }));
    list.append(el("li", {}, ...content, ...rest.map(renderBlock)));
  }
  return list;
}

function renderTable(block) {
  const cell = (tag) => (text, column) => el(tag, { class: `to-${block.align[column]}` }, ...inline(text));
  const head = el("thead", {}, el("tr", {}, ...block.head.map(cell("th"))));
  const body = el("tbody", {}, ...block.rows.map((row) => el("tr", {}, ...row.map(cell("td")))));
  return el("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, el("table", {}, head, body));
}

/** A whole text. */
export function render(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...parse(text).map(renderBlock));
  return fragment;
}

/** A text that grows, shown in `element`. */
export class MarkdownView {
  #text = "";
  #settled = 0; // where the last block begins: all before it stays as it is
  #open = []; // the elements of the blocks from there on

  constructor(element) {
    this.element = element;
  }

  /** Show `text`. Cheap where it goes on from what is shown. */
  set(text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text)) this.clear();
    this.#text = text;
    const tail = text.slice(this.#settled);
    const blocks = parse(tail);
    if (this.#open.length === 1 && blocks.length === 1 && this.#grow(blocks[0])) return;
    for (const element of this.#open) element.remove();
    this.#open = blocks.map(renderBlock);
    this.element.append(...this.#open);
    const complete = tail.lastIndexOf("\n"); // later lines are still being written
    const last = blocks.findLastIndex((block) => block.at <= complete && tail.indexOf("\n", block.at) >= 0);
    if (last > 0) {
      this.#settled += blocks[last].at;
      this.#open = this.#open.slice(last);
    }
  }

  /** Long code is not made anew for each of its tokens. */
  #grow(block) {
    if (block.type !== "code") return false;
    const text = this.#open[0].querySelector(":scope > pre > code")?.firstChild;
    if (!text || !block.text.startsWith(text.data)) return false;
    text.appendData(block.text.slice(text.data.length));
    return true;
  }

  clear() {
    this.#text = "";
    this.#settled = 0;
    this.#open = [];
    this.element.replaceChildren();
  }
}
