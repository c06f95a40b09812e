// Notes what Gradio's page sends and receives: its requests, their answers, and each message of its event streams.
{
  const MAX_NOTES = 120, MAX_LENGTH = 300;
  const nativeFetch = window.fetch.bind(window), notes = [];
  const note = (text) => {
    notes.push(`${(Date.now() / 1000).toFixed(3)} ${text}`);
    if (notes.length > MAX_NOTES) notes.shift();
  };
  window.eventNotes = () => notes;
  window.addEventListener("error", (event) => note(`ERROR ${event.message}`));
  window.addEventListener("unhandledrejection", (event) => note(`ERROR ${event.reason}`));

  const noteMessage = (line) => {
    if (!line.startsWith("data:")) return;
    const { msg, event_id, output } = JSON.parse(line.slice(5));
    note(`${msg} ${event_id ?? ""} ${(JSON.stringify(output?.data) ?? "").slice(0, MAX_LENGTH)}`);
  };
  const noteStream = async (stream) => {
    const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (let rest = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) return note("end of the stream");
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        lines.forEach(noteMessage);
      }
    } catch (error) {
      note(`end of the stream: ${error}`);
    }
  };
  const send = async (name, url, resource, options) => {
    const response = await nativeFetch(resource, options);
    if (!url.includes("/queue/data")) {
      note(`< ${name} ${response.status} ${(await response.clone().text()).slice(0, MAX_LENGTH)}`);
      return response;
    }
    if (!response.body) return response;
    const [ours, theirs] = response.body.tee();
    noteStream(ours);
    return new Response(theirs, response);
  };
  window.fetch = async (resource, options) => {
    const url = String(resource.url ?? resource);
    if (!/\/queue\/|\/run\/predict/.test(url)) return nativeFetch(resource, options);
    const name = url.split("/").slice(-2).join("/").slice(0, 40);
    note(`> ${name} ${String(options?.body ?? "").slice(0, MAX_LENGTH)}`);
    try {
      return await send(name, url, resource, options);
    } catch (error) {
      note(`< ${name}: ${error}`);
      throw error;
    }
  };
}
