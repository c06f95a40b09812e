// Wraps fetch so that a tab holds no connection of its own: a browser opens at most six to a site, and Gradio holds one for
// each tab and another for each running event. Heartbeats are short requests, and the event stream is polled in chunks if
// the server says so (stream_multiplexer.py).
(() => {
  const HEARTBEAT_MS = 30_000;
  const POLL_MS = 250;
  const nativeFetch = window.fetch.bind(window);

  const sendHeartbeats = (request) => {
    const url = new URL(request.url);
    window.chatuiTab = url.pathname.split("/").at(-1);
    const sendHeartbeat = () => nativeFetch(url, { method: "POST" }).catch(() => {});
    sendHeartbeat();
    setInterval(sendHeartbeat, HEARTBEAT_MS);
    window.addEventListener("pageshow", (event) => event.persisted && sendHeartbeat());
    window.addEventListener("pagehide", () => {
      const closed = new URL(url);
      closed.searchParams.set("closed", "1");
      nativeFetch(closed, { method: "POST", keepalive: true }).catch(() => {});
    });
    return new Response(new ReadableStream());
  };

  const readEvents = async (request) => {
    const poll = (more) => {
      const pollRequest = new Request(request);
      pollRequest.headers.set("x-chatui-tab", "1");
      if (more) pollRequest.headers.set("x-chatui-more", "1");
      return nativeFetch(pollRequest);
    };
    let response = await poll(false);
    if (!response.ok) return response;
    let reader = response.body.getReader();
    const pull = (controller) =>
      readChunk(controller).catch((error) => (request.signal.aborted ? controller.close() : controller.error(error)));
    const readChunk = async (controller) => {
      for (;;) {
        const { done, value } = await reader.read();
        if (!done) return controller.enqueue(value);
        if (!response.headers.has("x-chatui-more")) return controller.close();
        await new Promise((wake) => setTimeout(wake, POLL_MS));
        response = await poll(true);
        if (!response.ok) throw new Error(`The stream of events has ended: ${response.status}`);
        reader = response.body.getReader();
      }
    };
    return new Response(new ReadableStream({ pull, cancel: () => reader.cancel().catch(() => {}) }), { headers: response.headers });
  };

  window.fetch = (resource, options) => {
    if (resource instanceof Request && resource.method === "GET") {
      const { pathname } = new URL(resource.url);
      if (/\/gradio_api\/heartbeat\/[^/]+$/.test(pathname)) return Promise.resolve(sendHeartbeats(resource));
      if (pathname.endsWith("/gradio_api/queue/data")) return readEvents(resource);
    }
    return nativeFetch(resource, options);
  };
})();
