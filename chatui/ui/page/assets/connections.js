// A browser has six connections for a site, whatever its tabs need; Gradio would hold one for each tab, and one more for
// each that writes. Here a tab says by short requests that it is there, and takes the stream of its events in pieces
// where the server says so (connections.py).
(() => {
  const BEAT = 30_000;
  const PAUSE = 250;
  const fetched = window.fetch.bind(window);

  const live = (request) => {
    const url = new URL(request.url);
    const beat = () => fetched(url, { method: "POST" }).catch(() => {});
    beat();
    setInterval(beat, BEAT);
    window.addEventListener("pageshow", (event) => event.persisted && beat());
    window.addEventListener("pagehide", () => {
      const closed = new URL(url);
      closed.searchParams.set("closed", "1");
      fetched(closed, { method: "POST", keepalive: true }).catch(() => {});
    });
    return new Response(new ReadableStream());
  };

  const listen = async (request) => {
    const ask = (more) => {
      const asked = new Request(request);
      asked.headers.set("x-chatui-tab", "1");
      if (more) asked.headers.set("x-chatui-more", "1");
      return fetched(asked);
    };
    let answer = await ask(false);
    if (!answer.ok) return answer;
    let reading = answer.body.getReader();
    const pull = (controller) =>
      next(controller).catch((error) => (request.signal.aborted ? controller.close() : controller.error(error)));
    const next = async (controller) => {
      for (;;) {
        const { done, value } = await reading.read();
        if (!done) return controller.enqueue(value);
        if (!answer.headers.has("x-chatui-more")) return controller.close();
        await new Promise((wake) => setTimeout(wake, PAUSE));
        answer = await ask(true);
        if (!answer.ok) throw new Error(`The stream of events has ended: ${answer.status}`);
        reading = answer.body.getReader();
      }
    };
    return new Response(new ReadableStream({ pull, cancel: () => reading.cancel().catch(() => {}) }), { headers: answer.headers });
  };

  window.fetch = (what, options) => {
    if (what instanceof Request && what.method === "GET") {
      const { pathname } = new URL(what.url);
      if (/\/gradio_api\/heartbeat\/[^/]+$/.test(pathname)) return Promise.resolve(live(what));
      if (pathname.endsWith("/gradio_api/queue/data")) return listen(what);
    }
    return fetched(what, options);
  };
})();
