// Addresses: what is asked for stands behind the #, so every proxy and every reload keeps it.

export function place() {
  const [path, query] = location.hash.slice(1).split("?");
  let parts = [];
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    // not written by this page
  }
  return { screen: parts[0] || "packages", rest: parts.slice(1), query: new URLSearchParams(query || "") };
}

// A field selector's term: in a directory's name a comma would be the next one.
export const term = (field, value) => `${field}=${value.replace(/[\\,=]/g, "\\$&")}`;
export const ofPackage = ({ repository, packageName }) => `${term("spec.repository", repository)},${term("spec.packageName", packageName)}`;

// Who chose a namespace stays in it, wherever he goes.
export function link(screen, rest = [], query = {}) {
  const asked = new URLSearchParams(Object.entries({ in: place().query.get("in"), ...query }).filter(([, value]) => value));
  const path = screen === "packages" ? "" : [screen, ...rest].map(encodeURIComponent).join("/");
  return `#/${path}${asked.size ? `?${asked}` : ""}`;
}
