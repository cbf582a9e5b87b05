// What a version needs of others, and who gives it, as the server judges it.
import { html, useEffect } from "./vendor/preact.js";
import { API, getJSON } from "./live.js";
import { link, ofPackage } from "./places.js";
import { objectPath, Problem, space, useAsked, useJSON, Waiting } from "./parts.js";

const MET = { True: ["tag on", "met"], False: ["tag bad", "missing"], Unknown: ["tag", "not known"] };

export function Needs({ revision }) {
  const path = objectPath("packagerevisions", revision.metadata, "/dependencies");
  const of = useAsked(`${path} ${revision.metadata.resourceVersion}`, (signal) => getJSON(path, { signal }));
  if (of.error) return html`<${Problem} what="What it needs cannot be read" error=${of.error} retry=${of.retry} />`;
  if (!of.answer) return html`<${Waiting} of=${of} />`;
  const found = of.answer.status.requirements ?? [];
  if (!found.length) return html`<p class="empty">It needs nothing of other packages, as far as it says.</p>`;
  const missing = found.filter((each) => each.satisfied === "False").length;
  return html`${missing > 0 && html`<div class="notice bad">${missing === found.length ? "None of what it needs is here" : `${missing} of the ${found.length} things that it needs ${missing === 1 ? "is" : "are"} not here`}, and has to come from elsewhere, or be there already.</div>`}
    <p class="soft">Looked for among what this server has in ${revision.metadata.namespace}; what is installed in a cluster is not known here.</p>
    <div class="scroll"><table class="list stacked"><thead><tr><th>It needs</th><th>Is it there?</th><th>Given by, the best first</th></tr></thead>
    <tbody>${found.map((each) => html`<tr><td><${What} need=${each} /></td>
      <td class="one"><span class=${MET[each.satisfied][0]} title=${each.reason ?? ""}>${MET[each.satisfied][1]}</span></td>
      <td><${Givers} need=${each} /></td></tr>`)}</tbody></table></div>`;
}

function What({ need }) {
  if (need.type === "package") return html`<strong>${need.package}</strong> ${need.versionRange}`;
  if (need.type === "api") return html`<strong>${need.kind}</strong> <span class="soft">${[need.group, need.version].filter(Boolean).join("/")}</span>`;
  return need.message || html`<code>${need.constraint}</code>`;
}

function Givers({ need }) {
  const beyond = need.total - need.satisfiedBy.length;
  if (!need.satisfiedBy.length) return html`<span class="soft">${need.reason || "Nobody here."}</span>`;
  const packages = new Map(); // in the order of the best of each
  for (const each of need.satisfiedBy) {
    const key = `${each.namespace}/${each.repository}/${each.package}`;
    packages.set(key, [...(packages.get(key) ?? []), each]);
  }
  return html`<ul class="plain">${[...packages.values()].map((ones) => html`<li><strong>${ones[0].package}</strong><span class="soft small"> ${ones[0].repository}</span><br />
      ${ones.map((each, at) => html`${at > 0 && ", "}<a href=${link("revision", [each.namespace, each.name])} aria-label=${`${each.package} ${each.version}`}>${each.version}</a>${each.deprecated && html` <span class="tag bad">deprecated</span>`}${each.unjudged && html` <span class="tag">in part</span>`}`)}</li>`)}
    ${beyond > 0 && html`<li class="soft small">and ${beyond.toLocaleString("en")} more${need.more ? ", at least" : ""}</li>`}</ul>`;
}

// #/revision/NAMESPACE/NAME: shown where its package is shown.
export default function Revision({ at }) {
  const [namespace, name] = at.rest;
  const of = useJSON(objectPath("packagerevisions", { namespace, name }));
  const spec = of.answer?.spec;
  const query = spec && new URLSearchParams({ fieldSelector: ofPackage(spec), limit: 1 });
  const packages = useJSON(spec ? `${API}${space(namespace)}/packages?${query}` : "");
  const found = packages.answer?.items[0];
  useEffect(() => {
    if (found) location.replace(link("package", [namespace, found.metadata.name], { rev: name }));
  }, [found]);
  const error = of.error ?? packages.error;
  if (error) return html`<${Problem} what=${`${name} cannot be shown`} error=${error} retry=${of.error ? of.retry : packages.retry} />`;
  if (packages.answer && !found) return html`<p class="empty">The package of ${name} is not here (any more). <a href="#/">All packages</a></p>`;
  return html`<${Waiting} of=${spec ? packages : of} />`;
}
