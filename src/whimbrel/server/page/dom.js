// Making elements. Text becomes text nodes; there is no way in for HTML or for inline styles and handlers.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `properties`: `class`, `text`, `on` ({event: handler}), `value` and `checked` as properties;
 * every other name is an attribute; null, undefined and false leave it out, true writes it empty.
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const PATHS = {
  add: "M12 5v14M5 12h14",
  auto: "M12 3.5a8.5 8.5 0 1 0 0 17zM12 3.5a8.5 8.5 0 0 1 0 17",
  back: "M14.5 6l-6 6 6 6",
  chart: "M5 19V11M12 19V5M19 19v-5",
  check: "M5 12.5l4.5 4.5L19 7.5",
  clip: "M19 11.5l-7.3 7.3a4.6 4.6 0 0 1-6.5-6.5l7.8-7.8a3.1 3.1 0 0 1 4.4 4.4l-7.8 7.8a1.5 1.5 0 0 1-2.2-2.2l7-7",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v11H9zM6 15H5V4h10v2",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  document: "M6 3.5h8l4 4v13H6zM14 3.5v4h4M9 12h6M9 16h6",
  down: "M12 5v14M6 13l6 6 6-6",
  edit: "M4.5 19.5l1-4.5L16 4.5l3.5 3.5L9 18.5zM14 6.5l3.5 3.5",
  export: "M12 15V4M8 7.5L12 3.5l4 4M5 13v7h14v-7",
  forward: "M9.5 6l6 6-6 6",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.01M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z",
  import: "M12 4v11M8 11.5l4 4 4-4M5 15v5h14v-5",
  light: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 3v1.5M12 19.5V21M3 12h1.5M19.5 12H21M5.6 5.6l1 1M17.4 17.4l1 1M5.6 18.4l1-1M17.4 6.6l1-1",
  menu: "M4 7h16M4 12h16M4 17h16",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  remove: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  retry: "M19 12a7 7 0 1 1-2.2-5.1M19 4v4h-4",
  search: "M10.5 4.5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15 15l5 5",
  send: "M12 19V5M6 11l6-6 6 6",
  settings: "M4 8h9M17 8h3M4 16h3M11 16h9M15 6v4M9 14v4",
  stop: "M7 7h10v10H7z",
  tool: "M14.5 6.5a4 4 0 0 1 5-1l-2.5 2.5.5 2 2 .5L22 8a4 4 0 0 1-6.5 3.5L8 19a2 2 0 0 1-3-3l7.5-7.5a4 4 0 0 1 2-2z",
  warning: "M12 4l9 16H3zM12 10v4.5M12 17v.01",
};

/** A small drawing; it says nothing to a screen reader, so whatever holds it needs a name. */
export function icon(name) {
  const path = svg("path", { d: PATHS[name] });
  return svg("svg", { class: `icon icon-${name}`, viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, path);
}

/** A button that is a drawing; `label` is its name and its tip. */
export function iconButton(name, label, click, properties = {}) {
  return el("button", { type: "button", class: "icon-button", "aria-label": label, title: label, on: { click }, ...properties }, icon(name));
}

/** Copy, and say so on the button. Pages that came over plain HTTP have no clipboard API; they use the old command. */
export async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen", value: text, "aria-hidden": "true" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.classList.add("copied");
  announce("Copied");
  setTimeout(() => button.classList.remove("copied"), 1500);
}

/** Say something to screen readers, politely. */
export function announce(text) {
  const live = document.getElementById("live");
  live.textContent = "";
  requestAnimationFrame(() => (live.textContent = text));
}

/** Give the browser a file to save. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Ask for a file and give it to `use`. */
export function chooseFile(accept, multiple, use) {
  const input = el("input", { type: "file", accept, multiple, hidden: true });
  input.addEventListener("change", () => use([...input.files]));
  input.addEventListener("cancel", () => input.remove());
  document.body.append(input);
  input.click();
  setTimeout(() => input.remove(), 60000);
}
