// The tokens of one text: added as they come, each with its probability and its rivals.

const BANDS = [0.5, 0.2, 0.05, 0.01];
const owners = new WeakMap();

/** The {text, logprob, top, before} of a token's element: `before` is all text ahead of it. */
export function tokenOf(element) {
  const owner = owners.get(element);
  return owner?.describe(Number(element.dataset.index));
}

/** 0 for a likely token to 4 for one below 1 %; null where there is no probability. */
export function band(logprob) {
  if (logprob === null) return null;
  const found = BANDS.findIndex((least) => Math.exp(logprob) >= least);
  return found < 0 ? BANDS.length : found;
}

/** Shows the tokens of one choice in an element; `lead` is the text before them. */
export class TokenText {
  constructor(element, lead) {
    this.element = element;
    this.lead = lead;
    this.letters = []; // code points, which is what the server's offsets count
    this.tokens = [];
    this.settled = 0; // tokens whose text cannot change any more
    this.ended = false;
  }

  /** The text so far. */
  get text() {
    return this.letters.join("");
  }

  /** Add what a chunk, or a whole answer, brought. */
  add(choice) {
    for (const letter of choice.text) this.letters.push(letter);
    const { tokens = [], token_logprobs, top_logprobs, text_offset } = choice.logprobs ?? {};
    tokens.forEach((_, i) => {
      this.tokens.push({
        offset: text_offset[i],
        logprob: token_logprobs[i],
        top: Object.entries(top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]),
      });
    });
    this.ended ||= Boolean(choice.finish_reason);
    this.draw();
  }

  draw() {
    if (!this.tokens.length) {
      this.element.textContent = this.text;
      return;
    }
    for (let i = this.settled; i < this.tokens.length; i++) {
      const span = this.element.children[i] ?? this.append(i);
      const text = this.textOf(i);
      span.textContent = text;
      span.classList.toggle("silent", text === "");
    }
    this.settled = this.tokens.length - 1;
  }

  append(index) {
    const span = document.createElement("span");
    span.dataset.index = index;
    const shade = band(this.tokens[index].logprob);
    if (shade !== null) span.dataset.band = shade;
    span.tabIndex = index === 0 ? 0 : -1; // one stop of the Tab key; arrows move on
    owners.set(span, this);
    this.element.append(span);
    return span;
  }

  start(index) {
    return this.tokens[index].offset - this.tokens[0].offset;
  }

  textOf(index) {
    const end = index + 1 < this.tokens.length ? this.start(index + 1) : this.letters.length;
    return this.letters.slice(this.start(index), end).join("");
  }

  describe(index) {
    const { logprob, top } = this.tokens[index];
    const before = this.lead + this.letters.slice(0, this.start(index)).join("");
    return { text: this.textOf(index), logprob, top, before };
  }
}
