// One package: what it is, its versions, how they upgrade, its files, and what changed between two of them.
import { html, useEffect, useMemo, useState } from "./vendor/preact.js";
import { API, url } from "./live.js";
import { link, ofPackage, term } from "./places.js";
import { age, byVersion, Copy, Icon, objectPath, Problem, space, Stale, useLive, versionOf, Waiting } from "./parts.js";
import { Files, useFiles } from "./files.js";
import { Difference, Markdown } from "./text.js";
import { Graph } from "./graph.js";
import { Needs } from "./needs.js";

const TABS = [["about", "About"], ["versions", "Versions"], ["graph", "Upgrades"], ["needs", "Needs"], ["files", "Files"], ["compare", "Compare"]];
const FEW = 12;

export default function Package({ at, say }) {
  const [namespace, name] = at.rest;
  const one = useLive(`${API}${space(namespace)}/packages`, { fieldSelector: term("metadata.name", name) });
  const item = one.objects.get(`${namespace}/${name}`);
  const selector = item ? ofPackage(item.spec) : "metadata.name=-";
  const live = useLive(`${API}${space(namespace)}/packagerevisions`, { fieldSelector: selector });
  useEffect(() => say(item?.status.displayName || item?.spec.packageName || name, one.state), [item, one.state]);
  const revisions = useMemo(() => [...live.objects.values()].sort(byVersion), [live, live.times]);
  if (!item && one.error) return html`<${Problem} what="The package cannot be read" error=${one.error} retry=${() => one.retry()} />`;
  if (!item && one.state !== "live") return html`<${Waiting} of=${one} />`;
  if (!item) return html`<p class="empty">There is no package ${name} (any more). <a href="#/">All packages</a></p>`;

  const tab = at.query.get("tab") || "about";
  const latest = revisions.find((each) => each.metadata.labels?.["cacheserver.dev/latest"]) ?? revisions[0];
  const revision = revisions.find((each) => each.metadata.name === at.query.get("rev")) ?? latest;
  const to = (change) => link("package", at.rest, { ...Object.fromEntries(at.query), ...change });
  const tabs = TABS.filter(([key]) => key !== "graph" || item.spec.format === "FBC");
  return html`<${Stale} live=${one} />
    <div class="title"><${Icon} item=${item} /><div><h1>${item.status.displayName || item.spec.packageName}</h1>
      <div class="soft">${item.spec.packageName} in ${item.spec.repository}${namespace !== "default" ? ` (${namespace})` : ""}</div></div></div>
    ${item.status.deprecation && html`<div class="notice bad">Deprecated: ${item.status.deprecation.message}</div>`}
    <nav class="tabs" aria-label="About this package">${tabs.map(([key, text]) => html`
      <a href=${to({ tab: key === "about" ? "" : key })} aria-current=${tab === key ? "page" : undefined}>${text}</a>`)}</nav>
    ${["about", "needs", "files"].includes(tab) && revision && html`<${Choose} label="Version" revisions=${revisions} value=${revision} choose=${(rev) => (location.hash = to({ rev }))} />`}
    ${tab === "about" && html`<${About} item=${item} revision=${revision} to=${to} />`}
    ${tab === "versions" && html`<${Versions} item=${item} revisions=${revisions} at=${at} to=${to} />`}
    ${tab === "graph" && html`<${Graph} item=${item} to=${to} rev=${at.query.get("rev")} channel=${at.query.get("channel") ?? ""} />`}
    ${tab === "needs" && revision && html`<${Needs} revision=${revision} />`}
    ${tab === "files" && revision && html`<${RevisionFiles} revision=${revision} at=${at} to=${to} />`}
    ${tab === "compare" && html`<${Compare} revisions=${revisions} at=${at} to=${to} />`}`;
}

function Choose({ label, revisions, value, choose }) {
  return html`<p><label>${label} <select value=${value?.metadata.name} onChange=${(e) => choose(e.target.value)}>
    ${revisions.map((each) => html`<option key=${each.metadata.name} value=${each.metadata.name}>${versionOf(each)}${each.spec.lifecycle === "Published" ? "" : ` (${each.spec.lifecycle})`}</option>`)}
  </select></label></p>`;
}

