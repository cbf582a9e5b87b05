// What the server has: asked with ordinary requests, kept fresh by one watch for each thing that a screen shows.

// The API beside this page: ../apis; behind a Service's proxy of kube-apiserver, that server's own ../../apis.
const proxied = location.pathname.match(/^(.*)\/api\/v1\/namespaces\/[^/]+\/services\/[^/]+\/proxy\//);
const BASE = proxied ? proxied[1] : location.pathname.replace(/\/ui\/.*$/, "");
export const API = "/apis/cacheserver.dev/v1alpha1";
export const CONFIG = "/apis/config.cacheserver.dev/v1alpha1";
export const SLOW_MS = 4_000; // then a word says so
const PAGE = 500;
const AGAIN_MS = 1_000, AGAIN_MOST_MS = 30_000;
const ANSWER_MS = 60_000;
const SILENT_MS = 150_000; // of a watch, which brings a bookmark each minute
const HIDDEN_MS = 60_000; // a browser has six connections to a host, over all tabs
const CROWD = 500, CROWD_MS = 150; // of so many objects changes are drawn no more often

export class Refused extends Error {
  constructor(status, body) {
    super((body && body.message) || `the server answered ${status}`);
    this.status = status;
    this.reason = (body && body.reason) || "";
  }
}

// Whether a login has ended, for the whole page: a proxy's redirect to one, and 401, until anything is answered.
export const login = { ended: false, changed: () => {} };
function answered(ended) {
  if (login.ended === ended) return;
  login.ended = ended;
  login.changed();
}

// Who waits to try again: each is called at once where somebody says so, or comes back to the page.
const waiting = new Set();
export function again() {
  for (const go of [...waiting]) go();
}
export function onAgain(go) {
  waiting.add(go);
  return () => waiting.delete(go);
}
addEventListener("online", again);
document.addEventListener("visibilitychange", () => !document.hidden && again());

export const url = (path) => BASE + path;

export async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  const answer = await fetch(url(path), { ...options, headers, cache: "no-cache", redirect: "manual" });
  const toLogin = answer.type === "opaqueredirect"; // the API itself sends nobody anywhere
  answered(toLogin || answer.status === 401);
  if (toLogin) throw new Refused(401, { message: "somebody on the way asks who you are" });
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => null));
  return answer;
}

export const getJSON = async (path, options) => (await ask(path, options)).json();

