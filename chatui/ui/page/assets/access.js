// What Gradio's pages leave undone for screen readers: names, roles, levels of headings, Inspect as a dialog. Where the
// focus goes is in focus.js, what is said in heard.js.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;

  const give = (element, attributes) => {
    for (const [name, value] of Object.entries(attributes)) {
      if (element.getAttribute(name) !== value) element.setAttribute(name, value);
    }
  };
  const all = (selector, attributes) =>
    document.querySelectorAll(selector).forEach((element) => give(element, attributes(element)));

  // The page has one heading of the first level; those of the sidebars, of replies and of Inspect stand below it.
  const headings = () => {
    const main = document.querySelector("main");
    if (main && !document.querySelector("h1.heard")) {
      const title = document.createElement("h1");
      title.className = "heard";
      title.textContent = "chatui";
      main.prepend(title);
    }
    all(".sidebar .prose :is(h3, h4), #inspector-head .prose h3", () => ({ "aria-level": "2" }));
    all("#inspector .prose h4", () => ({ "aria-level": "3" }));
    let level = 1;
    for (const heading of document.querySelectorAll("#chat .message .prose :is(h1, h2, h3, h4, h5, h6)")) {
      level = Math.min(Number(heading.tagName[1]) + 1, level + 1);
      give(heading, { "aria-level": `${level}` });
    }
  };

  // The element that had the focus before Inspect opened gets it back.
  let outside = null, open = false;
  document.addEventListener("focusin", (event) => {
    if (!event.target.closest("#inspector")) outside = event.target;
  });
  const focusable = (box) =>
    [...box.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")].filter(
      (element) => element.tabIndex >= 0 && !element.disabled && element.checkVisibility({ visibilityProperty: true }),
    );
  const dialog = () => {
    const box = document.getElementById("inspector");
    const shown = box?.checkVisibility() ?? false;
    if (shown === open) return;
    open = shown;
    if (open) {
      give(box, { role: "dialog", "aria-modal": "true", "aria-label": _("Inspect"), tabindex: "-1" });
      if (!box.contains(document.activeElement)) box.focus();
      return;
    }
    const href = outside?.getAttribute?.("href");
    const back = outside?.isConnected ? outside : href && document.querySelector(`#chat a[href="${CSS.escape(href)}"]`);
    (back || document.querySelector("#message textarea"))?.focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") document.activeElement?.closest("#chats .chat-menu")?.querySelector("summary").focus();
    const box = document.getElementById("inspector");
    if (event.key !== "Tab" || !open || !box) return;
    const [parts, at] = [focusable(box), document.activeElement];
    if (!parts.length) return event.preventDefault();
    const edge = event.shiftKey ? parts[0] : parts.at(-1);
    if (at !== edge && at !== box && box.contains(at)) return;
    if (at === box && !event.shiftKey) return;
    event.preventDefault();
    (event.shiftKey ? parts.at(-1) : parts[0]).focus();
  });

  // What Gradio calls its buttons in English in every language, or by more words than it takes.
  const GRADIO = {
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
  const names = () => {
    for (const [name, ours] of Object.entries(GRADIO)) {
      if (name === ours) continue;
      all(`[aria-label="${name}"]`, () => ({ "aria-label": ours }));
      all(`button[title="${name}"]`, () => ({ title: ours }));
    }
    const opens = (bar) => ({ "aria-expanded": `${bar.parentElement.classList.contains("open")}` });
    all("#conversations > .toggle-button", (bar) => ({ "aria-label": _("Show or hide the chats"), ...opens(bar) }));
    all("#settings > .toggle-button", (bar) => ({ "aria-label": _("Show or hide the settings"), ...opens(bar) }));
    all("#settings :is([data-testid=number-input], [data-testid=range-input])", (box) => ({ "aria-label": labelOf(box) }));
    all("#settings .reset-button", (button) => ({ "aria-label": `${_("Reset")}: ${labelOf(button)}` }));
    all("#chat .copy_code_button", () => ({ "aria-label": _("Copy code"), title: _("Copy code") }));
    all("#chat [role=log]", () => ({ "aria-label": _("Conversation"), "aria-live": "off", tabindex: "0" }));
    // What is said is read anyway; Gradio's name repeats all of it, with our markup.
    all("#chat [data-testid=user]", () => ({ "aria-label": _("Your message") }));
    all("#chat [data-testid=bot]", () => ({ "aria-label": _("Reply") }));
    all("#chat .prose li input[type=checkbox]", (box) => ({ "aria-label": box.checked ? _("Done") : _("Not done") }));
  };

  const roles = () => {
    all("#conversations", () => ({ role: "navigation", "aria-label": _("Chats") }));
    all("#settings", () => ({ role: "region", "aria-label": _("Settings") }));
    all("#chat .placeholder-content", () => ({ role: "group", "aria-label": _("Examples") }));
    all("#chats .chat-link", (link) => ({ "aria-current": `${link.parentElement.classList.contains("current")}` }));
    all("#chat .thought-group .title", (title) => ({ "aria-expanded": `${title.classList.contains("expanded")}` }));
    all("#message textarea", (box) => ({ "aria-invalid": `${box.classList.contains("validation-error")}` }));
    // A button that holds one: the whole of a toast's head would close and open it.
    all(".toast-header", () => ({ role: "group", tabindex: "-1" }));
    all(".toast-body", () => ({ role: "group", "aria-live": "off" })); // heard.js says what it says
    all(".toast-wrap", () => ({ role: "region", "aria-label": _("Notices") }));
    titles();
    examples();
  };

  // Gradio names a toast by its kind, in English, whatever title it is given.
  const titles = () => {
    const kinds = { info: _("Info"), warning: _("Warning"), error: _("Error"), success: _("Success") };
    for (const title of document.querySelectorAll(".toast-title")) {
      const kind = Object.keys(kinds).find((name) => title.classList.contains(name));
      if (kind && title.firstChild.data !== kinds[kind]) title.firstChild.data = kinds[kind];
    }
  };

  // The examples as a list whose items are Gradio's buttons, which stay where Gradio looks for them.
  const examples = () => {
    const box = document.querySelector("#chat .examples");
    if (!box) return;
    give(box, { role: "presentation" });
    box.removeAttribute("aria-label");
    const buttons = [...box.querySelectorAll(".example")];
    buttons.forEach((button, at) => give(button, { id: `example-${at + 1}`, "aria-label": button.textContent.trim() }));
    let list = box.querySelector(".heard[role=list]");
    if (list?.childElementCount === buttons.length) return;
    list?.remove();
    list = document.createElement("div");
    list.className = "heard";
    give(list, { role: "list", "aria-label": _("Examples") });
    for (const { id } of buttons) {
      const item = document.createElement("div");
      give(item, { role: "listitem", "aria-owns": id });
      list.append(item);
    }
    box.prepend(list);
  };

  // Gradio's page for logging in has no title, no main part, and leaves a password manager in the dark.
  let greeted = false;
  const login = () => {
    const password = document.querySelector("input[type=password]");
    const form = password?.closest(".wrap");
    if (!form || document.querySelector("main")) return;
    if (!document.title) document.title = "chatui";
    give(form, { role: "main" });
    form.querySelectorAll("h2").forEach((title) => give(title, { "aria-level": "1" }));
    const user = form.querySelector("input:not([type=password])");
    give(password, { autocomplete: "current-password" });
    give(user, { autocomplete: "username" });
    if (!greeted && document.activeElement === document.body) user.focus();
    greeted = true;
  };

  const mend = () => {
    headings();
    dialog();
    names();
    roles();
    login();
    all("#message", () => ({ "data-temporary": _("Temporary chat: it is not kept, and gone when you leave it.") }));
    // Gradio sets the direction of each block apart from that of the page. Its sliders and lists know left to right only.
    const { dir } = document.documentElement;
    if (dir) all(`.block[dir]:not([dir=${dir}], :has(input[type=range]), #persona)`, () => ({ dir }));
    all("#inspector .cm-scroller", () => ({ tabindex: "0" }));
  };
  let waits = false;
  const later = () => {
    if (waits) return;
    waits = true;
    setTimeout(() => {
      waits = false;
      mend();
    }, 50);
  };
  const attributeFilter = ["aria-label", "class", "style", "hidden"];
  new MutationObserver(later).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter });
  mend();
})();
