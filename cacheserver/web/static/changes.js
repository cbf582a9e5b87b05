// What is new: the newest changes on top, day by day; older ones as one scrolls, or looks for words.
import { html, useEffect, useMemo, useRef } from "./vendor/preact.js";
import { API } from "./live.js";
import { link, place } from "./places.js";
import { across, Problem, Stale, useLive, Waiting, Where } from "./parts.js";

const STEP = 200; // asked for at once
const BAD = new Set(["PackageGone", "RevisionGone", "RepositoryGone", "Deprecated"]);
const WORDS = {
  RepositoryAdded: "repository", RepositoryChanged: "repository", RepositoryGone: "repository gone",
  PackageAdded: "new package", PackageGone: "package gone", RevisionAdded: "new version", RevisionGone: "version gone",
  ChannelHeadMoved: "channel", DefaultChannelMoved: "default channel", Deprecated: "deprecated",
  Undeprecated: "deprecation lifted", LifecycleMoved: "step",
};
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", year: "numeric", month: "long", day: "numeric" });
const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

// Of thousands what is shown of them is kept, and no more.
const keep = ({ metadata: { namespace, name, uid, creationTimestamp }, spec }) => {
  const at = new Date(creationTimestamp), { repository, packageName, object, summary } = spec;
  return {
    metadata: { namespace, name, uid }, day: day.format(at), hour: hour.format(at), repository, packageName, object, summary,
    types: [...new Set(spec.changes.map((each) => each.type))],
    words: `${repository} ${packageName ?? ""} ${spec.version ?? ""} ${summary}`.toLowerCase(),
  };
};

export default function Changes({ at, say }) {
  const type = at.query.get("type") ?? "", text = (at.query.get("q") ?? "").toLowerCase();
  const live = useLive(across(API, "packagechanges", at), type ? { fieldSelector: `spec.type=${type}` } : {}, keep, STEP);
  useEffect(() => say("What is new", live.state), [live.state]);
  const items = useMemo(() => [...live.objects.values()].sort((a, b) => (a.metadata.name < b.metadata.name ? 1 : -1)), [live, live.times]);
  const found = text ? items.filter((item) => item.words.includes(text)) : items;
  const rows = useMemo(() => new Map(), [live]); // the same node as before is not drawn anew
  const row = (item) => {
    if (!rows.has(item)) rows.set(item, html`<${One} key=${item.metadata.uid} item=${item} />`);
    return rows.get(item);
  };
  const ask = (change) => {
    const asked = { ...Object.fromEntries(place().query), ...change };
    history.replaceState(null, "", link("changes", [], asked));
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  if (live.state === "refused" && live.error.status === 403 && !at.query.get("in")) return html`<${Where} error=${live.error} what="changes" />`;
  const over = live.state !== "loading" && !live.more;
  return html`<h1>What is new</h1><p class="soft">What syncs and authors changed lately. The server keeps it for some weeks.</p>
    <${Stale} live=${live} />
    ${live.state === "refused" && html`<${Problem} what="What is new cannot be read" error=${live.error} retry=${() => live.retry()} />`}
    <div class="search">
      <input type="search" aria-label="Find in what is new" placeholder="Package, repository or version" value=${at.query.get("q") ?? ""} onInput=${(e) => ask({ q: e.target.value })} />
      <select aria-label="Kind of change" value=${type} onChange=${(e) => ask({ type: e.target.value })}>
        <option value="">Every change</option>
        ${Object.entries(WORDS).map(([name, words]) => html`<option value=${name}>${name === "RepositoryAdded" ? "repository added" : name === "RepositoryChanged" ? "repository changed" : words}</option>`)}
      </select></div>
    ${live.state === "loading" && !items.length && html`<${Waiting} of=${live} />`}
    ${over && live.state !== "refused" && !items.length && !type && html`<p class="empty">Nothing has changed since the server began to keep this.</p>`}
    ${over && live.state !== "refused" && !found.length && (items.length > 0 || type) && html`<p class="empty">Nothing like that has changed${items.length ? ` since ${items.at(-1).day}` : ""}. <a href=${link("changes")}>Show every change</a></p>`}
    ${[...grouped(found)].map(([name, ones]) => html`<section key=${name} aria-label=${name}><h2>${name}</h2>
      <div class="scroll"><table class="list stacked news"><thead class="sr"><tr><th>Time</th><th>Package</th><th>Change</th><th>Kind</th></tr></thead>
      <tbody>${ones.map(row)}</tbody></table></div></section>`)}
    <${Problem} what="What is older cannot be read" error=${live.failed} retry=${() => live.older()} />
    ${live.more && !live.failed && html`<${Older} live=${live} seen=${found.length} last=${items.at(-1)?.day} />`}`;
}

// Comes into sight, and older ones are asked for: where few match, until they fill the screen, or there are no more.
function Older({ live, seen, last }) {
  const ref = useRef(null);
  useEffect(() => {
    const sight = new IntersectionObserver(([entry]) => entry.isIntersecting && live.older(), { rootMargin: "600px" });
    sight.observe(ref.current);
    return () => sight.disconnect();
  }, [live, live.more, seen]);
  return html`<p class="empty" ref=${ref} role="status">${live.going
    ? html`Looking further back than ${last} …` : html`<button type="button" onClick=${() => live.older()}>Show older changes</button>`}</p>`;
}

function grouped(items) {
  const found = new Map();
  for (const item of items) {
    if (!found.has(item.day)) found.set(item.day, []);
    found.get(item.day).push(item);
  }
  return found;
}

function One({ item }) {
  const { metadata, object, packageName, repository, types } = item;
  const about = packageName ?? repository;
  const where = types.includes("PackageGone") || !packageName ? "" : types.includes("RevisionGone")
    ? link("packages", [], { q: packageName, repo: repository })
    : link(object.kind === "Package" ? "package" : "revision", [metadata.namespace, object.name]);
  return html`<tr><td class="soft">${item.hour}</td>
    <td>${where ? html`<a href=${where}>${about}</a>` : about}<span class="small soft"> ${packageName ? repository : ""}</span></td>
    <td>${item.summary}</td>
    <td>${types.map((each) => html`<span class=${BAD.has(each) ? "tag bad" : "tag"}>${WORDS[each] ?? each}</span>`)}</td></tr>`;
}
