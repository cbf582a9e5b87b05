// Every package; what is searched for the server ranks and counts. The address holds what is asked for.
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/preact.js";
import { API } from "./live.js";
import { link } from "./places.js";
import { across, Icon, Problem, Stale, useLive, Waiting, Where } from "./parts.js";
import { useSearch } from "./search.js";

const ROW = 144, LEAST = 290, GAP = 12, FACET_MOST = 8, NEAR_END = 4, RANKED = 1000;
const FORMATS = { FBC: "Operators", KRM: "Resources (KRM)" };
// [in the address, title, values of a package, name of the server's facet, field of a search]
const FACETS = [
  ["repo", "Repository", (item) => [item.spec.repository], "repository", "repositories"],
  ["cat", "Category", (item) => item.status.categories ?? [], "category", "categories"],
  ["by", "Provider", (item) => [item.status.provider?.name].filter(Boolean), "provider", "providers"],
  ["format", "Format", (item) => [item.spec.format], "format"],
  ["ns", "Namespace", (item) => [item.metadata.namespace], "namespace", "namespaces"],
];

// Of 10,000 packages what is shown of them is kept, and no more.
const keep = ({ metadata: { namespace, name, uid }, spec, status = {} }) => {
  const { displayName, summary, latest, provider, categories, deprecation, icon } = status;
  return {
    metadata: { namespace, name, uid },
    spec: { repository: spec.repository, packageName: spec.packageName, format: spec.format },
    status: { displayName, summary, latest, provider, categories, deprecation, icon },
  };
};
// A result, until its package is there.
const asItem = (found) => ({
  metadata: { namespace: found.namespace, name: found.name, uid: `${found.namespace}/${found.name}` },
  spec: { repository: found.repository, packageName: found.package, format: found.format },
  status: { displayName: found.displayName, summary: found.summary, latest: { version: found.latest }, deprecation: found.deprecated ? {} : undefined },
});
const titled = (item) => item.status.displayName || item.spec.packageName;
const { compare } = new Intl.Collator(undefined, { numeric: true });
const byTitle = (a, b) => !!a.status.deprecation - !!b.status.deprecation || compare(titled(a), titled(b)) || compare(a.metadata.name, b.metadata.name);

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
function Window({ items, atEnd }) {
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
  useEffect(() => {
    if (atEnd && width && last > rows - NEAR_END) atEnd();
  });
  const nodes = useMemo(() => new Map(), [items, columns]); // the same node as before is not drawn anew
  const row = (number) => {
    if (!nodes.has(number)) nodes.set(number, html`<${Row} key=${number} number=${number} items=${items} columns=${columns} />`);
    return nodes.get(number);
  };
  return html`<div class="window" ref=${ref} role="list" aria-label="Packages" style=${{ height: `${rows * ROW}px` }}>
    ${width > 0 && Array.from({ length: Math.max(0, last - first) }, (_, at) => row(first + at))}</div>`;
}

