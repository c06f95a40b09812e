// Restores the focus when Gradio rebuilds or removes the focused element. Keyboard users would otherwise start at the top
// of the page again.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;
  const MESSAGE = "#message textarea";
  const REGIONS = "#inspector, #models, #status, #chats, #below-chats, #conversations, #settings, #chat, #message, .toast-wrap";
  const RESTORE_WINDOW = 1500; // milliseconds in which a removed element may be added again

  const isFocusable = (element) =>
    element?.isConnected && !element.disabled && element.tabIndex >= 0 && element.checkVisibility({ visibilityProperty: true });
  const nameOf = (element) => element.getAttribute("aria-label") || element.title || element.textContent.trim();
  const chatOf = (row) => row?.querySelector(".chat-link")?.getAttribute("href");
  const rows = () => [...document.querySelectorAll("#chats .chat-row")];
  const sameNamed = ({ within, tag, name }) =>
    [...document.querySelectorAll(`${within} ${tag}`)].filter((other) => nameOf(other) === name);

  // Describes the focused element so that its replacement can be found when it is gone.
  let lastFocus = null;
  const describeFocus = (element) => {
    const region = element.closest(REGIONS);
    const row = element.closest("#chats .chat-row");
    const description = {
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
    description.nth = sameNamed(description).indexOf(element);
    // The element that started the editing of a message, until editing ends.
    if (element.matches("#chat textarea")) description.opener = lastFocus?.opener ?? lastFocus;
    else if (description.region === "chat" && document.querySelector("#chat textarea")) description.opener = lastFocus?.opener;
    return description;
  };
  document.addEventListener("focusin", (event) => (lastFocus = describeFocus(event.target)));

  const candidatesInList = (lost) => {
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
  const candidatesInSettings = () => [
    document.querySelector("#settings .persona-asking button:last-of-type"),
    document.querySelector("#persona-editor .persona-name input"),
    document.querySelector("#persona-chooser button"),
  ];
  const candidatesWithSameName = (lost) => {
    const found = sameNamed(lost);
    return [
      ...(lost.href && lost.href !== "#" ? document.querySelectorAll(`${lost.within} a[href="${CSS.escape(lost.href)}"]`) : []),
      found[lost.nth] ?? found.at(-1),
    ];
  };
  const candidates = (lost) => [
    ...candidatesWithSameName(lost),
    ...(lost.opener ? candidatesWithSameName(lost.opener) : []),
    // The last version of a message has no next one, but a previous one.
    lost.turns && document.querySelector("#chat .chat-bar .named"),
    ...(lost.region === "chats" ? candidatesInList(lost) : []),
    ...(lost.region === "settings" ? candidatesInSettings() : []),
    document.querySelector(`${lost.within}.sidebar .toggle-button, .sidebar:has(${lost.within}) .toggle-button`),
    document.querySelector(MESSAGE),
  ];

  let touched = false, lastRestore = null;
  const noteInput = (event) => {
    touched = event.pointerType === "touch";
    lastRestore = null;
  };
  document.addEventListener("pointerdown", noteInput, true);
  document.addEventListener("keydown", noteInput, true);

  const restoreFocus = () => {
    const at = document.activeElement;
    // A link of ours may be added again shortly after it was removed.
    if (lastRestore && at === lastRestore.instead && performance.now() - lastRestore.since < RESTORE_WINDOW) {
      const better = candidates(lastRestore.lost).find(isFocusable);
      if (better && better !== at) better.focus({ preventScroll: true });
      return;
    }
    if ((at && at !== document.body) || touched || !lastFocus || isFocusable(lastFocus.element)) return; // on a touch screen, focus would open the keyboard
    const inView = ["inspector", "models"].includes(lastFocus.region);
    if (inView && !document.getElementById(lastFocus.region)?.checkVisibility()) return; // access.js restores it
    const lost = lastFocus, instead = candidates(lost).find(isFocusable);
    instead?.focus({ preventScroll: true });
    lastRestore = lost.tag === "a" && instead ? { lost, instead, since: performance.now() } : null;
  };
  new MutationObserver(restoreFocus).observe(document, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["class", "style", "disabled", "hidden", "open"],
  });

  // A new chat, Retry and Undo focus the message box. When Gradio replaces the buttons of a reply depends on how fast the
  // reply is. The labels of Retry and Undo are translated, but Undo has an icon of its own and Retry stands before it.
  const UNDO_ICON = "div > svg.feather-rotate-ccw";
  const CONTINUES_IN_MESSAGE = `#new-chat, #temporary-chat, #chat button:has(> ${UNDO_ICON}), #chat button:has(+ button > ${UNDO_ICON})`;
  document.addEventListener("click", (event) => {
    if (!touched && event.isTrusted && event.target.closest?.(CONTINUES_IN_MESSAGE)) document.querySelector(MESSAGE)?.focus();
  });
  // Gradio's tabs do not support arrow keys, and its expandable titles do not support the space key.
  const nextTab = (key, at, count) => {
    const forwardKey = getComputedStyle(document.documentElement).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    if (key === "Home" || key === "End") return key === "Home" ? 0 : count - 1;
    return (at + (key === forwardKey ? 1 : -1) + count) % count;
  };
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (target.matches?.(":is(#inspector, #models) [role=tab]") && ["ArrowLeft", "ArrowRight", "Home", "End"].includes(key)) {
      const tabs = [...target.closest("[role=tablist]").querySelectorAll("[role=tab]")];
      const next = tabs[nextTab(key, tabs.indexOf(target), tabs.length)];
      next.focus();
      next.click();
    } else if (key === " " && target.matches?.("#chat .thought-group .title")) target.click();
    else return;
    event.preventDefault();
  });
  // Gradio's dropdown drops the focus after a choice, and opens when it is focused.
  document.addEventListener("keydown", (event) => {
    const box = event.target;
    if (event.key !== "Enter" || !box.matches?.("input[role=combobox]")) return;
    setTimeout(() => {
      if (document.activeElement !== document.body) return;
      box.focus();
      box.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    }, 50);
  }, true);

  const skipLink = document.createElement("a");
  skipLink.href = "#message";
  skipLink.className = "skip";
  skipLink.textContent = _("Skip to the message box");
  skipLink.addEventListener("click", (event) => {
    event.preventDefault();
    document.querySelector(MESSAGE)?.focus();
  });
  document.body.prepend(skipLink);
})();
