// Shows what other tabs of the user change, on any server: while the tab is visible and rests, it waits for changes
// (changes.py) and then lets the page refresh its list, or all where its own conversation has changed.
(() => {
  const RETRY_MS = 5000; // after a failed request
  const REST_MS = 300; // between two looks whether the tab rests
  const ANSWER_MS = 3000; // after which the list is asked for again
  const sleep = (milliseconds) => new Promise((wake) => setTimeout(wake, milliseconds));
  const find = (selector) => document.querySelector(selector);
  const ownChat = () => new URLSearchParams(find("#chats .place")?.getAttribute("href") ?? "").get("chat");

  const changed = { list: false, chat: false };
  let count = 0, showing = false;
  // Not under the user's hands, and not while the tab shows a reply that it follows already.
  const rests = () =>
    !document.hidden && !find("#message .stop-button, #chats .chat-menu[open], #chats .written-here, #chat textarea") && ownChat() !== null;
  const show = async () => {
    if (showing) return;
    showing = true;
    while (!document.hidden && (changed.list || changed.chat)) {
      if (!rests()) {
        await sleep(REST_MS);
        continue;
      }
      const { chat } = changed;
      changed.list = changed.chat = false;
      if (chat) document.dispatchEvent(new CustomEvent("chatui:act", { detail: "refresh" }));
      else if (!(await askForList())) changed.list = true;
    }
    showing = false;
  };
  // Whether the list has come. The server gives none while it handles another event of this tab.
  const askForList = async () => {
    const box = find("#changed textarea");
    box.value = String(++count);
    box.dispatchEvent(new Event("input", { bubbles: true }));
    for (const until = performance.now() + ANSWER_MS; performance.now() < until; await sleep(REST_MS)) {
      if (box.value === "") return true;
    }
    return false;
  };

  const note = async ({ chats, missed, new_models, delay }) => {
    if (new_models) {
      const box = find("#new-models textarea");
      box.value = String(++count);
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    if (!missed && chats.length === 0) return;
    await sleep(1000 * delay);
    changed.list = true;
    changed.chat ||= missed || chats.includes(ownChat());
    show();
  };

  let watching = null, models = "";
  const watch = async (first) => {
    watching?.abort();
    const { signal } = (watching = new AbortController());
    for (let since = first; !signal.aborted; ) {
      try {
        const answer = await fetch(`gradio_api/changes?session_hash=${window.chatuiTab}&${since}&models=${models}`, { signal });
        if (answer.status === 404) return; // logged out
        if (!answer.ok) throw new Error(answer.status);
        const change = await answer.json();
        since = `since=${change.position}`;
        models = change.models;
        note(change);
        await sleep(1000 * change.pause);
      } catch {
        if (!signal.aborted) await sleep(RETRY_MS);
      }
    }
  };
  const start = () => {
    if (!window.chatuiTab) return setTimeout(start, REST_MS);
    if (!document.hidden) watch(`seconds=${Math.ceil(performance.now() / 1000)}`);
    // chatui.js refreshes a tab that becomes visible again.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return watching?.abort();
      if (rests()) changed.list = changed.chat = false;
      show();
      watch("seconds=1");
    });
    window.addEventListener("pagehide", () => watching?.abort());
    window.addEventListener("pageshow", (event) => event.persisted && watch("seconds=1"));
  };
  start();
})();
