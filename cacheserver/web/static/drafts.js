// What is being worked on: drafts and proposals, their difference to what is published, and the steps that are left.
import { html, useEffect, useState } from "./vendor/preact.js";
import { API, getJSON, post, put, remove } from "./live.js";
import { link, ofPackage, term } from "./places.js";
import { across, age, objectPath, Problem, space, Stale, useLive, versionOf, Waiting, Where } from "./parts.js";
import { useFiles } from "./files.js";
import { Difference } from "./text.js";

export default function Drafts({ at, say }) {
  return at.rest.length === 2 ? html`<${Draft} at=${at} say=${say} />` : html`<${List} at=${at} say=${say} />`;
}

const ORDER = ["Proposed", "DeletionProposed", "Draft"];
const WORDS = { Proposed: "Waits for approval", DeletionProposed: "Is to be deleted", Draft: "Being worked on" };

function List({ at, say }) {
  const live = useLive(across(API, "packagerevisions", at), { fieldSelector: "spec.lifecycle!=Published" });
  useEffect(() => say("Drafts", live.state), [live.state]);
  if (live.error?.status === 403 && !at.query.get("in")) return html`<${Where} error=${live.error} what="drafts" />`;
  const items = [...live.objects.values()];
  return html`<h1>Drafts</h1><${Stale} live=${live} />
    ${live.state === "refused" && html`<${Problem} what="The drafts cannot be read" error=${live.error} retry=${() => live.retry()} />`}
    ${live.state === "loading" && !items.length && html`<${Waiting} of=${live} />`}
    ${live.state === "live" && !items.length && html`<div class="empty"><p>Nobody is working on anything.</p><p>A new package begins with <code>kubectl cacheserver init REPOSITORY PACKAGE</code>.</p></div>`}
    ${ORDER.map((lifecycle) => {
      const some = items.filter((each) => each.spec.lifecycle === lifecycle).sort((a, b) => a.metadata.name.localeCompare(b.metadata.name));
      return some.length > 0 && html`<h2>${WORDS[lifecycle]}</h2><div class="scroll"><table class="list"><thead><tr><th>Package</th><th>Workspace</th><th>Repository</th><th>Begun</th></tr></thead>
        <tbody>${some.map((each) => html`<tr key=${each.metadata.uid}><td><a href=${link("drafts", [each.metadata.namespace, each.metadata.name])}>${each.spec.packageName}</a></td>
          <td>${each.spec.workspaceName}</td><td>${each.spec.repository}</td><td>${age(each.metadata.creationTimestamp)} ago</td></tr>`)}</tbody></table></div>`;
    })}`;
}

// Whether the user may; where nobody can say, the server decides when it is asked.
const asked = new Map();
async function may(namespace, verb, subresource) {
  const key = [namespace, verb, subresource].join("/");
  const known = asked.get(key);
  if (known && Date.now() - known.at < 60_000) return known.answer;
  let answer = { allowed: true };
  try {
    const made = await post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {
      apiVersion: "authorization.k8s.io/v1", kind: "SelfSubjectAccessReview",
      spec: { resourceAttributes: { namespace, verb, group: "cacheserver.dev", resource: "packagerevisions", ...(subresource && { subresource }) } },
    });
    answer = made.status;
  } catch {
    // a server of one's own has no such reviews
  }
  asked.set(key, { at: Date.now(), answer });
  return answer;
}

// [button, what it makes of the lifecycle, subresource, verb]
const STEPS = {
  Draft: [["Propose", "Proposed", "", "update"], ["Delete the draft", "", "", "delete"]],
  Proposed: [["Approve and publish", "Published", "approval", "update"], ["Reject", "Draft", "approval", "update"]],
  DeletionProposed: [["Delete it", "", "", "delete"], ["Keep it", "Published", "approval", "update"]],
};

