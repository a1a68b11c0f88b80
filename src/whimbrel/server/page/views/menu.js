// A menu below a button: a popover with the keys that people expect (arrows, Home, End, Escape).

import { el, icon, iconButton } from "../dom.js";

let count = 0;

/**
 * A button with a menu. `entries()` gives [{icon, label, run}] when it opens.
 */
export function menuButton({ name, label, entries, class: extra = "" }) {
  const id = `menu-${++count}`;
  const menu = el("div", { id, class: "menu", popover: "auto", role: "menu", "aria-label": label });
  const button = iconButton(name, label, () => (menu.matches(":popover-open") ? menu.hidePopover() : open()), {
    class: `icon-button ${extra}`,
    "aria-haspopup": "menu",
    "aria-expanded": "false",
    "aria-controls": id,
  });
  const close = () => {
    menu.hidePopover();
    button.focus();
  };
  function open() {
    const items = entries().map(({ icon: drawing, label: text, run }) =>
      el("button", { type: "button", role: "menuitem", tabindex: "-1", on: { click: () => (close(), run()) } }, icon(drawing), text),
    );
    menu.replaceChildren(...items);
    button.closest("aside, main").append(menu); // beside what it belongs to, also for a screen reader
    menu.showPopover();
    place(menu, button);
    items[0].focus();
  }
  menu.addEventListener("toggle", (event) => {
    button.setAttribute("aria-expanded", String(event.newState === "open"));
    if (event.newState === "closed") menu.remove();
  });
  menu.addEventListener("keydown", (event) => {
    const items = [...menu.children];
    const at = items.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (next !== undefined) {
      items.at(next % items.length).focus();
      event.preventDefault();
    } else if (event.key === "Tab") menu.hidePopover();
    else if (event.key === "Escape") {
      close();
      event.preventDefault();
      event.stopPropagation();
    }
  });
  return button;
}

/** Under the button, inside the window. */
function place(menu, button) {
  const anchor = button.getBoundingClientRect();
  const { width, height } = menu.getBoundingClientRect();
  const below = anchor.bottom + height + 8 < innerHeight;
  menu.style.left = `${Math.max(8, Math.min(anchor.right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${below ? anchor.bottom + 4 : Math.max(8, anchor.top - height - 4)}px`;
}
