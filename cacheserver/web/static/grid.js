// Every package, found as one types, and by what can be told apart. The address holds what is asked for.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { API } from "./live.js";
import { link } from "./places.js";
import { Icon, Problem, useLive } from "./parts.js";

const ROW = 144, LEAST = 290, GAP = 12, FACET_MOST = 8;
const FACETS = [
  ["repo", "Repository", (item) => [item.spec.repository]],
  ["cat", "Category", (item) => item.status.categories ?? []],
  ["by", "Provider", (item) => [item.status.provider?.name].filter(Boolean)],
  ["format", "Format", (item) => [item.spec.format === "FBC" ? "Operators" : "Resources (KRM)"]],
  ["ns", "Namespace", (item) => [item.metadata.namespace]],
];

// [weight, words]: where a word is found says how much it counts.
const written = new WeakMap();
function fields(item) {
  let found = written.get(item);
  if (!found) {
    const low = (text) => (text ?? "").toLowerCase();
    found = [
      [8, low(item.spec.packageName)], [6, low(item.status.displayName)], [4, low((item.status.keywords ?? []).join(" "))],
      [2, low(item.status.provider?.name)], [2, low(item.status.summary)], [1, low((item.status.categories ?? []).join(" "))],
    ];
    written.set(item, found);
  }
  return found;
}

export function score(item, words) {
  let total = 0;
  for (const word of words) {
    let best = 0;
    for (const [weight, text] of fields(item)) {
      const at = text.indexOf(word);
      if (at < 0) continue;
      const begins = at === 0 || !/[\p{L}\p{N}]/u.test(text[at - 1]);
      best = Math.max(best, weight * (text === word ? 3 : begins ? 1 : 0.4));
    }
    if (!best) return 0;
    total += best;
  }
  return item.status.deprecation ? total / 4 : total;
}

function useWidth(ref) {
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const seen = new ResizeObserver(([entry]) => setWidth(entry.contentRect.width));
    seen.observe(ref.current);
    return () => seen.disconnect();
  }, []);
  return width;
}

