// Shows what other tabs of the user change, on any server: while the tab is visible and rests, it waits for changes
// (changes.py) and then lets the page refresh its list, or all where its own conversation has changed.
(() => {
  const RETRY_MS = 5000; // after a failed request
  const UNKNOWN_MS = 30000; // after an answer that nobody is logged in: another tab may log in
  const REQUEST_MS = 65000; // after which a request is given up whose answer is lost
  const REST_MS = 300; // between two looks whether the tab rests
  const ANSWER_MS = 3000; // after which what does not come is asked for again, then after twice as long, and so on
  const MAX_ANSWER_MS = 60000;
  const sleep = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));
  const find = (selector) => document.querySelector(selector);
  const ownChat = () => new URLSearchParams(find("#chats .place")?.getAttribute("href") ?? "").get("chat");
  let count = 0;
  const write = (selector) => {
    const box = find(selector);
    box.value = String(++count);
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };

  // What is to be shown: other models, or the list, and all of these chats or of any.
  const changed = { models: false, list: false, all: false, chats: new Set() };
  let showing = false, patience = ANSWER_MS;
  // Not under the user's hands, and not while the tab shows a reply that it follows already.
  const rests = () =>
    !document.hidden && !find("#message .stop-button, #chats .chat-menu[open], #chats .written-here, #chat textarea") && ownChat() !== null;
  const show = async () => {
    if (showing) return;
    showing = true;
    while (!document.hidden && (changed.models || changed.list)) {
      const { all, chats } = changed;
      const own = all || chats.has(ownChat());
      if (!rests() || (!changed.models && !own && find("#search input")?.value)) {
        await sleep(REST_MS);
      } else if (changed.models) {
        changed.models = false;
        write("#new-models textarea");
      } else {
        Object.assign(changed, { list: false, all: false, chats: new Set() });
        if (await (own ? refresh() : askForList())) {
          patience = ANSWER_MS;
          continue;
        }
        patience = Math.min(2 * patience, MAX_ANSWER_MS);
        changed.list = true;
        changed.all ||= all;
        chats.forEach((chat) => changed.chats.add(chat));
      }
    }
    showing = false;
  };
  // Whether the server has answered. It does not while it handles another event of this tab.
  const isAnswered = async (number) => {
    for (const until = performance.now() + patience; performance.now() < until; await sleep(REST_MS)) {
      if (find("#refreshed textarea").value === number) return true;
    }
    return false;
  };
  const refresh = () => {
    const number = String(++count);
    document.dispatchEvent(new CustomEvent("chatui:act", { detail: `refresh=${number}` }));
    return isAnswered(number);
  };
  const askForList = () => {
    write("#changed textarea");
    return isAnswered(String(count));
  };

  const note = async ({ chats, missed, new_models, delay }) => {
    if (!missed && !new_models && chats.length === 0) return;
    await sleep(1000 * delay);
    changed.models ||= new_models;
    changed.list ||= missed || chats.length > 0;
    changed.all ||= missed;
    chats.forEach((chat) => changed.chats.add(chat));
    show();
  };

  let watching = null, models = "";
  // Tells all that changes from the moment `from` on, by performance.now().
  const watch = async (from) => {
    watching?.abort();
    const { signal } = (watching = new AbortController());
    for (let position = null; !signal.aborted; ) {
      const request = new AbortController(); // AbortSignal.any() is missing in browsers of 2023
      const abort = () => request.abort();
      const timer = setTimeout(abort, REQUEST_MS);
      signal.addEventListener("abort", abort);
      try {
        const since = position ? `since=${position}` : `seconds=${Math.ceil((performance.now() - from) / 1000)}`;
        const url = `gradio_api/changes?session_hash=${window.chatuiTab}&${since}&models=${models}`;
        const answer = await fetch(url, { signal: request.signal });
        if (answer.status === 404) {
          await sleep(UNKNOWN_MS);
          continue;
        }
        if (!answer.ok) throw new Error(answer.status);
        const change = await answer.json();
        ({ position, models } = change);
        note(change);
        await sleep(1000 * change.pause);
      } catch {
        if (!signal.aborted) await sleep(RETRY_MS);
      } finally {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
      }
    }
  };
  const start = () => {
    if (!window.chatuiTab) return setTimeout(start, REST_MS);
    if (!document.hidden) watch(0);
    const resume = () => watch(performance.now() - REST_MS);
    // chatui.js refreshes a tab that becomes visible again.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return watching?.abort();
      show();
      resume();
    });
    window.addEventListener("pagehide", () => watching?.abort());
    window.addEventListener("pageshow", (event) => event.persisted && resume());
  };
  start();
})();
