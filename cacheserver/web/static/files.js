// A revision's files, read when they are looked at.
import { html } from "./vendor/preact.js";
import { getJSON } from "./live.js";
import { Code } from "./text.js";
import { objectPath, Problem, useAsked, Waiting } from "./parts.js";

// {answer: path to text, null for what is none; error, slow, retry}
export function useFiles(metadata, digest) {
  const key = metadata ? `${metadata.namespace}/${metadata.name}/${digest}` : "";
  return useAsked(key, async (signal) => {
    const { spec } = await getJSON(objectPath("packagerevisionresources", metadata), { signal });
    const binary = Object.fromEntries(Object.keys(spec.binaryResources ?? {}).map((path) => [path, null]));
    return { ...spec.resources, ...binary };
  });
}

export function Files({ of, path, choose }) {
  const files = of.answer;
  if (of.error) return html`<${Problem} what="The files cannot be read" error=${of.error} retry=${of.retry} />`;
  if (!files) return html`<${Waiting} of=${of} />`;
  const paths = Object.keys(files).sort();
  if (!paths.length) return html`<p class="empty">It has no files.</p>`;
  const shown = path in files ? path : paths.find((each) => /^README/i.test(each)) ?? paths[0];
  return html`<div class="files">
    <ul aria-label="Files">${paths.map((each) => html`<li key=${each}>
      <button type="button" aria-pressed=${each === shown ? "true" : "false"} onClick=${() => choose(each)}>${each}</button></li>`)}</ul>
    <div>${files[shown] === null ? html`<p class="empty">${shown} is no text.</p>` : html`<${Code} path=${shown} text=${files[shown]} />`}</div></div>`;
}
