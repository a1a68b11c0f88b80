// Sets the theme before the first paint, so that a dark page does not flash white. A classic script: modules run too late.
// "auto" leaves the choice to prefers-color-scheme. settings.js writes what is read here.
(() => {
  let theme = "auto";
  try {
    theme = JSON.parse(localStorage.getItem("whimbrel.settings") ?? "{}").theme ?? "auto";
  } catch {
    // no storage, or damaged: the system's theme
  }
  document.documentElement.dataset.theme = theme;
})();
