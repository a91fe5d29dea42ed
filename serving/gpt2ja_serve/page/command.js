// A request written as a command line of gpt2ja-onnx.

// Where the command line's name is another.
const NAMES = { max_tokens: "max-new-tokens", min_tokens: "min-new-tokens", n: "num-return-sequences" };
// What it refuses beside --greedy, as it would do nothing.
const DRAWING = new Set(
  "n temperature top_p top_k min_p typical_p epsilon_cutoff eta_cutoff seed".split(" "),
);
const MISSING = new Set(["bad_words", "stop_token_ids"]); // what it does not have
// How values that are no single word or number are written, one item for each option.
const ITEMS = {
  early_stopping: (value) => [String(value)],
  logit_bias: (value) => Object.entries(value).map(([id, bias]) => `${id}=${bias}`),
  sequence_bias: (value) => value.map(([ids, bias]) => `${ids}=${bias}`),
  bad_words_ids: (value) => value.map(String),
  suppress_tokens: (value) => [String(value)],
  forced_eos_token_id: (value) => [String(value)],
  stop: (value) => [value].flat(),
  choices: (value) => value,
  json_schema: (value) => [typeof value === "string" ? value : JSON.stringify(value)],
  top_k: (value) => [String(Math.max(0, value))],
};

/** Write a request {model, prompt, ...settings}. */
export function writeCommand({ model, prompt, ...settings }) {
  const options = model === "demo" ? [] : [`--model ${quoted(model)}`];
  const text = prompt.startsWith("-") ? `-- ${quoted(prompt)}` : quoted(prompt);
  if (settings.echo) return ["gpt2ja-onnx score", ...options, text].join(" \\\n  ");
  const { use_beam_search: search, best_of: beams, ignore_eos: endless, ...rest } = settings;
  const greedy = search || rest.temperature === 0;
  if (greedy) options.push("--greedy");
  if (search) options.push(`--num-beams ${beams ?? rest.n ?? 1}`);
  if (endless) options.push("--eos-token-id ''");
  const missing = beams && !search ? ["best_of"] : [];
  for (const [name, value] of Object.entries(rest)) {
    if (greedy && DRAWING.has(name) && !(search && name === "n")) continue;
    if (MISSING.has(name)) missing.push(name);
    else options.push(...optionsOf(name, value));
  }
  const written = ["gpt2ja-onnx generate", ...options, text].join(" \\\n  ");
  return missing.length ? `# without ${missing.join(", ")}\n${written}` : written;
}

function optionsOf(name, value) {
  const option = `--${NAMES[name] ?? name.replaceAll("_", "-")}`;
  if (name === "exponential_decay_length_penalty") return [`${option} ${value.join(" ")}`];
  if (name in ITEMS) return ITEMS[name](value).map((item) => `${option} ${quoted(item)}`);
  if (typeof value === "boolean") return value ? [option] : [];
  return [`${option} ${quoted(String(value))}`];
}

/** A word of a shell. */
export function quoted(text) {
  return /^[\w.,/=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