// In its own place: what comes and goes above and below moves nothing.
function Row({ number, items, columns }) {
  const first = number * columns;
  return html`<div role="none" class="row" style=${{ top: `${number * ROW}px`, gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))` }}>
    ${items.slice(first, first + columns).map((item, at) => html`<${Card} key=${item.metadata.uid} item=${item} at=${first + at} of=${items.length} />`)}</div>`;
}

function Card({ item, at, of }) {
  const { spec, status, metadata } = item;
  return html`<div role="listitem" aria-posinset=${at + 1} aria-setsize=${of}><a class="card" href=${link("package", [metadata.namespace, metadata.name])}>
    <${Icon} item=${item} />
    <div class="in"><h2>${titled(item)}</h2>
      <div class="by">${[status.latest?.version || status.latest?.revision, status.provider?.name || spec.repository].filter(Boolean).join(" · ")}</div>
      <p>${status.summary}</p>
      <div class="tags">${status.deprecation && html`<span class="tag bad">deprecated</span>`}
        ${(status.categories ?? []).slice(0, 2).map((name) => html`<span class="tag">${name}</span>`)}</div>
    </div></a></div>`;
}

function Facet({ name, title, counts, chosen, choose }) {
  const [all, setAll] = useState(false);
  const sorted = [...counts, ...[...chosen].filter((value) => !counts.has(value)).map((value) => [value, 0])].sort((a, b) => b[1] - a[1] || compare(a[0], b[0]));
  if (sorted.length < 2 && !chosen.size) return null;
  const shown = all ? sorted : sorted.filter(([value], at) => at < FACET_MOST || chosen.has(value));
  return html`<fieldset><legend class="sr">${title}</legend><h2 aria-hidden="true">${title}</h2><ul>
    ${shown.map(([value, count]) => html`<li key=${value}><label>
      <input type="checkbox" checked=${chosen.has(value)} onChange=${() => choose(name, value)} />
      <span>${name === "format" ? FORMATS[value] ?? value : value}</span><span class="count">${count}</span></label></li>`)}</ul>
    ${sorted.length > shown.length && html`<button type="button" class="small" onClick=${() => setAll(true)}>${sorted.length - shown.length} more</button>`}
  </fieldset>`;
}

// Of every facet how many have which value, as if nothing of the facet itself were chosen.
function counted(items, chosen) {
  const found = FACETS.map(() => new Map());
  for (const item of items) {
    let missed = -1;
    for (let at = 0; at < FACETS.length && missed > -2; at++) {
      const own = chosen[FACETS[at][0]];
      if (own.size && !FACETS[at][2](item).some((value) => own.has(value))) missed = missed < 0 ? at : -2;
    }
    if (missed === -2) continue;
    for (let at = 0; at < FACETS.length; at++) {
      if (missed < 0 || missed === at) for (const value of FACETS[at][2](item)) found[at].set(value, (found[at].get(value) ?? 0) + 1);
    }
  }
  return found;
}

function specOf(text, chosen) {
  const spec = { text: text.slice(0, 512) };
  for (const [name, , , , field] of FACETS) if (field && chosen[name].size) spec[field] = [...chosen[name]].slice(0, 64);
  if (chosen.format.size === 1) [spec.format] = chosen.format;
  return spec;
}

export function Grid({ at, say }) {
  const namespace = at.query.get("in") ?? "";
  const live = useLive(across(API, "packages", at), {}, keep);
  useEffect(() => say("", live.state), [live.state]);
  const text = at.query.get("q") ?? "";
  const filters = FACETS.map(([name]) => at.query.getAll(name).join("\n")).join("\t");
  const chosen = useMemo(() => Object.fromEntries(FACETS.map(([name]) => [name, new Set(at.query.getAll(name))])), [filters]);
  const search = useSearch(namespace, text.trim() ? specOf(text, chosen) : null, live.times);

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

  const all = useMemo(() => [...live.objects.values()].sort(byTitle), [live, live.times]);
  const here = useMemo(() => {
    const passes = (item) => FACETS.every(([name, , values]) => !chosen[name].size || values(item).some((value) => chosen[name].has(value)));
    return { items: all.filter(passes), counts: counted(all, chosen) };
  }, [all, chosen]);
  const found = useMemo(() => search.results && {
    items: search.results.map((each) => live.objects.get(`${each.namespace}/${each.name}`) ?? asItem(each)),
    counts: FACETS.map(([, , , facet]) => new Map(search.facets.find((each) => each.name === facet)?.values.map(({ value, count }) => [value, count]))),
  }, [search.results, search.facets, live.times]);
  const searches = text.trim() !== "";
  const { items, counts } = (searches && found) || here;
  const some = FACETS.some(([name]) => chosen[name].size);

  if (live.state === "refused" && live.error.status === 403 && !namespace) return html`<${Where} error=${live.error} what="packages" />`;
  const waits = (live.state === "loading" && !all.length) || (searches && !found && !search.error);
  return html`
    <h1 class="sr">Packages</h1>
    <div class="search"><input type="search" value=${text} placeholder="Find a package by name, what it does or who makes it" aria-label="Find a package" maxlength="512"
      onInput=${(e) => asked((query) => (e.target.value ? query.set("q", e.target.value) : query.delete("q")))} autofocus /></div>
    ${live.state === "refused" && html`<${Problem} what="The packages cannot be read" error=${live.error} retry=${() => live.retry()} />`}
    <${Stale} live=${live} />
    ${searches && html`<${Problem} what=${search.error?.status === 403 ? "You may not search here" : "The search failed"} error=${search.error} retry=${search.retry} />`}
    <div class="browse">
      <details class="facets" open=${innerWidth > 760 || some}><summary>Narrow it down</summary>
        ${FACETS.map(([name, title], at) => html`<${Facet} key=${name} name=${name} title=${title} counts=${counts[at]} chosen=${chosen[name]} choose=${choose} />`)}</details>
      <section aria-label="Packages found" aria-busy=${search.pending ? "true" : "false"}>
        <p class="soft small" role="status">${waits ? "" : `${searches && found ? search.total.toLocaleString("en") : items.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} packages`}
          ${(some || text) && html` · <a href=${link("packages")}>show all</a>`}</p>
        ${waits && html`<${Waiting} of=${searches ? { slow: search.slow, retry: search.retry } : live} cards=${8} />`}
        ${search.slow && found && html`<p class="notice">The search takes long. <button type="button" onClick=${search.retry}>Try again</button></p>`}
        ${!waits && !items.length && !search.error && live.state !== "refused" && html`<${Nothing} searches=${searches || some} namespace=${namespace} />`}
        ${!waits && html`<${Window} items=${items} atEnd=${searches ? search.more : undefined} />`}
        ${searches && found && items.length >= RANKED && html`<p class="soft">The first ${RANKED.toLocaleString("en")}. Another word finds what is behind them.</p>`}
      </section>
    </div>`;
}

function Nothing({ searches, namespace }) {
  return searches
    ? html`<div class="empty"><p>Nothing matches.</p><p>Try fewer words, another spelling, or <a href=${link("packages")}>look through all of them</a>.</p></div>`
    : html`<div class="empty"><p>There are no packages${namespace ? ` in ${namespace}` : ""} yet.</p><p><a href=${link("repositories")}>Repositories</a> tells what the server reads, and how it went.
      Where there is none, <code>cacheserver serve --catalog NAME=SOURCE</code> reads one.</p></div>`;
}
