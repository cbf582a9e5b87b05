// Where packages come from, how reading them went, and what was rejected and why.
import { html, useEffect } from "./vendor/preact.js";
import { CONFIG } from "./live.js";
import { link } from "./places.js";
import { across, age, Problem, Stale, useLive, Waiting, Where } from "./parts.js";

const source = ({ source: { git, oci, directory } = {} }) =>
  git ? `${git.url}${git.ref?.branch ? `@${git.ref.branch}` : ""}` : oci ? oci.image : directory?.path ?? "";

const count = (number = 0, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
const troubled = ({ status = {} }) => (status.conditions ?? []).some(({ type, status: is }) => (type === "Ready" ? is !== "True" : type === "Degraded" && is === "True"));

function Condition({ item, type }) {
  const found = item.status?.conditions?.find((each) => each.type === type);
  if (!found) return html`<span class="soft">unknown</span>`;
  const good = found.status === (type === "Ready" ? "True" : "False");
  return html`<span class=${found.status === "Unknown" ? "soft" : good ? "good" : "bad"}>${found.reason}</span>`;
}

export default function Repositories({ at, say }) {
  const live = useLive(across(CONFIG, "repositories", at));
  useEffect(() => say("Repositories", live.state), [live.state]);
  const items = [...live.objects.values()].sort((a, b) => troubled(b) - troubled(a) || a.metadata.name.localeCompare(b.metadata.name));
  if (live.error?.status === 403 && !at.query.get("in")) return html`<${Where} error=${live.error} what="repositories" />`;
  return html`<h1>Repositories</h1><p class="soft">Sources of packages. The server looks at each now and then.</p><${Stale} live=${live} />
    ${live.state === "refused" && html`<${Problem} what="The repositories cannot be read" error=${live.error} retry=${() => live.retry()} />`}
    ${live.state === "loading" && !items.length && html`<${Waiting} of=${live} />`}
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
      <dt>Holds</dt><dd><a href=${link("packages", [], { repo: item.metadata.name })}>${count(status.packages, "package")}</a>, ${count(status.revisions, "revision")}</dd>
      ${status.lastSyncedAt && html`<dt>Read</dt><dd>${age(status.lastSyncedAt)} ago</dd>`}</dl>
    ${status.rejected?.length > 0 && html`<h3>Rejected: ${status.rejectedCount ?? status.rejected.length}</h3>
      <div class="scroll"><table class="list"><thead><tr><th>Package</th><th>Why</th><th>Where</th></tr></thead><tbody>
      ${status.rejected.map((each) => html`<tr><td>${each.package ?? each.name}</td><td><span class="tag bad">${each.reason}</span> ${each.message}</td><td class="mono">${each.path ?? ""}</td></tr>`)}
      </tbody></table></div>`}</section>`;
}
