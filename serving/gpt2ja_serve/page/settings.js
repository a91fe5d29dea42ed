// The form of all settings, made from the server's description of them.
// An empty field stands for the server's default and is not sent.

import { hint, label, say, words } from "./language.js";

const BASIC = ["max_tokens", "temperature", "top_p", "top_k", "seed"];
const GROUPS = ["length", "sampling", "penalties", "tokens", "form", "beams", "output"];
// Set by the page itself: how many texts stands beside the button, the rest is how it asks.
const OWN = new Set(["n", "logprobs", "echo", "stream"]);

/** The settings as fields. `changed` is called after every change. */
export class SettingsForm {
  constructor(form, declared, changed) {
    this.declared = new Map(declared.map((setting) => [setting.name, setting]));
    this.fields = new Map();
    this.changed = changed;
    const shown = declared.filter((setting) => !OWN.has(setting.name));
    const basic = BASIC.map((name) => this.declared.get(name)).filter(Boolean);
    form.append(this.group("basic", basic, true));
    for (const name of GROUPS) {
      const members = shown.filter((s) => s.group === name && !BASIC.includes(s.name));
      if (members.length) form.append(this.group(name, members, false));
    }
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  group(name, members, open) {
    const group = document.createElement("details");
    group.className = "group";
    group.open = open;
    const title = document.createElement("summary");
    say(title, name);
    group.append(title, ...members.map((setting) => this.row(setting)));
    return group;
  }

  row(setting) {
    const row = document.createElement("div");
    row.className = "setting";
    const name = document.createElement("label");
    name.textContent = setting.name;
    name.htmlFor = `set-${setting.name}`;
    const field = fieldFor(setting);
    field.input.id = name.htmlFor;
    const reset = document.createElement("button");
    reset.type = "button";
    reset.className = "link";
    reset.textContent = "×";
    label(reset, "resetOne", { name: setting.name });
    const help = document.createElement("p");
    help.id = `help-${setting.name}`;
    help.className = "quiet";
    say(help, setting.help);
    field.input.setAttribute("aria-describedby", help.id);
    const mark = () => {
      row.classList.toggle("set", field.read() !== undefined);
      this.changed();
    };
    row.addEventListener("input", mark);
    reset.addEventListener("click", () => {
      field.write(undefined);
      mark();
      field.input.focus();
    });
    this.fields.set(setting.name, { ...field, row });
    row.append(name, reset, field.input, ...(field.slider ? [field.slider] : []), help);
    return row;
  }

  /** The settings that are not left to the server. */
  values() {
    const read = [...this.fields].map(([name, field]) => [name, field.read()]);
    return Object.fromEntries(read.filter(([, value]) => value !== undefined));
  }

  /** Replace all settings; names that the server does not know are left out. */
  replace(values) {
    for (const [name, field] of this.fields) {
      field.write(values[name] ?? undefined);
      field.row.classList.toggle("set", field.read() !== undefined);
    }
    this.changed();
  }

  /** Set one setting. */
  set(name, value) {
    this.replace({ ...this.values(), [name]: value });
  }

  /** Whether every field can be read; otherwise the first that cannot is shown. */
  check() {
    for (const { input } of this.fields.values()) {
      if (input.checkValidity()) continue;
      for (let at = input.closest("details"); at; at = at.parentElement.closest("details")) {
        at.open = true;
      }
      input.reportValidity();
      return false;
    }
    return true;
  }
}

/** {input, slider, read, write} of a setting; `read` gives undefined for the default. */
function fieldFor(setting) {
  if (setting.type === "boolean") return flag(setting);
  if (setting.type === "strings") return lines(setting);
  if (setting.type === "text") return text();
  if (setting.type === "integer" || setting.type === "number") return figure(setting);
  return json();
}

function flag(setting) {
  const input = document.createElement("input");
  input.type = "checkbox";
  return {
    input,
    read: () => (input.checked === Boolean(setting.default) ? undefined : input.checked),
    write: (value) => {
      input.checked = Boolean(value ?? setting.default);
    },
  };
}

function figure(setting) {
  const input = document.createElement("input");
  input.type = "number";
  input.step = setting.type === "integer" ? "1" : "any";
  if (setting.minimum !== null) input.min = setting.minimum;
  if (setting.maximum !== null) input.max = setting.maximum;
  else if (setting.type === "integer") input.max = Number.MAX_SAFE_INTEGER; // exact up to here
  showDefault(input, setting);
  const { minimum, maximum } = setting;
  let slider = null;
  if (minimum !== null && maximum !== null && setting.type === "number" && maximum - minimum <= 10) {
    slider = document.createElement("input");
    slider.type = "range";
    Object.assign(slider, { min: minimum, max: maximum, step: 0.01, tabIndex: -1 });
    slider.setAttribute("aria-hidden", "true"); // the number says the same, and takes arrow keys
    slider.addEventListener("input", () => {
      input.value = slider.value;
    });
    input.addEventListener("input", () => follow());
  }
  const follow = () => {
    if (slider) slider.value = input.value === "" ? (setting.default ?? minimum) : input.value;
  };
  follow();
  return {
    input,
    slider,
    read: () => (input.value === "" ? undefined : Number(input.value)),
    write: (value) => {
      input.value = typeof value === "number" ? value : "";
      follow();
    },
  };
}

function lines(setting) {
  const input = document.createElement("textarea");
  input.rows = 2;
  input.lang = "ja";
  hint(input, "aLine");
  return {
    input,
    read: () => {
      const given = input.value.split("\n").filter((line) => line !== "");
      return given.length ? given : undefined;
    },
    write: (value) => {
      input.value = Array.isArray(value) ? value.join("\n") : (value ?? "");
    },
  };
}

/** A text that is sent as it stands: white space at its ends may be meant. */
function text() {
  const input = document.createElement("input");
  input.type = "text";
  input.autocomplete = "off";
  input.spellcheck = false;
  return {
    input,
    read: () => (input.value === "" ? undefined : input.value),
    write: (value) => {
      input.value = value ?? "";
    },
  };
}

/** Lists and mappings of token ids, as JSON. */
function json() {
  const input = document.createElement("input");
  input.type = "text";
  input.autocomplete = "off";
  hint(input, "json");
  const parsed = () => {
    if (input.value.trim() === "") return undefined;
    try {
      return JSON.parse(input.value);
    } catch {
      return null;
    }
  };
  const check = () => input.setCustomValidity(parsed() === null ? words("notJson") : "");
  input.addEventListener("input", check);
  return {
    input,
    read: () => parsed() ?? undefined,
    write: (value) => {
      input.value = value === undefined ? "" : JSON.stringify(value);
      check();
    },
  };
}

function showDefault(input, setting) {
  const value = setting.default;
  if (setting.name === "seed") hint(input, "newSeed");
  else if (value === null || (typeof value === "object" && !Object.keys(value).length)) {
    hint(input, "none");
  } else input.placeholder = typeof value === "object" ? JSON.stringify(value) : value;
}