const sent = (method) => (path, body, options = {}) =>
  getJSON(path, { ...options, method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
export const put = sent("PUT");
export const post = sent("POST");
export const remove = (path) => getJSON(path, { method: "DELETE" });

const keyOf = (object) => `${object.metadata.namespace || ""}/${object.metadata.name}`;

// One kind, listed and then watched. `objects`: by namespace/name, as `keep` leaves them. Tells of changes in crowds.
// newest: of what is named after its time so many alone, and then as many more each time that older() is asked.
export class Live {
  constructor(path, query, changed, keep = (object) => object, newest = 0) {
    Object.assign(this, { path, query, changed, keep, newest });
    this.more = ""; // where what is older begins
    this.going = false; // it is asked for
    this.failed = null; // why there is nothing older
    this.objects = new Map();
    this.state = "loading"; // then "live", "lost" (tries again) or "refused"
    this.slow = false; // no answer yet, for longer than people wait in silence
    this.error = null;
    this.times = 0; // that `objects` changed
    this.version = ""; // to watch from; none: list
    this.pauseMs = AGAIN_MS;
    this.stopped = new AbortController();
    this.attempt = new AbortController();
    this.#run();
  }

  stop() {
    this.stopped.abort();
    this.attempt.abort();
  }

  // What hangs is let go, and asked anew.
  retry() {
    this.attempt.abort();
    again();
  }

  async #run() {
    while (!this.stopped.signal.aborted) {
      this.attempt = new AbortController();
      const late = setTimeout(() => this.state === "loading" && ((this.slow = true), this.#tell()), SLOW_MS);
      let pause = true;
      try {
        if (!this.version) await this.#within(ANSWER_MS, this.#list());
        pause = await this.#watch();
      } catch (error) {
        if (this.stopped.signal.aborted) return;
        if (error instanceof Refused && error.status === 410) this.version = ""; // too old: list anew
        else if (this.attempt.signal.aborted) pause = false;
        else {
          this.error = error;
          this.state = error instanceof Refused && [401, 403, 404].includes(error.status) ? "refused" : "lost";
          this.#tell();
        }
      } finally {
        clearTimeout(late);
        this.attempt.abort();
      }
      if (pause) await this.#pause();
      while (document.hidden && this.state === "live") await this.#pause(AGAIN_MOST_MS);
    }
  }

  // Not all at the same moment, when a server comes back.
  async #pause(ms = this.pauseMs * (0.5 + Math.random())) {
    this.pauseMs = Math.min(this.pauseMs * 2, AGAIN_MOST_MS);
    let off;
    await new Promise((go) => {
      off = onAgain(go);
      setTimeout(go, ms);
    });
    off();
  }

  async #within(ms, work) {
    let timer;
    const late = new Promise((_, fail) => (timer = setTimeout(() => fail(new Error(`no answer within ${ms / 1000} s`)), ms)));
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async #list() {
    const signal = this.attempt.signal;
    const found = new Map();
    let more = "", version = "";
    do {
      const page = await this.#page(more, signal);
      if (signal.aborted) throw new Error("let go");
      for (const object of page.items) found.set(keyOf(object), this.keep(object));
      more = page.metadata.continue || "";
      version ||= page.metadata.resourceVersion; // of the first: what comes while the others do, the watch brings
      if (this.state === "loading") {
        this.objects = found;
        this.slow = false;
        this.#tell();
      }
    } while (more && !(this.newest && found.size >= this.objects.size));
    this.more = more;
    this.objects = found;
    this.version = version;
    this.#well();
  }

  #page(more, signal) {
    const order = this.newest ? { order: "newest" } : {};
    const asked = new URLSearchParams({ ...this.query, ...order, limit: this.newest || PAGE, ...(more && { continue: more }) });
    return getJSON(`${this.path}?${asked}`, { signal });
  }

  // The next ones, once; what comes before the answer to a question before is let be.
  async older() {
    if (!this.more || this.going) return;
    const { objects, more } = this;
    Object.assign(this, { going: true, failed: null });
    this.#tell();
    try {
      const page = await this.#within(ANSWER_MS, this.#page(more, this.stopped.signal));
      if (objects !== this.objects) return; // listed anew
      for (const object of page.items) if (!objects.has(keyOf(object))) objects.set(keyOf(object), this.keep(object));
      this.more = page.metadata.continue || "";
    } catch (error) {
      this.failed = error;
    } finally {
      this.going = false;
      this.#tell();
    }
  }

  #well() {
    this.state = "live";
    this.slow = false;
    this.error = null;
    this.pauseMs = AGAIN_MS;
    this.#tell();
  }

  // Until it ends. Whether to wait before the next: not where it came to its end and had brought anything.
  async #watch() {
    const asked = new URLSearchParams({
      ...this.query, watch: "1", resourceVersion: this.version, allowWatchBookmarks: "true", timeoutSeconds: "300",
    });
    const answer = await this.#within(ANSWER_MS, ask(`${this.path}?${asked}`, { signal: this.attempt.signal }));
    if (this.state !== "live") this.#well();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "", pause = true, hidden;
    const hide = () => {
      clearTimeout(hidden);
      if (document.hidden) hidden = setTimeout(() => this.attempt.abort(), HIDDEN_MS);
    };
    document.addEventListener("visibilitychange", hide);
    try {
      for (;;) {
        const { done, value } = await this.#within(SILENT_MS, reader.read());
        if (done) return pause;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        let changed = false;
        for (const line of lines) if (line) changed = this.#take(JSON.parse(line)) || changed;
        pause = false;
        if (changed) this.#tell();
      }
    } finally {
      clearTimeout(hidden);
      document.removeEventListener("visibilitychange", hide);
    }
  }

  // Whether it changes anything.
  #take({ type, object }) {
    if (type === "ERROR") throw new Refused(object.code, object);
    this.version = object.metadata.resourceVersion;
    if (type === "BOOKMARK") return false;
    if (type === "DELETED") this.objects.delete(keyOf(object));
    else this.objects.set(keyOf(object), this.keep(object));
    return true;
  }

  #tell() {
    this.times += 1;
    if (this.drawing) return;
    this.drawing = true;
    const go = () => {
      this.drawing = false;
      this.toldAt = performance.now();
      if (!this.stopped.signal.aborted) this.changed(this);
    };
    const since = performance.now() - (this.toldAt ?? -CROWD_MS);
    const later = document.hidden ? 200 : this.objects.size > CROWD ? CROWD_MS - since : 0;
    if (later > 0) setTimeout(go, later);
    else requestAnimationFrame(go);
  }
}
