// The focus stays in its place when Gradio makes a part of the page anew, or takes it away. Whoever has no mouse would
// begin at the top of the page again.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;
  const MESSAGE = "#message textarea";
  const REGIONS = "#inspector, #chats, #below-chats, #conversations, #settings, #chat, #message, .toast-wrap";
  const LATE = 1500; // milliseconds in which a part that was taken away may come back

  const can = (element) =>
    element?.isConnected && !element.disabled && element.tabIndex >= 0 && element.checkVisibility({ visibilityProperty: true });
  const nameOf = (element) => element.getAttribute("aria-label") || element.title || element.textContent.trim();
  const chatOf = (row) => row?.querySelector(".chat-link")?.getAttribute("href");
  const rows = () => [...document.querySelectorAll("#chats .chat-row")];
  const alike = ({ within, tag, name }) =>
    [...document.querySelectorAll(`${within} ${tag}`)].filter((other) => nameOf(other) === name);

  // Where the focus is, in words that still mean something when the element is gone.
  let place = null;
  const placeOf = (element) => {
    const region = element.closest(REGIONS);
    const row = element.closest("#chats .chat-row");
    const made = {
      element,
      region: region?.id || (region ? "toasts" : ""),
      within: region?.id ? `#${region.id}` : "body",
      tag: element.tagName.toLowerCase(),
      name: nameOf(element),
      href: element.getAttribute("href"),
      inMenu: element.closest(".chat-menu") !== null,
      chat: chatOf(row),
      row: rows().indexOf(row),
      turns: element.matches("#chat .chat-bar .named"),
    };
    made.nth = alike(made).indexOf(element);
    // What the editing of a message began with, until it is over.
    if (element.matches("#chat textarea")) made.opener = place?.opener ?? place;
    else if (made.region === "chat" && document.querySelector("#chat textarea")) made.opener = place?.opener;
    return made;
  };
  document.addEventListener("focusin", (event) => (place = placeOf(event.target)));

  const inList = (lost) => {
    const row = rows().find((other) => lost.chat && chatOf(other) === lost.chat);
    const instead = lost.row < 0 ? (document.querySelector("#chats .chat-row.current") ?? rows()[0]) : rows()[Math.min(lost.row, rows().length - 1)];
    return [
      lost.inMenu && row?.querySelector("summary"),
      row?.querySelector("a"),
      !row && document.querySelector("#chats .chat-list-top a"),
      instead?.querySelector("a"),
      document.querySelector("#search input"),
    ];
  };
  const inSettings = () => [
    document.querySelector("#settings .persona-asking button:last-of-type"),
    document.querySelector("#persona-editor .persona-name input"),
    document.querySelector("#persona-chooser button"),
  ];
  const same = (lost) => {
    const found = alike(lost);
    return [
      ...(lost.href && lost.href !== "#" ? document.querySelectorAll(`${lost.within} a[href="${CSS.escape(lost.href)}"]`) : []),
      found[lost.nth] ?? found.at(-1),
    ];
  };
  const candidates = (lost) => [
    ...same(lost),
    ...(lost.opener ? same(lost.opener) : []),
    // Behind the last version of a message there is none, but one before.
    lost.turns && document.querySelector("#chat .chat-bar .named"),
    ...(lost.region === "chats" ? inList(lost) : []),
    ...(lost.region === "settings" ? inSettings() : []),
    document.querySelector(`${lost.within}.sidebar .toggle-button, .sidebar:has(${lost.within}) .toggle-button`),
    document.querySelector(MESSAGE),
  ];

  let touched = false, late = null;
  const acts = (event) => {
    touched = event.pointerType === "touch";
    late = null;
  };
  document.addEventListener("pointerdown", acts, true);
  document.addEventListener("keydown", acts, true);

  const restore = () => {
    const at = document.activeElement;
    // A link of ours may come back a moment after it went.
    if (late && at === late.instead && performance.now() - late.since < LATE) {
      const better = candidates(late.lost).find(can);
      if (better && better !== at) better.focus({ preventScroll: true });
      return;
    }
    if ((at && at !== document.body) || touched || !place || can(place.element)) return; // a finger wants no keyboard on the screen
    if (place.region === "inspector" && !document.getElementById("inspector")?.checkVisibility()) return; // access.js gives it back
    const lost = place, instead = candidates(lost).find(can);
    instead?.focus({ preventScroll: true });
    late = lost.tag === "a" && instead ? { lost, instead, since: performance.now() } : null;
  };
  new MutationObserver(restore).observe(document, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["class", "style", "disabled", "hidden", "open"],
  });

  // Who begins a chat wants to write.
  document.addEventListener("click", (event) => {
    if (!touched && event.isTrusted && event.target.closest?.("#new-chat, #temporary-chat")) document.querySelector(MESSAGE)?.focus();
  });
  // Gradio's tabs know no arrows, and what looks like a button of its own knows Enter alone.
  const step = (key, at, count) => {
    const on = getComputedStyle(document.documentElement).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    if (key === "Home" || key === "End") return key === "Home" ? 0 : count - 1;
    return (at + (key === on ? 1 : -1) + count) % count;
  };
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (target.matches?.("#inspector [role=tab]") && ["ArrowLeft", "ArrowRight", "Home", "End"].includes(key)) {
      const tabs = [...target.closest("[role=tablist]").querySelectorAll("[role=tab]")];
      const next = tabs[step(key, tabs.indexOf(target), tabs.length)];
      next.focus();
      next.click();
    } else if (key === " " && target.matches?.("#chat .thought-group .title")) target.click();
    else return;
    event.preventDefault();
  });
  // Gradio's list of choices lets the focus go with a choice, and opens when it comes.
  document.addEventListener("keydown", (event) => {
    const box = event.target;
    if (event.key !== "Enter" || !box.matches?.("input[role=combobox]")) return;
    setTimeout(() => {
      if (document.activeElement !== document.body) return;
      box.focus();
      box.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    }, 50);
  }, true);

  const skip = document.createElement("a");
  skip.href = "#message";
  skip.className = "skip";
  skip.textContent = _("Skip to the message box");
  skip.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(MESSAGE)?.focus();
  });
  document.body.prepend(skip);
})();
