// Before anything is painted: the chosen theme, if it is not the system's. Private windows may refuse storage.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {}
