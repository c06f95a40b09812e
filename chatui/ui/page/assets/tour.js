// The guided tour: seven steps along the bottom of the page. Each opens the part of the page that it explains, with the
// user's own conversation and model, and marks it. It starts with a link to "#tour". The current step survives a reload.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;
  const isolate = (value) => (document.documentElement.dir === "rtl" ? `\u2068${value}\u2069` : `${value}`);
  const format = (text, values) => text.replace(/\{(\w+)\}/g, (found, name) => isolate(values[name] ?? found));
  const find = (selector) => document.querySelector(selector);
  const isVisible = (element) => element?.checkVisibility({ visibilityProperty: true }) ?? false;

  const STEP_KEY = "chatui-tour"; // in localStorage: the step at which the tour goes on, or "done"
  const OPEN_KEY = "chatui-tour-open"; // in sessionStorage: the tour is open in this tab
  const INTERVAL_MS = 150; // between two looks at where the marked element is
  const QUESTION = _("Hey, can you tell me any fun things to do in New York?");
  const SYSTEM_PROMPT = "You are a sassy, wise-cracking robot as imagined by Hollywood circa 1986.";

  const messageBox = () => find("#message textarea");
  const isRunning = () => find("#message .stop-button") !== null;
  const lastInspectLink = () => [...document.querySelectorAll("#chat .chat-bar.answer .inspect")].at(-1);
  const hasReply = () => !isRunning() && lastInspectLink() !== undefined;
  const type = (box, text) => {
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // Parts of the page that a step opens. Each function returns whether the part is open.
  const isOpenSidebar = (name) => find(`#${name}`)?.classList.contains("open") ?? false;
  const setSidebar = (name, open) => {
    if (isOpenSidebar(name) !== open) find(`#${name} .toggle-button`)?.click();
    return isOpenSidebar(name) === open;
  };
  let openedSettings = false;
  const closeSidebars = () => {
    for (const name of ["conversations", "settings"]) {
      if ((name === "settings" && openedSettings) || !window.chatuiPanels.fitsBesideChat(name)) setSidebar(name, false);
    }
    openedSettings = false;
  };
  // The server opens a view some time after the click, which is repeated only when it seems lost.
  const RETRY_MS = 5000;
  let requestedAt = -Infinity;
  const openView = (view, opener) => {
    if (isVisible(find(view))) return true;
    if (performance.now() - requestedAt < RETRY_MS) return false;
    requestedAt = performance.now();
    opener?.click();
    return false;
  };
  const openInspector = (tabName) => openView("#inspector", lastInspectLink()) && selectTab(tabName);
  // Tabs for which there is no room are buttons in a menu beside the list of tabs.
  const selectTab = (tabName) => {
    const buttons = [...document.querySelectorAll("#inspector-tabs [role=tab], #inspector-tabs [role=tablist] ~ * button")];
    buttons.find((button) => button.textContent.trim() === tabName)?.click();
    return true;
  };
  const closeViews = () => {
    if (isVisible(find("#inspector"))) find("#inspector-close")?.click();
    if (isVisible(find("#models"))) find("#models-close")?.click();
  };
  const inView = (view, ...selectors) => () =>
    selectors.flatMap((selector) => [...document.querySelectorAll(`${view} ${selector}`)]).find(isVisible) ?? find(view);

  const send = (text) => {
    const box = messageBox();
    if (!box || box.value || isRunning()) return;
    closeViews();
    if (!window.chatuiPanels.fitsBesideChat("settings")) closeSidebars();
    type(box, text);
    setTimeout(() => find("#message .submit-button")?.click(), 50); // Gradio reads the text of the box a moment later
  };
  const sendAction = (text) => ({
    label: format(_("Send “{message}”"), { message: text }),
    isOffered: () => !isRunning() && !messageBox()?.value,
    run: () => send(text),
  });
  let replacedPrompt = null;
  const promptBox = () => find("#system-prompt textarea");
  const promptActions = [
    {
      label: format(_("Write “{text}”"), { text: SYSTEM_PROMPT }),
      isOffered: () => replacedPrompt === null && promptBox()?.value !== SYSTEM_PROMPT,
      run: () => {
        replacedPrompt = promptBox()?.value ?? null;
        if (replacedPrompt !== null) type(promptBox(), SYSTEM_PROMPT);
      },
    },
    {
      label: _("Take it back"),
      isOffered: () => replacedPrompt !== null && promptBox()?.value === SYSTEM_PROMPT,
      run: () => {
        type(promptBox(), replacedPrompt);
        replacedPrompt = null;
      },
    },
  ];
  let pipelineTab = _("Prompt");
  const tabActions = [_("Prompt"), _("Tokens"), _("Python")].map((name) => ({
    label: name,
    isPressed: () => pipelineTab === name,
    run: () => {
      pipelineTab = name;
      openStep();
    },
  }));

  // `open` opens the part, and is called until it returns true. `target` is the element to mark. A step that
  // `needsReply` waits until the conversation has one.
  const STEPS = [
    {
      title: _("Your first chat"),
      text: () => {
        if (isRunning()) return _("The model writes its reply one token after the other. You can stop it at any time, and go on from there.");
        if (hasReply()) return _("This is a reply of your model. The line below it has its speed, other versions of it, and Inspect, which shows how it was made.");
        return _("A chat model goes on with a conversation: you write a message, and it writes the reply, one token after the other. Send a message of your own, or this one.");
      },
      target: () => (hasReply() ? lastInspectLink().closest(".chat-bar") : find("#message .input-container")),
      actions: [{ ...sendAction(QUESTION), isOffered: () => !hasReply() && !isRunning() && !messageBox()?.value }],
    },
    {
      title: _("The system message"),
      text: () => _("A system message stands before the conversation and tells the model how to behave: here it is the system prompt of the persona. Write another one and ask again: the same model answers in another voice."),
      open: () => setSidebar("settings", true),
      target: () => [find("#system-prompt"), find("#settings")].find(isVisible),
      actions: [...promptActions, { ...sendAction(QUESTION), isOffered: () => replacedPrompt !== null && !isRunning() && !messageBox()?.value }],
    },
    {
      title: _("The history"),
      text: () => _("The model remembers nothing by itself: with each message it is given the whole conversation again, and so knows what “that” means. The line below the message box counts what this takes of the model's context."),
      target: () => [find("#context .context-bar"), find("#chat [role=log]")].find(isVisible),
      actions: [{ ...sendAction(_("Can you say that in one sentence?")), isOffered: () => hasReply() && !messageBox()?.value }],
    },
    {
      title: _("Choosing a model"),
      text: () => _("Two things count: the size, which decides what fits into the memory and how fast it runs, and the quality, which leaderboards compare. The larger of two models that fit is usually better, and the smaller one faster."),
      open: () => openView("#models", find('#status a[href="#models"]')),
      target: inView("#models", ".model-recommended", ".model-row"),
    },
    {
      title: _("The five steps inside"),
      text: () => _("A reply takes five steps: load the model and its tokenizer, write the conversation with the chat template, cut that text into tokens, generate new tokens, and turn them into text. Here they are for your last reply: the prompt, the tokens with what each could have been, and all five in Python."),
      needsReply: true,
      open: () => openInspector(pipelineTab),
      target: inView("#inspector [role=tabpanel]", ".textfield", ".codemirror-wrapper"),
      actions: tabActions,
    },
    {
      title: _("Memory"),
      text: () => _("The weights take the number of parameters times the bytes of each: four in float32, two in bfloat16, one in 8 bit, half a byte in 4 bit. The KV cache comes on top, and grows with every token of the conversation."),
      needsReply: true,
      open: () => openInspector(_("Memory")),
      target: inView("#inspector [role=tabpanel]", ".chart"),
    },
    {
      title: _("Speed"),
      text: () => _("For each token all active weights are read from memory once, so the bandwidth divided by their size is the most tokens per second. A smaller precision, or a mixture that reads only some of its experts, is faster on the same machine."),
      needsReply: true,
      open: () => openInspector(_("Ceiling")),
      target: inView("#inspector [role=tabpanel]", ".chart"),
    },
  ];
  const SETTINGS_STEP = 1;
  const WAITING = {
    text: () => (isRunning() ? _("The reply is being written. This step looks inside it as soon as it is there.") : _("This step looks inside a reply, and this chat has none yet. Send a message first.")),
    target: () => find("#message .input-container"),
    actions: [sendAction(QUESTION)],
  };

  const stored = (storage, key) => {
    try {
      return storage.getItem(key);
    } catch {
      return null;
    }
  };
  const store = (storage, key, value) => {
    try {
      storage.setItem(key, value);
    } catch {
      // Without storage the tour starts at its first step.
    }
  };
  const savedStep = () => Math.min(Math.max(Number.parseInt(stored(localStorage, STEP_KEY), 10) || 0, 0), STEPS.length - 1);

  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const makeButton = (label, className, onClick) => {
    const button = make("button", { type: "button", class: className }, label);
    button.addEventListener("click", onClick);
    return button;
  };
  const panel = make("section", { id: "tour", "aria-label": _("Guided tour"), tabindex: "-1", hidden: "" });
  const ring = make("div", { id: "tour-ring", "aria-hidden": "true", hidden: "" });
  const count = make("span", { class: "tour-count" });
  const title = make("h2", {});
  const text = make("p", {});
  const actionRow = make("div", { class: "tour-actions" });
  const showAgain = makeButton(_("Show it"), "tour-button", () => openStep());
  const back = makeButton(_("Back"), "tour-button", () => go(at - 1));
  const next = makeButton(_("Next"), "tour-button tour-next", () => (at === STEPS.length - 1 ? leave(true) : go(at + 1)));
  const close = makeButton("×", "tour-button tour-leave", () => leave(false));
  for (const name of ["aria-label", "title"]) close.setAttribute(name, _("Leave the tour"));
  const dots = STEPS.map((step, number) => {
    const dot = makeButton("", "tour-dot", () => go(number));
    dot.setAttribute("aria-label", `${number + 1}. ${step.title}`);
    dot.title = step.title;
    return dot;
  });
  panel.append(
    make("div", { class: "tour-column" },
      make("div", { class: "tour-words", "aria-live": "polite", "aria-atomic": "true" }, count, title, text),
      actionRow,
      make("div", { class: "tour-steps" }, make("div", { class: "tour-dots", role: "group", "aria-label": _("Steps") }, ...dots), make("div", { class: "tour-turns" }, back, next)),
      close),
  );
  document.body.append(panel, ring);

  let at = 0, opened = false, timer = 0, opener = null, marked = null, shownActions = "";
  const current = () => (STEPS[at].needsReply && !hasReply() && !isVisible(find("#inspector")) ? WAITING : STEPS[at]);

  const setText = (element, value) => {
    if (element.textContent !== value) element.textContent = value;
  };
  const renderActions = (step, lost) => {
    const offered = (step.actions ?? []).filter((action) => action.isOffered?.() ?? true);
    const description = JSON.stringify([lost, ...offered.map((action) => [action.label, action.isPressed?.()])]);
    if (description === shownActions) return;
    shownActions = description;
    const hadFocus = actionRow.contains(document.activeElement);
    const buttons = offered.map((action) => {
      const button = makeButton(action.label, "tour-button", () => (action.run(), update()));
      if (action.isPressed) button.setAttribute("aria-pressed", `${action.isPressed()}`);
      return button;
    });
    const pressed = buttons.find((button) => button.getAttribute("aria-pressed") === "true");
    actionRow.replaceChildren(...(lost ? [showAgain] : []), ...buttons);
    if (hadFocus) (pressed ?? actionRow.querySelector("button") ?? next).focus();
  };

  // The part of the element that can be seen: inside its view or sidebar, and above the tour.
  const visibleBox = (element) => {
    const box = element.getBoundingClientRect();
    const view = element.closest("#inspector, #models, .sidebar, [role=log]");
    const around = view?.getBoundingClientRect();
    const head = view?.querySelector("#inspector-head, #models-head")?.getBoundingClientRect().bottom;
    const bottom = Math.min(box.bottom, around?.bottom ?? Infinity, panel.getBoundingClientRect().top);
    const [top, left] = [Math.max(box.top, head ?? around?.top ?? 0, 0), Math.max(box.left, around?.left ?? 0, 0)];
    const right = Math.min(box.right, around?.right ?? Infinity, innerWidth);
    return bottom - top > 8 && right - left > 8 ? { top, left, bottom, right } : null;
  };
  const mark = (element) => {
    if (element !== marked) {
      marked = element;
      const smooth = !matchMedia("(prefers-reduced-motion: reduce)").matches;
      element?.scrollIntoView({ block: "nearest", behavior: smooth ? "smooth" : "auto" });
    }
    const box = element && visibleBox(element);
    ring.hidden = !box;
    if (!box) return;
    const gap = 4; // pixels between the element and the ring
    const style = { top: box.top - gap, left: box.left - gap, width: box.right - box.left + 2 * gap, height: box.bottom - box.top + 2 * gap };
    for (const [name, value] of Object.entries(style)) ring.style[name] = `${Math.round(value)}px`;
  };

  const update = () => {
    const step = current();
    if (step !== WAITING && !opened) opened = step.open?.() ?? true;
    const target = step.target?.();
    setText(count, format(_("Step {step} of {count}"), { step: at + 1, count: STEPS.length }));
    setText(title, STEPS[at].title);
    setText(text, step.text());
    renderActions(step, opened && !isVisible(target) && Boolean(step.open));
    mark(isVisible(target) ? target : null);
    document.documentElement.style.setProperty("--tour-height", `${Math.ceil(panel.getBoundingClientRect().height)}px`);
  };
  const openStep = () => {
    opened = false;
    update();
  };

  const isInInspector = (step) => Boolean(STEPS[step].needsReply);
  const go = (step) => {
    if (!isInInspector(step) || isVisible(find("#models"))) closeViews();
    if (step === SETTINGS_STEP) openedSettings ||= !isOpenSidebar("settings");
    else closeSidebars();
    at = step;
    store(localStorage, STEP_KEY, `${at}`);
    back.disabled = at === 0;
    setText(next, at === STEPS.length - 1 ? _("Finish") : _("Next"));
    dots.forEach((dot, number) => (number === at ? dot.setAttribute("aria-current", "step") : dot.removeAttribute("aria-current")));
    openStep();
  };
  const show = (step, focus) => {
    panel.hidden = false;
    document.documentElement.classList.add("touring");
    store(sessionStorage, OPEN_KEY, "1");
    go(step);
    if (focus) panel.focus();
    clearInterval(timer);
    timer = setInterval(update, INTERVAL_MS);
  };
  const leave = (done) => {
    clearInterval(timer);
    panel.hidden = ring.hidden = true;
    marked = null;
    document.documentElement.classList.remove("touring");
    store(localStorage, STEP_KEY, done ? "done" : `${at}`);
    store(sessionStorage, OPEN_KEY, "");
    document.documentElement.classList.toggle("toured", done);
    if (done) closeViews();
    (isVisible(opener) ? opener : messageBox())?.focus({ preventScroll: true });
  };

  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && ![find("#inspector"), find("#models")].some(isVisible)) leave(false);
  });
  const start = (from) => {
    opener = from;
    show(savedStep(), true);
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href="#tour"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    start(link);
  });

  document.documentElement.classList.toggle("toured", stored(localStorage, STEP_KEY) === "done");
  // The page is built, and its sidebars have settled, some time after this script runs.
  const startWhenBuilt = (run) => {
    if (find("html.settled") && messageBox()) run();
    else setTimeout(startWhenBuilt, INTERVAL_MS, run);
  };
  if (location.hash === "#tour") {
    history.replaceState(history.state, "", location.pathname + location.search);
    startWhenBuilt(() => start(null));
  }
  if (stored(sessionStorage, OPEN_KEY)) startWhenBuilt(() => show(savedStep(), false));
})();
