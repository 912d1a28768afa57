// All pages work without this. It searches as one types, follows rollouts, and knows keys.
"use strict";

const root = document.documentElement;
root.classList.add("scripted");

// A part of another page takes the place of the same part of this one.
function take(text, selector) {
  const fresh = new DOMParser().parseFromString(text, "text/html").querySelector(selector);
  const old = document.querySelector(selector);
  if (fresh && old) old.replaceWith(document.adoptNode(fresh));
}

// Search as one types: the newest question counts.
for (const form of document.querySelectorAll("form[data-search]")) {
  let asked, timer;
  const ask = async () => {
    asked?.abort();
    asked = new AbortController();
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const url = form.getAttribute("action") + (query.size ? "?" + query : "");
    try {
      const answer = await fetch(url, { signal: asked.signal, credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return location.assign(url);
      take(await answer.text(), "#results");
      history.replaceState(null, "", url);
    } catch (error) {
      if (error.name !== "AbortError") form.submit();
    }
  };
  form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 110); });
  form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(timer); ask(); });
}

// What goes on is sent by the server: cells of waves by their states, everything else as a part of the page.
const live = document.querySelector("[data-stream]");
if (live) {
  const states = { p: "", r: "r", d: "d", w: "w", f: "f", s: "s" };
  let source;
  const open = () => {
    source = new EventSource(live.dataset.stream);
    source.addEventListener("cells", (event) => {
      for (const [id, letters] of Object.entries(JSON.parse(event.data))) {
        const cells = document.getElementById(id)?.children ?? [];
        for (let at = 0; at < cells.length; at++) {
          const state = states[letters[at]] ?? "";
          if (cells[at].className !== state) cells[at].className = state;
        }
      }
    });
    source.addEventListener("part", (event) => {
      const part = JSON.parse(event.data);
      const old = document.getElementById(part.id);
      // Nothing is taken from under somebody's hands.
      if (!old || old.contains(document.activeElement) || old.querySelector("[popover]:popover-open")) return;
      old.innerHTML = part.html;
    });
    source.addEventListener("end", () => { source.close(); location.reload(); });
  };
  open();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}

// Light, dark, or as the system has it.
document.querySelector("form[data-theme-form]")?.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button?.value) return;
  event.preventDefault();
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  fetch(event.target.action, { method: "POST", body: new URLSearchParams([...new FormData(event.target), ["theme", root.dataset.theme]]), redirect: "manual" });
});

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1200);
  });
}

// Keys: / searches, j and k walk through rows, g and a letter goes to a page, ? tells.
let went = 0;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input, select, textarea, [contenteditable]");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  const rows = [...document.querySelectorAll("a.open")];
  const at = rows.indexOf(document.activeElement);
  const search = document.querySelector("input[type=search]");
  if (event.key === "/" && search) { search.focus(); search.select(); }
  else if (event.key === "?") document.getElementById("keys")?.togglePopover();
  else if ((event.key === "j" || event.key === "k") && rows.length) {
    rows[Math.max(0, Math.min(rows.length - 1, at < 0 ? 0 : at + (event.key === "j" ? 1 : -1)))].focus();
  } else if (event.key === "g") { went = Date.now(); return; }
  else if (Date.now() - went < 1200) {
    const place = document.querySelector(`.nav a[data-key="${CSS.escape(event.key)}"]`);
    if (!place) return;
    place.click();
  } else return;
  went = 0;
  event.preventDefault();
});
