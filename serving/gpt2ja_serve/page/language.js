// Says everything on the page in Japanese or English, and says it again when the language changes.

const WORDS = {
  model: {
    ja: "{id} · {precision} · 文脈長 {length} トークン",
    en: "{id} · {precision} · context of {length} tokens",
  },
  prompt: { ja: "書き出し", en: "Beginning of a text" },
  about: {
    ja: "指示や質問に答えるモデルではありません。書き出しに続く文章を生成します。",
    en: "This model does not follow instructions. It continues the text that you begin.",
  },
  run: { ja: "続きを書く", en: "Continue" },
  stop: { ja: "停止", en: "Stop" },
  score: { ja: "この文章を評価", en: "Score this text" },
  n: { ja: "生成数", en: "Texts" },
  fewer: { ja: "減らす", en: "fewer" },
  more: { ja: "増やす", en: "more" },
  settings: { ja: "設定", en: "Settings" },
  reset: { ja: "既定に戻す", en: "Reset" },
  resetOne: { ja: "{name} を既定に戻す", en: "Reset {name}" },
  changed: { ja: "{count} 件変更", en: "{count} changed" },
  basic: { ja: "基本", en: "Basics" },
  length: { ja: "長さと終わり", en: "Length and end" },
  sampling: { ja: "サンプリング", en: "Sampling" },
  penalties: { ja: "繰り返しの抑制", en: "Penalties" },
  tokens: { ja: "トークン", en: "Tokens" },
  form: { ja: "文の形式", en: "Form of the text" },
  beams: { ja: "ビームサーチ", en: "Beam search" },
  output: { ja: "出力", en: "Output" },
  none: { ja: "なし", en: "none" },
  newSeed: { ja: "毎回変わる", en: "new each time" },
  json: { ja: "JSON", en: "JSON" },
  notJson: { ja: "JSON として読めません", en: "This is not JSON" },
  aLine: { ja: "1 行に 1 つ", en: "one per line" },
  examples: { ja: "書き出しの例", en: "Try one of these" },
  key: { ja: "API キー", en: "API key" },
  useKey: { ja: "使う", en: "Use" },
  keyNote: {
    ja: "このタブを閉じるまで、このブラウザだけに保存します。",
    en: "Kept in this browser until the tab is closed.",
  },
  texts: { ja: "生成した文章", en: "Texts" },
  scored: { ja: "モデルから見た文章", en: "The text as the model sees it" },
  running: { ja: "生成中…", en: "Writing…" },
  scoring: { ja: "評価中…", en: "Scoring…" },
  done: {
    ja: "{tokens} トークン · {seconds} 秒 · {rate} トークン/秒",
    en: "{tokens} tokens in {seconds} s · {rate} tokens/s",
  },
  scoreDone: { ja: "", en: "" },
  stopped: { ja: "停止しました（{tokens} トークン）", en: "Stopped after {tokens} tokens" },
  failed: { ja: "途中で終わりました", en: "Ended by an error" },
  seed: { ja: "シード {seed}", en: "Seed {seed}" },
  keepSeed: { ja: "固定する", en: "Keep it" },
  coloured: { ja: "確率で色分け", en: "Colour by probability" },
  exploring: {
    ja: "トークンにポインタを合わせるかタップすると、ほかの候補を表示します。",
    en: "Point at a token, or tap it, to see what else could have stood there.",
  },
  text: { ja: "文章 {number}", en: "Text {number}" },
  "finish-none": { ja: "{tokens} トークン", en: "{tokens} tokens" },
  "finish-length": { ja: "{tokens} トークン · 上限", en: "{tokens} tokens · length limit" },
  "finish-stop": { ja: "{tokens} トークン · 終端", en: "{tokens} tokens · ended by itself" },
  "finish-stopped": { ja: "{tokens} トークン · 停止", en: "{tokens} tokens · stopped" },
  "finish-error": { ja: "{tokens} トークン · エラー", en: "{tokens} tokens · error" },
  copy: { ja: "コピー", en: "Copy" },
  copied: { ja: "コピーしました", en: "Copied" },
  copyLink: { ja: "リンクをコピー", en: "Copy a link" },
  goOn: { ja: "ここから続ける", en: "Go on from here" },
  call: { ja: "コードから呼び出す", en: "Call it from code" },
  command: { ja: "コマンド", en: "Command" },
  alternatives: { ja: "このトークンの候補", en: "Candidates for this token" },
  noProbability: {
    ja: "最初のトークンには前の文脈がなく、確率がありません。",
    en: "The first token has nothing before it to be predicted from.",
  },
  continueWith: { ja: "「{text}」から続ける", en: "Go on with “{text}”" },
  before: {
    ja: "temperature などの設定を適用する前の確率。候補を押すと、そこから書き直します。",
    en: "Before temperature and other settings. Press a candidate to rewrite from there.",
  },
  perplexity: { ja: "パープレキシティ", en: "Perplexity" },
  bits: { ja: "ビット/トークン", en: "Bits per token" },
  logprob: { ja: "対数確率（nat）", en: "Log-probability (nats)" },
  count: { ja: "トークン数", en: "Tokens" },
  surprises: { ja: "最も意外だった箇所", en: "The greatest surprises" },
  noPrompt: { ja: "書き出しを入力してください。", en: "Write a beginning first." },
  unreachable: {
    ja: "サーバに接続できません。起動しているか確認してください。",
    en: "The server cannot be reached. Is it still running?",
  },
  needsKey: {
    ja: "このサーバには API キーが必要です。",
    en: "This server asks for an API key.",
  },
};

let language = "ja";
const said = new WeakMap();

/** A phrase in the page's language: a key of WORDS or {ja, en}, with its {names} filled in. */
export function words(phrase, values = {}) {
  const found = typeof phrase === "string" ? WORDS[phrase] : phrase;
  return found[language].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Put a phrase into an element, also after a change of language. */
export function say(element, phrase, values) {
  said.set(element, { ...said.get(element), text: [phrase, values] });
  element.dataset.said = "";
  speak(element);
}

/** Name an element for those who do not see it, also after a change of language. */
export function label(element, phrase, values) {
  said.set(element, { ...said.get(element), label: [phrase, values] });
  element.dataset.said = "";
  speak(element);
}

/** Give an input a placeholder, also after a change of language. */
export function hint(element, phrase, values) {
  said.set(element, { ...said.get(element), hint: [phrase, values] });
  element.dataset.said = "";
  speak(element);
}

function speak(element) {
  const { text, label: name, hint: placeholder } = said.get(element);
  if (text) element.textContent = words(...text);
  if (name) element.setAttribute("aria-label", words(...name));
  if (placeholder) element.placeholder = words(...placeholder);
}

/** The language that was chosen, or the browser's where none was. */
export function startLanguage(chosen) {
  for (const element of document.querySelectorAll("[data-say]")) say(element, element.dataset.say);
  for (const element of document.querySelectorAll("[data-label]")) {
    label(element, element.dataset.label);
  }
  return chosen ?? (navigator.language.startsWith("ja") ? "ja" : "en");
}

/** Say everything in another language. */
export function setLanguage(next) {
  language = next === "en" ? "en" : "ja";
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-said]")) {
    if (said.has(element)) speak(element);
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
}

/** A number as people of the page's language write it. */
export function number(value, digits = 0) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return value.toLocaleString(language, options).replace("-", "−");
}

/** A probability as a percentage that shows two figures. */
export function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  if (value < 0.01) return "< 0.01 %";
  return `${number(value, value >= 10 ? 0 : value >= 1 ? 1 : 2)} %`;
}
