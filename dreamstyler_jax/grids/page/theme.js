// Light and dark: as the system has it, until the user chooses. The choice holds for all pages in this browser.

const THEME_KEY = "dreamstyler theme";
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : systemIsDark.matches;
}

function loadTheme() {
  const theme = kept(THEME_KEY);
  if (["light", "dark"].includes(theme)) document.documentElement.dataset.theme = theme;
  showTheme();
  systemIsDark.addEventListener("change", showTheme);
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  keep(THEME_KEY, theme);
  showTheme();
}

function showTheme() {
  const name = isDark() ? "Light colours" : "Dark colours";
  Object.assign(byId("theme"), { textContent: isDark() ? "☀" : "☾", ariaLabel: name, title: name });
}
