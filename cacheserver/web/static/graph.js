// What upgrades to what: the server's layout, drawn. A lane is a channel, a row a version, the newest on top.
import { html, useRef, useState } from "./vendor/preact.js";
import { getJSON, url } from "./live.js";
import { objectPath, Problem, useAsked, Waiting } from "./parts.js";

const TALL = 24, NAMES = 170, LANE = 28, LISTED = 12, WIDE = 12;

// Of one channel alone: its lane, and the versions that are in it or lead into it.
function only(graph, channel) {
  const one = graph.lanes.findIndex((lane) => lane.channels.includes(channel));
  if (one < 0) return graph;
  const points = graph.points.filter((point) => point.lane === one), edges = graph.edges.filter((edge) => edge.lane === one);
  const order = [...new Set([...points.map((point) => point.row), ...edges.flatMap((edge) => [edge.from, edge.to])])].sort((a, b) => a - b);
  const at = new Map(order.map((row, place) => [row, place]));
  const top = graph.rows[0].y;
  return {
    rows: order.map((row, place) => ({ ...graph.rows[row], y: top + place * TALL })), height: top + order.length * TALL,
    lanes: [{ ...graph.lanes[one], channels: [channel], x: graph.lanes[0].x }], lanesLeftOut: 0,
    points: points.map((point) => ({ ...point, lane: 0, row: at.get(point.row) })),
    edges: edges.map((edge) => ({ ...edge, lane: 0, from: at.get(edge.from), to: at.get(edge.to) })),
  };
}

