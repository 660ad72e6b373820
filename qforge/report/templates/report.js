"use strict";
// Draws the table and the plots from the columns in #data. figures.py decides what is drawn, this file how.
const { columns, quality, interval, against, curves } = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const by = Object.fromEntries(columns.map((c) => [c.key, c]));
const at = (key, row) => by[key].values[row];
const several = new Set(by.experiment.values.filter((each, row, all) => each !== null && all.indexOf(each) !== row));
const short = (row) => { // for plots; unfolded by pointing at it
  const experiment = at("experiment", row), name = at("name", row);
  return experiment === null ? name : several.has(experiment) ? name.slice(experiment.length + 2) : experiment;
};
const count = by.name.values.length;
const STEP = 25; // rows drawn at first: the plots below shall not be far
const PAPER = 250; // rows that are printed at least
const CROWD = 300; // rows, above which a plot shows dots, and shapes on its front only
const SERIES = 6; // lines of a plot: what one can tell apart
const state = { order: [...Array(count).keys()], rows: [], limit: STEP, sort: null, up: true };

function make(parent, tag, attributes = {}, text = null) {
  const svg = tag === "svg" || parent.namespaceURI.endsWith("svg");
  const node = document.createElementNS(svg ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return parent.appendChild(node);
}

function show(value, decimals) {
  if (value === null || value === undefined) return "";
  if (decimals === null || typeof value !== "number") return String(value);
  if (Math.abs(value) >= 1e6) return value.toExponential(1);
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}
const label = (c) => (c.unit ? `${c.label}, ${c.unit}` : c.label);
const named = (c, row) => `${c.label}: ${show(c.values[row], c.decimals)}${c.unit ? " " + c.unit : ""}`;

// -- which rows, in which order

const text = []; // of each row, for the search; made when it is first needed
function matches(row, words) {
  text[row] ??= columns.map((c) => (c.decimals === null ? c.values[row] : "")).join(" ").toLowerCase();
  return words.every((word) => text[row].includes(word));
}

function choose() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [verdict, conditions] = [$("verdict-filter").value, $("conditions-filter").value];
  state.rows = state.order.filter((row) =>
    (!verdict || at("verdict", row) === verdict) && (!conditions || at("conditions", row) === conditions) && matches(row, words));
  drawTable();
  drawParetos();
  drawCurves();
}

function sortBy(index) {
  const c = columns[index];
  state.up = state.sort === index ? !state.up : c.better !== "high";
  state.sort = index;
  const sign = state.up ? 1 : -1;
  const compare = c.decimals === null ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : (a, b) => a - b;
  const missing = (v) => v === null || v === "";
  state.order.sort((a, b) => {
    const [x, y] = [c.values[a], c.values[b]];
    return missing(x) || missing(y) ? missing(x) - missing(y) : sign * compare(x, y); // what is missing comes last
  });
  choose();
}

// -- table

function drawTable() {
  const head = $("head");
  head.replaceChildren();
  columns.forEach((c, index) => {
    if (!c.shown) return;
    const sort = state.sort === index ? (state.up ? "ascending" : "descending") : "none";
    const th = make(head, "th", { scope: "col", "aria-sort": sort, class: c.decimals === null ? "" : "n" });
    make(th, "button", { type: "button" }, label(c)).addEventListener("click", () => {
      sortBy(index);
      head.children[[...columns.keys()].filter((i) => columns[i].shown).indexOf(index)].firstChild.focus();
    });
  });
  const body = document.createElement("tbody");
  for (const row of state.rows.slice(0, state.limit)) {
    const tr = make(body, "tr");
    for (const c of columns) {
      if (!c.shown) continue;
      const td = make(tr, "td", { class: c.decimals === null ? `of-${c.key}` : "n" });
      if (c.key === "verdict") make(td, "span", { class: `verdict ${c.values[row]}` }, c.values[row].replace("_", " "));
      else td.textContent = show(c.values[row], c.decimals);
    }
  }
  $("rows").tBodies[0].replaceWith(body);
  const shown = Math.min(state.limit, state.rows.length);
  $("shown").textContent = `${shown} of ${state.rows.length} rows shown` + (state.rows.length < count ? `, ${count} in all` : "");
  $("more").hidden = shown === state.rows.length;
}

// -- plots

const W = 420, H = 300, LEFT = 66, RIGHT = 18, TOP = 14, BOTTOM = 46;

function ticks(low, high) {
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((f) => f * power >= raw) * power;
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step / 1e6; v += step) found.push(+v.toPrecision(12));
  return found;
}

