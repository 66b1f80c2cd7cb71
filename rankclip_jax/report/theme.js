"use strict";
// The button that switches between light and dark. Canvases listen to "themechange", as their colours are not CSS.
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const announce = () => dispatchEvent(new Event("themechange"));
  system.addEventListener("change", announce);
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    root.dataset.theme = dark ? "light" : "dark";
    announce();
  });
})();
