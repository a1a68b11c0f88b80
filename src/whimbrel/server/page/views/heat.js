// The heat strip: how much attention the answer gave to each part of a document, from its beginning to its end. A slider: a click,
// a drag or the arrow keys name a part.

import { el, svg } from "../dom.js";
import { percent } from "../format.js";

const CELLS = 240; // more would be thinner than a pixel

/**
 * @param heat share of attention of each part
 * @param name what the strip is called
 * @param go called with the number of the part that was chosen
 * Returns {element, show(part)}; `show` moves the mark without calling `go`.
 */
export function heatStrip({ heat, name, go }) {
  const marker = el("span", { class: "heat-mark" });
  const element = el(
    "div",
    { class: "heat", role: "slider", tabindex: "0", "aria-label": name, "aria-valuemin": "1", "aria-valuemax": String(heat.length) },
    drawing(heat),
    marker,
  );
  let current = hottest(heat);
  const show = (part) => {
    current = Math.min(Math.max(part, 0), heat.length - 1);
    element.setAttribute("aria-valuenow", String(current + 1));
    element.setAttribute("aria-valuetext", `part ${current + 1} of ${heat.length}, ${percent(heat[current])} of the attention`);
    marker.style.left = `${((current + 0.5) / heat.length) * 100}%`;
  };
  const choose = (part) => {
    show(part);
    go(current);
  };
  const point = (event) => {
    const { left, width } = element.getBoundingClientRect();
    choose(Math.floor(((event.clientX - left) / width) * heat.length));
  };
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    point(event);
  });
  element.addEventListener("pointermove", (event) => {
    if (event.buttons && element.hasPointerCapture(event.pointerId)) point(event);
  });
  element.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(heat.length / 10));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: -far, PageDown: far, Home: -heat.length, End: heat.length };
    if (event.key === "Enter") choose(hottest(heat));
    else if (event.key in steps) choose(current + steps[event.key]);
    else return;
    event.preventDefault();
  });
  show(current);
  return { element, show };
}

function hottest(heat) {
  return heat.indexOf(Math.max(...heat));
}

/** One bar per part, or per few of them where there are many: then the hottest counts. */
function drawing(heat) {
  const cells = Math.min(CELLS, heat.length);
  const top = Math.max(...heat, 1e-9);
  const bars = Array.from({ length: cells }, (_, cell) => {
    const from = Math.floor((cell * heat.length) / cells);
    const to = Math.max(from + 1, Math.floor(((cell + 1) * heat.length) / cells));
    const strength = Math.sqrt(Math.max(...heat.slice(from, to)) / top); // the weak ones stay visible
    return svg("rect", { x: cell, y: 0, width: 1.03, height: 1, "fill-opacity": strength.toFixed(3) });
  });
  return svg("svg", { viewBox: `0 0 ${cells} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars);
}