function logTicks(low, high) {
  const found = [], steps = high / low > 50 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10)
    for (const f of steps) if (f * power >= low && f * power <= high) found.push(+(f * power).toPrecision(3));
  return found;
}

function frame(parent, title, x, y) {
  // x and y: {label, low, high, ticks, log}; returns the drawing and how values become places in it
  const figure = make(parent, "figure");
  const svg = make(figure, "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  const along = (axis, from, to) => (v) => {
    const [a, b, c] = axis.log ? [axis.low, axis.high, v].map((n) => Math.log(n)) : [axis.low, axis.high, v];
    return from + ((to - from) * (c - a)) / (b - a || 1);
  };
  const px = along(x, LEFT, W - RIGHT), py = along(y, H - BOTTOM, TOP);
  for (const t of y.ticks) {
    make(svg, "line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: py(t), y2: py(t) });
    make(svg, "text", { class: "tick", x: LEFT - 6, y: py(t) + 4, "text-anchor": "end" }, t.toLocaleString("en-US"));
  }
  let end = -Infinity;
  for (const t of x.ticks) {
    const said = t.toLocaleString("en-US"), half = said.length * 3.5;
    make(svg, "line", { class: "axis", x1: px(t), x2: px(t), y1: H - BOTTOM, y2: H - BOTTOM + 4 });
    if (px(t) - half < end + 4) continue; // no label over another
    make(svg, "text", { class: "tick", x: px(t), y: H - BOTTOM + 17, "text-anchor": "middle" }, said);
    end = px(t) + half;
  }
  make(svg, "line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: H - BOTTOM, y2: H - BOTTOM });
  make(svg, "text", { x: (LEFT + W - RIGHT) / 2, y: H - 8, "text-anchor": "middle" }, x.label);
  const middle = (TOP + H - BOTTOM) / 2;
  make(svg, "text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, y.label);
  return { figure, svg, px, py };
}

function hover(svg, points) {
  // points: [x, y, text] in the drawing's units; the nearest one within reach is named
  svg.addEventListener("mousemove", (event) => {
    const scale = W / svg.getBoundingClientRect().width, box = svg.getBoundingClientRect();
    const [mx, my] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let best = null, reach = 18 ** 2;
    for (const p of points) {
      const d = (p[0] - mx) ** 2 + (p[1] - my) ** 2;
      if (d < reach) [best, reach] = [p, d];
    }
    $("tip").hidden = !best;
    if (!best) return;
    $("tip").textContent = best[2]();
    const width = $("tip").offsetWidth;
    $("tip").style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    $("tip").style.top = `${event.clientY + 14}px`;
  });
  svg.addEventListener("mouseleave", () => ($("tip").hidden = true));
}

const SHAPES = { // by verdict, so that colour is not all that tells
  sound: (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`, baseline: (x, y) => `M${x} ${y - 5}l5 5l-5 5l-5-5z`,
  unsound: (x, y) => `M${x - 4} ${y - 4}l8 8m0-8l-8 8`, undecided: (x, y) => `M${x} ${y - 5}l5 9h-10z`,
  not_judged: (x, y) => `M${x - 4} ${y - 4}h8v8h-8z`,
};

function front(rows, x, y) {
  const sign = x.better === "high" ? -1 : 1;
  const sorted = [...rows].sort((a, b) => sign * (x.values[a] - x.values[b]) || y.values[a] - y.values[b]);
  let best = Infinity;
  return sorted.filter((row) => y.values[row] < best && ((best = y.values[row]), true));
}

function range(rows, y, bounds) {
  // of the axis of quality: up to the worst row, but among more than three one garbage model shall not flatten all others
  const ys = rows.map((row) => y.values[row]).sort((a, b) => a - b);
  const low = Math.min(0, ys[0]), usual = ys.length > 3 ? 4 * ys[Math.floor(0.75 * (ys.length - 1))] : ys.at(-1);
  const top = usual > 0 ? Math.min(ys.at(-1), usual) : ys.at(-1);
  const high = bounds.length ? rows.reduce((m, row) => Math.max(m, Math.min(bounds[1][row], 1.2 * top)), top) : top;
  return [low, (high > low ? high : low + 1) * 1.06];
}

function pareto(parent, x, y) {
  const rows = state.rows.filter((row) => x.values[row] !== null && y.values[row] !== null);
  if (!rows.length) return;
  const bounds = y.key === "loss" && rows.length <= 40 ? interval.map((i) => columns[i].values) : []; // drawn for a few rows only
  const largest = rows.reduce((m, row) => Math.max(m, x.values[row]), 0), [low, high] = range(rows, y, bounds);
  const { figure, svg, px, py } = frame(parent, `${label(y)} against ${label(x)}, ${rows.length} rows`,
    { label: label(x), low: 0, high: largest * 1.08, ticks: ticks(0, largest * 1.08) }, { label: label(y), low, high, ticks: ticks(low, high) });
  const place = (row) => [px(x.values[row]), py(Math.min(y.values[row], high))];
  const best = front(rows, x, y);
  const one = new Set(rows.map((row) => at("conditions", row))).size === 1;
  const crowd = rows.length > CROWD;
  if (crowd) marks(svg, rows, place, "crowd", (x, y) => `M${x} ${y}h0`);
  if (one && best.length > 1) make(svg, "path", { class: "front", d: "M" + best.map(place).join("L") });
  marks(svg, crowd ? best : rows, place, "dots");
  if (bounds.length)
    for (const row of rows) {
      const [a, b] = bounds.map((values) => values[row]);
      if (a !== null) make(svg, "path", { class: `dots v-${at("verdict", row)}`, d: `M${place(row)[0]} ${py(Math.min(a, high))}V${py(Math.min(b, high))}` });
    }
  const taken = (crowd ? best : rows).map((row) => [place(row)[0] - 6, place(row)[1] - 6, 12, 12]);
  for (const row of rows.length <= 12 ? rows : best.slice(0, 8)) name(svg, short(row), place(row), taken);
  hover(svg, rows.map((row) => [...place(row), () => [at("name", row), named(y, row), named(x, row), `verdict: ${at("verdict", row).replace("_", " ")}`].join("\n")]));
  const beyond = rows.filter((row) => y.values[row] > high).length;
  if (beyond) make(figure, "figcaption", {}, `${beyond} of ${rows.length} rows lie above the top edge.`);
}

function marks(svg, rows, place, kind, shape = null) {
  const paths = {}; // one for each verdict, so that ten thousand marks are a handful of elements
  for (const row of rows) {
    const verdict = at("verdict", row), draw = shape ?? SHAPES[verdict] ?? SHAPES.unsound;
    (paths[verdict] ??= []).push(draw(...place(row).map((v) => +v.toFixed(1))));
  }
  for (const [verdict, parts] of Object.entries(paths)) make(svg, "path", { class: `${kind} v-${verdict}`, d: parts.join("") });
}

function name(svg, said, [x, y], taken) {
  const width = said.length * 6.6;
  for (const [dx, dy] of [[8, 4], [8, -7], [8, 15], [-8 - width, 4], [-8 - width, -7], [-width / 2, -11], [-width / 2, 20], [-8 - width, 15]]) {
    const box = [x + dx, y + dy - 10, width, 13];
    const free = box[0] > LEFT && box[0] + width < W - 2 && box[1] > 0 && box[1] + 13 < H - BOTTOM &&
      !taken.some((t) => box[0] < t[0] + t[2] && t[0] < box[0] + box[2] && box[1] < t[1] + t[3] && t[1] < box[1] + box[3]);
    if (!free) continue;
    make(svg, "text", { class: "name", x: x + dx, y: y + dy }, said);
    taken.push(box);
    return;
  }
}

function drawParetos() {
  if ($("buy").dataset.one) return; // a single run has nothing to be compared with but bf16
  $("paretos").replaceChildren();
  for (const index of quality.length ? against : []) pareto($("paretos"), columns[index], columns[+$("quality").value]);
  $("buy").hidden = !quality.length || !against.length;
  const sets = new Set(state.rows.map((row) => at("conditions", row)).filter(Boolean)).size;
  $("mixed").hidden = sets < 2;
}

function drawCurves() {
  $("curves").replaceChildren();
  $("curve-legend").replaceChildren();
  const has = (row) => curves.some((plot) => plot.lines.some((line) => line.points.some(([, i]) => columns[i].values[row] !== null)));
  const base = state.rows.filter((row) => at("verdict", row) === "baseline" && has(row)).slice(0, 1);
  const rows = [...base, ...state.rows.filter((row) => !base.includes(row) && has(row)).slice(0, SERIES - base.length)];
  rows.forEach((row, i) => {
    const item = make($("curve-legend"), "span");
    make(item, "i", { style: `border-color: var(--s${base.length ? i : i + 1})` });
    item.append(at("name", row));
  });
  for (const plot of curves) curve(plot, rows, base.length ? 0 : 1);
  $("load").hidden = !curves.length;
}

function curve(plot, rows, first) {
  const drawn = [];
  for (const [nth, line] of plot.lines.entries())
    for (const [i, row] of rows.entries()) {
      // a point: what is along the axis, or the column that has it, and the column that is drawn
      const points = line.points.map(([x, index, along]) => [along ? columns[along].values[row] : x, columns[index].values[row]])
        .filter(([x, v]) => x !== null && v !== null);
      if (points.length) drawn.push({ row, nth, line, colour: `var(--s${(i + first) % SERIES})`, points });
    }
  if (!drawn.length) return;
  const xs = [...new Set(drawn.flatMap((d) => d.points.map((p) => p[0])))].sort((a, b) => a - b);
  const all = drawn.flatMap((d) => d.points.map((p) => p[1])), highest = 1.05 * Math.max(...all), least = Math.min(...all) / 1.05;
  const log = plot.log || (least > 0 && highest / least > 25); // one slow row shall not flatten all others
  const measured = plot.lines.some((line) => line.points.some(([, , along]) => along)); // along the axis, too
  const across = measured ? { low: 0, high: 1.05 * xs.at(-1), ticks: ticks(0, 1.05 * xs.at(-1)) }
    : { low: xs[0], high: xs.at(-1), ticks: xs, log: xs[0] > 0 && xs.at(-1) / xs[0] > 8 };
  const { figure, svg, px, py } = frame($("curves"), plot.title,
    { label: plot.x, ...across },
    { label: plot.title, low: log ? least : 0, high: highest, ticks: log ? logTicks(least, highest) : ticks(0, highest), log });
  const points = [];
  for (const { row, nth, line, colour, points: values } of drawn) {
    const places = values.map(([x, y]) => [px(x), py(y)]);
    make(svg, "path", { class: nth ? "curve dashed" : "curve", stroke: colour, d: "M" + places.join("L") });
    values.forEach(([x, y], i) => {
      make(svg, "circle", { cx: places[i][0], cy: places[i][1], r: 3, fill: colour });
      points.push([...places[i], () => `${at("name", row)}\n${line.label ? line.label + ", " : ""}${plot.title}: ${+y.toPrecision(4)}\n${plot.x}: ${+x.toPrecision(4)}`]);
    });
  }
  hover(svg, points);
  if (plot.lines.length > 1) make(figure, "figcaption", {}, plot.lines.map((l, i) => `${i ? "dashed" : "solid"}: ${l.label}`).join(", "));
}

// -- start

function options(select, values, all) {
  make(select, "option", { value: "" }, all);
  for (const [value, said] of values) make(select, "option", { value }, said);
}
const verdicts = new Map(), sets = new Map();
for (let row = 0; row < count; row++) {
  for (const [seen, key] of [[verdicts, "verdict"], [sets, "conditions"]])
    if (at(key, row) !== null) seen.set(at(key, row), (seen.get(at(key, row)) ?? 0) + 1);
}
options($("verdict-filter"), [...verdicts].map(([v, n]) => [v, `${v.replace("_", " ")} (${n})`]), "all");
options($("conditions-filter"), [...sets].map(([c, n]) => {
  const row = by.conditions.values.indexOf(c);
  return [c, `${at("model", row)}, ${["hw", "runtime"].map((k) => at(k, row)).filter(Boolean).join(", ")} (${n}, #${c})`];
}), "all");
$("conditions-filter").parentNode.hidden = sets.size < 2;
const ranks = [...columns.keys()].filter((i) => columns[i].key.startsWith("for:"));
options($("goal"), ranks.map((i) => [i, columns[i].key.slice(4)]), "quality");
$("goal").parentNode.hidden = !ranks.length;
$("goal").addEventListener("input", (event) => {
  [state.sort, state.order] = [null, [...Array(count).keys()]];
  if (event.target.value) sortBy(Number(event.target.value));
  else choose();
});
for (const index of quality) make($("quality"), "option", { value: index }, label(columns[index]));
$("quality").addEventListener("change", drawParetos);
for (const id of ["search", "verdict-filter", "conditions-filter"]) $(id).addEventListener("input", () => { state.limit = STEP; choose(); });
addEventListener("beforeprint", () => { state.limit = Math.max(state.limit, PAPER); drawTable(); });
$("more").addEventListener("click", () => { state.limit *= 10; drawTable(); });
choose();
