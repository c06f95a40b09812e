// What Gradio's page leaves undone for screen readers and keyboards: names, levels of headings, Inspect as a dialog.
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

  const mend = () => {
    headings();
    dialog();
    // What is said is read anyway; Gradio's name repeats all of it, with our markup.
    all("#chat [data-testid=user]", () => ({ "aria-label": _("Your message") }));
    all("#chat [data-testid=bot]", () => ({ "aria-label": _("Reply") }));
    all("#chat .examples", () => ({ role: "group", "aria-label": _("Examples") }));
    all("#chat .prose li input[type=checkbox]", (box) => ({ "aria-label": box.checked ? _("Done") : _("Not done") }));
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
