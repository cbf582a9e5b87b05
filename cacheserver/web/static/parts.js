// Small things that several screens show.
import { html, useState, useEffect, useRef } from "./vendor/preact.js";
import { API, Live, url } from "./live.js";

export function useLive(path, query = {}) {
  const [, draw] = useState(0);
  const live = useRef(null);
  const key = `${path}?${new URLSearchParams(query)}`;
  useEffect(() => {
    live.current = new Live(path, query, () => draw((count) => count + 1));
    draw((count) => count + 1);
    return () => live.current.stop();
  }, [key]);
  return live.current ?? { objects: new Map(), state: "loading", error: null };
}

export const space = (namespace) => `/namespaces/${encodeURIComponent(namespace)}`;
export const objectPath = (resource, { namespace, name }, below = "") =>
  `${API}${space(namespace)}/${resource}/${encodeURIComponent(name)}${below}`;

export function Icon({ item }) {
  const [failed, setFailed] = useState(false);
  const title = item.status.displayName || item.spec.packageName;
  if (!item.status.icon || failed) return html`<span class="noicon" aria-hidden="true">${[...title][0]?.toUpperCase() ?? ""}</span>`;
  const source = url(objectPath("packages", item.metadata, `/icon?digest=${encodeURIComponent(item.status.icon.digest)}`));
  return html`<img src=${source} alt="" loading="lazy" onError=${() => setFailed(true)} />`;
}

const UNITS = [["y", 31536000], ["d", 86400], ["h", 3600], ["m", 60]];
export function age(stamp) {
  const seconds = Math.max(0, (Date.now() - Date.parse(stamp)) / 1000);
  const [unit, length] = UNITS.find(([, each]) => seconds >= 2 * each) ?? ["s", 1];
  return Number.isNaN(seconds) ? "" : `${Math.floor(seconds / length)}${unit}`;
}

export const versionOf = (revision) => revision.spec.version || revision.spec.revision || revision.spec.workspaceName || "";

export function Problem({ error, what }) {
  if (!error) return null;
  const help = error.status === 403 ? " Ask whoever gives out rights for this." : error.status === 401 ? " Your login has ended: open the page anew." : "";
  return html`<div class="notice bad" role="alert">${what}: ${error.message}.${help}</div>`;
}

export function Copy({ text }) {
  const [done, setDone] = useState(false);
  const copy = () => navigator.clipboard?.writeText(text).then(() => setDone(true), () => {});
  return html`<div class="copy"><code tabindex="0">${text}</code><button type="button" onClick=${copy}>${done ? "Copied" : "Copy"}</button></div>`;
}

// Versions as people read them: numbers by value, a prerelease below its release, drafts on top.
export function byVersion(a, b) {
  const draft = (one) => ["Draft", "Proposed"].includes(one.spec.lifecycle);
  if (draft(a) !== draft(b)) return draft(a) ? -1 : 1;
  const cut = (one) => versionOf(one).replace(/^v/, "").split("+")[0].split(/-(.*)/s);
  const [x, y] = [cut(a), cut(b)];
  const compare = (p, q) => p.localeCompare(q, "en", { numeric: true });
  const main = compare(y[0], x[0]);
  if (main) return main;
  if ((x[1] === undefined) !== (y[1] === undefined)) return x[1] === undefined ? -1 : 1;
  return compare(y[1] ?? "", x[1] ?? "");
}
