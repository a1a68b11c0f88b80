// Which columns are in sight. Where there is room, the list stands left and the panel right of the conversation; on a narrow window
// each of them covers it, and what is covered can't be reached by key or screen reader.

export function layoutView(state, { sidebar, main, panel, shade }) {
  const narrow = matchMedia("(max-width: 819px)"); // the same numbers stand in layout.css
  const medium = matchMedia("(max-width: 1179px)");
  let drawer = false;

  const sidebarOpen = () => (narrow.matches ? drawer : state.settings.sidebar);

  function changed() {
    const open = sidebarOpen();
    const covered = !panel.hidden && narrow.matches;
    document.body.classList.toggle("sidebar-open", open);
    sidebar.inert = !open || covered;
    main.inert = (narrow.matches && drawer) || covered;
    shade.hidden = !(narrow.matches && drawer);
    state.emit("layout", open);
  }

  function toggleSidebar(wanted = !sidebarOpen()) {
    if (narrow.matches) drawer = wanted;
    else if (wanted !== state.settings.sidebar) state.set({ sidebar: wanted });
    changed();
    if (narrow.matches) (wanted ? sidebar : main).querySelector("button")?.focus();
  }

  shade.addEventListener("click", () => toggleSidebar(false));
  for (const query of [narrow, medium]) query.addEventListener("change", changed);
  return {
    changed,
    toggleSidebar,
    narrow: () => narrow.matches,
    /** After a choice in the list on a phone. False: it did not cover anything. */
    closeDrawer() {
      if (!narrow.matches || !drawer) return false;
      toggleSidebar(false);
      return true;
    },
  };
}
