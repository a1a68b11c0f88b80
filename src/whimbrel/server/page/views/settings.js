// The settings as a form. A change counts at once, from the next answer on, and is kept; what can't be is said under its field.

import { el } from "../dom.js";
import { NUMBERS, parseTools } from "../settings.js";

const THEMES = { auto: "As the system", light: "Light", dark: "Dark" };
const THINKING = { auto: "as the model does", off: "off, where it can be" };
const TOOL_CHOICES = { auto: "if the model wants to", required: "always", none: "never" };

/** Returns {element, opened()}. */
export function settingsView(state) {
  const fields = [];
  const group = (legend, ...children) => el("fieldset", {}, el("legend", { text: legend }), ...children);
  const sampling = Object.keys(NUMBERS).map((name) => numberField(state, name, fields));
  const reset = el("button", { type: "button", class: "plain", text: "Back to the defaults", on: { click: () => state.resetSettings() } });
  const element = el(
    "form",
    { class: "settings", on: { submit: (event) => event.preventDefault() } },
    group("System message", textField(state, "system", { label: "System message", rows: 4, hint: "stands before every conversation" }, fields)),
    group("Thinking", choiceField(state, "thinking", "Before an answer", THINKING, fields)),
    group("Sampling", el("div", { class: "numbers" }, ...sampling), textField(state, "stop", { label: "Stop at", rows: 2, hint: "texts that end an answer, one a line; \\n is a line break", code: true }, fields)),
    group("Documents", passagesField(state, fields)),
    group("Tools", textField(state, "tools", { label: "Tools as JSON", rows: 6, hint: "a list of functions with name, description and parameters; you give their results", code: true, check: parseTools, placeholder: EXAMPLE }, fields), choiceField(state, "tool_choice", "Call one", TOOL_CHOICES, fields)),
    group("Appearance", radioField(state, "theme", "Theme", THEMES, fields)),
    reset,
  );
  const fill = () => fields.forEach((field) => field());
  state.on("settings", fill);
  fill();
  return { element, opened: fill };
}

const EXAMPLE = '[{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]';

function numberField(state, name, fields) {
  const { label, min, max, step, hint } = NUMBERS[name];
  const problem = problemOf(name);
  const input = el("input", { type: "number", id: `set-${name}`, min, max, step: "any", inputmode: "decimal", placeholder: "model's own", "aria-describedby": `hint-${name} problem-${name}` });
  input.addEventListener("change", () => {
    const value = input.value === "" && !input.validity.badInput ? null : input.valueAsNumber;
    const fits = value === null || (value >= min && value <= max && (step !== 1 || Number.isInteger(value)));
    problem.say(input, fits ? "" : `${label} is ${step === 1 ? "a whole number" : "a number"} from ${min} to ${max}.`);
    if (fits) state.set({ [name]: value });
  });
  fields.push(() => document.activeElement !== input && show(input, problem, state.settings[name] ?? ""));
  return el("div", { class: "field" }, el("label", { for: `set-${name}`, text: label }), input, hintOf(name, hint), problem.element);
}

function textField(state, name, { label, rows, hint, code, check, placeholder }, fields) {
  const problem = problemOf(name);
  const area = el("textarea", { id: `set-${name}`, rows, placeholder, class: code ? "code-area" : null, spellcheck: code ? "false" : null, "aria-describedby": `hint-${name} problem-${name}` });
  area.addEventListener("change", () => {
    try {
      check?.(area.value);
      problem.say(area, "");
    } catch (error) {
      problem.say(area, error.message);
    }
    state.set({ [name]: area.value });
  });
  fields.push(() => document.activeElement !== area && (area.value = state.settings[name]));
  return el("div", { class: "field" }, el("label", { for: `set-${name}`, text: label }), area, hintOf(name, hint), problem.element);
}

function passagesField(state, fields) {
  const input = el("input", { type: "number", id: "set-passages", min: 0, max: 20, step: 1, "aria-describedby": "hint-passages" });
  input.addEventListener("change", () => state.set({ passages: input.valueAsNumber }));
  fields.push(() => (input.value = state.settings.passages));
  return el("div", { class: "field short" }, el("label", { for: "set-passages", text: "Passages under an answer" }), input, hintOf("passages", "those that it read most; 0: none, and no heat strip"));
}

function choiceField(state, name, label, choices, fields) {
  const select = el("select", { id: `set-${name}` }, ...Object.entries(choices).map(([value, text]) => el("option", { value, text })));
  select.addEventListener("change", () => state.set({ [name]: select.value }));
  fields.push(() => (select.value = state.settings[name]));
  return el("div", { class: "field short" }, el("label", { for: `set-${name}`, text: label }), select);
}

function radioField(state, name, label, choices, fields) {
  const inputs = Object.entries(choices).map(([value, text]) => {
    const input = el("input", { type: "radio", name, value, on: { change: () => state.set({ [name]: value }) } });
    fields.push(() => (input.checked = state.settings[name] === value));
    return el("label", { class: "choice" }, input, text);
  });
  return el("div", { class: "choices", role: "radiogroup", "aria-label": label }, ...inputs);
}

const hintOf = (name, text) => el("p", { class: "hint", id: `hint-${name}`, text });

function problemOf(name) {
  const element = el("p", { class: "problem", id: `problem-${name}`, role: "alert" });
  return {
    element,
    say(input, text) {
      element.textContent = text;
      input.setAttribute("aria-invalid", String(Boolean(text)));
    },
  };
}

function show(input, problem, value) {
  input.value = value;
  problem.say(input, "");
}