// Only what is in sight, and a little around it, is in the page.
function Window({ items }) {
  const ref = useRef(null);
  const width = useWidth(ref);
  const [, scrolled] = useState(0);
  useEffect(() => {
    const go = () => scrolled(Math.floor(scrollY / ROW));
    addEventListener("scroll", go, { passive: true });
    return () => removeEventListener("scroll", go);
  }, []);
  const columns = Math.max(1, Math.floor((width + GAP) / (LEAST + GAP)));
  const rows = Math.ceil(items.length / columns);
  const top = ref.current ? scrollY + ref.current.getBoundingClientRect().top : 0;
  const first = Math.max(0, Math.floor((scrollY - top) / ROW) - 3);
  const last = Math.min(rows, Math.ceil((scrollY + innerHeight - top) / ROW) + 3);
  const shown = width ? items.slice(first * columns, last * columns) : [];
  return html`<div class="window" ref=${ref} style=${{ height: `${rows * ROW}px` }}>
    <div style=${{ top: `${first * ROW}px`, gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))` }}>
      ${shown.map((item) => html`<${Card} key=${item.metadata.uid} item=${item} />`)}
    </div></div>`;
}

function Card({ item }) {
  const { spec, status, metadata } = item;
  return html`<a class="card" href=${link("package", [metadata.namespace, metadata.name])}>
    <${Icon} item=${item} />
    <div class="in"><h3>${status.displayName || spec.packageName}</h3>
      <div class="by">${[status.latest?.version || status.latest?.revision, status.provider?.name || spec.repository].filter(Boolean).join(" · ")}</div>
      <p>${status.summary}</p>
      <div class="tags">${status.deprecation && html`<span class="tag bad">deprecated</span>`}
        ${(status.categories ?? []).slice(0, 2).map((name) => html`<span class="tag">${name}</span>`)}</div>
    </div></a>`;
}

function Facet({ name, title, counts, chosen, choose }) {
  const [all, setAll] = useState(false);
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  if (sorted.length < 2 && !chosen.size) return null;
  const shown = all ? sorted : sorted.filter(([value], at) => at < FACET_MOST || chosen.has(value));
  return html`<fieldset><legend class="sr">${title}</legend><h2 aria-hidden="true">${title}</h2><ul>
    ${shown.map(([value, count]) => html`<li key=${value}><label>
      <input type="checkbox" checked=${chosen.has(value)} onChange=${() => choose(name, value)} />
      <span>${value}</span><span class="count">${count}</span></label></li>`)}</ul>
    ${sorted.length > shown.length && html`<button type="button" class="small" onClick=${() => setAll(true)}>${sorted.length - shown.length} more</button>`}
  </fieldset>`;
}

export function Grid({ at, say }) {
  const namespace = at.query.get("in") ?? "";
  const live = useLive(namespace ? `${API}/namespaces/${encodeURIComponent(namespace)}/packages` : `${API}/packages`);
  useEffect(() => say("", live.state), [live.state]);
  const text = at.query.get("q") ?? "";
  const chosen = Object.fromEntries(FACETS.map(([name]) => [name, new Set(at.query.getAll(name))]));

  const asked = (change) => {
    const query = new URLSearchParams(at.query);
    change(query);
    history.replaceState(null, "", `#/${query.size ? `?${query}` : ""}`);
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  const choose = (name, value) => asked((query) => {
    const others = query.getAll(name);
    query.delete(name);
    for (const each of others.includes(value) ? others.filter((other) => other !== value) : [...others, value]) query.append(name, each);
  });

  const words = text.toLowerCase().split(/[\s/]+/).filter(Boolean);
  const all = [...live.objects.values()];
  const found = useMemo(() => {
    if (!words.length) {
      return all.sort((a, b) => !!a.status.deprecation - !!b.status.deprecation ||
        (a.status.displayName || a.spec.packageName).localeCompare(b.status.displayName || b.spec.packageName));
    }
    return all.map((item) => [score(item, words), item]).filter(([points]) => points > 0)
      .sort((a, b) => b[0] - a[0] || a[1].spec.packageName.length - b[1].spec.packageName.length ||
        a[1].metadata.name.localeCompare(b[1].metadata.name)).map(([, item]) => item);
  }, [text, live, live.times]);
  const passes = (item, but) => FACETS.every(([name, , values]) => name === but || !chosen[name].size || values(item).some((value) => chosen[name].has(value)));
  const shown = found.filter((item) => passes(item));
  const some = FACETS.some(([name]) => chosen[name].size);

  if (live.state === "refused" && live.error.status === 403 && !namespace) return html`<${Where} error=${live.error} />`;
  return html`
    <h1 class="sr">Packages</h1>
    <div class="search"><input type="search" value=${text} placeholder="Find a package by name, what it does or who makes it" aria-label="Find a package"
      onInput=${(e) => asked((query) => (e.target.value ? query.set("q", e.target.value) : query.delete("q")))} autofocus /></div>
    ${live.state === "refused" && html`<${Problem} what="The packages cannot be read" error=${live.error} />`}
    ${live.state === "lost" && html`<${Problem} what="The server cannot be reached; what you see may be old" error=${live.error} />`}
    <div class="browse">
      <details class="facets" open=${innerWidth > 760 || some}><summary>Narrow it down</summary>
        ${FACETS.map(([name, title, values]) => {
          const counts = new Map();
          for (const item of found) if (passes(item, name)) for (const value of values(item)) counts.set(value, (counts.get(value) ?? 0) + 1);
          return html`<${Facet} key=${name} name=${name} title=${title} counts=${counts} chosen=${chosen[name]} choose=${choose} />`;
        })}</details>
      <section aria-label="Packages found">
        <p class="soft small" role="status">${live.state === "loading" && !all.length ? "Loading…" : `${shown.length} of ${all.length} packages`}
          ${(some || text) && html` · <a href="#/">show all</a>`}</p>
        ${!shown.length && live.state === "live" && html`<p class="empty">${all.length ? "Nothing matches. Try fewer words, or other ones." : "There are no packages yet. Repositories tells what the server reads."}
          ${!all.length && html` <a href=${link("repositories")}>Repositories</a>`}</p>`}
        <${Window} items=${shown} />
      </section>
    </div>`;
}

function Where({ error }) {
  const [name, setName] = useState("");
  return html`<form class="empty" onSubmit=${(e) => { e.preventDefault(); location.hash = `#/?in=${encodeURIComponent(name)}`; }}>
    <p>You may not read the packages of all namespaces (${error.message}).</p>
    <label>Namespace <input value=${name} onInput=${(e) => setName(e.target.value)} required /></label> <button class="first">Show</button></form>`;
}
