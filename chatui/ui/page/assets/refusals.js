// Shows why the server refuses a login (429), a request from another origin (403) or a message (422). Gradio shows the
// first not at all and the second only in part; it loses the third when another event of the page ends meanwhile.
(() => {
  const SHOWN = [["/login", [429]], ["/gradio_api/", [403]]];
  const nativeFetch = window.fetch.bind(window);

  const showRefusal = (text) => {
    let box = document.getElementById("refusal");
    if (!box) {
      box = document.createElement("p");
      box.id = "refusal";
      box.setAttribute("role", "alert");
      document.body.prepend(box);
    }
    box.textContent = text;
  };

  // At the message box, until the message or a setting is changed or a reply starts (chatui.js). `results` has one entry for each input.
  const showFirst = (results) => showProblem(results.find(({ is_valid, message }) => !is_valid && message)?.message);
  const showProblem = (reason) => {
    if (!reason) return;
    document.getElementById("message-problem")?.remove();
    const problem = document.createElement("p");
    problem.id = "message-problem";
    problem.textContent = reason;
    document.getElementById("message")?.prepend(problem);
    document.dispatchEvent(new CustomEvent("chatui:say", { detail: reason }));
  };
  document.addEventListener("input", ({ target }) => {
    if (target.closest?.("#message, #settings")) document.getElementById("message-problem")?.remove();
  });

  document.addEventListener("chatui:problem", (event) => showProblem(event.detail));

  window.fetch = async (resource, options) => {
    const response = await nativeFetch(resource, options);
    const { pathname, origin } = new URL(resource.url ?? resource, location.href);
    const isShown = SHOWN.some(([path, statuses]) => pathname.includes(path) && statuses.includes(response.status));
    if (origin === location.origin && isShown) {
      const body = await response.clone().json().catch(() => ({}));
      if (typeof body.detail === "string") showRefusal(body.detail);
    } else if (response.status === 422 && pathname.endsWith("/gradio_api/queue/join")) {
      const { detail } = await response.clone().json();
      if (Array.isArray(detail)) showFirst(detail);
    } else if (response.ok && pathname.endsWith("/login")) document.getElementById("refusal")?.remove();
    return response;
  };
})();
