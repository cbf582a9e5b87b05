// Where packages come from, how reading them went, and what was rejected and why.
import { html, useEffect } from "./vendor/preact.js";
import { CONFIG } from "./live.js";
import { link } from "./places.js";
import { age, Problem, useLive } from "./parts.js";

const source = ({ source: { git, oci, directory } = {} }) =>
  git ? `${git.url}${git.ref?.branch ? `@${git.ref.branch}` : ""}` : oci ? oci.image : directory?.path ?? "";

function Condition({ item, type }) {
  const found = item.status?.conditions?.find((each) => each.type === type);
  if (!found) return html`<span class="soft">unknown</span>`;
  const good = found.status === (type === "Ready" ? "True" : "False");
  return html`<span class=${found.status === "Unknown" ? "soft" : good ? "good" : "bad"}>${found.reason}</span>`;
}

export default function Repositories({ say }) {
  const live = useLive(`${CONFIG}/repositories`);
  useEffect(() => say("Repositories", live.state), [live.state]);
  const items = [...live.objects.values()].sort((a, b) => a.metadata.name.localeCompare(b.metadata.name));
  if (live.state === "refused") return html`<${Problem} what="The repositories cannot be read" error=${live.error} />`;
  return html`<h1>Repositories</h1><p class="soft">Sources of packages. The server looks at each now and then.</p>
    ${live.state === "live" && !items.length && html`<p class="empty">There is none. A Repository says where packages are: a directory, an image or a git repository.</p>`}
    ${items.map((item) => html`<${One} key=${item.metadata.uid} item=${item} />`)}`;
}

function One({ item }) {
  const status = item.status ?? {};
  const said = (status.conditions ?? []).filter((each) => (each.type === "Ready" ? each.status !== "True" : ["Degraded", "Stalled"].includes(each.type) && each.status === "True"));
  const messages = [...new Set(said.map((each) => each.message))];
  return html`<section class="box" aria-label=${item.metadata.name}><h2>${item.metadata.name} <${Condition} item=${item} type="Ready" /></h2>
    ${messages.map((text) => html`<div class="notice bad">${text}</div>`)}
    <dl class="inline"><dt>Source</dt><dd class="mono">${source(item.spec)}</dd>
      <dt>Holds</dt><dd><a href=${link("packages", [], { repo: item.metadata.name })}>${status.packages ?? 0} packages</a>, ${status.revisions ?? 0} revisions</dd>
      ${status.lastSyncedAt && html`<dt>Read</dt><dd>${age(status.lastSyncedAt)} ago</dd>`}</dl>
    ${status.rejected?.length > 0 && html`<h3>Rejected: ${status.rejectedCount ?? status.rejected.length}</h3>
      <div class="scroll"><table class="list"><thead><tr><th>Package</th><th>Why</th><th>Where</th></tr></thead><tbody>
      ${status.rejected.map((each) => html`<tr><td>${each.package ?? each.name}</td><td><span class="tag bad">${each.reason}</span> ${each.message}</td><td class="mono">${each.path ?? ""}</td></tr>`)}
      </tbody></table></div>`}</section>`;
}
