// Lets the server work: texts that stream in, a text that is scored, stopping, what went wrong.

import { complete, hasKey, ServerError, stream, useKey } from "./api.js";
import { copy } from "./clipboard.js";
import { number, say } from "./language.js";
import { linkButton, scoredText, TextCard } from "./texts.js";

const NARROW = matchMedia("(max-width: 67.99rem)");
const $ = (id) => document.getElementById(id);

/** What the server does for this page, one thing at a time. `goOn(text)` makes a text the prompt. */
export class Work {
  constructor(desk, goOn) {
    this.desk = desk;
    this.goOn = goOn;
    this.running = null; // the AbortController of what is under way
  }

  /** Stop what is under way; the server frees its rows when the connection closes. */
  stop() {
    this.running?.abort();
  }

  /** Generate texts and show them while they come. */
  run() {
    return this.attempt(async (signal) => {
      const body = this.desk.textRequest();
      const actions = { copy, goOn: this.goOn };
      const cards = Array.from(
        { length: body.n },
        (_, index) => new TextCard(index, body.prompt, actions),
      );
      show("texts", "running", cards.map((card) => card.element));
      this.showSeed(body.seed);
      const started = performance.now();
      let outcome = "failed";
      try {
        for await (const chunk of chunks(body, signal)) {
          for (const choice of chunk.choices) cards[choice.index].add(choice);
        }
        outcome = "done";
      } finally {
        if (signal.aborted) outcome = "stopped";
        finish(cards, outcome, (performance.now() - started) / 1000);
      }
    }, () => this.run());
  }

  /** Show how likely each token of the text is. */
  score() {
    return this.attempt(async (signal) => {
      this.desk.scoring = true;
      this.desk.changed();
      show("scored", "scoring", []);
      try {
        const { choices } = await complete(this.desk.scoringRequest(), signal);
        show("scored", "scoreDone", [scoredText(choices[0])]);
      } catch (error) {
        $("results").hidden = true;
        throw error;
      }
    }, () => this.score());
  }

  /** Run `job(signal)`; `again` is what to do once there is an API key. */
  async attempt(job, again) {
    if (this.running) return;
    if (this.desk.prompt === "") {
      fail("noPrompt");
      $("prompt").focus();
      return;
    }
    if (!this.desk.form.check()) return;
    $("token").hidden = $("error").hidden = $("key").hidden = $("examples").hidden = true;
    const own = (this.running = new AbortController());
    setBusy(true);
    try {
      await job(own.signal);
    } catch (error) {
      if (!own.signal.aborted) report(error, again);
    } finally {
      this.running = null;
      setBusy(false);
    }
  }

  showSeed(seed) {
    const shown = document.createElement("span");
    say(shown, "seed", { seed });
    $("seed").append(shown);
    if (this.desk.form.values().seed !== undefined) return;
    const keep = linkButton("keepSeed", () => {
      this.desk.form.set("seed", seed);
      keep.remove();
    });
    $("seed").append(" ", keep);
  }
}

/** Say plainly what went wrong; ask for an API key where one is wanted. */
export function report(error, again) {
  if (!(error instanceof ServerError)) {
    fail("unreachable");
    if (!(error instanceof TypeError)) console.error(error);
    return;
  }
  const message = { ja: error.message, en: error.message };
  if (error.status !== 401) return void fail(message);
  fail(hasKey() ? message : "needsKey");
  $("key").hidden = false;
  $("key").onsubmit = (event) => {
    event.preventDefault();
    useKey($("secret").value);
    $("secret").value = "";
    $("error").hidden = $("key").hidden = true;
    again();
  };
  $("secret").focus();
}

function fail(phrase) {
  $("error").hidden = false;
  say($("error"), phrase);
  $("error").scrollIntoView({ block: "nearest" });
}

function setBusy(busy) {
  document.body.classList.toggle("busy", busy);
  say($("run").firstElementChild, busy ? "stop" : "run");
  $("score").disabled = busy;
}

function show(title, status, children) {
  $("results").hidden = false;
  say($("results-title"), title);
  say($("status"), status);
  $("seed").replaceChildren();
  $("texts").replaceChildren(...children);
  if (NARROW.matches) $("results").scrollIntoView();
}

/** What is chosen among whole texts, by beams or as the best of several, comes whole. */
async function* chunks(body, signal) {
  if (body.use_beam_search || body.best_of > body.n) yield await complete(body, signal);
  else yield* stream(body, signal);
}

function finish(cards, outcome, seconds) {
  for (const card of cards) card.end(outcome === "stopped" ? "stopped" : "error");
  const count = cards.reduce((sum, card) => sum + card.tokens.tokens.length, 0);
  const tokens = number(count);
  say($("status"), outcome, {
    tokens,
    seconds: number(seconds, 1),
    rate: number(count / seconds),
  });
  if (outcome === "failed" && !count) $("results").hidden = true;
}
