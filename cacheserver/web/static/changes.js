// What is new: every change that the server keeps, the newest on top, day by day.
import { html, useEffect, useMemo, useState } from "./vendor/preact.js";
import { API } from "./live.js";
import { link, place } from "./places.js";
import { Problem, useLive } from "./parts.js";

const STEP = 200; // lines drawn at once
const BAD = new Set(["PackageGone", "RevisionGone", "RepositoryGone", "Deprecated"]);
const WORDS = {
  RepositoryAdded: "repository", RepositoryChanged: "repository", RepositoryGone: "repository gone",
  PackageAdded: "new package", PackageGone: "package gone", RevisionAdded: "new version", RevisionGone: "version gone",
  ChannelHeadMoved: "channel", DefaultChannelMoved: "default channel", Deprecated: "deprecated",
  Undeprecated: "deprecation lifted", LifecycleMoved: "step",
};
const day = new Intl.DateTimeFormat(undefined, { weekday: "long", year: "numeric", month: "long", day: "numeric" });
const hour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

export default function Changes({ at, say }) {
  const live = useLive(`${API}/packagechanges`);
  const [most, setMost] = useState(STEP);
  useEffect(() => say("What is new", live.state), [live.state]);
  const type = at.query.get("type") ?? "", text = (at.query.get("q") ?? "").toLowerCase();
  const items = useMemo(() => [...live.objects.values()].sort((a, b) => (a.metadata.name < b.metadata.name ? 1 : -1)), [live.objects, live.times]);
  const typed = (item) => !type || item.spec.changes.some((each) => each.type === type);
  const said = (item) => `${item.spec.repository} ${item.spec.packageName ?? ""} ${item.spec.summary}`.toLowerCase();
  const found = items.filter((item) => typed(item) && said(item).includes(text));
  const ask = (change) => {
    const asked = { ...Object.fromEntries(place().query), ...change };
    history.replaceState(null, "", link("changes", [], asked));
    dispatchEvent(new HashChangeEvent("hashchange"));
  };
  if (live.state === "refused") return html`<${Problem} what="What is new cannot be read" error=${live.error} />`;
  const days = grouped(found.slice(0, most));
  return html`<h1>What is new</h1><p class="soft">What the last syncs and authors changed. The server keeps it for a while.</p>
    <div class="search">
      <input type="search" aria-label="Find in what is new" placeholder="Package, repository or version" value=${at.query.get("q") ?? ""} onInput=${(e) => ask({ q: e.target.value })} />
      <select aria-label="Kind of change" value=${type} onChange=${(e) => ask({ type: e.target.value })}>
        <option value="">Every change</option>
        ${Object.entries(WORDS).map(([name, words]) => html`<option value=${name}>${name === "RepositoryAdded" ? "repository added" : name === "RepositoryChanged" ? "repository changed" : words}</option>`)}
      </select></div>
    ${live.state === "live" && !items.length && html`<p class="empty">Nothing has changed since the server began to keep this.</p>`}
    ${live.state === "live" && items.length > 0 && !found.length && html`<p class="empty">Nothing of that kind.</p>`}
    ${[...days].map(([name, ones]) => html`<section key=${name} aria-label=${name}><h2>${name}</h2>
      <div class="scroll"><table class="list"><thead class="sr"><tr><th>Time</th><th>Package</th><th>Change</th><th>Kind</th></tr></thead>
      <tbody>${ones.map((item) => html`<${One} key=${item.metadata.uid} item=${item} />`)}</tbody></table></div></section>`)}
    ${found.length > most && html`<p class="empty"><button type="button" onClick=${() => setMost(most + STEP)}>Show more: ${found.length - most} are left</button></p>`}`;
}

const dayOf = (item) => day.format(new Date(item.metadata.creationTimestamp));

function grouped(items) {
  const found = new Map();
  for (const item of items) {
    const name = dayOf(item);
    if (!found.has(name)) found.set(name, []);
    found.get(name).push(item);
  }
  return found;
}

function One({ item: { metadata, spec } }) {
  const types = [...new Set(spec.changes.map((each) => each.type))];
  const gone = types.includes("PackageGone");
  const name = spec.object?.kind === "Package" ? spec.object.name : undefined;
  const about = spec.packageName ?? spec.repository;
  return html`<tr><td class="soft">${hour.format(new Date(metadata.creationTimestamp))}</td>
    <td>${name && !gone ? html`<a href=${link("package", [metadata.namespace, name])}>${about}</a>`
      : spec.packageName && !gone ? html`<a href=${link("packages", [], { q: spec.packageName, repo: spec.repository })}>${about}</a>` : about}
      <span class="small soft"> ${spec.packageName ? spec.repository : ""}</span></td>
    <td>${spec.summary}</td>
    <td>${types.map((each) => html`<span class=${BAD.has(each) ? "tag bad" : "tag"}>${WORDS[each] ?? each}</span>`)}</td></tr>`;
}