// The long description: of an operator in its bundle, of a KRM package its README.
function described(files) {
  if (!files) return null;
  if (files["bundle.json"]) {
    try {
      const properties = JSON.parse(files["bundle.json"]).properties ?? [];
      const said = properties.find((each) => each.type === "olm.csv.metadata")?.value?.description;
      if (typeof said === "string") return said;
      const csv = Object.entries(files).find(([path]) => /^manifests\/clusterserviceversion-/.test(path))?.[1];
      const found = csv && JSON.parse(csv).spec?.description;
      return typeof found === "string" ? found : "";
    } catch {
      return "";
    }
  }
  return files[Object.keys(files).find((path) => /^readme(\.md)?$/i.test(path))] ?? "";
}

const api = ({ kind, version, group }) => [kind, version, group].filter(Boolean).join(".");

function Many({ title, values }) {
  const [all, setAll] = useState(false);
  if (!values?.length) return null;
  const shown = all ? values : values.slice(0, FEW);
  return html`<dt>${title}</dt>${shown.map((value) => html`<dd>${value}</dd>`)}
    ${values.length > shown.length && html`<dd><button type="button" class="small" onClick=${() => setAll(true)}>${values.length - shown.length} more</button></dd>`}`;
}

function About({ item, revision, to }) {
  const of = useFiles(revision?.metadata, revision?.status.content?.digest);
  const said = useMemo(() => described(of.answer), [of.answer]);
  const status = item.status;
  const mine = revision?.status ?? {};
  const upstream = mine.upstreamLock?.git, own = mine.selfLock?.git;
  const web = /^https?:\/\//.test(status.provider?.url ?? "") ? status.provider.url : "";
  return html`<div class="sides"><div>
      ${mine.deprecation && html`<div class="notice bad">This version is deprecated: ${mine.deprecation.message}</div>`}
      <${Problem} what="The description cannot be read" error=${of.error} retry=${of.retry} />
      ${said ? html`<${Markdown} text=${said} />` : html`${status.summary && html`<p>${status.summary}</p>`}${!(of.answer || of.error) ? html`<${Waiting} of=${of} />` : !status.summary && html`<p class="soft">Its author describes it with no word.</p>`}`}
    </div><aside aria-label="Facts"><dl>
      ${revision && html`<dt>Version</dt><dd>${versionOf(revision)} ${revision === undefined ? "" : html`<span class="soft">here for ${age(revision.metadata.creationTimestamp)}</span>`}</dd>`}
      ${status.provider?.name && html`<dt>Provider</dt><dd>${web ? html`<a href=${web} rel="noopener noreferrer nofollow" target="_blank">${status.provider.name}</a>` : status.provider.name}</dd>`}
      ${mine.channels && html`<dt>Channels</dt><dd>${mine.channels.map((each) => html`<span class=${each.head ? "tag on" : "tag"} title=${each.head ? "the channel leads here" : ""}>${each.name}</span>`)}</dd>`}
      <${Many} title="Provides" values=${mine.providedAPIs?.map(api)} />
      ${(mine.requiredAPIs || mine.dependencies) && html`<dt>Needs</dt><dd><a href=${to({ tab: "needs" })}>${(mine.requiredAPIs ?? []).length + (mine.dependencies ?? []).length} of others</a></dd>`}
      ${mine.minKubeVersion && html`<dt>Kubernetes</dt><dd>${mine.minKubeVersion} or later</dd>`}
      ${status.categories && html`<dt>Categories</dt><dd>${status.categories.map((name) => html`<a class="tag" href=${link("packages", [], { cat: name })}>${name}</a>`)}</dd>`}
      ${status.keywords && html`<dt>Keywords</dt><dd>${status.keywords.map((name) => html`<a class="tag" href=${link("packages", [], { q: name })}>${name}</a>`)}</dd>`}
      ${mine.image && html`<dt>Image</dt><dd><${Copy} text=${mine.image} /></dd>`}
      ${own && html`<dt>In git</dt><dd><${Copy} text=${`kpt pkg get ${own.repo}/${own.directory}@${own.ref || own.commit}`} /></dd>`}
      ${upstream && html`<dt>Cloned from</dt><dd class="mono">${upstream.repo}/${upstream.directory}@${upstream.ref}</dd>`}
      <dt>With kubectl</dt><dd><${Copy} text=${`kubectl get package ${item.metadata.name} -n ${item.metadata.namespace} -o yaml`} /></dd>
    </dl></aside></div>`;
}

