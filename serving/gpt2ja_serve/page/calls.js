// A request written as a curl call, as Python and as a command line.

import { quoted, writeCommand } from "./command.js";

// What the openai client takes by name; the rest goes through `extra_body`.
const OPENAI = new Set(
  ("best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop " +
    "temperature top_p").split(" "),
);

/** Write a request {model, prompt, ...settings} as `kind`: curl, python or command. */
export function writeCall(kind, request, withKey) {
  return { curl, python, command: writeCommand }[kind](request, withKey);
}

function base() {
  return new URL("v1", document.baseURI).href;
}

function curl(request, withKey) {
  const key = withKey ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
  const body = JSON.stringify(request, null, 2);
  return `curl ${base()}/completions${key} \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(body)}`;
}

function python({ model, prompt, ...settings }, withKey) {
  const names = Object.keys(settings);
  const given = names
    .filter((name) => OPENAI.has(name))
    .map((name) => `    ${name}=${literal(settings[name])},\n`);
  const extra = names
    .filter((name) => !OPENAI.has(name))
    .map((name) => `"${name}": ${literal(settings[name])}`);
  if (extra.length) given.push(`    extra_body={${extra.join(", ")}},\n`);
  const key = withKey ? 'os.environ["API_KEY"]' : '"none"';
  return `${withKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${base()}", api_key=${key})
completion = client.completions.create(
    model=${literal(model)},
    prompt=${literal(prompt)},
${given.join("")})
for choice in completion.choices:
    print(choice.${settings.echo ? "logprobs" : "text"})`;
}

/** A value as Python writes it. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const items = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item)}`);
  return `{${items.join(", ")}}`;
}
