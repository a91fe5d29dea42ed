// What the page remembers: in localStorage for a reload, in a link's fragment for others.

const NAME = "gpt2ja-onnx";

/** What was saved last; an empty object at first, or where nothing may be stored. */
export function load() {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? {};
  } catch {
    return {};
  }
}

/** Save what a reload must bring back. */
export function save(state) {
  try {
    localStorage.setItem(NAME, JSON.stringify(state));
  } catch {
    // Private windows may refuse; the page works without.
  }
}

/** The prompt and settings of this page's address; null where it carries none. */
export function fromFragment() {
  const parts = new URLSearchParams(location.hash.slice(1));
  if (!parts.has("prompt")) return null;
  const settings = {};
  for (const [name, text] of parts) {
    if (name === "prompt") continue;
    try {
      settings[name] = JSON.parse(text);
    } catch {
      settings[name] = text;
    }
  }
  return { prompt: parts.get("prompt"), settings };
}

/** An address that opens this page with a prompt and settings. */
export function address(prompt, settings) {
  const parts = new URLSearchParams({ prompt });
  for (const [name, value] of Object.entries(settings)) parts.set(name, JSON.stringify(value));
  return `${location.origin}${location.pathname}#${parts}`;
}
