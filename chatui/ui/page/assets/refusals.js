// What the server says when it takes no more wrong passwords, or takes the page for another site's: Gradio shows the
// one not at all, and of the other only a part.
(() => {
  const TOLD = [["/login", [429]], ["/gradio_api/", [403]]];
  const fetched = window.fetch.bind(window);

  const tell = (text) => {
    let told = document.getElementById("refusal");
    if (!told) {
      told = document.createElement("p");
      told.id = "refusal";
      told.setAttribute("role", "alert");
      document.body.prepend(told);
    }
    told.textContent = text;
  };

  window.fetch = async (what, options) => {
    const answer = await fetched(what, options);
    const { pathname, origin } = new URL(what.url ?? what, location.href);
    const told = TOLD.some(([path, statuses]) => pathname.includes(path) && statuses.includes(answer.status));
    if (origin === location.origin && told) {
      const said = await answer.clone().json().catch(() => ({}));
      if (typeof said.detail === "string") tell(said.detail);
    } else if (answer.ok && pathname.endsWith("/login")) document.getElementById("refusal")?.remove();
    return answer;
  };
})();
