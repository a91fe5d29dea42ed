// What a request is made from: the prompt, the number of texts, the settings.

import { say } from "./language.js";
import { SettingsForm } from "./settings.js";
import { address } from "./store.js";

/** What a new page begins with; the server's own defaults give one short text. */
export const FIRST = { n: 2, max_tokens: 120 };
const CANDIDATES = 5;
const MOST = 128; // texts that a page can show
const $ = (id) => document.getElementById(id);

/** The fields. `changed` is called after every change. */
export class Desk {
  constructor(declared, changed) {
    this.model = "demo";
    this.seed = null; // of the last texts
    this.scoring = false; // whether the last request scored
    this.changed = changed;
    this.form = new SettingsForm($("fields"), declared, () => this.note());
    this.listen();
  }

  listen() {
    $("prompt").addEventListener("input", this.changed);
    $("n").addEventListener("change", () => this.setTexts(this.texts));
    $("fewer").addEventListener("click", () => this.setTexts(this.texts - 1));
    $("more").addEventListener("click", () => this.setTexts(this.texts + 1));
    $("reset").addEventListener("click", () => {
      const { n: _, ...values } = FIRST;
      this.form.replace(values);
    });
  }

  /** Say how many settings are not as a new page has them. */
  note() {
    const values = this.form.values();
    const names = new Set([...Object.keys(values), "max_tokens"]);
    const changed = [...names].filter((name) => values[name] !== FIRST[name]).length;
    if (changed) say($("changed"), "changed", { count: changed });
    $("changed").hidden = $("reset").hidden = changed === 0;
    this.changed();
  }

  get prompt() {
    return $("prompt").value;
  }

  set prompt(text) {
    $("prompt").value = text;
    this.changed();
  }

  get texts() {
    return Math.max(1, Math.min(MOST, Math.trunc(Number($("n").value)) || 1));
  }

  setTexts(count) {
    $("n").value = count;
    $("n").value = this.texts;
    this.changed();
  }

  /** The settings, and how many texts. */
  get settings() {
    return { ...this.form.values(), n: this.texts };
  }

  /** Take over a prompt and settings: of a reload, of a link, of the browser's history. */
  restore({ prompt, settings: { n, ...values } }) {
    $("prompt").value = prompt;
    $("n").value = n ?? FIRST.n;
    $("n").value = this.texts;
    this.form.replace(values);
  }

  /** The last request again: what was done last, with the fields as they are now. */
  request() {
    if (this.scoring) return this.scoringRequest();
    const seed = this.form.values().seed ?? this.seed;
    const { model, prompt, settings } = this;
    return { model, prompt, ...settings, ...(seed === null ? {} : { seed }) };
  }

  /** A request for new texts, with the seed that is set or a new one. */
  textRequest() {
    this.seed = this.form.values().seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
    this.scoring = false;
    this.changed();
    return { ...this.request(), logprobs: CANDIDATES };
  }

  /** A request for the probabilities of the text itself. */
  scoringRequest() {
    const { model, prompt } = this;
    return { model, prompt, echo: true, max_tokens: 0, logprobs: CANDIDATES };
  }

  /** The address that opens the page with these fields, and with the seed of the last texts. */
  link() {
    const { n, ...values } = this.settings;
    const seed = values.seed ?? this.seed;
    return address(this.prompt, { ...values, n, ...(seed === null ? {} : { seed }) });
  }
}
