// Gradio speaks the language of the page, which the server chose among ours: else a page would be in two.
Object.defineProperty(navigator, "language", { value: document.documentElement.lang, configurable: true });

// The panels that the page opens with: as they were left, where they have room beside the chat (chatui.css).
window.chatuiPanels = {
  KEPT: "chatui-panels",
  BESIDE: { conversations: "(min-width: 56em)", settings: "(min-width: 72em)" },
  AT_FIRST: { conversations: "(min-width: 56em)", settings: "(min-width: 90em)" },
  left() {
    try {
      return JSON.parse(localStorage.getItem(this.KEPT)) ?? {};
    } catch {
      return {};
    }
  },
  beside(name) {
    return matchMedia(this.BESIDE[name]).matches;
  },
  opens(name) {
    return this.beside(name) && (this.left()[name] ?? matchMedia(this.AT_FIRST[name]).matches);
  },
  keep(name, open) {
    try {
      localStorage.setItem(this.KEPT, JSON.stringify({ ...this.left(), [name]: open }));
    } catch {
      // A browser that keeps nothing opens them as at first.
    }
  },
};
for (const name of ["conversations", "settings"]) {
  document.documentElement.classList.toggle(`with-${name}`, window.chatuiPanels.opens(name));
}

// Shows the conversation of the address while the page is still being made (early.py).
(() => {
  const { searchParams } = new URL(location.href);
  const chat = searchParams.get("chat");
  if (!chat) return;
  const early = document.createElement("div");
  early.id = "early";
  const theme = searchParams.get("__theme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)").matches;
  early.classList.toggle("dark", theme === "dark" || (theme !== "light" && prefersDark));
  const THERE = ["#chat .message-row", "#chats .chat-list", "#message textarea"];
  let over = false;
  const end = () => {
    over = true;
    watching.disconnect();
    early.remove();
  };
  const watching = new MutationObserver(() => {
    if (over || !THERE.every((part) => document.querySelector(part))) return;
    over = true;
    // What has just been put there is on the screen two frames later.
    requestAnimationFrame(() => requestAnimationFrame(end));
  });
  watching.observe(document, { subtree: true, childList: true });
  setTimeout(end, 15000);
  fetch(`early?chat=${encodeURIComponent(chat)}`, { priority: "high" })
    .then((answer) => (answer.ok ? answer.text() : ""))
    .then((markup) => {
      if (!markup || over) return;
      early.innerHTML = markup;
      document.body.append(early);
      early.querySelector(".early-chat").scrollTop = 1e9;
    })
    .catch(() => {});
})();
