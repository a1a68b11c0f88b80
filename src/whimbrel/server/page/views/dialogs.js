// Dialogs: a question before something is lost, a new title, the keys, the login. The browser keeps the focus inside them and
// gives it back.

import { login } from "../api.js";
import { explain } from "../errors.js";
import { el } from "../dom.js";

/** Show a dialog with `content`; resolves with what `close(value)` was given, or null after Escape. */
function dialog(title, build) {
  return new Promise((resolve) => {
    const heading = el("h2", { id: "dialog-title", text: title });
    const element = el("dialog", { "aria-labelledby": "dialog-title" });
    let result = null;
    const close = (value) => {
      result = value;
      element.close();
    };
    element.append(heading, ...build(close));
    element.addEventListener("close", () => {
      element.remove();
      resolve(result);
    });
    element.addEventListener("click", (event) => event.target === element && element.close()); // beside it
    document.body.append(element);
    element.showModal();
  });
}

const actions = (...buttons) => el("div", { class: "dialog-actions" }, ...buttons);
const cancel = (close) => el("button", { type: "button", class: "plain", text: "Cancel", on: { click: () => close(null) } });

/** Whether to go on with what can't be undone. */
export async function confirmed(title, text, verb) {
  const answer = await dialog(title, (close) => [
    el("p", { text }),
    actions(cancel(close), el("button", { type: "button", class: "danger", text: verb, on: { click: () => close(true) } })),
  ]);
  return answer === true;
}

/** A line of text, or null. */
export function asked(title, label, value) {
  return dialog(title, (close) => {
    const input = el("input", { type: "text", value, maxlength: "120", autofocus: true, "aria-label": label });
    const submit = (event) => {
      event.preventDefault();
      close(input.value);
    };
    requestAnimationFrame(() => input.select());
    return [el("form", { on: { submit } }, input, actions(cancel(close), el("button", { class: "primary", text: "Save" })))];
  });
}

const KEYS = [
  ["Enter", "send"],
  ["Shift + Enter", "new line"],
  ["Esc", "stop the answer; close what is open"],
  ["Ctrl + K", "find a conversation"],
  ["Alt + N", "new conversation"],
  ["Alt + D", "the document beside the conversation"],
  ["Alt + S", "settings"],
  ["Alt + M", "models and memory"],
  ["↑ in an empty box", "edit the last question"],
  ["← → on a heat strip", "walk through the document; Enter: to the part that was read most"],
  ["?", "this list"],
];

/** The keys. */
export function showHelp() {
  return dialog("Keys", (close) => [
    el("dl", { class: "keys" }, ...KEYS.flatMap(([keys, does]) => [el("dt", {}, el("kbd", { text: keys })), el("dd", { text: does })])),
    el("p", { class: "muted", text: "Drop a document anywhere on the page to have it read. Conversations are kept in this browser only." }),
    actions(el("button", { type: "button", class: "primary", text: "Close", autofocus: true, on: { click: () => close(null) } })),
  ]);
}

/** Ask for the server's key until it is right. Whether it was given. */
export async function loggedIn() {
  const answer = await dialog("This server wants a key", (close) => {
    const input = el("input", { type: "password", autofocus: true, autocomplete: "current-password", "aria-label": "Key", "aria-describedby": "login-problem" });
    const problem = el("p", { id: "login-problem", class: "problem", role: "alert" });
    const submit = async (event) => {
      event.preventDefault();
      problem.textContent = "";
      try {
        if (await login(input.value)) return close(true);
        problem.textContent = "That is not the key.";
      } catch (error) {
        const { title, advice } = explain(error);
        problem.textContent = `${title}. ${advice}`;
      }
      input.select();
      return undefined;
    };
    return [
      el("p", { text: "It is the one that was given to whimbrel serve --api-key." }),
      el("form", { on: { submit } }, input, problem, actions(cancel(close), el("button", { class: "primary", text: "Enter" }))),
    ];
  });
  return answer === true;
}
