// Shows why the server refuses a login (429) or a request from another origin (403): Gradio shows the former not at all,
// and the latter only in part.
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

  window.fetch = async (resource, options) => {
    const response = await nativeFetch(resource, options);
    const { pathname, origin } = new URL(resource.url ?? resource, location.href);
    const isShown = SHOWN.some(([path, statuses]) => pathname.includes(path) && statuses.includes(response.status));
    if (origin === location.origin && isShown) {
      const body = await response.clone().json().catch(() => ({}));
      if (typeof body.detail === "string") showRefusal(body.detail);
    } else if (response.ok && pathname.endsWith("/login")) document.getElementById("refusal")?.remove();
    return response;
  };
})();
