// What comes back: cards of generated texts, side by side, and the view of a scored text.

import { percent, label, number, say } from "./language.js";
import { visible } from "./alternatives.js";
import { band, TokenText } from "./tokens.js";

const LEAD = 60; // characters of the prompt that a card repeats

/** One generated text. `actions` are {copy(button, text), goOn(text)}. */
export class TextCard {
  constructor(index, prompt, actions) {
    this.prompt = prompt;
    this.finish = null;
    this.element = document.createElement("article");
    const head = document.createElement("header");
    const title = document.createElement("h3");
    say(title, "text", { number: index + 1 });
    this.note = document.createElement("p");
    this.note.className = "quiet";
    head.append(title, this.note);
    const body = document.createElement("div");
    body.className = "body";
    body.lang = "ja";
    const lead = document.createElement("span");
    lead.className = "lead";
    const letters = [...prompt];
    lead.textContent = letters.length > LEAD ? `…${letters.slice(-LEAD).join("")}` : prompt;
    const tokens = document.createElement("span");
    tokens.className = "tokens";
    tokens.setAttribute("role", "group");
    label(tokens, "text", { number: index + 1 });
    body.append(lead, tokens);
    this.element.append(head, body, this.tools(actions));
    this.element.setAttribute("aria-busy", "true");
    this.tokens = new TokenText(tokens, prompt);
    this.count();
  }

  tools({ copy, goOn }) {
    const tools = document.createElement("p");
    tools.className = "tools";
    const whole = () => this.prompt + this.tokens.text;
    const copyButton = linkButton("copy", () => copy(copyButton, whole()));
    tools.append(copyButton, linkButton("goOn", () => goOn(whole())));
    return tools;
  }

  /** Show what a chunk brought. */
  add(choice) {
    this.tokens.add(choice);
    if (choice.finish_reason) this.end(choice.finish_reason);
    else this.count();
  }

  /** Say how the text ended: a finish reason, `stopped` or `error`; the first one counts. */
  end(reason) {
    this.finish ??= reason;
    this.element.removeAttribute("aria-busy");
    this.count();
  }

  count() {
    const known = ["length", "stop", "stopped", "error"].includes(this.finish);
    const tokens = number(this.tokens.tokens.length);
    say(this.note, `finish-${known ? this.finish : "none"}`, { tokens });
  }
}

/** A scored text: its figures, its tokens, and where it surprised the model most. */
export function scoredText(choice) {
  const view = document.createElement("article");
  view.className = "scored";
  const body = document.createElement("div");
  body.className = "body tokens";
  body.lang = "ja";
  body.setAttribute("role", "group");
  label(body, "scored");
  const text = new TokenText(body, "");
  text.add(choice);
  const known = text.tokens.filter((token) => token.logprob !== null);
  view.append(figures(text.tokens.length, known), body, surprises(text, body));
  return view;
}

function figures(count, known) {
  const list = document.createElement("dl");
  const sum = known.reduce((total, token) => total + token.logprob, 0);
  const mean = known.length ? -sum / known.length : 0;
  const shown = known.length
    ? [
        ["perplexity", number(Math.exp(mean), 1)],
        ["bits", number(mean / Math.LN2, 2)],
        ["logprob", number(sum, 1)],
      ]
    : [];
  for (const [name, value] of [...shown, ["count", number(count)]]) {
    const pair = document.createElement("div");
    const term = document.createElement("dt");
    say(term, name);
    const figure = document.createElement("dd");
    figure.textContent = value;
    pair.append(term, figure);
    list.append(pair);
  }
  return list;
}

function surprises(text, body) {
  const section = document.createElement("section");
  const title = document.createElement("h3");
  say(title, "surprises");
  const list = document.createElement("ol");
  const ranked = text.tokens
    .map((token, index) => ({ ...token, index }))
    .filter((token) => token.logprob !== null)
    .sort((a, b) => a.logprob - b.logprob)
    .slice(0, 5);
  for (const { index, logprob } of ranked) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const context = document.createElement("span");
    context.lang = "ja";
    const { before, text: own } = text.describe(index);
    const mark = document.createElement("mark");
    mark.textContent = visible(own);
    mark.dataset.band = band(logprob);
    context.append(`${[...before].slice(-10).join("")}`, mark);
    const chance = document.createElement("span");
    chance.textContent = percent(logprob);
    button.append(context, chance);
    button.addEventListener("click", (event) => {
      event.stopPropagation(); // or it would count as a click beside the panel it opens
      body.children[index].scrollIntoView({ block: "nearest" });
      body.children[index].click();
    });
    item.append(button);
    list.append(item);
  }
  if (ranked.length) section.append(title, list);
  return section;
}

/** A button that looks like a link. */
export function linkButton(phrase, act) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "link";
  say(button, phrase);
  button.addEventListener("click", act);
  return button;
}
