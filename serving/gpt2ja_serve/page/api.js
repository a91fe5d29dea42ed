// Calls the server: completions as a stream of chunks or whole, the model, the settings.

const KEY = "gpt2ja-onnx key";

/** What the server answered instead of what was asked for. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keep an API key until the tab is closed. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Whether calls carry an API key. */
export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

/** The settings that the server takes, as it describes them. */
export async function getSettings() {
  return (await ask("page/settings.json")).json();
}

/** The model that is served. */
export async function getModel() {
  return (await (await ask("v1/models")).json()).data[0];
}

/** A whole completion. */
export async function complete(body, signal) {
  return (await post(body, signal)).json();
}

/** A completion's chunks as they come. */
export async function* stream(body, signal) {
  const response = await post({ ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message);
    yield chunk;
  }
}

function post(body, signal) {
  return ask("v1/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const text = await response.text();
  throw new ServerError(messageOf(text) ?? `${response.status} ${text}`, response.status);
}

function messageOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return null;
  }
}

/** The data of the server-sent events in a body. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value.replaceAll("\r", "");
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    await reader.cancel();
  }
}
