// What Gradio's chat leaves undone in the browser: text copied and edited as it was written, names for screen
// readers, sidebars as they were left. `markdown_escape.py` does the escaping that is undone here.
(() => {
  // Our words in the language of the page, which the server sends with it (speaking.py).
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;

  // The marks that nobody sees, see written.py; also what Gradio's Markdown has left of them on the page.
  const MARKS = "(?<! ) *\\u2064\\u2063|\\u2063<[^<>]*>\\u2064|([\\u2063\\u2064])\\u2062|\\u2063\\u2061|[\\u2063\\u2064]";
  const [ALL_MARKS, MARKS_AND_ENTITIES] = [MARKS, `${MARKS}|&#0060;|&#0038;`].map((pattern) => new RegExp(pattern, "g"));
  const WRITTEN = { "&#0060;": "<", "&#0038;": "&", "\u2063\u2061": ">" };
  const unmark = (text) => text.replace(ALL_MARKS, (found, own) => own ?? "");
  const unescape = (text) => text.replace(MARKS_AND_ENTITIES, (found, own) => own ?? WRITTEN[found] ?? "");

  // Our own words around the messages, which nobody wants to copy. The model's own tags never look like this.
  const ASIDE = '<(?:p|div) class="chat-(?:bar|note|card)[^"]*">.*?</(?:p|div)>';
  const ASIDES = [`^(?:(?:assistant: )?${ASIDE}\\n)+`, `\\nassistant: ${ASIDE}(?=\\n|$)`, `\\n${ASIDE}(?=\\n|$)`, `^${ASIDE}$`].map(
    (pattern) => new RegExp(pattern, "gs"),
  );
  const own = (text) => ASIDES.reduce((rest, aside) => rest.replace(aside, ""), text);
  // Without https a page has no clipboard, except on the machine itself: a hidden box is copied instead.
  const clipboard = navigator.clipboard;
  const writeOwn = clipboard?.writeText.bind(clipboard);
  const copyByHand = (text) => {
    const focused = document.activeElement;
    const box = document.createElement("textarea");
    box.value = text;
    box.style.cssText = "position: fixed; top: 0; left: -9999px;";
    (focused?.closest?.("dialog, [role=dialog]") ?? document.body).append(box);
    const put = (event) => {
      event.clipboardData.setData("text/plain", text); // the box itself has no \r
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    document.addEventListener("copy", put, true);
    box.select();
    const copied = document.execCommand("copy");
    document.removeEventListener("copy", put, true);
    box.remove();
    focused?.focus?.({ preventScroll: true });
    if (!copied) throw new DOMException("The browser does not let this page copy.", "NotAllowedError");
  };
  const put = async (text) => {
    try {
      if (writeOwn) return await writeOwn(text);
    } catch {
      // A page inside another may lack the permission.
    }
    copyByHand(text);
  };
  const copy = async (text) => {
    await put(text);
    document.dispatchEvent(new CustomEvent("chatui:say", { detail: _("Copied.") }));
  };
  let clicked = null;
  document.addEventListener("click", (event) => (clicked = event.target), true);
  const writeText = (text) => copy(clicked?.closest?.("#chat") ? unescape(own(text)) : text);
  if (clipboard) clipboard.writeText = writeText;
  else Object.defineProperty(navigator, "clipboard", { configurable: true, value: { writeText } });
  // Gradio copies the code without the indent of its first line.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.(".copy_code_button");
    const code = button?.parentElement.querySelector("pre code");
    if (!code) return;
    event.stopImmediatePropagation();
    await copy(unmark(code.textContent).replace(/\n$/, ""));
    const done = button.querySelector(".check");
    done.style.opacity = "1";
    setTimeout(() => (done.style.opacity = "0"), 2000);
  }, true);

  // Each part of a text stands in the direction of its own words.
  const RIGHT_TO_LEFT = /^[^\p{L}]*[\u0591-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
  const read = (element) => {
    const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (/[\u2063\u2064]/.test(text.data)) text.data = unmark(text.data);
    }
    if (element.matches("table")) element.dir = RIGHT_TO_LEFT.test(element.querySelector("th, td")?.textContent) ? "rtl" : "ltr";
    else if (element.matches(".footnote, .footnote-reference")) annotated(element);
    else if (!element.matches("pre, [class^=chat-]")) element.dir = "auto";
  };
  // `[^1]` becomes a link to what it stands for, which is in the same message.
  const annotated = (element) => {
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

  const edited = new WeakSet();
  const mend = (element) => {
    if (element.matches(TEXTS)) {
      read(element);
      return;
    }
    if (element.matches(BOXES)) element.dir = "auto";
    if (element.matches(".thought-group .title button")) {
      // The whole title is a button already; this arrow inside it is for the eye.
      element.disabled = true;
      element.setAttribute("aria-hidden", "true");
    }
    if (element.matches("#settings .info-text")) return explain(element);
    if (element.matches("#chats .place")) stands(element);
    if (element.matches("#message textarea")) restore(element);
    if (element.matches("#chats .named, #chat .named")) {
      if (element.getAttribute("aria-label") !== element.title) element.setAttribute("aria-label", element.title);
      return;
    }
    const name = NAMES.find(([selector]) => element.matches(selector))?.[1] ?? element.getAttribute("aria-label");
    if (name && unescape(name) !== element.getAttribute("aria-label")) {
      element.setAttribute("aria-label", unescape(name));
      if (element.title) element.title = unescape(name);
    }
    if (element.matches("#chat textarea") && !edited.has(element)) {
      edited.add(element);
      element.value = unescape(element.value);
      element.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };
  const NAMES = [["#message textarea", _("Message")], ["#search input", _("Search chats")], ["#chat textarea", _("Edit message")], ["[role=listbox]", _("Choices")], ["#chat .top-panel > button:last-of-type", _("Copy conversation")]];
  // A paragraph of a list or a quotation has its direction from the style sheet: with `dir` it would not count for theirs.
  const TEXTS = [
    ...["p:not(li p, blockquote p)", "li", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th", "table", "pre"],
    ...[".footnote", ".footnote-reference"],
  ].map((part) => `:is(#chat, #inspector) .prose ${part}`).concat("#inspector .textfield").join(", ");
  const BOXES = "#message textarea, #chat textarea, #settings textarea, #search input";
  const MENDED =
    `${TEXTS}, ${BOXES}, ` +
    "#settings .info-text, #chats .place, #chats .named, #chat .named, #chat [data-testid], #chat .thought-group .title button, [role=listbox], #chat .top-panel > button";

  // The sidebars, once they are there: open as they were left, and closed where they would cover the chat.
  const panels = window.chatuiPanels;
  const isOpen = (bar) => bar.classList.contains("open");
  const toggle = (bar) => bar.querySelector(".toggle-button").click();
  const chosen = new Set(); // bars that the user has opened or closed meanwhile stay as they are
  let settling;
  const settle = (tries) => {
    const bars = [...document.querySelectorAll(".sidebar")];
    const parts = document.querySelectorAll("#settings .gr-accordion .label-wrap");
    const wrong = bars.filter((bar) => !chosen.has(bar.id) && isOpen(bar) !== panels.opens(bar.id));
    if (tries > 0 && (bars.length < 2 || parts.length < 2 || wrong.length > 0)) {
      wrong.forEach(toggle);
      settling = setTimeout(settle, 50, tries - 1);
      return;
    }
    if (!document.documentElement.matches(".settled")) {
      parts.forEach((part) => part.classList.contains("open") && part.click());
    }
    document.documentElement.classList.add("settled");
    setTimeout(() => document.documentElement.classList.add("at-rest"), 500);
  };
  const resettle = () => {
    chosen.clear();
    clearTimeout(settling);
    settle(40);
  };
  for (const width of Object.values(panels.BESIDE)) matchMedia(width).addEventListener("change", resettle);
  const closeOverlaid = (but) =>
    document.querySelectorAll(".sidebar.open").forEach((bar) => bar === but || panels.beside(bar.id) || toggle(bar));
  document.addEventListener("click", (event) => {
    if (!event.isTrusted) return;
    const bar = event.target.closest?.(".sidebar");
    if (!bar && event.target.closest?.(".gradio-container")) closeOverlaid();
    if (!bar || !event.target.closest(".toggle-button")) return;
    chosen.add(bar.id);
    closeOverlaid(bar);
    if (panels.beside(bar.id)) panels.keep(bar.id, !isOpen(bar));
  }, true);
  // Escape closes what is on top: a menu before the panel that it is in.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !closeMenus() && event.isTrusted) closeOverlaid();
  });

  // What a setting means is told when one asks for it.
  const explain = (info) => {
    if (info.previousElementSibling?.matches(".help")) return;
    const help = document.createElement("span"); // a button would be what the label around it names
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
  settle(400);

  new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
      if (type === "attributes") {
        if (target.matches(MENDED)) mend(target);
        continue;
      }
      for (const node of addedNodes) {
        if (node.nodeType !== Node.ELEMENT_NODE) continue;
        if (node.matches(MENDED)) mend(node);
        node.querySelectorAll(MENDED).forEach(mend);
      }
    }
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label"] });

  // What the list of conversations and the bars below messages do. Only links of ours have these classes.
  const press = (id) => document.getElementById(id)?.click();
  let acts = 0;
  const act = (action) => {
    const box = document.querySelector("#action textarea");
    box.value = `${++acts}|${action}`; // numbered: Gradio tells of changes only
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const chatOf = () => new URLSearchParams(location.search).get("chat") ?? "";
  const inspect = (message) => {
    const box = document.querySelector("#inspect textarea");
    box.value = `${++acts}|${message}`;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    pinned = false;
  };
  // Resting on a token of the reply looks at it, until one is clicked.
  let resting, pinned = false;
  const tokenAt = (event) => event.target.closest?.("#reply-tokens .token");
  document.addEventListener("mouseover", (event) => {
    clearTimeout(resting);
    const token = tokenAt(event);
    if (token && !pinned) resting = setTimeout(() => token.click(), 150);
  });
  document.addEventListener("click", (event) => {
    if (!event.isTrusted || !tokenAt(event)) return;
    clearTimeout(resting);
    pinned = true;
  }, true);
  const closeInspector = () => press("inspector-close");

  // What is being typed, told once it rests, for the line about the context.
  let typing;
  const draft = (text) => {
    const box = document.querySelector("#draft textarea");
    if (!box || box.value === text) return;
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  document.addEventListener("input", (event) => {
    if (!event.target.matches?.("#message textarea")) return;
    clearTimeout(typing);
    typing = setTimeout(() => draft(event.target.value.slice(0, 200001)), 250);
  });

  // What is being typed outlives a reload: Gradio's page loads itself again when it has missed the server.
  const KEPT = "chatui-draft";
  const kept = (text) => JSON.stringify([location.href, window.gradio_config?.username, text]);
  window.addEventListener("pagehide", () => {
    const text = document.querySelector("#message textarea")?.value;
    if (text && !document.body.classList.contains("temporary")) sessionStorage.setItem(KEPT, kept(text));
  });
  const restore = (box) => {
    const found = sessionStorage.getItem(KEPT);
    sessionStorage.removeItem(KEPT);
    const text = found && JSON.parse(found).at(-1);
    const again = performance.getEntriesByType("navigation")[0]?.type === "reload";
    if (!text || box.value || !again || found !== kept(text)) return;
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // One question is asked once: a double click is no second one, nor does its second half stop the reply.
  const HASTE = 1000;
  const DOUBLE_CLICK = 500; // as long as systems wait for the second half of one
  const sending = { at: -Infinity, text: "", clicked: false };
  const hasty = () => performance.now() - sending.at < HASTE;
  const box = () => document.querySelector("#message textarea");
  const quell = (event) => {
    event.preventDefault();
    event.stopImmediatePropagation();
  };
  const sends = (event, clicked) => {
    const text = box()?.value ?? "";
    if (hasty() && (!text || text === sending.text)) quell(event);
    else Object.assign(sending, { at: performance.now(), text, clicked });
  };
  document.addEventListener("input", (event) => event.target === box() && (sending.text = ""), true);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || !event.target.matches?.("#message textarea")) return;
    if (event.isComposing || event.keyCode === 229) event.stopImmediatePropagation(); // it ends a word, in Japanese say
    else if (event.repeat) quell(event);
    else sends(event, false);
  }, true);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#message .submit-button")) sends(event, true);
    else if (event.target.closest?.("#message .stop-button") && sending.clicked && performance.now() - sending.at < DOUBLE_CLICK) quell(event);
  }, true);

  // When this tab showed the first and the last text of a reply, in seconds after it was asked for. Whatever was last
  // pressed in the chat has asked for it: Send, Retry, an example ...; Gradio names its buttons in many languages.
  let pressed = null, writes = false;
  let sent = null, first = null, last = null, length = 0;
  const clears = () => {
    clearTimeout(typing);
    setTimeout(draft, 0, "");
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeInspector();
    if (event.key !== "Enter" || event.shiftKey || !event.target.closest?.("#message, #chat")) return;
    pressed = performance.now();
    if (event.target.closest("#message")) clears();
  }, true);
  document.addEventListener("click", (event) => {
    pressed = event.target.closest?.("#message, #chat, #alternatives") ? performance.now() : null;
    if (event.target.closest?.("#message .submit-button")) clears();
  }, true);
  const watch = () => {
    const writing = document.querySelector("#message .stop-button") !== null;
    if (writing && !writes) [sent, first, last, length, pressed] = [pressed, null, null, 0, null];
    const begun = writing && !writes;
    writes = writing;
    if (sent === null) return;
    const log = document.querySelector("#chat [role=log]");
    if (begun && log) log.scrollTop = log.scrollHeight; // who asks wants to see the answer
    if (writing) {
      const reply = [...document.querySelectorAll("#chat [data-testid=bot]")].at(-1);
      const aside = [...(reply?.querySelectorAll(".thought-group, .chat-bar") ?? [])];
      const shown = aside.reduce((rest, part) => rest - part.textContent.trim().length, reply?.textContent.trim().length ?? 0);
      if (shown > 0 && shown !== length) {
        length = shown;
        last = (performance.now() - sent) / 1000;
        first ??= last;
      }
      return;
    }
    const link = [...document.querySelectorAll("#chat .chat-bar.answer .inspect")].at(-1);
    if (first === null || !link) return;
    const seen = document.querySelector("#seen textarea");
    seen.value = `${++acts}|${link.getAttribute("href").split("=")[1]}|${first.toFixed(4)},${last.toFixed(4)}`;
    seen.dispatchEvent(new Event("input", { bubbles: true }));
    sent = null;
  };
  new MutationObserver(watch).observe(document, { subtree: true, childList: true, characterData: true });

  let stood = null;
  const stands = (place) => {
    const chat = new URLSearchParams(place.getAttribute("href")).get("chat") ?? "";
    document.body.classList.toggle("temporary", place.matches(".temporary"));
    const shown = place.matches(".temporary") ? "" : chat;
    if (shown !== chatOf()) {
      const address = new URL(location.href);
      if (shown) address.searchParams.set("chat", shown);
      else address.searchParams.delete("chat");
      history[stood ? "pushState" : "replaceState"](null, "", address);
    }
    stood = shown;
  };
  document.cookie = `chatui_minutes_ahead=${-new Date().getTimezoneOffset() || 0}; path=/; samesite=lax`;
  window.addEventListener("popstate", () => {
    stood = chatOf();
    if (stood) act(`open=${stood}`);
    else press("new-chat");
  });
  // Another tab may have written meanwhile.
  document.addEventListener("visibilitychange", () => {
    const busy = document.querySelector("#message .stop-button");
    if (!document.hidden && stood !== null && !busy) act("refresh");
  });

  // A link becomes a box until Enter, Escape or a click elsewhere.
  const write = (link, name, text, done) => {
    const box = document.createElement("input");
    box.className = "written-here";
    box.value = text;
    box.setAttribute("aria-label", name);
    let ended = false;
    const end = (keep) => {
      if (ended) return;
      ended = true;
      const focused = document.activeElement === box;
      box.replaceWith(link);
      if (focused) link.focus();
      if (keep && box.value.trim() !== text.trim()) done(box.value);
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
  const rename = (link, wanted) => {
    const title = link.closest(".chat-row").querySelector(".chat-link");
    write(title, _("New title"), title.textContent, (text) => act(`${wanted}=${text}`));
  };
  const annotate = (link, wanted) => {
    const note = link.querySelector(".noted")?.textContent ?? "";
    write(link, _("Note on this reply"), note, (text) => act(`${wanted}=${text}`));
  };

  // A menu is made when it is first opened.
  const fill = (menu) => {
    if (menu.querySelector(".chat-menu-box")) return;
    const chat = new URLSearchParams(menu.closest(".chat-row").querySelector(".chat-link").getAttribute("href")).get("chat");
    const box = menu.closest(".chat-list").querySelector(".chat-menu-box.spare").cloneNode(true);
    box.classList.remove("spare");
    box.querySelectorAll("a").forEach((link) => {
      link.setAttribute("href", link.getAttribute("href").replace("CHAT", encodeURIComponent(chat)));
    });
    menu.append(box);
  };
  const closeMenus = (but) => {
    const menus = [...document.querySelectorAll("#chats .chat-menu[open]")].filter((menu) => menu !== but);
    menus.forEach((menu) => menu.removeAttribute("open"));
    return menus.length > 0;
  };
  document.addEventListener("click", (event) => {
    const menu = event.target.closest?.("#chats .chat-menu");
    if (menu) fill(menu);
    closeMenus(menu);
    const link = event.target.closest?.("#chats a, #below-chats a, #chat .chat-bar a, #alternatives a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (link.matches(".download")) {
      event.preventDefault();
      const file = document.createElement("a");
      file.href = link.getAttribute("href");
      file.download = "";
      file.click();
      closeMenus();
      return;
    }
    const wanted = link.matches(".chat-link")
      ? `open=${new URLSearchParams(link.getAttribute("href")).get("chat")}`
      : link.matches(".act") ? decodeURIComponent(link.getAttribute("href").slice(1)) : "";
    if (!wanted) return;
    event.preventDefault();
    closeMenus();
    if (wanted.startsWith("rename=")) rename(link, wanted);
    else if (wanted.startsWith("note=")) annotate(link, wanted);
    else if (wanted.startsWith("inspect=")) inspect(wanted.slice("inspect=".length));
    else act(wanted);
    if (wanted.startsWith("other=")) closeInspector();
    if (link.matches(".chat-link")) closeOverlaid();
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
  // A diagram is a picture: its links could take the whole page elsewhere.
  document.addEventListener("click", (event) => event.target.closest?.("#chat svg a") && event.preventDefault(), true);

  // What came before this script, where that was slow to load.
  document.querySelectorAll(MENDED).forEach(mend);
})();
