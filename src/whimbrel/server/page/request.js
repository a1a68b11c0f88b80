// From what is on the page to the body of /v1/chat/completions. Pure.

import { NUMBERS, parseTools, stopStrings } from "./settings.js";

/**
 * @param path messages from the first to the one that is to be answered
 * @param documents ids of files that the conversation is about; they stand in its first question, so that a document that was
 *   read once is the beginning of every prompt about it
 * Throws an Error where the tools in the settings are damaged.
 */
export function chatRequest({ path, documents, settings, model }) {
  const body = {
    messages: chatMessages(path, documents, settings.system),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
  };
  if (model) body.model = model;
  for (const name of Object.keys(NUMBERS)) if (settings[name] !== null) body[name] = settings[name];
  const stop = stopStrings(settings.stop);
  if (stop.length) body.stop = stop;
  if (settings.thinking === "off") body.reasoning_effort = "none";
  if (documents.length && settings.passages) body.passages = settings.passages;
  const tools = parseTools(settings.tools);
  if (tools.length) {
    body.tools = tools;
    body.tool_choice = afterResult(path) && settings.tool_choice === "required" ? "auto" : settings.tool_choice;
  }
  return body;
}

/** A result was just given: to require a call again would never end. */
function afterResult(path) {
  return path.at(-1)?.role === "tool";
}

function chatMessages(path, documents, system) {
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  let files = documents;
  for (const node of path) {
    const message = chatMessage(node, files);
    if (!message) continue;
    if (node.role === "user") files = [];
    messages.push(message);
  }
  return messages;
}

function chatMessage(node, files) {
  if (node.role === "tool") return { role: "tool", tool_call_id: node.toolCallId, name: node.toolName, content: node.content };
  if (node.role === "user") {
    if (!files.length) return { role: "user", content: node.content };
    const parts = files.map((id) => ({ type: "file", file: { file_id: id } }));
    return { role: "user", content: [...parts, { type: "text", text: node.content }] };
  }
  if (!node.content && !node.toolCalls?.length) return null; // an answer that failed before its first word
  const message = { role: "assistant", content: node.content };
  if (node.toolCalls?.length) {
    message.content = node.content || null;
    message.tool_calls = node.toolCalls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
  }
  return message;
}
