// What a screen reader says of its own accord: a reply once, when it is there, and what became of things.
(() => {
  const words = JSON.parse(document.getElementById("chatui-words")?.textContent ?? "{}");
  const _ = (message) => words[message] ?? message;
  const PATIENCE = 4000; // milliseconds between two sayings of what goes on before a reply
  const MAX_LENGTH = 3000; // characters; who wants more reads on in the conversation

  const speaker = document.createElement("div");
  speaker.id = "heard";
  speaker.className = "heard";
  speaker.setAttribute("role", "status");
  speaker.setAttribute("aria-live", "polite");
  document.body.append(speaker);
  let waits = [], speaks = 0;
  // What is said within a moment is said together: a second text would cut the first one off.
  const say = (text) => {
    const said = text.replace(/\s+/g, " ").trim();
    if (!said || waits.includes(said)) return;
    waits.push(said);
    clearTimeout(speaks);
    speaks = setTimeout(() => {
      const line = document.createElement("p");
      line.textContent = waits.join(" ").slice(0, MAX_LENGTH);
      speaker.replaceChildren(line);
      waits = [];
    }, 100);
  };
  document.addEventListener("chatui:say", (event) => say(event.detail));

  const texts = (elements) => elements.map((element) => element.textContent.trim()).filter(Boolean).join(" ");
  // What stands after the last question, but for thoughts and bars.
  const reply = () => {
    const bubbles = [...document.querySelectorAll("#chat [data-testid]:is([data-testid=bot], [data-testid=user])")];
    const last = bubbles.findLastIndex((bubble) => bubble.dataset.testid === "user");
    return bubbles.slice(last + 1).filter((bubble) => !bubble.closest(".thought-group") && !bubble.querySelector(".chat-bar"));
  };
  const spoken = (bubble) => {
    const copy = bubble.cloneNode(true);
    copy.querySelectorAll("button, .katex-html, style").forEach((part) => part.remove());
    return copy.textContent;
  };
  let writing = false, said = "", where = null, moved = -Infinity, going = "", wentAt = -Infinity;
  // Whether another chat is shown because one went there, and not because it began with a question.
  let opening = false;
  const heads = (event) => {
    if (event.target.closest?.("#chats a, #new-chat, #temporary-chat, #chat .branch")) opening = true;
    else if (event.target.closest?.("#message, #chat") && (event.type === "click" || event.key === "Enter")) opening = false;
  };
  document.addEventListener("click", heads, true);
  document.addEventListener("keydown", heads, true);
  window.addEventListener("popstate", () => (opening = true));
  const conversation = () => {
    if (!document.documentElement.matches(".at-rest")) return;
    const chat = document.querySelector("#chats .place")?.getAttribute("href") ?? null;
    const writes = document.querySelector("#message .stop-button") !== null;
    if (where === null || (chat !== where && opening)) {
      moved = performance.now();
      if (where !== null) say(texts([...document.querySelectorAll("#chats .current .chat-link")]));
    }
    where = chat;
    if (writes && !writing) [said, wentAt] = [null, performance.now()];
    if (writes) waiting();
    else if (document.querySelector("#chat textarea")) return; // a question that is changed looks like none
    else if (writing || document.querySelector("#chat [data-testid=bot]")) {
      // Another version, too, and a note that the reply is not saved yet. A chat that is opened is not read out.
      const now = reply().map(spoken).join(" ");
      if (now !== said && (writing || performance.now() - moved > PATIENCE / 4)) say(`${_("Reply")}: ${now}`);
      said = now;
      going = "";
    }
    writing = writes;
  };
  // The queue, the model, the prompt: what changes in numbers only is not said at each.
  const waiting = () => {
    const phase = texts([...document.querySelectorAll("#chat .thought-group [aria-busy=true] .prose")].slice(-1));
    if (!phase || phase === going || performance.now() - wentAt < PATIENCE) return;
    [going, wentAt] = [phase, performance.now()];
    say(phase);
  };

  // Texts that are said whenever they change.
  const FOUND = "#chats mark";
  const TOLD = [
    ".toast-message-text",
    "html.at-rest #chats :is(.chat-list-top, .hint)",
    FOUND,
    ":is(#message, #settings) div.validation-error",
    "html.at-rest #status :is(.model-failed, .model-loading)",
    "p.creds", // of a wrong password
  ];
  const found = () => `${_("Found")}: ${document.querySelectorAll("#chats .chat-row").length}`;
  const before = TOLD.map(() => null);
  const told = () =>
    TOLD.forEach((selector, at) => {
      if (selector.startsWith("html.at-rest") && !document.documentElement.matches(".at-rest")) return;
      const all = [...document.querySelectorAll(selector)];
      const now = all.length && selector === FOUND ? found() : texts(all);
      if (now !== before[at] && before[at] !== null) say(now);
      before[at] = now;
    });

  let due = false;
  new MutationObserver((changes) => {
    if (due || changes.every(({ target }) => speaker.contains(target))) return;
    due = true;
    setTimeout(() => {
      due = false;
      conversation();
      told();
    }, 150);
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
})();
