// How answers are asked for: sampling, system message, tools, theme. Kept in localStorage; null means the model's own default.
// Pure apart from load and save: what is damaged or out of range is left at its default, never sent.

const KEY = "whimbrel.settings";

/** Sampling: name in a request -> what a form needs to know of it. */
export const NUMBERS = {
  temperature: { label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 always takes the likeliest token; more is more varied" },
  top_p: { label: "Top p", min: 0, max: 1, step: 0.01, hint: "only the likeliest tokens that together have this probability" },
  top_k: { label: "Top k", min: 0, max: 1000, step: 1, hint: "only that many of the likeliest tokens; 0: all" },
  min_p: { label: "Min p", min: 0, max: 1, step: 0.01, hint: "only tokens with this share of the likeliest one's probability" },
  max_tokens: { label: "Longest answer", min: 1, max: 131072, step: 1, hint: "tokens; the answer is cut off there" },
  seed: { label: "Seed", min: 0, max: 4294967295, step: 1, hint: "the same seed gives the same answer" },
};

export const DEFAULTS = Object.freeze({
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  max_tokens: 1024,
  seed: null,
  system: "",
  stop: "",
  tools: "",
  tool_choice: "auto",
  thinking: "auto",
  passages: 4,
  model: "",
  theme: "auto",
  sidebar: true,
});

const CHOICES = { theme: ["auto", "light", "dark"], tool_choice: ["auto", "required", "none"], thinking: ["auto", "off"] };

/** The value if it may stand at `name`, else the default. */
export function checked(name, value) {
  if (name in NUMBERS) {
    const { min, max, step } = NUMBERS[name];
    const fits = typeof value === "number" && value >= min && value <= max && (step !== 1 || Number.isInteger(value));
    return fits ? value : DEFAULTS[name];
  }
  if (name in CHOICES) return CHOICES[name].includes(value) ? value : DEFAULTS[name];
  if (name === "passages") return Number.isInteger(value) && value >= 0 && value <= 20 ? value : DEFAULTS[name];
  return typeof value === typeof DEFAULTS[name] ? value : DEFAULTS[name];
}

export function loadSettings() {
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    // none yet, or damaged
  }
  return Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, checked(name, kept[name])]));
}

export function saveSettings(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {
    // no storage in this window: they last as long as it does
  }
}

/** Stop strings, one a line; "\n" and "\t" stand for a line break and a tab. */
export function stopStrings(text) {
  return text
    .split("\n")
    .filter((line) => line.trim())
    .map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
}

/**
 * Tools as a request wants them, from JSON: a list of {"type": "function", "function": {...}}, or of the functions alone.
 * Throws an Error that says what is wrong; [] of an empty text.
 */
export function parseTools(text) {
  if (!text.trim()) return [];
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`This is no JSON: ${error.message}`);
  }
  const list = Array.isArray(value) ? value : [value];
  return list.map((entry, index) => {
    const described = entry?.function ?? entry;
    if (typeof described?.name !== "string" || !described.name) throw new Error(`Tool ${index + 1} has no "name"`);
    return { type: "function", function: { ...described, parameters: described.parameters ?? { type: "object", properties: {} } } };
  });
}
