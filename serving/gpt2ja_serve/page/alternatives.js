// The panel of a token: how likely it was and what else could have stood there.
// It follows the pointer, a tap or the keyboard; a tap or Enter keeps it open.

import { label, percent, say, words } from "./language.js";
import { tokenOf } from "./tokens.js";

const PIECE = /^<[^<>\s]+>$/; // a control token or a part of a character: no text of its own
const NARROW = matchMedia("(max-width: 40rem)");

/** Show the panel for the tokens below `root`; `choose(text)` gets the text up to a rival. */
export function watchTokens(root, panel, choose) {
  let current = null;
  let pinned = false;
  let timer = 0;

  function show(element, keep) {
    clearTimeout(timer);
    if (pinned && !keep) return;
    if (element !== current) {
      current?.classList.remove("shown");
      current = element;
      current.classList.add("shown");
      fill(panel, tokenOf(element), (text) => {
        hide();
        choose(text);
      });
    }
    pinned = keep;
    panel.classList.toggle("pinned", keep);
    panel.hidden = false;
    place(panel, element);
  }

  function hide() {
    clearTimeout(timer);
    current?.classList.remove("shown");
    current = null;
    pinned = false;
    panel.hidden = true;
  }

  const leave = () => {
    clearTimeout(timer);
    if (!pinned) timer = setTimeout(hide, 200);
  };

  // A mouse that only passes by, or under which the page scrolls, is not meant.
  root.addEventListener("pointermove", (event) => {
    const token = tokenAt(event);
    if (!token || token === current || event.pointerType !== "mouse") return;
    clearTimeout(timer);
    timer = setTimeout(() => show(token, false), panel.hidden ? 150 : 40);
  });
  root.addEventListener("pointerout", (event) => {
    if (event.pointerType === "mouse") leave();
  });
  panel.addEventListener("pointerenter", () => clearTimeout(timer));
  panel.addEventListener("pointerleave", leave);
  root.addEventListener("click", (event) => {
    const token = tokenAt(event);
    if (!token) return;
    if (pinned && token === current) hide();
    else show(token, true);
  });
  document.addEventListener("click", (event) => {
    if (pinned && !tokenAt(event) && !panel.contains(event.target)) hide();
  });
  root.addEventListener("focusin", (event) => {
    const token = tokenAt(event);
    if (token?.matches(":focus-visible")) show(token, false);
  });
  root.addEventListener("focusout", (event) => {
    if (!panel.contains(event.relatedTarget)) leave();
  });
  root.addEventListener("keydown", (event) => {
    const token = tokenAt(event);
    if (!token) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      show(token, true);
      panel.querySelector("button")?.focus();
    } else if (move(token, event.key)) {
      event.preventDefault();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || panel.hidden) return;
    event.stopImmediatePropagation();
    const back = panel.contains(document.activeElement) ? current : null;
    hide();
    back?.focus();
  });
  window.addEventListener("resize", hide);
}

function tokenAt(event) {
  return event.target instanceof Element ? event.target.closest("[data-index]") : null;
}

function move(token, key) {
  const all = [...token.parentElement.children];
  const at = all.indexOf(token);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[key];
  const target = all[next];
  if (!target) return false;
  token.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
  return true;
}

function fill(panel, token, choose) {
  panel.replaceChildren();
  const title = document.createElement("p");
  title.className = "title";
  const name = document.createElement("b");
  name.lang = "ja";
  name.textContent = visible(token.text);
  title.append(name);
  panel.append(title);
  const note = document.createElement("p");
  note.className = "quiet";
  if (token.logprob === null) {
    say(note, "noProbability");
    panel.append(note);
    return;
  }
  const chance = document.createElement("span");
  chance.textContent = percent(token.logprob);
  title.append(chance);
  const list = document.createElement("ul");
  // The same number stands in both places; the texts may differ at a stop string.
  const listed = token.top.some(([, logprob]) => logprob === token.logprob);
  const rivals = listed ? token.top : [...token.top, [token.text, token.logprob]];
  for (const [text, logprob] of rivals) list.append(rival(text, logprob, token, choose));
  say(note, "before");
  panel.append(list, note);
}

function rival(text, logprob, token, choose) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  const bar = document.createElement("i");
  bar.style.width = `${100 * Math.exp(logprob)}%`;
  const name = document.createElement("span");
  name.lang = "ja";
  name.textContent = visible(text);
  const chance = document.createElement("span");
  chance.textContent = percent(logprob);
  button.append(bar, name, chance);
  if (logprob === token.logprob) button.setAttribute("aria-current", "true");
  const said = words("continueWith", { text: visible(text) });
  label(button, { ja: `${said} ${chance.textContent}`, en: `${said} ${chance.textContent}` });
  button.disabled = PIECE.test(text);
  button.addEventListener("click", () => choose(token.before + text));
  item.append(button);
  return item;
}

/** A token's text with its blanks made visible. */
export function visible(text) {
  return text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll(" ", "␣");
}

/** Put the panel below the token, or above it where there is no room; on a phone at the bottom. */
function place(panel, element) {
  panel.style.left = panel.style.top = "";
  if (NARROW.matches) {
    const covered = element.getBoundingClientRect().bottom + 24 - panel.getBoundingClientRect().top;
    if (covered > 0) scrollBy(0, covered);
    return;
  }
  const box = element.getClientRects()[0];
  const { width, height } = panel.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8));
  const below = box.bottom + height + 16 <= innerHeight;
  panel.style.left = `${left + scrollX}px`;
  panel.style.top = `${(below ? box.bottom + 6 : Math.max(8, box.top - height - 6)) + scrollY}px`;
}
