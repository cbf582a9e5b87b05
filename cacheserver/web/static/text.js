// Texts of others: Markdown without their HTML, code with colours, differences. Nothing of theirs is ever run.
import { html, useMemo, useState } from "./vendor/preact.js";
import { Marked } from "./vendor/marked.js";
import purify from "./vendor/purify.js";

const LONGEST = 200_000, COLOURED = 200_000, LINES = 4000, EDITS = 1000, AROUND = 3;
const LATE_MS = 300; // real descriptions take 5
const FILES = 30; // whose differences are drawn at once
const escaped = (text) => text.replace(/[&<>"]/g, (one) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[one]);

// Markdown can be written so that it takes minutes to read, or more stack than there is: marked asks for these two before
// every block and every piece of text.
let until = 0;
const look = () => {
  if (performance.now() > until) throw new Error("it takes too long");
  return false; // go on as ever
};
// HTML in a text is shown as it is written, and no image is fetched from elsewhere.
const marked = new Marked({ tokenizer: { space: look, escape: look }, renderer: { html: ({ text }) => escaped(text), image: ({ text }) => escaped(text) } });
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    if (!/^https?:\/\//i.test(node.getAttribute("href") ?? "")) node.removeAttribute("href");
    node.setAttribute("rel", "noopener noreferrer nofollow");
    node.setAttribute("target", "_blank");
  }
});
const ALLOWED = { RETURN_TRUSTED_TYPE: true, FORBID_TAGS: ["style", "form", "input", "button", "svg", "math", "img"], FORBID_ATTR: ["style", "class", "id", "name"] };

// null: it cannot be read in time.
function read(text) {
  until = performance.now() + LATE_MS;
  try {
    return purify.sanitize(marked.parse(text), ALLOWED);
  } catch {
    return null;
  }
}

export function Markdown({ text }) {
  const cut = text.length > LONGEST;
  const shown = text.slice(0, LONGEST);
  const made = useMemo(() => read(shown), [text]);
  return html`${made === null ? html`<pre class="text plain">${shown}</pre>` : html`<div class="text" dangerouslySetInnerHTML=${{ __html: made }}></div>`}
    ${cut && html`<p class="soft">The text is longer; its first ${LONGEST.toLocaleString("en")} characters are shown.</p>`}`;
}