function Draft({ at, say }) {
  const [namespace, name] = at.rest;
  const live = useLive(`${API}${space(namespace)}/packagerevisions`, { fieldSelector: term("metadata.name", name) });
  const item = live.objects.get(`${namespace}/${name}`);
  const packageOf = item ? ofPackage(item.spec) : "metadata.name=-";
  const others = useLive(`${API}${space(namespace)}/packagerevisions`, { fieldSelector: packageOf });
  useEffect(() => say(name, live.state), [live.state]);
  const base = [...others.objects.values()].find((each) => each.metadata.labels?.["cacheserver.dev/latest"] && each.metadata.name !== name);
  const own = useFiles(item?.metadata, item?.status.content?.digest);
  const old = useFiles(base?.metadata, base?.status.content?.digest);
  // Who decides decides about what he has seen: what its author saves in that moment waits until it was looked at.
  const digest = item?.status.content?.digest;
  const [seen, setSeen] = useState(null);
  useEffect(() => own.answer && setSeen((before) => before ?? digest), [own.answer]);
  const changed = seen !== null && seen !== digest;
  if (!item && live.error) return html`<${Problem} what="The draft cannot be read" error=${live.error} retry=${() => live.retry()} />`;
  if (!item && live.state !== "live") return html`<${Waiting} of=${live} />`;
  if (!item) return html`<p class="empty">${name} is not here (any more). <a href=${link("drafts")}>Drafts</a></p>`;
  const conditions = (item.status.conditions ?? []).filter((each) => each.status !== "True" || !["Ready", "Pushed", "Rendered"].includes(each.type));
  return html`<${Stale} live=${live} /><h1>${item.spec.packageName} <span class="soft">${item.spec.workspaceName}</span></h1>
    <p class="soft">${WORDS[item.spec.lifecycle] ?? item.spec.lifecycle}${item.spec.lifecycle === "Published" ? ` as ${versionOf(item)}` : ""} · ${item.spec.repository} · begun ${age(item.metadata.creationTimestamp)} ago</p>
    ${item.status.lastOperation?.result === "Failed" && html`<div class="notice bad">Git refused the last step: ${item.status.lastOperation.message}</div>`}
    ${changed && html`<div class="notice bad" role="alert">Its files were changed while you looked at them.
      <button type="button" disabled=${!own.answer} onClick=${() => setSeen(digest)}>I see what they are now</button></div>`}
    <${Buttons} item=${item} seen=${changed ? null : seen} />
    ${conditions.map((each) => html`<div class="notice" key=${each.type}><strong>${each.type} ${each.status === "True" ? "" : `is ${each.status}`}</strong> ${each.message}</div>`)}
    <h2>${base ? `Changes since ${versionOf(base)}` : "All of it is new"}</h2>
    <${Problem} what="The files cannot be read" error=${own.error || old.error} retry=${own.error ? own.retry : old.retry} />
    ${own.answer && (old.answer || !base) ? html`<${Difference} before=${old.answer ?? {}} after=${own.answer} />` : !(own.error || old.error) && html`<${Waiting} of=${own.answer ? old : own} />`}`;
}

// seen: the digest of the files that were looked at; null: none, and no step but to delete is taken.
function Buttons({ item, seen }) {
  const [state, setState] = useState({});
  const [rights, setRights] = useState({});
  const steps = STEPS[item.spec.lifecycle] ?? [];
  const { namespace } = item.metadata;
  useEffect(() => {
    let here = true;
    Promise.all(steps.map(([, , subresource, verb]) => may(namespace, verb, subresource))).then((found) => {
      if (here) setRights(Object.fromEntries(found.map((answer, at) => [steps[at][0], answer])));
    });
    return () => (here = false);
  }, [item.spec.lifecycle, namespace]);

  const go = async ([button, lifecycle, subresource]) => {
    if (!lifecycle && !confirm(`${button}? ${item.spec.lifecycle === "Draft" ? "What git does not have of it is lost." : "Its tag goes from git."}`)) return;
    setState({ busy: button });
    try {
      if (lifecycle) {
        // What was read is what is decided about: 409 where somebody changed it since.
        const now = await getJSON(objectPath("packagerevisions", item.metadata));
        if (now.status.content?.digest !== seen || now.spec.lifecycle !== item.spec.lifecycle) throw new Error("It was changed just now; look again");
        await put(objectPath("packagerevisions", item.metadata, subresource && `/${subresource}`), { ...now, spec: { ...now.spec, lifecycle } });
      } else await remove(objectPath("packagerevisions", item.metadata));
      setState({ done: button });
    } catch (error) {
      setState({ error });
      asked.clear();
    }
  };
  if (!steps.length) return state.done ? html`<p class="good" role="status">${state.done}: done.</p>` : null;
  return html`<div class="actions">${steps.map((step, at) => {
      const right = rights[step[0]];
      const why = right && !right.allowed ? right.reason || "You may not do this" : "";
      const unseen = step[1] && seen === null;
      return html`<button type="button" class=${at ? "" : "first"} disabled=${!!state.busy || !!why || !!unseen || !!item.status.operation} title=${why} onClick=${() => go(step)}>${state.busy === step[0] ? `${step[0]} …` : step[0]}</button>
        ${why && html`<span class="soft small">${why}</span>`}`;
    })}
    ${(state.busy || item.status.operation) && html`<span class="soft" role="status">Git is asked; this takes a moment.</span>`}</div>
    <${Problem} what="It was not done" error=${state.error} />`;
}
