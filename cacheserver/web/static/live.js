// What the server has: asked with ordinary requests, kept fresh by one watch for each thing that a screen shows.

// The API beside this page: ../apis; behind a Service's proxy of kube-apiserver, that server's own ../../apis.
const proxied = location.pathname.match(/^(.*)\/api\/v1\/namespaces\/[^/]+\/services\/[^/]+\/proxy\//);
const BASE = proxied ? proxied[1] : location.pathname.replace(/\/ui\/.*$/, "");
export const API = "/apis/cacheserver.dev/v1alpha1";
export const CONFIG = "/apis/config.cacheserver.dev/v1alpha1";
const PAGE = 500;
const AGAIN_MS = 1000, AGAIN_MOST_MS = 30000;

export class Refused extends Error {
  constructor(status, body) {
    super((body && body.message) || `the server answered ${status}`);
    this.status = status;
    this.reason = (body && body.reason) || "";
  }
}

export const url = (path) => BASE + path;

export async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  const answer = await fetch(url(path), { ...options, headers, cache: "no-cache", redirect: "error" });
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => null));
  return answer;
}

export const getJSON = async (path, options) => (await ask(path, options)).json();

export const put = (path, body) =>
  getJSON(path, { method: "PUT", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

export const post = (path, body) =>
  getJSON(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

export const remove = (path) => getJSON(path, { method: "DELETE" });

const keyOf = (object) => `${object.metadata.namespace || ""}/${object.metadata.name}`;

// One kind, listed and then watched. `objects`: by namespace/name. Calls `changed` at most once a frame.
export class Live {
  constructor(path, query, changed) {
    this.path = path;
    this.query = query;
    this.changed = changed;
    this.objects = new Map();
    this.state = "loading"; // then "live", "lost" (tries again) or "refused"
    this.error = null;
    this.times = 0; // that `objects` changed
    this.pauseMs = AGAIN_MS;
    this.stopped = new AbortController();
    this.#run();
  }

  stop() {
    this.stopped.abort();
  }

  async #run() {
    while (!this.stopped.signal.aborted) {
      try {
        let version = await this.#list();
        while (version) version = await this.#watch(version);
      } catch (error) {
        if (this.stopped.signal.aborted) return;
        this.error = error;
        this.state = error instanceof Refused && [401, 403, 404].includes(error.status) ? "refused" : "lost";
        this.#tell();
        // Not all at the same moment, when a server comes back.
        await new Promise((go) => setTimeout(go, this.pauseMs * (0.5 + Math.random())));
        this.pauseMs = Math.min(this.pauseMs * 2, AGAIN_MOST_MS);
      }
    }
  }

  async #list() {
    const found = new Map();
    let more = "", version = "";
    do {
      const asked = new URLSearchParams({ ...this.query, limit: PAGE, ...(more && { continue: more }) });
      const page = await getJSON(`${this.path}?${asked}`, { signal: this.stopped.signal });
      for (const object of page.items) found.set(keyOf(object), object);
      more = page.metadata.continue || "";
      version = page.metadata.resourceVersion;
      if (this.state === "loading") {
        this.objects = found;
        this.#tell();
      }
    } while (more);
    this.objects = found;
    this.state = "live";
    this.error = null;
    this.pauseMs = AGAIN_MS;
    this.#tell();
    return version;
  }

  // Until it ends; the version to go on from, or "" to list anew.
  async #watch(version) {
    const asked = new URLSearchParams({
      ...this.query, watch: "1", resourceVersion: version, allowWatchBookmarks: "true", timeoutSeconds: "300",
    });
    const answer = await ask(`${this.path}?${asked}`, { signal: this.stopped.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return version;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line) continue;
        const { type, object } = JSON.parse(line);
        if (type === "ERROR") return "";
        version = object.metadata.resourceVersion;
        if (type === "BOOKMARK") continue;
        if (type === "DELETED") this.objects.delete(keyOf(object));
        else this.objects.set(keyOf(object), object);
      }
      this.#tell();
    }
  }

  #tell() {
    this.times += 1;
    if (this.waiting) return;
    this.waiting = true;
    const go = () => {
      this.waiting = false;
      if (!this.stopped.signal.aborted) this.changed(this);
    };
    if (document.hidden) setTimeout(go, 200);
    else requestAnimationFrame(go);
  }
}
