// Copies text, also where the browser keeps the clipboard from pages without HTTPS.

import { say } from "./language.js";

/** Copy a text; the button says for a moment that it is done. */
export async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const phrase = (button.dataset.phrase ??= button.dataset.say ?? "copy");
  say(button, "copied");
  setTimeout(() => say(button, phrase), 1500);
}