function Versions({ item, revisions, at, to }) {
  const channel = at.query.get("channel") ?? "";
  const channels = [...new Set(revisions.flatMap((each) => (each.status.channels ?? []).map((one) => one.name)))].sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
  const shown = channel ? revisions.filter((each) => each.status.channels?.some((one) => one.name === channel)) : revisions;
  const operators = channels.length > 0;
  const part = (what, format) => url(objectPath("packages", item.metadata, `/${what}?${new URLSearchParams({ format, ...(channel && { channel }) })}`));
  return html`${operators && html`<p><label>Channel <select value=${channel} onChange=${(e) => (location.hash = to({ channel: e.target.value }))}>
      <option value="">all ${channels.length}</option>${channels.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>
      <span class="soft"> For a mirror${channel && ` of ${channel}`}: <a href=${part("images", "text")} download=${`${item.spec.packageName}.images.txt`}>its images</a>, <a href=${part("export", "json")} download=${`${item.spec.packageName}.catalog.json`}>its catalog</a></span></p>`}
    <div class="scroll"><table class="list"><thead><tr><th>Version</th><th>State</th>${operators && html`<th>Channels</th>`}<th>Here for</th><th><span class="sr">Do</span></th></tr></thead>
    <tbody>${shown.map((each) => html`<tr key=${each.metadata.name}>
      <td class="one"><a href=${to({ tab: "", rev: each.metadata.name })}>${versionOf(each)}</a></td>
      <td class="one">${each.spec.lifecycle}${each.metadata.labels?.["cacheserver.dev/latest"] && html` <span class="tag on">latest</span>`}
        ${each.status.deprecation && html` <span class="tag bad" title=${each.status.deprecation.message}>deprecated</span>`}</td>
      ${operators && html`<td>${(each.status.channels ?? []).map((one) => html`<span class=${one.head ? "tag on" : "tag"}>${one.name}</span>`)}</td>`}
      <td class="one">${age(each.metadata.creationTimestamp)}</td>
      <td class="one"><a href=${to({ tab: "compare", rev: each.metadata.name })}>compare</a></td></tr>`)}</tbody></table></div>`;
}

function RevisionFiles({ revision, at, to }) {
  const of = useFiles(revision.metadata, revision.status.content?.digest);
  return html`<${Files} of=${of} path=${at.query.get("file") ?? ""} choose=${(file) => (location.hash = to({ file }))} />`;
}

function Compare({ revisions, at, to }) {
  const after = revisions.find((each) => each.metadata.name === at.query.get("rev")) ?? revisions[0];
  const below = revisions[revisions.indexOf(after) + 1] ?? revisions.find((each) => each !== after);
  const before = revisions.find((each) => each.metadata.name === at.query.get("with")) ?? below;
  const old = useFiles(before?.metadata, before?.status.content?.digest);
  const now = useFiles(after?.metadata, after?.status.content?.digest);
  if (!before || !after) return html`<p class="empty">It has no two versions to compare.</p>`;
  return html`<div class="actions">
      <${Choose} label="From" revisions=${revisions} value=${before} choose=${(name) => (location.hash = to({ with: name }))} />
      <${Choose} label="to" revisions=${revisions} value=${after} choose=${(rev) => (location.hash = to({ rev }))} /></div>
    <${Problem} what="The files cannot be read" error=${old.error || now.error} retry=${old.error ? old.retry : now.retry} />
    ${old.answer && now.answer ? html`<${Difference} before=${old.answer} after=${now.answer} />` : !(old.error || now.error) && html`<${Waiting} of=${old.answer ? now : old} />`}`;
}
