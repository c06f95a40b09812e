// Announces changes to screen readers through a live region: finished replies once, notices, search results, errors.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;
  const MIN_PAUSE_MS = 4000; // between two announcements of the phases before a reply
  const MAX_LENGTH = 3000; // characters; the rest can be read in the conversation

  const speaker = document.createElement("div");
  speaker.id = "heard";
  speaker.className = "heard";
  speaker.setAttribute("role", "status");
  speaker.setAttribute("aria-live", "polite");
  document.body.append(speaker);
  let pending = [], speakTimer = 0;
  // Texts within 100 ms are announced together: a second announcement would interrupt the first one.
  const announce = (text) => {
    const message = text.replace(/\s+/g, " ").trim();
    if (!message || pending.includes(message)) return;
    pending.push(message);
    clearTimeout(speakTimer);
    speakTimer = setTimeout(() => {
      const line = document.createElement("p");
      line.textContent = pending.join(" ").slice(0, MAX_LENGTH);
      speaker.replaceChildren(line);
      pending = [];
    }, 100);
  };
  document.addEventListener("chatui:say", (event) => announce(event.detail));

  const texts = (elements) => elements.map((element) => element.textContent.trim()).filter(Boolean).join(" ");
  // The messages after the last question, without thoughts and bars.
  const replyBubbles = () => {
    const bubbles = [...document.querySelectorAll("#chat [data-testid]:is([data-testid=bot], [data-testid=user])")];
    const last = bubbles.findLastIndex((bubble) => bubble.dataset.testid === "user");
    return bubbles.slice(last + 1).filter((bubble) => !bubble.closest(".thought-group") && !bubble.querySelector(".chat-bar"));
  };
  const spokenText = (bubble) => {
    const copy = bubble.cloneNode(true);
    copy.querySelectorAll("button, .katex-html, style").forEach((part) => part.remove());
    return copy.textContent;
  };
  let wasRunning = false, announcedReply = "", currentChat = null, movedAt = -Infinity, announcedPhase = "", phaseAt = -Infinity;
  // Whether the user opened another chat, in contrast to a chat that was created by sending a message.
  let openedByUser = false;
  const noteIntent = (event) => {
    const isIn = (selector) => Boolean(event.target.closest?.(selector));
    if (isIn("#chats a, #new-chat, #temporary-chat, #chat .branch")) openedByUser = true;
    if (event.type !== "click" && event.key !== "Enter") return;
    if (isIn("#message, #chat") && !isIn("#chat .branch")) openedByUser = false;
    // What comes after a message was sent is a reply, also right after the page was loaded.
    if (isIn(event.type === "click" ? "#message .submit-button" : "#message textarea")) movedAt = -Infinity;
  };
  document.addEventListener("click", noteIntent, true);
  document.addEventListener("keydown", noteIntent, true);
  window.addEventListener("popstate", () => (openedByUser = true));
  const announceReply = () => {
    if (!document.documentElement.matches(".at-rest")) return;
    const chat = document.querySelector("#chats .place")?.getAttribute("href") ?? null;
    const running = document.querySelector("#message .stop-button") !== null;
    if (currentChat === null || (chat !== currentChat && openedByUser)) {
      movedAt = performance.now();
      if (currentChat !== null) announce(texts([...document.querySelectorAll("#chats .current .chat-link")]));
    }
    currentChat = chat;
    if (running && !wasRunning) [announcedReply, phaseAt] = [null, performance.now()];
    if (running) announcePhase();
    else if (document.querySelector("#chat textarea")) return; // while a question is edited, it is not in the document
    else if (wasRunning || document.querySelector("#chat [data-testid=bot]")) {
      // Also announces other versions and the note that a reply is not saved yet, but not the content of an opened chat.
      const text = replyBubbles().map(spokenText).join(" ");
      // Two quick replies may have the same text, and neither may have been seen running.
      const now = `${document.querySelectorAll("#chat [data-testid=user]").length} ${text}`;
      if (now !== announcedReply && (wasRunning || performance.now() - movedAt > MIN_PAUSE_MS / 4)) announce(`${_("Reply")}: ${text}`);
      announcedReply = now;
      announcedPhase = "";
    } else announcedReply = "";
    wasRunning = running;
  };
  // Announces the phases before a reply (queue, model, prompt), but not each change of a number.
  const announcePhase = () => {
    const phase = texts([...document.querySelectorAll("#chat .thought-group [aria-busy=true] .prose")].slice(-1));
    if (!phase || phase === announcedPhase || performance.now() - phaseAt < MIN_PAUSE_MS) return;
    [announcedPhase, phaseAt] = [phase, performance.now()];
    announce(phase);
  };

  // Texts that are announced whenever they change.
  const FOUND = "#chats mark";
  const LIVE_TEXTS = [
    ".toast-message-text",
    "html.at-rest #chats :is(.chat-list-top, .hint)",
    FOUND,
    "html.at-rest #status :is(.model-failed, .model-loading)",
    "p.creds", // wrong password
    "#compare-notice p",
    "#compare-files p",
  ];
  const foundText = () => `${_("Found")}: ${document.querySelectorAll("#chats .chat-row").length}`;
  const previous = LIVE_TEXTS.map(() => null);
  const announceChanges = () =>
    LIVE_TEXTS.forEach((selector, at) => {
      if (selector.startsWith("html.at-rest") && !document.documentElement.matches(".at-rest")) return;
      const all = [...document.querySelectorAll(selector)];
      const now = all.length && selector === FOUND ? foundText() : texts(all);
      if (now !== previous[at] && previous[at] !== null) announce(now);
      previous[at] = now;
    });

  let scheduled = false;
  const observer = new MutationObserver((changes) => {
    if (scheduled || changes.every(({ target }) => speaker.contains(target))) return;
    scheduled = true;
    setTimeout(() => {
      scheduled = false;
      announceReply();
      announceChanges();
    }, 150);
  });
  observer.observe(document.body, { subtree: true, childList: true, characterData: true });
  observer.observe(document.documentElement, { attributeFilter: ["class"] }); // .at-rest
})();