// Read once from end to end, whatever the text: keys are bounded, and a text that nobody ends goes to the end of its line.
const YAML = /(^[ \t]{0,200}(?:- ){0,20}[^\s#"'][^:#\n]{0,200}?(?=:(?:\s|$)))|(#.*$)|("(?:[^"\\\n]|\\.?)*(?:"|$)|'[^'\n]*')|(\b\d+(?:\.\d+)?\b|\b(?:true|false|null)\b)/gm;
const JSONS = /("(?:[^"\\\n]|\\.?)*(?:"|$)(?=\s*:))|(\0)|("(?:[^"\\\n]|\\.?)*(?:"|$))|(-?\b\d+(?:\.\d+)?(?:e[+-]?\d+)?\b|\b(?:true|false|null)\b)/gim;
const CLASSES = ["k", "c", "s", "n"];

function coloured(text, grammar) {
  const out = [];
  let at = 0;
  for (const found of text.matchAll(grammar)) {
    const which = found.slice(1).findIndex((part) => part !== undefined);
    if (which < 0 || !found[0]) continue;
    out.push(text.slice(at, found.index), html`<span class=${CLASSES[which]}>${found[0]}</span>`);
    at = found.index + found[0].length;
  }
  return [...out, text.slice(at)];
}

export function Code({ path, text }) {
  const lines = text.split("\n");
  const shown = lines.length > LINES ? lines.slice(0, LINES).join("\n") : text;
  const grammar = /\.json$/.test(path) ? JSONS : /(\.ya?ml|Kptfile)$/.test(path) ? YAML : null;
  const made = useMemo(() => (grammar && shown.length < COLOURED ? coloured(shown, grammar) : shown.slice(0, 2_000_000)), [path, text]);
  return html`<pre class="code" tabindex="0" aria-label=${path}>${made}</pre>
    ${shown !== text && html`<p class="soft">The first ${LINES.toLocaleString("en")} of ${lines.length.toLocaleString("en")} lines.</p>`}`;
}

// Myers, An O(ND) Difference Algorithm (1986); null where it would take too long.
function edits(a, b) {
  const most = Math.min(a.length + b.length, EDITS);
  const trace = [];
  let line = new Map([[1, 0]]);
  for (let d = 0; d <= most; d++) {
    const next = new Map();
    for (let k = -d; k <= d; k += 2) {
      let x = k === -d || (k !== d && (line.get(k - 1) ?? -1) < (line.get(k + 1) ?? -1)) ? line.get(k + 1) ?? 0 : (line.get(k - 1) ?? 0) + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      next.set(k, x);
      if (x >= a.length && x - k >= b.length) return back([...trace, next], a, b);
    }
    trace.push(next);
    line = next;
  }
  return null;
}

function back(trace, a, b) {
  const out = [];
  let x = a.length, y = b.length;
  for (let d = trace.length - 1; d >= 0; d--) {
    const k = x - y;
    const before = d ? trace[d - 1] : null;
    const from = !before ? null : k === -d || (k !== d && (before.get(k - 1) ?? -1) < (before.get(k + 1) ?? -1)) ? k + 1 : k - 1;
    const x0 = before ? before.get(from) ?? 0 : 0, y0 = before ? x0 - from : 0;
    while (x > x0 && y > y0 && (x > x0 + (before && from === k - 1 ? 1 : 0) || y > y0 + (before && from === k + 1 ? 1 : 0)) && a[x - 1] === b[y - 1]) out.push([" ", a[--x], --y]);
    if (!before) break;
    if (from === k + 1) out.push(["+", b[--y]]);
    else out.push(["-", a[--x]]);
  }
  while (x > 0 && y > 0) out.push([" ", a[--x], --y]);
  return out.reverse().map(([sign, text]) => [sign, text]);
}

export function difference(old, now) {
  if (old === now) return [];
  const a = old ? old.split("\n") : [], b = now ? now.split("\n") : [];
  if (!a.length) return b.map((text) => ["+", text]);
  if (!b.length) return a.map((text) => ["-", text]);
  let from = 0, endA = a.length, endB = b.length;
  while (from < endA && from < endB && a[from] === b[from]) from++;
  while (endA > from && endB > from && a[endA - 1] === b[endB - 1]) endA--, endB--;
  const middle = edits(a.slice(from, endA), b.slice(from, endB)) ??
    [...a.slice(from, endA).map((text) => ["-", text]), ...b.slice(from, endB).map((text) => ["+", text])];
  return [...a.slice(0, from).map((text) => [" ", text]), ...middle, ...a.slice(endA).map((text) => [" ", text])];
}

function hunks(lines) {
  const near = new Uint8Array(lines.length);
  lines.forEach(([sign], at) => {
    if (sign !== " ") near.fill(1, Math.max(0, at - AROUND), at + AROUND + 1);
  });
  const out = [];
  lines.forEach(([sign, text], at) => {
    if (near[at]) out.push([sign, text]);
    else if (out.length ? out.at(-1)[0] !== "…" : true) out.push(["…", ""]);
  });
  return out;
}

const LOOKS = { "+": "add", "-": "del", "…": "gap", " ": "" };
// before, after: path to text, or null for what is no text.
export function Difference({ before, after }) {
  const [most, setMost] = useState(FILES);
  const paths = [...new Set([...Object.keys(before), ...Object.keys(after)])].sort().filter((path) => before[path] !== after[path]);
  if (!paths.length) return html`<p class="empty">Their files are equal.</p>`;
  return html`<p class="soft">${paths.length} ${paths.length === 1 ? "file differs" : "files differ"}</p>
    ${paths.slice(0, most).map((path) => html`<${FileDifference} key=${path} path=${path} old=${before[path]} now=${after[path]} />`)}
    ${paths.length > most && html`<p class="empty"><button type="button" onClick=${() => setMost(most + FILES)}>Show more: ${paths.length - most} files are left</button></p>`}`;
}

function FileDifference({ path, old, now }) {
  const lines = useMemo(() => (old === null || now === null ? null : hunks(difference(old ?? "", now ?? ""))), [old, now]);
  const what = old === undefined ? " (new)" : now === undefined ? " (gone)" : "";
  return html`<section class="diff"><h3>${path}${what}</h3>
    ${!lines ? html`<p class="soft lines">It is no text.</p>` : html`<div class="lines" tabindex="0" role="region" aria-label=${`Difference of ${path}`}>
      ${lines.slice(0, LINES).map(([sign, text]) => html`<div class=${LOOKS[sign]}>${sign === "…" ? "⋯" : `${sign} ${text}`}</div>`)}</div>`}
    ${lines && lines.length > LINES && html`<p class="soft">Cut after ${LINES.toLocaleString("en")} lines.</p>`}</section>`;
}
