// What upgrades to what: the server's layout, drawn. A lane is a channel, a row a version, the newest on top.
import { html, useEffect, useState } from "./vendor/preact.js";
import { getJSON, url } from "./live.js";
import { objectPath, Problem } from "./parts.js";

const TALL = 24, NAMES = 170;

export function Graph({ item, to, rev }) {
  const [found, setFound] = useState({});
  const path = objectPath("packages", item.metadata, "/graph?format=json");
  useEffect(() => {
    const stop = new AbortController();
    getJSON(path, { signal: stop.signal }).then(
      (answer) => setFound({ graph: answer.status }),
      (error) => error.name !== "AbortError" && setFound({ error }),
    );
    return () => stop.abort();
  }, [path, item.metadata.resourceVersion]);
  const [near, setNear] = useState(-1);
  if (found.error) return html`<${Problem} what="The graph cannot be drawn" error=${found.error} />`;
  if (!found.graph) return html`<p class="empty">Loading…</p>`;
  const { rows, lanes, points, edges, height, lanesLeftOut } = found.graph;
  const asked = rows.findIndex((row) => row.revision === rev);
  const first = points.find((point) => point.head && lanes[point.lane].default)?.row ?? 0;
  const chosen = near >= 0 ? near : asked >= 0 ? asked : first;
  const x = (lane) => lanes[lane].x, y = (row) => rows[row].y;
  const text = Math.max(...lanes.map((lane) => lane.x)) + 24;
  const curve = ({ lane, from, to: end }) => {
    const bend = Math.min(12 + Math.abs(from - end) * 3, 26);
    return Math.abs(from - end) < 2 ? `M${x(lane)},${y(from)}V${y(end)}` : `M${x(lane)},${y(from)}C${x(lane) - bend},${y(from)} ${x(lane) - bend},${y(end)} ${x(lane)},${y(end)}`;
  };
  const top = Math.min(...rows.map((row) => row.y));
  const names = lanes.map((lane) => lane.channels.join(", ").slice(0, 28));
  const above = 26 + Math.max(...names.map((name) => name.length)) * 7; // room for the names, which stand aslant
  const right = Math.max(text + NAMES, lanes.at(-1).x + above / 1.6);
  const ways = chosen < 0 ? [] : edges.filter((edge) => edge.to === chosen);
  return html`<p class="soft small">Point at a version, or move to it with Tab, to see from where one gets to it. A full circle is what its channel leads to; a dashed one is skipped.</p>
    <div class="graphs"><div class="scroll"><svg class="graph" width=${right} height=${height - top + above} viewBox=${`0 ${top - above} ${right} ${height - top + above}`} role="group" aria-label="Upgrade graph">
      ${lanes.map((lane, at) => {
        const own = points.filter((point) => point.lane === at).map((point) => y(point.row));
        return html`<g key=${at}><line class="lane" x1=${lane.x} x2=${lane.x} y1=${Math.min(...own)} y2=${Math.max(...own)} />
          <text class="lanename" transform=${`translate(${lane.x + 4},${top - 14}) rotate(-60)`}>${names[at]}</text></g>`;
      })}
      ${edges.map((edge) => html`<path class=${edge.to === chosen ? "edge on" : "edge"} d=${curve(edge)} />`)}
      ${points.map((point) => html`<circle class=${`dot${point.head ? " head" : ""}${point.skipped ? " skipped" : ""}`} cx=${x(point.lane)} cy=${y(point.row)} r="5.5" />`)}
      ${rows.map((row, at) => html`<g key=${row.name} class=${at === chosen ? "row on" : "row"} tabindex="0" role="button" aria-label=${`${row.version || row.name}, open it`}
          onMouseEnter=${() => setNear(at)} onMouseLeave=${() => setNear(-1)} onFocus=${() => setNear(at)} onBlur=${() => setNear(-1)}
          onClick=${() => row.revision && (location.hash = to({ tab: "", rev: row.revision }))}
          onKeyDown=${(e) => e.key === "Enter" && row.revision && (location.hash = to({ tab: "", rev: row.revision }))}>
        <rect x="0" y=${row.y - TALL / 2} width=${right} height=${TALL} fill="transparent" />
        <text class=${row.deprecation ? "old" : ""} x=${text} y=${row.y + 4}>${row.version || row.name}${row.missing ? " (not in the catalog)" : ""}</text></g>`)}
    </svg></div>
    <aside role="status" aria-label="Ways to this version">${chosen < 0 ? html`<p class="soft">No version is chosen.</p>` : html`<h2>${rows[chosen].version || rows[chosen].name}</h2>
      ${rows[chosen].deprecation && html`<p class="bad">Deprecated: ${rows[chosen].deprecation}</p>`}
      ${ways.length ? html`<p class="soft small">One gets here from</p><ul>${ways.map((edge) => html`<li>${edge.reason === "skipRange" ? edge.skipRange : rows[edge.from].version || rows[edge.from].name}
        <span class="soft small"> ${edge.reason}, in ${lanes[edge.lane].channels.slice(0, 3).join(", ")}</span></li>`)}</ul>` : html`<p class="soft">Nothing leads here: it is where a channel begins.</p>`}`}</aside></div>
    ${lanesLeftOut > 0 && html`<p class="soft">${lanesLeftOut} more channels are not drawn.</p>`}
    <p class="small"><a href=${url(objectPath("packages", item.metadata, "/graph?format=svg"))} download=${`${item.spec.packageName}.svg`}>As a picture</a></p>`;
}
