// Adds to Gradio's chat in the browser: copying and editing the original text, the chat in the URL, links of the list and
// of messages, remembered sidebars, drafts. `markdown_escape.py` does the escaping that is undone here.
(() => {
  // Our messages in the language of the page, which are in its head (page_language.py).
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;

  // The invisible marks of markdown_escape.py, also as Gradio's Markdown renders them.
  const MARKS = "(?<! ) *\\u2064\\u2063|\\u2063<[^<>]*>\\u2064|([\\u2063\\u2064])\\u2062|\\u2063\\u2061|[\\u2063\\u2064]";
  const [ALL_MARKS, MARKS_AND_ENTITIES] = [MARKS, `${MARKS}|&#0060;|&#0038;`].map((pattern) => new RegExp(pattern, "g"));
  const CHARACTERS = { "&#0060;": "<", "&#0038;": "&", "\u2063\u2061": ">" };
  const removeMarks = (text) => text.replace(ALL_MARKS, (found, literal) => literal ?? "");
  const unescape = (text) => text.replace(MARKS_AND_ENTITIES, (found, literal) => literal ?? CHARACTERS[found] ?? "");

  // Our bars, notes and cards around messages, which are not copied. A model's own tags are escaped, so they never match.
  const ASIDE = '<(?:p|div) class="chat-(?:bar|note|card)[^"]*">.*?</(?:p|div)>';
  const ASIDES = [`^(?:(?:assistant: )?${ASIDE}\\n)+`, `\\nassistant: ${ASIDE}(?=\\n|$)`, `\\n${ASIDE}(?=\\n|$)`, `^${ASIDE}$`].map(
    (pattern) => new RegExp(pattern, "gs"),
  );
  const withoutAsides = (text) => ASIDES.reduce((rest, aside) => rest.replace(aside, ""), text);
  // Without HTTPS a page has no clipboard API, except on localhost: the text is copied from a hidden textarea instead.
  const clipboard = navigator.clipboard;
  const writeNatively = clipboard?.writeText.bind(clipboard);
  const copyWithTextarea = (text) => {
    const focused = document.activeElement;
    const box = document.createElement("textarea");
    box.value = text;
    box.style.cssText = "position: fixed; top: 0; left: -9999px;";
    (focused?.closest?.("dialog, [role=dialog]") ?? document.body).append(box);
    const setData = (event) => {
      event.clipboardData.setData("text/plain", text); // a textarea has no \r
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    document.addEventListener("copy", setData, true);
    box.select();
    const copied = document.execCommand("copy");
    document.removeEventListener("copy", setData, true);
    box.remove();
    focused?.focus?.({ preventScroll: true });
    if (!copied) throw new DOMException("The browser does not let this page copy.", "NotAllowedError");
  };
  const writeToClipboard = async (text) => {
    try {
      if (writeNatively) return await writeNatively(text);
    } catch {
      // A page in an iframe may lack the permission.
    }
    copyWithTextarea(text);
  };
  const copy = async (text) => {
    await writeToClipboard(text);
    document.dispatchEvent(new CustomEvent("chatui:say", { detail: _("Copied.") }));
  };
  let clicked = null;
  document.addEventListener("click", (event) => (clicked = event.target), true);
  const writeText = (text) => copy(clicked?.closest?.("#chat") ? unescape(withoutAsides(text)) : text);
  if (clipboard) clipboard.writeText = writeText;
  else Object.defineProperty(navigator, "clipboard", { configurable: true, value: { writeText } });
  // Gradio copies code without the indentation of its first line.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.(".copy_code_button");
    const code = button?.parentElement.querySelector("pre code");
    if (!code) return;
    event.stopImmediatePropagation();
    await copy(removeMarks(code.textContent).replace(/\n$/, ""));
    const checkMark = button.querySelector(".check");
    checkMark.style.opacity = "1";
    setTimeout(() => (checkMark.style.opacity = "0"), 2000);
  }, true);

  // Each paragraph has the direction of its own text.
  const RIGHT_TO_LEFT = /^[^\p{L}]*[\u0591-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
  const setDirection = (element) => {
    const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (/[\u2063\u2064]/.test(text.data)) text.data = removeMarks(text.data);
    }
    if (element.matches("table")) element.dir = RIGHT_TO_LEFT.test(element.querySelector("th, td")?.textContent) ? "rtl" : "ltr";
    else if (element.matches(".footnote, .footnote-reference")) renderFootnote(element);
    else if (!element.matches("pre, [class^=chat-]")) element.dir = "auto";
  };
  // A footnote reference becomes a link to the footnote in the same message.
  const renderFootnote = (element) => {
    const kind = [...element.classList].find((name) => name.startsWith("note-"));
    const number = kind?.slice("note-".length);
    if (element.matches(".footnote")) {
      element.textContent = `${number}.`;
      element.tabIndex = -1;
      return;
    }
    const link = document.createElement("a");
    link.href = "#";
    link.textContent = number;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const note = element.closest("[data-testid=bot], [data-testid=user]")?.querySelector(`.footnote.${kind}`);
      note?.scrollIntoView({ block: "center" });
      note?.focus({ preventScroll: true });
    });
    element.replaceChildren(link);
  };

  const unescapedBoxes = new WeakSet();
  const fixElement = (element) => {
    if (element.matches(TEXT_PARTS)) {
      setDirection(element);
      return;
    }
    if (element.matches(BOXES)) element.dir = "auto";
    if (element.matches(".thought-group .title button")) {
      // The whole title is a button already; the arrow inside it is decorative.
      element.disabled = true;
      element.setAttribute("aria-hidden", "true");
    }
    if (element.matches("#settings .info-text")) return addHelp(element);
    if (element.matches("#chats .place")) updateAddress(element);
    if (element.matches("#message textarea")) restoreDraft(element);
    if (element.matches("#chats .named, #chat .named")) {
      if (element.getAttribute("aria-label") !== element.title) element.setAttribute("aria-label", element.title);
      return;
    }
    const name = LABELS.find(([selector]) => element.matches(selector))?.[1] ?? element.getAttribute("aria-label");
    if (name && unescape(name) !== element.getAttribute("aria-label")) {
      element.setAttribute("aria-label", unescape(name));
      if (element.title) element.title = unescape(name);
    }
    if (element.matches("#chat textarea") && !unescapedBoxes.has(element)) {
      unescapedBoxes.add(element);
      element.value = unescape(element.value);
      element.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };
  const LABELS = [["#message textarea", _("Message")], ["#search input", _("Search chats")], ["#chat textarea", _("Edit message")], ["[role=listbox]", _("Choices")], ["#chat .top-panel > button:last-of-type", _("Copy conversation")]];
  // Paragraphs in lists and quotations get their direction from CSS: `dir` would hide their text from their parent's `auto`.
  const TEXT_PARTS = [
    ...["p:not(li p, blockquote p)", "li", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "table", "pre"],
    ...[".footnote", ".footnote-reference"],
  ].map((part) => `:is(#chat, #inspector, #compare-replies) .prose ${part}`).concat("#inspector .textfield").join(", ");
  const BOXES = "#message textarea, #chat textarea, #settings textarea, #search input";
  const FIXED =
    `${TEXT_PARTS}, ${BOXES}, ` +
    "#settings .info-text, #chats .place, #chats .named, #chat .named, #chat [data-testid], #chat .thought-group .title button, [role=listbox], #chat .top-panel > button";

  // Opens the sidebars as they were left, once they exist, and closes those that would cover the chat.
  const panels = window.chatuiPanels;
  const isOpen = (bar) => bar.classList.contains("open");
  const toggle = (bar) => bar.querySelector(".toggle-button").click();
  const toggledByUser = new Set(); // sidebars that the user has toggled since are left alone
  let settleTimer;
  const settlePanels = (tries) => {
    const bars = [...document.querySelectorAll(".sidebar")];
    const parts = document.querySelectorAll("#settings .gr-accordion .label-wrap");
    const mismatched = bars.filter((bar) => !toggledByUser.has(bar.id) && isOpen(bar) !== panels.isInitiallyOpen(bar.id));
    if (tries > 0 && (bars.length < 2 || parts.length < 2 || mismatched.length > 0)) {
      mismatched.forEach(toggle);
      settleTimer = setTimeout(settlePanels, 50, tries - 1);
      return;
    }
    if (!document.documentElement.matches(".settled")) {
      parts.forEach((part) => part.classList.contains("open") && part.click());
    }
    document.documentElement.classList.add("settled");
    setTimeout(() => document.documentElement.classList.add("at-rest"), 500);
  };
  const resettle = () => {
    toggledByUser.clear();
    clearTimeout(settleTimer);
    settlePanels(40);
  };
  for (const width of Object.values(panels.BESIDE_CHAT)) matchMedia(width).addEventListener("change", resettle);
  const closeOverlays = (except) =>
    document.querySelectorAll(".sidebar.open").forEach((bar) => bar === except || panels.fitsBesideChat(bar.id) || toggle(bar));
  document.addEventListener("click", (event) => {
    if (!event.isTrusted) return;
    const bar = event.target.closest?.(".sidebar");
    if (!bar && event.target.closest?.(".gradio-container")) closeOverlays();
    if (!bar || !event.target.closest(".toggle-button")) return;
    toggledByUser.add(bar.id);
    closeOverlays(bar);
    if (panels.fitsBesideChat(bar.id)) panels.save(bar.id, !isOpen(bar));
  }, true);
  // Escape closes the topmost element: a menu before its sidebar.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !closeMenus() && event.isTrusted) closeOverlays();
  });

  // Adds a button to each setting that shows its description.
  const addHelp = (info) => {
    if (info.previousElementSibling?.matches(".help")) return;
    const help = document.createElement("span"); // the label around it would label a button element
    help.setAttribute("role", "button");
    help.tabIndex = 0;
    help.className = "help";
    help.textContent = "?";
    help.setAttribute("aria-label", `${info.previousElementSibling?.textContent.trim() ?? ""} ?`);
    help.setAttribute("aria-expanded", "false");
    help.addEventListener("click", (event) => {
      event.preventDefault();
      help.setAttribute("aria-expanded", String(info.classList.toggle("shown")));
    });
    help.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      help.click();
    });
    info.before(help);
  };
  settlePanels(400);

  new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
      if (type === "attributes") {
        if (target.matches(FIXED)) fixElement(target);
        continue;
      }
      for (const node of addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE) continue;
        if (node.matches(FIXED)) fixElement(node);
        node.querySelectorAll(FIXED).forEach(fixElement);
      }
    }
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label"] });

  // Actions of links in the list of conversations and below messages. Only our own links have these classes.
  const clickById = (id) => document.getElementById(id)?.click();
  let actionCount = 0;
  const sendAction = (action) => {
    if (action.startsWith("open=")) expectChat(action.slice("open=".length), false);
    const box = document.querySelector("#action textarea");
    box.value = `${++actionCount}|${action}`; // numbered, because Gradio reports changes only
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.addEventListener("chatui:act", (event) => sendAction(event.detail));
  const chatInUrl = () => new URLSearchParams(location.search).get("chat") ?? "";
  const openInspector = (message) => {
    const box = document.querySelector("#inspect textarea");
    box.value = `${++actionCount}|${message}`;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    pinned = false;
  };
  // Hovering a token of the reply selects it, until one is clicked.
  let hoverTimer, pinned = false;
  const tokenAt = (event) => event.target.closest?.("#reply-tokens .token");
  document.addEventListener("mouseover", (event) => {
    clearTimeout(hoverTimer);
    const token = tokenAt(event);
    if (token && !pinned) hoverTimer = setTimeout(() => token.click(), 150);
  });
  document.addEventListener("click", (event) => {
    if (!event.isTrusted || !tokenAt(event)) return;
    clearTimeout(hoverTimer);
    pinned = true;
  }, true);
  const closeInspector = () => clickById("inspector-close");

  // Sends the draft to the server when typing pauses, for the context bar.
  const MAX_DRAFT = 200001; // one character more than a message may have
  let typingTimer;
  const sendDraft = (text) => {
    const box = document.querySelector("#draft textarea");
    if (!box || box.value === text) return;
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("#message textarea")) return;
    clearTimeout(typingTimer);
    typingTimer = setTimeout(() => sendDraft(event.target.value.slice(0, MAX_DRAFT)), 250);
  });

  // The draft survives a reload: Gradio's page reloads itself after the server was unreachable. So does the id of its turn:
  // the server may have got the message already, and takes it once.
  const DRAFT_KEY = "chatui-draft";
  const draftEntry = (...rest) => JSON.stringify([location.href, window.gradio_config?.username, ...rest]);
  const tabState = () => document.querySelector("#where textarea");
  const restoreTurn = (turn) => {
    const state = tabState();
    if (!state?.value) return setTimeout(restoreTurn, 50, turn);
    state.value = JSON.stringify({ ...JSON.parse(state.value), turn });
    state.dispatchEvent(new Event("input", { bubbles: true }));
  };
  window.addEventListener("pagehide", () => {
    const text = document.querySelector("#message textarea")?.value;
    if (text === undefined) return; // the draft is not restored yet
    if (!text || document.body.classList.contains("temporary")) sessionStorage.removeItem(DRAFT_KEY); // its turn may be over
    else sessionStorage.setItem(DRAFT_KEY, draftEntry(JSON.parse(tabState()?.value || "{}").turn, text));
  });
  const restoreDraft = (box) => {
    const found = sessionStorage.getItem(DRAFT_KEY);
    sessionStorage.removeItem(DRAFT_KEY);
    const rest = found ? JSON.parse(found).slice(2) : []; // in earlier versions the text alone
    const text = rest.at(-1);
    const reloaded = performance.getEntriesByType("navigation")[0]?.type === "reload";
    if (!text || box.value || !reloaded || found !== draftEntry(...rest)) return;
    if (rest.length > 1 && rest[0]) restoreTurn(rest[0]);
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // A message is sent once: a double click does not send it twice, and its second click does not stop the reply.
  const RESEND_WINDOW = 1000;
  const DOUBLE_CLICK = 500; // ms; the usual limit between the two clicks of a double click
  const lastSend = { at: -Infinity, text: "", clicked: false };
  const isResend = () => performance.now() - lastSend.at < RESEND_WINDOW;
  const box = () => document.querySelector("#message textarea");
  const cancelEvent = (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  // Until the server has opened a chat, a message would still go to the conversation before: its sending waits.
  const OPENING_PATIENCE = 5000; // ms
  let place = { chat: "", temporary: false }, opening = null;
  const hasOpened = () =>
    place.chat === opening.chat && place.temporary === opening.temporary && tabState()?.value !== opening.state;
  // Each new chat has another state of the tab; one in place of an empty one is at the same place.
  const expectChat = (chat, temporary, state) => {
    opening = { chat, temporary, state, until: performance.now() + OPENING_PATIENCE, sends: false };
    lastSend.at = -Infinity; // what is sent to another chat is not the same message again
    lookForChat();
  };
  const lookForChat = () => {
    if (!opening) return;
    if (hasOpened()) endOpening();
    else if (performance.now() < opening.until) setTimeout(lookForChat, 50);
  };
  const endOpening = () => {
    const { sends, until } = opening;
    opening = null;
    if (!sends || performance.now() >= until) return; // by now the box may have a draft that is not finished
    requestAnimationFrame(() => document.querySelector("#message .submit-button")?.click());
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#new-chat, #temporary-chat");
    if (button) expectChat("", button.id === "temporary-chat", tabState()?.value);
  }, true);
  const tellUnsent = (late) => {
    if (opening !== late) return;
    const detail = _("The chat has not opened in time, so your message was not sent.");
    document.dispatchEvent(new CustomEvent("chatui:problem", { detail }));
  };
  const guardSend = (event, clicked) => {
    if (opening && performance.now() < opening.until) {
      if (!opening.sends) setTimeout(tellUnsent, opening.until - performance.now(), opening);
      opening.sends = true;
      return cancelEvent(event);
    }
    const text = box()?.value ?? "";
    if (isResend() && (!text || text === lastSend.text)) cancelEvent(event);
    else Object.assign(lastSend, { at: performance.now(), text, clicked });
  };
  document.addEventListener("input", (event) => event.target === box() && (lastSend.text = ""), true);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || !event.target.matches?.("#message textarea")) return;
    if (event.isComposing || event.keyCode === 229) event.stopImmediatePropagation(); // Enter commits the text of an input method
    else if (event.repeat) cancelEvent(event);
    else guardSend(event, false);
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#message .submit-button")) guardSend(event, true);
    else if (event.target.closest?.("#message .stop-button") && lastSend.clicked && performance.now() - lastSend.at < DOUBLE_CLICK) cancelEvent(event);
  }, true);

  // Measures when this tab showed the first and the last text of a reply, in seconds after it was requested: by the last
  // click or key in the chat, because Send, Retry and examples have translated labels.
  let pressedAt = null, wasRunning = false;
  let sentAt = null, firstSeconds = null, lastSeconds = null, textLength = 0;
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeInspector();
    if (event.key !== "Enter" || event.shiftKey || !event.target.closest?.("#message, #chat")) return;
    pressedAt = performance.now();
    if (event.target.closest("#message")) clearTimeout(typingTimer);
  }, true);
  document.addEventListener("click", (event) => {
    pressedAt = event.target.closest?.("#message, #chat, #alternatives") ? performance.now() : null;
    if (event.target.closest?.("#message .submit-button")) clearTimeout(typingTimer);
  }, true);
  const measureReply = () => {
    const running = document.querySelector("#message .stop-button") !== null;
    if (running && !wasRunning) [sentAt, firstSeconds, lastSeconds, textLength, pressedAt] = [pressedAt, null, null, 0, null];
    const started = running && !wasRunning;
    const ended = wasRunning && !running; // the last text may come together with the end
    if (started) document.getElementById("message-problem")?.remove();
    if ((running || wasRunning) && box()?.value === "") sendDraft("");
    wasRunning = running;
    if (sentAt === null) return;
    const log = document.querySelector("#chat [role=log]");
    if (started && log) log.scrollTop = log.scrollHeight; // scroll to the new reply
    if (running || ended) {
      const reply = [...document.querySelectorAll("#chat [data-testid=bot]:not(:has(.chat-bar, .chat-note, .chat-card))")].at(-1);
      const aside = [...(reply?.querySelectorAll(".thought-group, .chat-bar") ?? [])];
      const shown = aside.reduce((rest, part) => rest - part.textContent.trim().length, reply?.textContent.trim().length ?? 0);
      if (shown > 0 && shown !== textLength) {
        textLength = shown;
        lastSeconds = (performance.now() - sentAt) / 1000;
        firstSeconds ??= lastSeconds;
      }
    }
    if (running) return;
    const link = [...document.querySelectorAll("#chat .chat-bar.answer .inspect")].at(-1);
    if (firstSeconds === null || !link) return;
    const timesBox = document.querySelector("#seen textarea");
    timesBox.value = `${++actionCount}|${link.getAttribute("href").split("=")[1]}|${firstSeconds.toFixed(4)},${lastSeconds.toFixed(4)}`;
    timesBox.dispatchEvent(new Event("input", { bubbles: true }));
    sentAt = null;
  };
  new MutationObserver(measureReply).observe(document, { subtree: true, childList: true, characterData: true });

  let currentChat = null;
  const updateAddress = (chatLink) => {
    const chat = new URLSearchParams(chatLink.getAttribute("href")).get("chat") ?? "";
    document.body.classList.toggle("temporary", chatLink.matches(".temporary"));
    place = { chat, temporary: chatLink.matches(".temporary") };
    lookForChat();
    const shown = chatLink.matches(".temporary") ? "" : chat;
    if (shown !== chatInUrl()) {
      const address = new URL(location.href);
      if (shown) address.searchParams.set("chat", shown);
      else address.searchParams.delete("chat");
      history[currentChat ? "pushState" : "replaceState"](null, "", address);
    }
    currentChat = shown;
  };
  document.cookie = `chatui_minutes_ahead=${-new Date().getTimezoneOffset() || 0}; path=/; samesite=lax`;
  window.addEventListener("popstate", () => {
    if (chatInUrl() === currentChat) return; // only the part after # has changed
    currentChat = chatInUrl();
    if (currentChat) sendAction(`open=${currentChat}`);
    else clickById("new-chat");
  });
  // Another tab may have changed the chat meanwhile.
  document.addEventListener("visibilitychange", () => {
    const busy = document.querySelector("#message .stop-button");
    if (!document.hidden && currentChat !== null && !busy) sendAction("refresh");
  });

  // Replaces a link by an input until Enter, Escape or a click elsewhere.
  const editInPlace = (link, name, text, onSave) => {
    const box = document.createElement("input");
    box.className = "written-here";
    box.value = text;
    box.setAttribute("aria-label", name);
    let closed = false;
    const end = (save) => {
      if (closed) return;
      closed = true;
      const focused = document.activeElement === box;
      box.replaceWith(link);
      if (focused) link.focus();
      if (save && box.value.trim() !== text.trim()) onSave(box.value);
    };
    box.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") end(false);
    });
    box.addEventListener("blur", () => end(true));
    link.replaceWith(box);
    box.focus();
    box.select();
  };
  const rename = (link, action) => {
    const title = link.closest(".chat-row").querySelector(".chat-link");
    editInPlace(title, _("New title"), title.textContent, (text) => sendAction(`${action}=${text}`));
  };
  const editNote = (link, action) => {
    const note = link.querySelector(".noted")?.textContent ?? "";
    editInPlace(link, _("Note on this reply"), note, (text) => sendAction(`${action}=${text}`));
  };

  // A menu is created when it is first opened.
  const fillMenu = (menu) => {
    if (menu.querySelector(".chat-menu-box")) return;
    const chat = new URLSearchParams(menu.closest(".chat-row").querySelector(".chat-link").getAttribute("href")).get("chat");
    const box = menu.closest(".chat-list").querySelector(".chat-menu-box.spare").cloneNode(true);
    box.classList.remove("spare");
    box.querySelectorAll("a").forEach((link) => {
      link.setAttribute("href", link.getAttribute("href").replace("CHAT", encodeURIComponent(chat)));
    });
    menu.append(box);
  };
  const closeMenus = (except) => {
    const menus = [...document.querySelectorAll("#chats .chat-menu[open]")].filter((menu) => menu !== except);
    menus.forEach((menu) => menu.removeAttribute("open"));
    return menus.length > 0;
  };
  const download = async (href) => {
    // A browser would only say that the download failed.
    const isNotebook = new URLSearchParams(href.split("?")[1]).get("format") === "ipynb";
    if (isNotebook && (await fetch(href, { method: "HEAD" })).status === 404) {
      alert(_("A notebook is made from the generation trace of a reply. None is kept for this chat."));
      return;
    }
    const file = document.createElement("a");
    file.href = href;
    file.download = "";
    file.click();
  };
  document.addEventListener("click", (event) => {
    const menu = event.target.closest?.("#chats .chat-menu");
    if (menu) fillMenu(menu);
    closeMenus(menu);
    const link = event.target.closest?.("#chats a, #below-chats a, #chat .chat-bar a, #alternatives a, #inspector-notebook a, #compare-notice a, #compare-ratings .download");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (link.matches(".download")) {
      event.preventDefault();
      download(link.getAttribute("href"));
      closeMenus();
      return;
    }
    const action = link.matches(".chat-link")
      ? `open=${new URLSearchParams(link.getAttribute("href")).get("chat")}`
      : link.matches(".act") ? decodeURIComponent(link.getAttribute("href").slice(1)) : "";
    if (!action) return;
    event.preventDefault();
    closeMenus();
    if (action.startsWith("rename=")) rename(link, action);
    else if (action.startsWith("note=")) editNote(link, action);
    else if (action.startsWith("inspect=")) openInspector(action.slice("inspect=".length));
    else sendAction(action);
    if (action.startsWith("other=")) closeInspector();
    if (link.matches(".chat-link")) closeOverlays();
    if (link.matches("#compare-notice a")) clickById("models-close");
  });

  const logOut = async () => {
    const answer = await fetch("logout", { method: "POST" });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    sessionStorage.clear();
    location.assign(location.pathname);
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#log-out")) logOut().catch((error) => alert(error.message));
  });
  // Links in diagrams are disabled: they could navigate the whole page away.
  document.addEventListener("click", (event) => event.target.closest?.("#chat svg a") && event.preventDefault(), true);

  // Elements that were added before this script was loaded.
  document.querySelectorAll(FIXED).forEach(fixElement);
})();
