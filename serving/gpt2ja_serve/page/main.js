// The page: write a beginning, see it continued, look at every token, make the same call by code.

import { watchTokens } from "./alternatives.js";
import { getModel, getSettings, hasKey } from "./api.js";
import { writeCall } from "./calls.js";
import { copy } from "./clipboard.js";
import { Desk, FIRST } from "./desk.js";
import { number, say, setLanguage, startLanguage } from "./language.js";
import { fromFragment, load, save } from "./store.js";
import { report, Work } from "./work.js";

const WIDE = matchMedia("(min-width: 68rem)");
const $ = (id) => document.getElementById(id);
const code = document.querySelector("#call code");
const state = { language: null, coloured: true, call: "curl", prompt: "", settings: FIRST };

/** Remember and show what follows from the fields. */
function refresh(desk) {
  Object.assign(state, { prompt: desk.prompt, settings: desk.settings });
  save(state);
  $("texts").classList.toggle("plain", !state.coloured);
  for (const button of document.querySelectorAll("[data-call]")) {
    button.setAttribute("aria-pressed", String(button.dataset.call === state.call));
  }
  code.textContent = writeCall(state.call, desk.request(), hasKey());
}

/** Let a text be the prompt; the browser's Back brings the old one back. */
function goOn(desk, text) {
  history.replaceState({ prompt: desk.prompt, settings: desk.settings }, "");
  history.pushState({ prompt: text, settings: desk.settings }, "");
  desk.prompt = text;
  $("prompt").focus();
  $("prompt").setSelectionRange(text.length, text.length);
}

function listen(desk, work) {
  $("desk").addEventListener("submit", (event) => {
    event.preventDefault();
    if (work.running) work.stop();
    else work.run();
  });
  $("score").addEventListener("click", () => work.score());
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    work.run();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") work.stop();
  });
  $("examples").addEventListener("click", (event) => {
    if (event.target.localName !== "button") return;
    desk.prompt = event.target.textContent;
    work.run();
  });
  $("coloured").addEventListener("change", () => {
    state.coloured = $("coloured").checked;
    refresh(desk);
  });
  for (const button of document.querySelectorAll("[data-call]")) {
    button.addEventListener("click", () => {
      state.call = button.dataset.call;
      refresh(desk);
    });
  }
  $("copy-call").addEventListener("click", () => copy($("copy-call"), code.textContent));
  $("copy-link").addEventListener("click", () => copy($("copy-link"), desk.link()));
  window.addEventListener("popstate", (event) => {
    const found = event.state ?? takeFragment();
    if (found) desk.restore(found);
  });
}

/** The prompt and settings of a link, which are then the fields' and leave the address. */
function takeFragment() {
  const linked = fromFragment();
  if (linked) history.replaceState(null, "", location.pathname);
  return linked;
}

async function showModel(desk) {
  try {
    const { id, max_model_len: length, precision } = await getModel();
    desk.model = id;
    say($("model"), "model", { id, precision, length: number(length) });
    refresh(desk);
  } catch (error) {
    report(error, () => showModel(desk));
  }
}

async function start() {
  let declared;
  try {
    declared = await getSettings();
  } catch (error) {
    report(error, start);
    return;
  }
  const desk = new Desk(declared, () => refresh(desk));
  const work = new Work(desk, (text) => goOn(desk, text));
  watchTokens($("texts"), $("token"), (text) => {
    goOn(desk, text);
    work.run();
  });
  listen(desk, work);
  desk.restore(takeFragment() ?? state);
  await showModel(desk);
}

/** On a desk the settings stand open beside the text; on a phone they are folded. */
function fold() {
  $("settings").open = WIDE.matches;
}

Object.assign(state, load());
$("coloured").checked = state.coloured;
setLanguage(startLanguage(state.language));
for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    state.language = button.dataset.language;
    setLanguage(state.language);
    save(state);
  });
}
$("run").querySelector("kbd").textContent = /Mac|iP/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
fold();
WIDE.addEventListener("change", fold);
start();