export function Graph({ item, to, rev, channel }) {
  const path = objectPath("packages", item.metadata, "/graph?format=json");
  // Anew with every version of the package, whose channels are in it.
  const asked = useAsked(`${path} ${item.metadata.resourceVersion}`, (signal) => getJSON(path, { signal }));
  const [near, setNear] = useState(-1);
  const drawing = useRef(null);
  if (asked.error) return html`<${Problem} what="The graph cannot be drawn" error=${asked.error} retry=${asked.retry} />`;
  if (!asked.answer) return html`<${Waiting} of=${asked} />`;
  const whole = asked.answer.status, channels = whole.lanes.flatMap((lane) => lane.channels);
  const { rows, lanes, points, edges, height, lanesLeftOut } = channel ? only(whole, channel) : whole;
  const wanted = rows.findIndex((row) => row.revision === rev);
  const first = points.find((point) => point.head && (channel || lanes[point.lane].default))?.row ?? 0;
  const chosen = near >= 0 && near < rows.length ? near : wanted >= 0 ? wanted : first;
  const left = lanes.length > WIDE ? NAMES : 0; // names stand on both sides of many lanes
  const x = (lane) => lanes[lane].x + left, y = (row) => rows[row].y;
  const text = Math.max(...lanes.map((lane) => lane.x)) + left + 24;
  // A version is drawn in the lanes that have it: an edge from another lane begins there.
  const home = new Map(rows.map((_, at) => [at, []]));
  for (const point of points) home.get(point.row).push(point.lane);
  const begins = ({ lane, from }) => {
    const own = home.get(from);
    return own.includes(lane) || !own.length ? lane : own.reduce((best, each) => (Math.abs(each - lane) < Math.abs(best - lane) ? each : best));
  };
  const curve = (edge) => {
    const { lane, from, to: end } = edge;
    const start = begins(edge);
    if (start !== lane) return `M${x(start)},${y(from)}C${x(start)},${(y(from) + y(end)) / 2} ${x(lane)},${(y(from) + y(end)) / 2} ${x(lane)},${y(end)}`;
    if (Math.abs(from - end) < 2) return `M${x(lane)},${y(from)}V${y(end)}`;
    const bend = Math.min(12 + Math.abs(from - end) * 3, 26);
    return `M${x(lane)},${y(from)}C${x(lane) - bend},${y(from)} ${x(lane) - bend},${y(end)} ${x(lane)},${y(end)}`;
  };
  const top = Math.min(...rows.map((row) => row.y)) - TALL;
  const names = lanes.map((lane) => lane.channels.join(", ")).map((name) => (name.length > LANE ? `${name.slice(0, LANE - 1)}…` : name));
  const above = 14 + Math.max(...names.map((name) => name.length)) * 7; // room for the names, which stand aslant
  const right = Math.max(text + NAMES, lanes.at(-1).x + left + above / 1.6);
  const ways = edges.filter((edge) => edge.to === chosen);
  const inLanes = points.filter((point) => point.row === chosen);
  const open = (row) => row.revision && (location.hash = to({ tab: "", rev: row.revision }));
  const keys = (e, at) => {
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1, PageDown: at + 10, PageUp: at - 10 }[e.key];
    if (e.key === "Enter") open(rows[at]);
    if (next === undefined) return;
    e.preventDefault();
    drawing.current.querySelectorAll(".row")[Math.max(0, Math.min(next, rows.length - 1))].focus();
  };
  const choose = (name) => {
    setNear(-1);
    location.hash = to({ channel: name });
  };
  return html`${channels.length > 1 && html`<p><label>Channel <select value=${channels.includes(channel) ? channel : ""} onChange=${(e) => choose(e.target.value)}>
      <option value="">all ${channels.length}</option>${channels.map((name) => html`<option value=${name}>${name}</option>`)}</select></label></p>`}
    <p class="soft small">Point at a version, or move with the arrow keys, to see from where one gets to it. A full circle is what its channel leads to; a dashed one is skipped.</p>
    <div class="graphs"><div class="drawn" ref=${drawing}>
    <svg class="graph lanes" width=${right} height=${above} viewBox=${`0 0 ${right} ${above}`} aria-hidden="true">
      ${lanes.map((lane, at) => html`<text class=${inLanes.some((point) => point.lane === at) ? "lanename on" : "lanename"} transform=${`translate(${x(at) + 4},${above - 6}) rotate(-60)`}><title>${lane.channels.join(", ")}</title>${names[at]}</text>`)}</svg>
    <svg class="graph" width=${right} height=${height - top} viewBox=${`0 ${top} ${right} ${height - top}`} role="group" aria-label="Upgrade graph">
      ${rows.map((row, at) => html`<rect class=${at === chosen ? "band on" : at % 2 ? "band" : "band odd"} x="0" y=${row.y - TALL / 2} width=${right} height=${TALL} />`)}
      ${lanes.map((lane, at) => {
        const own = points.filter((point) => point.lane === at).map((point) => y(point.row));
        return html`<line key=${at} class="lane" x1=${x(at)} x2=${x(at)} y1=${Math.min(...own)} y2=${Math.max(...own)} />`;
      })}
      ${edges.map((edge) => html`<path class=${edge.to === chosen ? "edge on" : "edge"} d=${curve(edge)} />`)}
      ${points.map((point) => html`<circle class=${`dot${point.head ? " head" : ""}${point.skipped ? " skipped" : ""}`} cx=${x(point.lane)} cy=${y(point.row)} r="5.5" />`)}
      ${rows.map((row, at) => html`<g key=${row.name} class=${at === chosen ? "row on" : "row"} tabindex=${at === chosen ? "0" : "-1"} role="button" aria-label=${`${row.version || row.name}, open it`}
          onMouseEnter=${() => setNear(at)} onFocus=${() => setNear(at)} onClick=${() => open(row)} onKeyDown=${(e) => keys(e, at)}>
        <rect x="0" y=${row.y - TALL / 2} width=${right} height=${TALL} fill="transparent" />
        ${(left ? [10, text] : [text]).map((from) => html`<text class=${row.deprecation ? "old" : ""} x=${from} y=${row.y + 4}>${row.version || row.name}${row.missing && from === text ? " (not in the catalog)" : ""}</text>`)}</g>`)}
    </svg></div>
    <aside role="status" aria-label="Ways to this version"><h2>${rows[chosen].version || rows[chosen].name}</h2>
      <p>${inLanes.flatMap((point) => lanes[point.lane].channels.slice(0, LISTED).map((name) => html`<span class=${point.head ? "tag on" : "tag"} title=${point.head ? "the channel leads here" : ""}>${name}</span>`))}</p>
      ${rows[chosen].deprecation && html`<p class="bad">Deprecated: ${rows[chosen].deprecation}</p>`}
      ${ways.length ? html`<p class="soft small">One gets here from</p><ul>${ways.map((edge) => html`<li>${edge.reason === "skipRange" ? edge.skipRange : rows[edge.from].version || rows[edge.from].name}
        <span class="soft small"> ${edge.reason}, in ${lanes[edge.lane].channels.slice(0, 3).join(", ")}</span></li>`)}</ul>` : html`<p class="soft">Nothing leads here: it is where a channel begins.</p>`}
      ${rows[chosen].revision && html`<p><a href=${to({ tab: "", rev: rows[chosen].revision })}>Open this version</a></p>`}</aside></div>
    ${lanesLeftOut > 0 && html`<p class="soft">${lanesLeftOut} more channels are not drawn.</p>`}
    <p class="small"><a href=${url(objectPath("packages", item.metadata, "/graph?format=svg"))} download=${`${item.spec.packageName}.svg`}>As a picture</a></p>`;
}
