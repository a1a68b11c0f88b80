// Keys that work wherever the focus is. Those of a field or a menu are with the field or the menu.

const typing = (element) => element?.matches?.("input, textarea, select, [contenteditable]");

export function listenToKeys(state, app) {
  const alt = { n: () => app.begin(), d: () => app.panel.toggle("document"), s: () => app.panel.toggle("settings"), m: () => app.panel.toggle("models") };
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const pressed = event.key.toLowerCase();
    const key = /^[a-z]$/.test(pressed) ? pressed : event.code.replace("Key", "").toLowerCase(); // Alt gives other signs on some keyboards
    if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && key === "k") app.find();
    else if (event.altKey && !event.ctrlKey && !event.metaKey && alt[key]) alt[key]();
    else if (event.key === "?" && !typing(event.target)) app.help();
    else if (event.key === "Escape") escape();
    else return;
    event.preventDefault();
  });

  /** The nearest thing first: what covers the page, then the answer, then the panel. */
  function escape() {
    if (app.layout.closeDrawer()) return;
    if (app.layout.narrow() && app.panel.open) app.panel.close();
    else if (state.run) app.answers.stop();
    else if (app.panel.open) app.panel.close();
    else app.focusPrompt();
  }
}
