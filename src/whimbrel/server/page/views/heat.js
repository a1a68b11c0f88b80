// The heat strip: how much attention the answer gave to each part of a document, from its beginning to its end. A slider: a click,
// a drag or the arrow keys name a part. Parts that don't count (attention rests on the beginning and the end of a prompt whatever is
// asked) are drawn apart, so that the others show their differences.

import { el, svg } from "../dom.js";
import { percent } from "../format.js";

const CELLS = 240; // more would be thinner than a pixel

/**
 * @param heat share of attention of each part
 * @param counted whether a part counts; all do without it
 * @param name what the strip is called
 * @param go called with the number of the part that was chosen
 * Returns {element, show(part)}; `show` moves the mark without calling `go`.
 */
export function heatStrip({ heat, counted = heat.map(() => true), name, go }) {
  const top = Math.max(...heat.filter((_, part) => counted[part]), 1e-9);
  const marker = el("span", { class: "heat-mark" });
  const element = el(
    "div",
    { class: "heat", role: "slider", tabindex: "0", "aria-label": name, "aria-valuemin": "1", "aria-valuemax": String(heat.length) },
    drawing(heat, counted, top),
    marker,
  );
  const hottest = Math.max(0, heat.findIndex((share, part) => counted[part] && share === top));
  let current = hottest;
  const show = (part) => {
    current = Math.min(Math.max(part, 0), heat.length - 1);
    element.setAttribute("aria-valuenow", String(current + 1));
    element.setAttribute("aria-valuetext", `part ${current + 1} of ${heat.length}, ${percent(heat[current])} of the attention${counted[current] ? "" : ", which rests there whatever is asked"}`);
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
    if (event.key === "Enter") choose(hottest);
    else if (event.key in steps) choose(current + steps[event.key]);
    else return;
    event.preventDefault();
  });
  show(current);
  return { element, show };
}

/** One bar per part, or per few of them where there are many: then the hottest counts. */
function drawing(heat, counted, top) {
  const cells = Math.min(CELLS, heat.length);
  const bars = Array.from({ length: cells }, (_, cell) => {
    const from = Math.floor((cell * heat.length) / cells);
    const to = Math.max(from + 1, Math.floor(((cell + 1) * heat.length) / cells));
    const shares = heat.slice(from, to).filter((_, part) => counted[from + part]);
    const strength = Math.max(...shares, 0) / top;
    return svg("rect", { x: cell, y: 0, width: 1.03, height: 1, class: shares.length ? "part" : "rest", "fill-opacity": shares.length ? strength.toFixed(3) : 1 });
  });
  return svg("svg", { viewBox: `0 0 ${cells} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars);
}
