// What the server finds for words, best first, with counts: asked as one types, the question before let go.
import { useEffect, useRef, useState } from "./vendor/preact.js";
import { API, onAgain, post, SLOW_MS } from "./live.js";
import { space } from "./parts.js";

const TYPED_MS = 100, CHANGED_MS = 800, PAGE = 100;

// spec: of a PackageSearch, null for none. changes: a number that rises as packages change.
// {results, total, facets, pending, slow, error, more, retry}: of the question before until there is an answer.
export function useSearch(namespace, spec, changes) {
  const [found, setFound] = useState(null);
  const [state, setState] = useState({});
  const [tries, setTries] = useState(0);
  const retry = () => setTries((count) => count + 1);
  const key = spec ? `${namespace} ${JSON.stringify(spec)}` : "";
  const now = useRef({});
  Object.assign(now.current, { key, changes });

  const ask = async (signal, rest) => {
    const body = { apiVersion: "cacheserver.dev/v1alpha1", kind: "PackageSearch", spec: { ...spec, limit: PAGE, ...rest } };
    return (await post(`${API}${namespace ? space(namespace) : ""}/packagesearches`, body, { signal })).status;
  };

  useEffect(() => {
    setState({});
    if (!spec) {
      setFound(null);
      return undefined;
    }
    const stop = new AbortController();
    let off = () => {}, late;
    const begin = setTimeout(() => {
      now.current.asked = { at: performance.now(), changes: now.current.changes };
      setState({ pending: true });
      late = setTimeout(() => setState({ pending: true, slow: true }), SLOW_MS);
      ask(stop.signal).then(
        (status) => {
          clearTimeout(late);
          if (stop.signal.aborted) return;
          setFound({ key, ...status });
          setState({});
        },
        (error) => {
          clearTimeout(late);
          if (stop.signal.aborted) return;
          setState({ error });
          off = onAgain(retry);
        },
      );
    }, TYPED_MS);
    return () => {
      stop.abort();
      clearTimeout(begin);
      clearTimeout(late);
      off();
    };
  }, [key, tries]);

  // Packages changed: asked again now and then, and what was scrolled to stays.
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const { asked } = now.current;
    if (!found || found.key !== key || now.current.asking || asked.changes === changes) return undefined;
    const timer = setTimeout(() => {
      now.current.asked = { at: performance.now(), changes };
      now.current.asking = true;
      const over = () => {
        now.current.asking = false;
        setTurn((count) => count + 1);
      };
      ask(AbortSignal.timeout(CHANGED_MS * 20)).then((status) => {
        if (now.current.key === key) setFound((old) => (old?.key !== key ? old : old.results.length > PAGE ? { ...old, total: status.total, facets: status.facets } : { key, ...status }));
      }).then(over, over);
    }, Math.max(0, CHANGED_MS - (performance.now() - asked.at)));
    return () => clearTimeout(timer);
  }, [changes, found, turn]);

  const more = () => {
    if (!found?.continue || found.key !== key || now.current.more === found) return;
    now.current.more = found;
    ask(undefined, { continue: found.continue }).then(
      (status) => setFound((old) => (old === found ? { ...found, results: [...found.results, ...status.results], continue: status.continue } : old)),
      () => (now.current.more = null),
    );
  };
  return { ...found, ...state, pending: state.pending || (spec !== null && found?.key !== key && !state.error), more, retry };
}
