// Gradio speaks the language of the page, which the server chose among ours: else a page would be in two.
Object.defineProperty(navigator, "language", { value: document.documentElement.lang, configurable: true });

// Shows the conversation of the address while the page is still being made (early.py).
(() => {
  const { searchParams } = new URL(location.href);
  const chat = searchParams.get("chat");
  if (!chat) return;
  const early = document.createElement("div");
  early.id = "early";
  early.classList.toggle("dark-too", searchParams.get("__theme") !== "light");
  early.classList.toggle("dark-only", searchParams.get("__theme") === "dark");
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
