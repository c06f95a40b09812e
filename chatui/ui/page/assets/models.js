// The Models view in the browser: its address `#models`, the links in it, and what is open in it (models_panel.py).
(() => {
  const view = () => document.getElementById("models");
  const isShown = () => view()?.checkVisibility() ?? false;
  let count = 0;
  const send = (id, text) => {
    const box = document.querySelector(`#${CSS.escape(id)} textarea`);
    if (!box) return;
    box.value = `${++count}|${text}`; // numbered, because Gradio reports changes only
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // The tab that the address names: "" for the first one, null while the address is not that of the view.
  const tabInAddress = () => /^#models(?:=([\w-]*))?$/.exec(location.hash)?.at(1) ?? (location.hash === "#models" ? "" : null);
  const withoutHash = () => location.pathname + location.search;
  const open = (hash) => {
    if (location.hash !== hash) history.pushState({ models: true }, "", withoutHash() + hash); // the base of the page has no search
    send("models-open", tabInAddress());
  };
  const hide = () => isShown() && document.getElementById("models-close").click();
  // Back on a phone closes the view, so that closing it goes back to before it was opened.
  const leaveAddress = () => {
    if (tabInAddress() === null) return;
    if (history.state?.models) history.back();
    else history.replaceState(history.state, "", withoutHash());
  };
  const syncWithAddress = () => {
    if (tabInAddress() === null) hide();
    else send("models-open", tabInAddress());
  };
  window.addEventListener("popstate", syncWithAddress);

  document.addEventListener("click", (event) => {
    if (event.target.closest?.("#models-close")) return leaveAddress();
    const link = event.target.closest?.("a[href='#models'], a[href^='#models=']");
    // Only our own links have the class: a model may write a link to any address into a reply in the view.
    const action = event.target.closest?.("#models a.act[href^='#models-']");
    if (!(link || action) || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (link) return open(link.getAttribute("href"));
    const [id, ...text] = action.getAttribute("href").slice(1).split("=");
    send(id, decodeURIComponent(text.join("=")));
    if (action.matches(".closing")) hide();
  });
  // A form sends its fields to the textbox in its name, after the rest of that: `models-BOX=ACTION=`. A password does
  // not stay in the page.
  document.addEventListener("submit", (event) => {
    const form = event.target.closest?.("#models form");
    if (!form) return;
    event.preventDefault();
    const [id, ...action] = form.getAttribute("name").split("=");
    send(id, action.join("=") + new URLSearchParams(new FormData(form)));
    if (!form.querySelector("[type=password]")) return;
    form.reset();
    const box = document.querySelector(`#${CSS.escape(id)} textarea`);
    const sent = box.value;
    setTimeout(() => box.value === sent && send(id, ""), 500);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches?.("#models form select.at-once")) event.target.form.requestSubmit();
  });

  document.addEventListener("keydown", (event) => {
    const inList = event.target.closest?.("[role=combobox][aria-expanded=true]");
    if (event.key === "Escape" && !event.defaultPrevented && !inList) hide();
  });

  // What is open in the list stays open when the list is sent again.
  const opened = new Set();
  const keyOf = (part) => {
    const names = [];
    for (let each = part; each; each = each.parentElement?.closest("#models-list details")) names.push(each.querySelector("summary").textContent.split(" ")[0]);
    return [part.closest(".model-row")?.querySelector("h4").textContent, ...names].join("|");
  };
  document.addEventListener("toggle", (event) => {
    if (!event.target.matches?.("#models-list details")) return;
    if (event.target.open) opened.add(keyOf(event.target));
    else opened.delete(keyOf(event.target));
  }, true);
  new MutationObserver((changes) => {
    if (!opened.size || !changes.some(({ target, addedNodes }) => addedNodes.length && target.closest?.("#models-list"))) return;
    for (const part of document.querySelectorAll("#models-list details:not([open])")) if (opened.has(keyOf(part))) part.open = true;
  }).observe(document, { subtree: true, childList: true });

  // The page is opened at the address of the view. Gradio empties the textbox once more while it builds the page.
  const openAtStart = () => {
    if (tabInAddress() === null || isShown()) return;
    if (document.querySelector("#models-open textarea")?.value === "") send("models-open", tabInAddress());
    setTimeout(openAtStart, 100);
  };
  openAtStart();
})();
