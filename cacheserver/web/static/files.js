// A revision's files, read when they are looked at.
import { html, useEffect, useState } from "./vendor/preact.js";
import { getJSON } from "./live.js";
import { Code } from "./text.js";
import { objectPath, Problem } from "./parts.js";

// Path to text; null for what is none.
export function useFiles(metadata, digest) {
  const [found, setFound] = useState({ key: "", files: null, error: null });
  const key = metadata ? `${metadata.namespace}/${metadata.name}/${digest}` : "";
  useEffect(() => {
    if (!metadata) return undefined;
    const stop = new AbortController();
    getJSON(objectPath("packagerevisionresources", metadata), { signal: stop.signal }).then(
      ({ spec }) => {
        const binary = Object.fromEntries(Object.keys(spec.binaryResources ?? {}).map((path) => [path, null]));
        setFound({ key, files: { ...spec.resources, ...binary }, error: null });
      },
      (error) => error.name !== "AbortError" && setFound({ key, files: null, error }),
    );
    return () => stop.abort();
  }, [key]);
  return found.key === key ? found : { files: null, error: null };
}

export function Files({ files, error, path, choose }) {
  if (error) return html`<${Problem} what="The files cannot be read" error=${error} />`;
  if (!files) return html`<p class="empty">Loading…</p>`;
  const paths = Object.keys(files).sort();
  if (!paths.length) return html`<p class="empty">It has no files.</p>`;
  const shown = path in files ? path : paths.find((each) => /^README/i.test(each)) ?? paths[0];
  return html`<div class="files">
    <ul aria-label="Files">${paths.map((each) => html`<li key=${each}>
      <button type="button" aria-pressed=${each === shown ? "true" : "false"} onClick=${() => choose(each)}>${each}</button></li>`)}</ul>
    <div>${files[shown] === null ? html`<p class="empty">${shown} is no text.</p>` : html`<${Code} path=${shown} text=${files[shown]} />`}</div></div>`;
}
