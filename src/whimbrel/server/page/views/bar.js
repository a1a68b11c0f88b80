// The bar above the conversation: its title, the model that is asked, and the ways to the side panels.

import { el, iconButton } from "../dom.js";
import { menuButton } from "./menu.js";
import { conversationEntries } from "./sidebar.js";

export function barView(state, app, root) {
  const list = iconButton("menu", "Conversations", () => app.layout.toggleSidebar(), { "aria-controls": "sidebar" });
  const title = el("h1");
  const model = el("select", { id: "model", "aria-label": "Model" });
  const document = iconButton("document", "Document", () => app.panel.toggle("document"), { "aria-keyshortcuts": "Alt+D" });
  const settings = iconButton("settings", "Settings", () => app.panel.toggle("settings"), { "aria-keyshortcuts": "Alt+S" });
  const more = menuButton({
    name: "more",
    label: "This conversation",
    entries: () => {
      const { conversation, tree } = state.chat;
      return tree.size ? conversationEntries(conversation, app) : [{ icon: "add", label: "It has no messages yet", run: () => app.focusPrompt() }];
    },
  });
  root.append(list, title, model, document, settings, more);

  model.addEventListener("change", () => state.set({ model: model.value }));
  const drawModels = () => {
    const names = state.models.map(({ id, meta }) => [id, meta?.state === "unloaded" ? `${id} (on disk)` : id]);
    model.replaceChildren(...names.map(([value, text]) => el("option", { value, text })));
    model.value = state.model;
    model.hidden = names.length === 0;
    model.classList.toggle("only", names.length === 1);
  };
  const draw = () => {
    const { conversation } = state.chat;
    title.textContent = conversation.title;
    window.document.title = state.chat.tree.size ? `${conversation.title} · whimbrel` : "whimbrel";
    document.hidden = conversation.documents.length === 0 && !state.chat.tree.path().some((node) => node.passages?.length);
  };
  state.on("models settings", drawModels);
  state.on("opened path attached conversations", () => state.chat && draw());
  state.on("layout", (open) => list.setAttribute("aria-expanded", String(open)));
}
