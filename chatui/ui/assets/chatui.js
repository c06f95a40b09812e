// What Gradio's chat leaves undone in the browser: text copied and edited as it was written, names for screen
// readers, sidebars closed on a narrow screen. `written.py` does the escaping that is undone here.
(() => {
  const unescape = (text) =>
    text.replaceAll("&#0060;", "<").replaceAll("&#0038;", "&").replaceAll("\u200b\t", "\t");

  const clipboard = navigator.clipboard;
  if (clipboard) {
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = (text) => write(unescape(text));
  }

  const edited = new WeakSet();
  const mend = (element) => {
    if (element.matches("#chat pre code")) {
      const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.data.includes("\u200b\t")) text.data = text.data.replaceAll("\u200b\t", "\t");
      }
    }
    if (element.matches(".thought-group .title button")) {
      // The whole title is a button already; this arrow inside it is for the eye.
      element.tabIndex = -1;
      element.setAttribute("aria-hidden", "true");
    }
    const name = NAMES.find(([selector]) => element.matches(selector))?.[1] ?? element.getAttribute("aria-label");
    if (name && unescape(name) !== element.getAttribute("aria-label")) element.setAttribute("aria-label", unescape(name));
    if (element.matches("#chat textarea") && !edited.has(element)) {
      edited.add(element);
      element.value = unescape(element.value);
      element.dispatchEvent(new Event("input", { bubbles: true }));
    }
  };
  const NAMES = [["#message textarea", "Message"], ["#chat textarea", "Edit message"], ["[role=listbox]", "Choices"]];
  const MENDED =
    "#message textarea, #chat textarea, #chat [data-testid], #chat pre code, #chat .thought-group .title button, [role=listbox]";

  // On a narrow screen an open sidebar covers the page: close both once they are there (chatui.css hides them until).
  const settle = (tries) => {
    const sidebars = document.querySelectorAll(".sidebar");
    const open = document.querySelectorAll(".sidebar.open > .toggle-button");
    const narrow = window.innerWidth < 768;
    if (tries > 0 && (sidebars.length < 2 || (narrow && open.length > 0))) {
      if (narrow) open.forEach((button) => button.click());
      setTimeout(settle, 50, tries - 1);
      return;
    }
    document.documentElement.classList.add("settled");
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
})();
