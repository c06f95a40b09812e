// Adds what Gradio's pages lack for screen readers: accessible names, roles, heading levels, Inspect and Models as dialogs.
// focus.js moves the focus; heard.js announces changes.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;

  const setAttributes = (element, attributes) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (element.getAttribute(name) !== value) element.setAttribute(name, value);
    }
  };
  const setAll = (selector, attributes) =>
    document.querySelectorAll(selector).forEach((element) => setAttributes(element, attributes(element)));

  // The page has one heading of level 1; those of the sidebars, of replies and of Inspect have higher levels.
  const syncHeadings = () => {
    const main = document.querySelector("main");
    if (main && !document.querySelector("h1.heard")) {
      const title = document.createElement("h1");
      title.className = "heard";
      title.textContent = "chatui";
      main.prepend(title);
    }
    setAll(".sidebar .prose :is(h3, h4), :is(#inspector-head, #models-head) .prose h3", () => ({ "aria-level": "2" }));
    setAll(":is(#inspector, #models) .prose h4", () => ({ "aria-level": "3" }));
    let level = 1;
    for (const heading of document.querySelectorAll("#chat .message .prose :is(h1, h2, h3, h4, h5, h6)")) {
      level = Math.min(Number(heading.tagName[1]) + 1, level + 1);
      setAttributes(heading, { "aria-level": `${level}` });
    }
  };

  // The element that had the focus before a view was opened gets it back.
  const VIEWS = { inspector: _("Inspect"), models: _("Models") };
  let focusOutside = null, openView = null;
  document.addEventListener("focusin", (event) => {
    if (!event.target.closest("#inspector, #models")) focusOutside = event.target;
  });
  const focusable = (box) =>
    [...box.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")].filter(
      (element) => element.tabIndex >= 0 && !element.disabled && element.checkVisibility({ visibilityProperty: true }),
    );
  // The guided tour stays usable beside a view.
  const tour = () => document.querySelector("#tour:not([hidden])");
  const syncDialog = () => {
    const box = Object.keys(VIEWS).map((id) => document.getElementById(id)).find((view) => view?.checkVisibility()) ?? null;
    if (box) setAttributes(box, { "aria-modal": `${!tour()}` });
    if (box === openView) return;
    openView = box;
    if (box) {
      setAttributes(box, { role: "dialog", "aria-label": VIEWS[box.id], tabindex: "-1" });
      if (![box, tour()].some((part) => part?.contains(document.activeElement))) box.focus();
      return;
    }
    const href = focusOutside?.getAttribute?.("href");
    const again = href && document.querySelector(`:is(#chat, #status) a[href="${CSS.escape(href)}"]`);
    const target = focusOutside?.isConnected ? focusOutside : again;
    (target || document.querySelector("#message textarea"))?.focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.activeElement?.closest("#chats .chat-menu")?.querySelector("summary").focus();
    if (event.key !== "Tab" || !openView) return;
    const boxes = [openView, tour()].filter(Boolean);
    const [parts, at] = [boxes.flatMap(focusable), document.activeElement];
    if (!parts.length) return event.preventDefault();
    const around = boxes.find((part) => part.contains(at));
    const within = around ? focusable(around) : [];
    if (around && at !== (event.shiftKey ? within[0] : within.at(-1)) && !(at === around && event.shiftKey)) return;
    event.preventDefault();
    const next = parts.includes(at) ? parts[parts.indexOf(at) + (event.shiftKey ? -1 : 1)] : null;
    (next ?? (event.shiftKey ? parts.at(-1) : parts[0])).focus();
  });

  // Gradio's labels of buttons, which are English in every language; some get shorter ones.
  const GRADIO_LABELS = {
    "Copy message": _("Copy message"),
    "Copied message": _("Copied."),
    "Copy conversation": _("Copy conversation"),
    "Copied conversation": _("Copied."),
    Copy: _("Copy"),
    Download: _("Download"),
    Submit: _("Submit"),
    Cancel: _("Cancel"),
    Close: _("Close"),
  };
  const labelOf = (element) => element.closest(".block")?.querySelector("[data-testid=block-info]")?.textContent.trim() ?? "";
  const syncLabels = () => {
    for (const [name, translated] of Object.entries(GRADIO_LABELS)) {
      if (name === translated) continue;
      setAll(`[aria-label="${name}"]`, () => ({ "aria-label": translated }));
      setAll(`button[title="${name}"]`, () => ({ title: translated }));
    }
    const expanded = (bar) => ({ "aria-expanded": `${bar.parentElement.classList.contains("open")}` });
    setAll("#conversations > .toggle-button", (bar) => ({ "aria-label": _("Show or hide the chats"), ...expanded(bar) }));
    setAll("#settings > .toggle-button", (bar) => ({ "aria-label": _("Show or hide the settings"), ...expanded(bar) }));
    setAll("#settings :is([data-testid=number-input], [data-testid=range-input])", (box) => ({ "aria-label": labelOf(box) }));
    setAll("#settings .reset-button", (button) => ({ "aria-label": `${_("Reset")}: ${labelOf(button)}` }));
    setAll("#chat .copy_code_button", () => ({ "aria-label": _("Copy code"), title: _("Copy code") }));
    setAll("#chat [role=log]", () => ({ "aria-label": _("Conversation"), "aria-live": "off", tabindex: "0" }));
    // Screen readers read the message anyway; Gradio's label repeats all of it, with our markup.
    setAll("#chat [data-testid=user]", () => ({ "aria-label": _("Your message") }));
    setAll("#chat [data-testid=bot]", () => ({ "aria-label": _("Reply") }));
    setAll("#chat .prose li input[type=checkbox]", (box) => ({ "aria-label": box.checked ? _("Done") : _("Not done") }));
  };

  const syncRoles = () => {
    setAll("#conversations", () => ({ role: "navigation", "aria-label": _("Chats") }));
    setAll("#settings", () => ({ role: "region", "aria-label": _("Settings") }));
    setAll("#chat .placeholder-content", () => ({ role: "group", "aria-label": _("Examples") }));
    setAll("#chats .chat-link", (link) => ({ "aria-current": `${link.parentElement.classList.contains("current")}` }));
    setAll("#chat .thought-group .title", (title) => ({ "aria-expanded": `${title.classList.contains("expanded")}` }));
    setAll("#message textarea", () => {
      const invalid = document.getElementById("message-problem") !== null;
      return { "aria-invalid": `${invalid}`, "aria-describedby": "message-problem" };
    });
    // Not a button: it contains one, and Gradio makes the whole head of a toast a button.
    setAll(".toast-header", () => ({ role: "group", tabindex: "-1" }));
    setAll(".toast-body", () => ({ role: "group", "aria-live": "off" })); // heard.js announces its text
    setAll(".toast-wrap", () => ({ role: "region", "aria-label": _("Notices") }));
    translateToasts();
    listExamples();
  };

  // Gradio shows the kind of a toast in English as its title, whatever title it is given.
  const translateToasts = () => {
    const kinds = { info: _("Info"), warning: _("Warning"), error: _("Error"), success: _("Success") };
    for (const title of document.querySelectorAll(".toast-title")) {
      const kind = Object.keys(kinds).find((name) => title.classList.contains(name));
      if (kind && title.firstChild.data !== kinds[kind]) title.firstChild.data = kinds[kind];
    }
  };

  // Adds a list whose items own Gradio's example buttons, which must not be moved in the document.
  const listExamples = () => {
    const box = document.querySelector("#chat .examples");
    if (!box) return;
    setAttributes(box, { role: "presentation" });
    box.removeAttribute("aria-label");
    const buttons = [...box.querySelectorAll(".example")];
    buttons.forEach((button, at) => setAttributes(button, { id: `example-${at + 1}`, "aria-label": button.textContent.trim() }));
    let list = box.querySelector(".heard[role=list]");
    if (list?.childElementCount === buttons.length) return;
    list?.remove();
    list = document.createElement("div");
    list.className = "heard";
    setAttributes(list, { role: "list", "aria-label": _("Examples") });
    for (const { id } of buttons) {
      const item = document.createElement("div");
      setAttributes(item, { role: "listitem", "aria-owns": id });
      list.append(item);
    }
    box.prepend(list);
  };

  // Gradio's login page has no title, no main landmark and no autocomplete attributes for password managers.
  let loginFocused = false;
  const fixLoginPage = () => {
    const password = document.querySelector("input[type=password]");
    const form = password?.closest(".wrap");
    if (!form || document.querySelector("main")) return;
    if (!document.title) document.title = "chatui";
    setAttributes(form, { role: "main" });
    form.querySelectorAll("h2").forEach((title) => setAttributes(title, { "aria-level": "1" }));
    const user = form.querySelector("input:not([type=password])");
    setAttributes(password, { autocomplete: "current-password" });
    setAttributes(user, { autocomplete: "username" });
    if (!loginFocused && document.activeElement === document.body) user.focus();
    loginFocused = true;
  };

  const fixPage = () => {
    syncHeadings();
    syncDialog();
    syncLabels();
    syncRoles();
    fixLoginPage();
    setAll("#message", () => ({ "data-temporary": _("Temporary chat: it is not kept, and gone when you leave it.") }));
    // Gradio sets `dir` on each block, not from that of the page. Its sliders and dropdowns work left to right only.
    const { dir } = document.documentElement;
    if (dir) setAll(`.block[dir]:not([dir=${dir}], :has(input[type=range]), #persona, #model, #setting-thinking)`, () => ({ dir }));
    setAll("#inspector .cm-scroller", () => ({ tabindex: "0" }));
  };
  let scheduled = false;
  const scheduleFix = () => {
    if (scheduled) return;
    scheduled = true;
    setTimeout(() => {
      scheduled = false;
      fixPage();
    }, 50);
  };
  const attributeFilter = ["aria-label", "class", "style", "hidden"];
  new MutationObserver(scheduleFix).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter });
  fixPage();
})();
