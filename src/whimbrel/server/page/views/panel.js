// The side panel: a document, the settings, or the models. One at a time; beside the conversation where there is room, over it on a phone.

import { announce, el, iconButton } from "../dom.js";
import { documentView } from "./document.js";
import { modelsView } from "./models.js";
import { settingsView } from "./settings.js";

const TITLES = { settings: "Settings", models: "Models and memory" };

/** Returns {show(kind), showDocument(id, where), toggle(kind), close(), open: kind or null}. */
export function panelView(state, app, root) {
  const title = el("h2", { id: "panel-title", tabindex: "-1" });
  const subtitle = el("p", { class: "muted" });
  const close = iconButton("close", "Close the panel", () => hide());
  const body = el("div", { class: "panel-body" });
  root.append(el("header", {}, el("div", {}, title, subtitle), close), body);
  root.setAttribute("aria-labelledby", "panel-title");
  root.removeAttribute("aria-label");

  const views = { document: documentView(state, app), settings: settingsView(state, app), models: modelsView(state, app) };
  let open = null;
  let opener = null;
  let shownDocument = null;

  function reveal(kind, focus) {
    if (!open) opener = document.activeElement;
    if (open !== kind) {
      views[open]?.closed?.();
      body.replaceChildren(views[kind].element);
      views[kind].opened?.();
    }
    open = kind;
    title.textContent = kind === "document" ? views.document.title(shownDocument) : TITLES[kind];
    subtitle.textContent = kind === "document" ? views.document.subtitle(shownDocument) : "";
    subtitle.hidden = !subtitle.textContent;
    root.hidden = false;
    document.body.dataset.panel = kind;
    app.layout.changed();
    if (focus) title.focus();
  }

  function hide() {
    if (!open) return;
    views[open].closed?.();
    open = null;
    root.hidden = true;
    delete document.body.dataset.panel;
    app.layout.changed();
    if (opener?.isConnected) opener.focus();
    else app.focusPrompt();
  }

  function show(kind) {
    reveal(kind, true);
  }

  /** `where`: see documentView; `focus` also moves the focus into the panel. */
  function showDocument(id, where = {}) {
    shownDocument = id;
    const over = app.layout.narrow();
    reveal("document", Boolean(where.focus) || over);
    const name = views.document.title(id);
    if (where.passage !== undefined) announce(`Passage shown in ${name}`);
    return views.document.show(id, where);
  }

  state.on("opened", () => open === "document" && hide());
  return {
    show,
    showDocument,
    close: hide,
    toggle: (kind) => (open === kind ? hide() : kind === "document" ? showLatestDocument() : show(kind)),
    get open() {
      return open;
    },
  };

  /** The document of this conversation, with what the last answer read of it. */
  function showLatestDocument() {
    const node = state.chat.tree.path().findLast((one) => one.passages?.length || one.heat?.length) ?? null;
    const id = node?.documents?.[0] ?? node?.passages?.[0]?.file_id ?? state.chat.conversation.documents[0];
    if (id) showDocument(id, { node, focus: true });
    else announce("This conversation has no document");
  }
}
