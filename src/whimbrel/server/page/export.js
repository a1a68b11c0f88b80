// Conversations as files: Markdown to read, JSON to keep and to bring back. Pure.

import { newId, ROOT, Tree } from "./tree.js";

const FORMAT = "whimbrel-conversations";
const VERSION = 1;
const ROLES = ["user", "assistant", "tool"];

/** The conversation that is shown, as a text. Documents by name. */
export function toMarkdown(conversation, tree, documentName = (id) => id) {
  const parts = [`# ${conversation.title}`];
  if (conversation.documents?.length) parts.push(`About: ${conversation.documents.map(documentName).join(", ")}`);
  for (const node of tree.path()) parts.push(...messageParts(node));
  return `${parts.join("\n\n")}\n`;
}

function messageParts(node) {
  if (node.role === "user") return ["## You", node.content];
  if (node.role === "tool") return [`## Result of ${node.toolName}`, fenced(node.content, "")];
  const parts = [`## ${node.model || "Answer"}`];
  if (node.reasoning) parts.push(`<details><summary>Thinking</summary>\n\n${node.reasoning}\n\n</details>`);
  if (node.content) parts.push(node.content);
  for (const call of node.toolCalls ?? []) parts.push(`Calls \`${call.name}\`:`, fenced(call.arguments, "json"));
  if (node.passages?.length) {
    parts.push("Read:", node.passages.map(({ document, text }) => `> ${text.trim().replace(/\s*\n\s*/g, "\n> ")}\n>\n> (${document})`).join("\n\n"));
  }
  return parts;
}

/** A fence longer than any in the text. */
function fenced(text, language) {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}

/** `conversations`: [{conversation, messages}], all branches. */
export function toJson(conversations) {
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1);
}

/**
 * [{conversation, messages}] of an exported file, with new identifiers, so that an import never overwrites anything.
 * Throws an Error that says what is wrong with the file.
 */
export function fromJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("This file is no JSON; export one from here to see what it looks like.");
  }
  if (value?.format !== FORMAT) throw new Error(`This is no export of conversations: "format" is not "${FORMAT}".`);
  if (value.version !== VERSION) throw new Error(`This export has version ${value.version}; this page reads version ${VERSION}.`);
  if (!Array.isArray(value.conversations)) throw new Error('This export has no list of "conversations".');
  return value.conversations.map(imported);
}

function imported(entry, index) {
  const place = `Conversation ${index + 1}`;
  const { conversation, messages } = entry ?? {};
  if (typeof conversation?.title !== "string" || !Array.isArray(messages)) throw new Error(`${place} has no title or no messages.`);
  const ids = new Map(messages.map((message) => [message?.id, newId()]));
  ids.set(ROOT, ROOT);
  const id = newId();
  const renewed = messages.map((message, at) => {
    const sound = ROLES.includes(message?.role) && typeof message.content === "string" && Number.isFinite(message.order);
    if (!sound || !ids.has(message.parent)) throw new Error(`${place}: message ${at + 1} is damaged.`);
    return { ...known(message), id: ids.get(message.id), parent: ids.get(message.parent), conversation: id };
  });
  const chosen = Object.entries(conversation.chosen ?? {}).filter(([parent, child]) => ids.has(parent) && ids.has(child));
  const tree = new Tree(renewed, Object.fromEntries(chosen.map(([parent, child]) => [ids.get(parent), ids.get(child)])));
  const documents = Array.isArray(conversation.documents) ? conversation.documents.filter((one) => typeof one === "string") : [];
  const times = { created: Number(conversation.created) || Date.now(), updated: Date.now() + index };
  return { conversation: { id, title: conversation.title, ...times, chosen: tree.chosen, documents }, messages: renewed };
}

/** The fields of a message that the page uses, where they are what they should be; a file may come from anywhere. */
function known(message) {
  const kept = { role: message.role, content: message.content, order: message.order, created: Number(message.created) || 0 };
  for (const name of ["reasoning", "model", "finish", "toolCallId", "toolName"]) {
    if (typeof message[name] === "string") kept[name] = message[name];
  }
  if (message.role === "assistant") kept.state = ["stopped", "failed"].includes(message.state) ? message.state : "done";
  const calls = list(message.toolCalls, (one) => ["id", "name", "arguments"].every((name) => typeof one?.[name] === "string"));
  if (calls) kept.toolCalls = calls;
  const passages = list(message.passages, (one) => typeof one?.text === "string" && Number.isInteger(one.start) && Number.isInteger(one.end));
  if (passages) kept.passages = passages.map(({ document, file_id, start, end, text, score }) => ({ document: String(document), file_id, start, end, text, score: Number(score) || 0 }));
  const documents = list(message.documents, (one) => typeof one === "string");
  if (documents) kept.documents = documents;
  for (const name of ["heat", "heatStarts"]) {
    const numbers = list(message[name], Number.isFinite);
    if (numbers) kept[name] = numbers;
  }
  const counted = list(message.heatCounted, (one) => typeof one === "boolean");
  if (counted) kept.heatCounted = counted;
  if (message.timings && typeof message.timings === "object") {
    kept.timings = Object.fromEntries(Object.entries(message.timings).filter(([, value]) => Number.isFinite(value)));
  }
  return kept;
}

const list = (value, sound) => (Array.isArray(value) && value.length && value.every(sound) ? value : null);

/** A name for a file: letters, digits and dashes of the title. */
export function fileName(title, extension) {
  const plain = title.normalize("NFKD").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${plain.slice(0, 60) || "conversation"}.${extension}`;
}
