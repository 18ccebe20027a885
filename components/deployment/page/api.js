// The server's public API, as any client may use it. The key stays in this tab's storage and never enters an address.

const STORED = "lacewing-key";

/** An answer that is not 2xx, or none at all, in words for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setKey(key) {
  sessionStorage.setItem(STORED, key);
}

/** The JSON value at `path`. */
export async function get(path) {
  return (await request(path)).json();
}

/** Posts `body` and hands every event of the stream to `take`, until it ends or `signal` aborts it. */
export async function stream(path, body, signal, take) {
  const response = await request(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await read(reader);
    if (done) throw new Refused(0, "The server ended the answer too early.");
    const events = (text + value).split("\n\n");
    text = events.pop();
    for (const event of events) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) {
        const status = chunk.error.code === "internal_error" ? 500 : 503; // the stream's own status was 200
        throw new Refused(status, words(status, chunk.error.message));
      }
      take(chunk);
    }
  }
}

async function request(path, options = {}) {
  const key = sessionStorage.getItem(STORED);
  const headers = { "Content-Type": "application/json" };
  // A header holds bytes, one per character.
  if (key) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  const response = await reached(fetch(path, { ...options, headers }));
  if (response.ok) return response;
  const error = await response.json().then((body) => body.error, () => ({ message: response.statusText }));
  throw new Refused(response.status, words(response.status, error.message));
}

function read(reader) {
  return reached(reader.read());
}

async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server cannot be reached. Is it still running?");
  }
}

function words(status, message) {
  if (status === 401) return "This server asks for its key.";
  if (status === 503) return `Not now: ${message}.`;
  if (status >= 500) return `The server failed: ${message}.`;
  return `The server refused this: ${message}.`;
}
