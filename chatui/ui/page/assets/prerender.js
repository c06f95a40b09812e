// Gradio reads navigator.language; with the page's own language, its texts and ours are in the same one.
Object.defineProperty(navigator, "language", { value: document.documentElement.lang, configurable: true });

// Which sidebars are initially open: those that were left open and fit beside the chat (chatui.css has the same widths).
window.chatuiPanels = {
  STORAGE_KEY: "chatui-panels",
  BESIDE_CHAT: { conversations: "(min-width: 56em)", settings: "(min-width: 72em)" },
  DEFAULT_OPEN: { conversations: "(min-width: 56em)", settings: "(min-width: 90em)" },
  saved() {
    try {
      return JSON.parse(localStorage.getItem(this.STORAGE_KEY)) ?? {};
    } catch {
      return {};
    }
  },
  fitsBesideChat(name) {
    return matchMedia(this.BESIDE_CHAT[name]).matches;
  },
  isInitiallyOpen(name) {
    return this.fitsBesideChat(name) && (this.saved()[name] ?? matchMedia(this.DEFAULT_OPEN[name]).matches);
  },
  save(name, open) {
    try {
      localStorage.setItem(this.STORAGE_KEY, JSON.stringify({ ...this.saved(), [name]: open }));
    } catch {
      // Without storage they open by default.
    }
  },
};
for (const name of ["conversations", "settings"]) {
  document.documentElement.classList.toggle(`with-${name}`, window.chatuiPanels.isInitiallyOpen(name));
}

// Shows the conversation of the URL until Gradio has built the page (prerender.py).
(() => {
  const { searchParams } = new URL(location.href);
  const chat = searchParams.get("chat");
  if (!chat) return;
  const overlay = document.createElement("div");
  overlay.id = "early";
  const theme = searchParams.get("__theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
  overlay.classList.toggle("dark", theme === "dark" || (theme !== "light" && prefersDark));
  const PAGE_PARTS = ["#chat .message-row", "#chats .chat-list", "#message textarea"];
  let ended = false;
  const removeOverlay = () => {
    ended = true;
    observer.disconnect();
    overlay.remove();
  };
  const observer = new MutationObserver(() => {
    if (ended || !PAGE_PARTS.every((part) => document.querySelector(part))) return;
    ended = true;
    // Elements that were just added are painted two frames later.
    requestAnimationFrame(() => requestAnimationFrame(removeOverlay));
  });
  observer.observe(document, { subtree: true, childList: true });
  setTimeout(removeOverlay, 15000);
  fetch(`early?chat=${encodeURIComponent(chat)}`, { priority: "high" })
    .then((response) => (response.ok ? response.text() : ""))
    .then((markup) => {
      if (!markup || ended) return;
      overlay.innerHTML = markup;
      document.body.append(overlay);
      overlay.querySelector(".early-chat").scrollTop = 1e9;
    })
    .catch(() => {});
})();
