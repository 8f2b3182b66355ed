/* Requests to the server this page is from: the key, errors as one line, and streams of server-sent events. */

const KEY = "sharedllm.key";

/* What went wrong, as one line. status: of the response; 0 if there was none. */
export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let asking = null;

/* Ask for the key once, however many requests need it. */
function askForKey(wrong) {
  asking ??= new Promise(done => {
    const dialog = document.getElementById("key");
    if (!dialog) throw new Failure("The key is missing or wrong: give it on the page, then open this again.", 401);
    const field = document.getElementById("key-value");
    document.getElementById("key-note").textContent = wrong ? "That key is not the server's. Try again." : "It is kept until you close this tab.";
    field.value = "";
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, field.value.trim());
      field.value = "";
      asking = null;
      done();
    }, { once: true });
    dialog.addEventListener("cancel", event => event.preventDefault());
    dialog.showModal();
    field.focus();
  });
  return asking;
}

/* A response that is not an error.
 * options: as of fetch. path: from the root. */
export async function request(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY), headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure("The server does not answer: check that it runs, and try again.", 0);
    }
    if (response.status === 401) {
      await askForKey(Boolean(key));
      continue;
    }
    if (!response.ok) throw new Failure(await messageOf(response), response.status);
    return response;
  }
}

async function messageOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `The server answered with status ${response.status}.`;
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

const broken = () => new Failure("The connection ended before the answer did: try again.", 0);

/* The events of a stream, up to its end. An event that is an error is thrown. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "", ended = false;
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(error => { throw error.name === "AbortError" ? error : broken(); });
      if (done) break;
      held += value;
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter(line => line.startsWith("data: ")).map(line => line.slice(6)).join("\n");
        if (data === "[DONE]") {
          ended = true;
          return;
        }
        const event = JSON.parse(data);
        if (event.error) throw new Failure(event.error.message, 500);
        yield event;
      }
    }
  } finally {
    if (!ended) reader.cancel().catch(() => {});
  }
  throw broken();
}

/* Slashes are encoded too: a browser would resolve the .. of a name such as ../owls.txt. */
export const pathOf = (memory, name) => `/v1/memories/${encodeURIComponent(memory)}/documents/${encodeURIComponent(name)}`;
