// Small things that several screens show.
import { html, useCallback, useEffect, useRef, useState } from "./vendor/preact.js";
import { API, getJSON, Live, onAgain, SLOW_MS, url } from "./live.js";

const NONE = { objects: new Map(), state: "loading", slow: false, error: null, more: "", retry: () => {}, older: () => {} };
export function useLive(path, query = {}, keep = undefined, newest = 0) {
  const [, draw] = useState(0);
  const live = useRef(null);
  const key = `${path}?${new URLSearchParams(query)}`;
  useEffect(() => {
    live.current = new Live(path, query, () => draw((count) => count + 1), keep, newest);
    draw((count) => count + 1);
    return () => live.current.stop();
  }, [key]);
  return live.current ?? NONE;
}

// One answer, asked for anew when `key` changes: {answer, error, slow, retry}. What failed is asked again as watches are.
export function useAsked(key, asking) {
  const [found, setFound] = useState({ key });
  const [tries, setTries] = useState(0);
  const retry = useCallback(() => setTries((count) => count + 1), []);
  const asks = key !== "";
  useEffect(() => {
    if (!asks) return undefined;
    const stop = new AbortController();
    setFound({ key });
    const late = setTimeout(() => setFound((now) => (now.answer ? now : { key, slow: true })), SLOW_MS);
    let off = () => {};
    const done = (made) => {
      clearTimeout(late);
      if (!stop.signal.aborted) setFound({ key, ...made });
    };
    asking(stop.signal).then(
      (answer) => done({ answer }),
      (error) => {
        if (stop.signal.aborted) return;
        done({ error });
        off = onAgain(retry);
      },
    );
    return () => {
      stop.abort();
      clearTimeout(late);
      off();
    };
  }, [key, tries]);
  return { retry, ...(found.key === key ? found : {}) };
}

export const useJSON = (path) => useAsked(path, (signal) => getJSON(path, { signal }));

// What stands there while nothing has come: grey, then with a word.
export function Waiting({ of, cards = 0 }) {
  const each = cards ? Array.from({ length: cards }, (_, at) => html`<div class="card ghost" key=${at}></div>`) : html`<div class="ghost line"></div><div class="ghost line"></div><div class="ghost line short"></div>`;
  return html`<div class="waiting" role="status"><span class="sr">Loading…</span>
    ${of.slow && html`<p class="notice">The server takes long to answer. <button type="button" onClick=${() => of.retry()}>Try again</button></p>`}
    <div class=${cards ? "ghosts" : ""} aria-hidden="true">${each}</div></div>`;
}

// Above what is shown: that it may be old, and what to do.
export function Stale({ live }) {
  if (live.state !== "lost" || !live.error) return null;
  return html`<div class="notice bad" role="alert">The server cannot be reached; what you see may be old. It is tried again by itself.
    <button type="button" onClick=${() => live.retry()}>Try now</button></div>`;
}

// Who may not read all namespaces chooses one, for all screens.
export function Where({ error, what }) {
  const [name, setName] = useState("");
  const screen = location.hash.slice(1).split("?")[0] || "/";
  return html`<form class="empty" onSubmit=${(e) => { e.preventDefault(); location.hash = `#${screen}?in=${encodeURIComponent(name)}`; }}>
    <p>You may not read the ${what} of all namespaces. In which may you?</p>
    <p><label>Namespace <input value=${name} onInput=${(e) => setName(e.target.value)} required /></label> <button class="first">Show</button></p>
    <p class="small">${error.message}</p></form>`;
}
export const across = (api, plural, at) => `${api}${at.query.get("in") ? space(at.query.get("in")) : ""}/${plural}`;

export const space = (namespace) => `/namespaces/${encodeURIComponent(namespace)}`;
export const objectPath = (resource, { namespace, name }, below = "") =>
  `${API}${space(namespace)}/${resource}/${encodeURIComponent(name)}${below}`;

// While somebody scrolls, what flies past is not fetched.
const CALM_MS = 150;
const icons = new Set();
let calm = 0;
addEventListener("scroll", () => {
  clearTimeout(calm);
  calm = setTimeout(() => {
    calm = 0;
    for (const show of [...icons]) show(true);
  }, CALM_MS);
}, { passive: true });

export function Icon({ item }) {
  const [failed, setFailed] = useState(false);
  const [shown, show] = useState(!calm);
  useEffect(() => {
    if (shown) return undefined;
    icons.add(show);
    return () => icons.delete(show);
  }, [shown]);
  const title = item.status.displayName || item.spec.packageName;
  if (!item.status.icon || failed || !shown) return html`<span class="noicon" aria-hidden="true">${[...title][0]?.toUpperCase() ?? ""}</span>`;
  const source = url(objectPath("packages", item.metadata, `/icon?digest=${encodeURIComponent(item.status.icon.digest)}`));
  return html`<img src=${source} alt="" onError=${() => setFailed(true)} />`;
}

const UNITS = [["y", 31536000], ["d", 86400], ["h", 3600], ["m", 60]];
export function age(stamp) {
  const seconds = Math.max(0, (Date.now() - Date.parse(stamp)) / 1000);
  const [unit, length] = UNITS.find(([, each]) => seconds >= 2 * each) ?? ["s", 1];
  return Number.isNaN(seconds) ? "" : `${Math.floor(seconds / length)}${unit}`;
}

export const versionOf = (revision) => revision.spec.version || revision.spec.revision || revision.spec.workspaceName || "";

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);
export function Problem({ error, what, retry }) {
  if (!error) return null;
  const help = error.status === 403 ? " Ask whoever gives out rights for this." : "";
  return html`<div class="notice bad" role="alert">${sentence(`${what}: ${error.status === 401 ? "your login has ended" : error.message}`)}${help}
    ${retry && error.status !== 403 && html` <button type="button" onClick=${retry}>Try again</button>`}</div>`;
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
