"use strict";
// The dashboard. Everything that is shown of a node goes into the page as text, never as markup:
// ids, reasons and names come from strangers.

const WINDOW_S = 10;          // latencies and failures are of so long
const CHART_S = 120;          // what charts show
const LATE_MS = 4000;         // a stream that is silent for so long is lost
const RETRY_MS = [1000, 2000, 3000, 5000];
const ASK_MS = 5000;          // how long a question may take
const EVENTS_MAX = 16;
const TRANSITIONS_MAX = 4;
const KINDS = {
  enqueue: ["enqueue", "enqueueBatch"],
  lease: ["lease", "leaseBatch"],
  settle: ["complete", "fail", "settle"],
};

/* Remembered choices; a browser may refuse to keep any. */
const choices = {
  get(name) { try { return localStorage.getItem("omnirelay." + name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem("omnirelay." + name, value); } catch { /* for this visit only */ } },
};

/* Theme: known before anything is painted. */
const THEMES = ["system", "light", "dark"];
let theme = THEMES.includes(choices.get("theme")) ? choices.get("theme") : "system";
function showTheme() {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}
showTheme();

/* Making the page */
const $ = id => document.getElementById(id);
function el(name, attributes = {}, ...children) {
  const svg = ["svg", "line", "polyline"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}
function say(node, text) {
  text = String(text);
  if (node.textContent !== text) node.textContent = text;
}
function classed(node, name) {
  if (node.className !== name) node.className = name;
}
/* A figure and its unit. */
function show(id, [value, unit], name = "") {
  const node = $(id);
  classed(node, name);
  if (node.dataset.told === value + unit) return;
  node.dataset.told = value + unit;
  node.replaceChildren(String(value), ...(unit ? [el("span", { class: "unit" }, unit)] : []));
}
/* Fills a table's body in place, so that nothing is lost of what a reader points at: each row a
   list of [text, class]; the first cell is the row's header. */
function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, at) => {
    const row = body.rows[at] || body.insertRow();
    cells.forEach(([text, name = ""], column) => {
      const cell = row.cells[column]
        || row.appendChild(column ? el("td") : el("th", { scope: "row" }));
      classed(cell, name);
      say(cell, text);
    });
  });
}

/* Words for numbers */
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const count = n => n < 100000 ? whole.format(n) : compact.format(n);
const perSecond = n => n === null ? ["–", ""] : [n > 0 && n < 10 ? n.toFixed(1) : count(n), "/s"];
function bytes(n) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (n < 999.5) return [n < 10 && unit !== "B" ? n.toFixed(1) : whole.format(n), unit];
    n /= 1000;
  }
  return [n.toPrecision(3), "TB"];
}
function micros(us) {
  if (us === null || us === undefined) return ["–", ""];
  if (us < 1000) return [whole.format(us), "µs"];
  const [value, unit] = us < 1e6 ? [us / 1000, "ms"] : [us / 1e6, "s"];
  return [value < 10 ? value.toFixed(1) : whole.format(value), unit];
}
function duration(s) {
  if (s < 1) return "0 s";
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([unit]) => s >= unit);
  const [big, small] = [units[at], units[at + 1]];
  const rest = small ? Math.floor(s % big[0] / small[0]) : 0;
  return `${Math.floor(s / big[0])} ${big[1]}` + (rest ? ` ${rest} ${small[1]}` : "");
}
const two = n => String(n).padStart(2, "0");
function clock(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? "–" : `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}
/* With the day, where it is not today. */
function moment(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return text;
  const isToday = at.toDateString() === new Date().toDateString();
  return (isToday ? "" : at.toLocaleDateString("en-CA") + " ") + clock(text);
}
/* What strangers wrote: no longer than fits, and without characters that change how others show. */
function cut(text, max) {
  const shown = text.replace(/[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, "\ufffd");
  return shown.length > max ? shown.slice(0, max - 1) + "…" : shown;
}
const joined = pair => pair.filter(part => part !== "").join(" ");

/* What is compared between two views of the node. */
function reading(doc) {
  const now = {
    at: Date.parse(doc.now) / 1000, started: doc.startedAt, up: doc.cores.map(core => core.up).join(),
    cpu: doc.process.cpuSeconds, records: doc.wal.records, sync: new Map(doc.wal.syncUs.cells),
    cores: new Map(doc.cores.map(core => [core.core,
      { records: core.walRecords || 0, busy: (core.awakeSeconds || 0) - (core.spinSeconds || 0) }])),
    calls: new Map(), kinds: {}, enqueue: new Map(),
  };
  for (const kind in KINDS) now.kinds[kind] = 0;
  for (const { procedure, requests, codes, latencyUs } of doc.rpc.procedures) {
    const ok = codes.ok || 0;
    // A lease call that finds nothing in its time is no failure.
    const none = KINDS.lease.includes(procedure) ? codes["deadline-exceeded"] || 0 : 0;
    now.calls.set(procedure, { requests, failed: requests - ok - none, cells: new Map(latencyUs.cells) });
    for (const kind in KINDS) if (KINDS[kind].includes(procedure)) now.kinds[kind] += ok;
    if (KINDS.enqueue.includes(procedure)) {
      for (const [us, n] of latencyUs.cells) now.enqueue.set(us, (now.enqueue.get(us) || 0) + n);
    }
  }
  return now;
}
function quantile(q, now, before) {
  const cells = [...now].map(([us, n]) => [us, n - (before.get(us) || 0)]).filter(cell => cell[1] > 0);
  let left = Math.ceil(q * cells.reduce((sum, cell) => sum + cell[1], 0));
  for (const [us, n] of cells.sort((a, b) => a[0] - b[0])) if ((left -= n) <= 0) return us;
  return null;
}
let readings = [], points = [], newest = null;
function rate(now, before, value) {
  return before && now.at > before.at ? Math.max(0, value(now) - value(before)) / (now.at - before.at) : null;
}
const totals = doc => (doc.namespaces || []).reduce((sum, { stats }) => ({
  waiting: sum.waiting + stats.pendingCount, active: sum.active + stats.activeLeaseCount,
  delayed: sum.delayed + stats.delayedCount, dead: sum.dead + stats.deadLetterCount,
}), { waiting: 0, active: 0, delayed: 0, dead: 0 });
function remember(doc) {
  const now = reading(doc), last = readings.at(-1);
  // Another life of the node, or other cores in the sums: what was before cannot be compared.
  if (last && (last.started !== now.started || last.up !== now.up)) readings = [];
  // A stream that is opened again begins with what may have been told.
  else if (last && now.at <= last.at) return;
  readings.push(now);
  while (readings.length > 2 && now.at - readings[0].at > WINDOW_S) readings.shift();
  const before = readings.at(-2), oldest = readings[0], sums = totals(doc);
  const point = { at: now.at, waiting: sums.waiting, active: sums.active, delayed: sums.delayed };
  for (const kind in KINDS) point[kind] = rate(now, before, r => r.kinds[kind]);
  point.p50 = before ? quantile(.5, now.enqueue, oldest.enqueue) : null;
  point.p99 = before ? quantile(.99, now.enqueue, oldest.enqueue) : null;
  point.sync = before ? quantile(.99, now.sync, oldest.sync) : null;
  points.push(point);
  points = points.filter(p => p.at <= now.at && now.at - p.at <= CHART_S);
}

/* Charts: lines over the last two minutes, with a gap where nothing was seen. */
class Chart {
  constructor(id, words, lines) {
    this.words = words;
    this.lines = lines.map(([name, label, key]) => ({ name, value: el("b", {}, "–"), key, label }));
    this.drawing = el("svg", { viewBox: `0 0 ${CHART_S} 100`, preserveAspectRatio: "none", role: "img" },
      el("line", { x1: 0, y1: 99.5, x2: CHART_S, y2: 99.5 }), el("line", { x1: 0, y1: 50, x2: CHART_S, y2: 50 }),
      el("line", { x1: 0, y1: .5, x2: CHART_S, y2: .5 }));
    this.top = el("span", {}, "");
    const legend = this.lines.map((line, at) => el("li", {}, el("i", { class: `key k${at + 1}` }), line.label, line.value));
    $(id).append(
      el("div", { class: "axis" }, this.top), this.drawing,
      el("div", { class: "axis" }, el("span", {}, "2 min ago"), el("span", {}, "now")),
      el("ul", { class: "legend" }, ...legend));
  }
  draw() {
    const known = points.flatMap(p => this.lines.map(line => p[line.name])).filter(n => n !== null);
    const top = nice(Math.max(1, ...known)), now = points.at(-1)?.at;
    say(this.top, known.length ? joined(this.words(top)) : "");
    this.lines.forEach((line, at) => this.line(line, at, top, now));
    const told = this.lines.map(line => `${line.label} ${line.value.textContent}`).join(", ");
    this.drawing.setAttribute("aria-label", `The last two minutes; now: ${told}`);
  }
  line(line, at, top, now) {
    const parts = [];
    let last = null;
    for (const p of points) {
      if (p[line.name] === null) { last = null; continue; }
      if (last === null || p.at - last > 5) parts.push([]);
      last = p.at;
      parts.at(-1).push(`${(CHART_S - (now - p.at)).toFixed(2)},${(99 - 98 * p[line.name] / top).toFixed(2)}`);
    }
    line.drawn ||= [];
    while (line.drawn.length > parts.length) line.drawn.pop().remove();
    parts.forEach((part, n) => {
      line.drawn[n] ||= this.drawing.appendChild(el("polyline", { class: `s${at + 1}` }));
      line.drawn[n].setAttribute("points", part.length > 1 ? part.join(" ") : `${part[0]} ${part[0]}`);
    });
    const value = points.at(-1)?.[line.name];
    say(line.value, value === null || value === undefined ? "–" : joined(this.words(value)));
  }
}
/* The next round number. */
function nice(n) {
  const unit = 10 ** Math.floor(Math.log10(n));
  return [1, 1.5, 2, 3, 5, 7.5, 10].find(step => step * unit >= n * .999) * unit;
}
let charts = [];

/* The node as it is now */
function state(core) {
  if (!core.up) return ["no answer", "bad"];
  if (core.logFailure) return ["log failed", "bad"];
  if (core.storageFull) return ["storage full", "warn"];
  return ["serving", ""];
}
const zero = (n, name = "") => [count(n), `num ${n ? name : "zero"}`.trim()];
function render(doc) {
  const colour = doc.ready ? doc.reason ? "warn" : "good" : ["degraded", "failed"].includes(doc.phase) ? "bad" : "warn";
  say($("phase"), doc.phase);
  classed($("phase"), "pill " + colour);
  $("reason").hidden = !doc.reason;
  if (doc.reason && $("reason").textContent !== doc.reason) say($("announced"), doc.reason);
  say($("reason"), doc.reason || "");
  classed($("reason"), "banner " + colour);
  say($("facts"), [`v${doc.version}`, `up ${duration(doc.uptimeSeconds)}`,
    ...(doc.addresses ? [`RPC on ${doc.addresses.listen}`] : []),
    ...(doc.driver ? [doc.driver] : [])].join(" · "));

  const now = readings.at(-1), before = readings.at(-2), oldest = readings.length > 1 ? readings[0] : null;
  const sums = totals(doc), point = points.at(-1);
  for (const kind in KINDS) show("t-" + kind, perSecond(point[kind]));
  show("t-waiting", [count(sums.waiting), ""]);
  show("t-active", [count(sums.active), ""]);
  show("t-dead", [count(sums.dead), ""], sums.dead ? "warn" : "");
  show("t-p50", micros(point.p50));
  show("t-p99", micros(point.p99));
  for (const chart of charts) chart.draw();

  renderNamespaces(doc);
  renderCalls(now, oldest);
  renderCores(doc, now, before, oldest);
  const cpu = rate(now, oldest, r => r.cpu), resident = doc.process.residentBytes;
  say($("process"), [cpu === null ? "" : `${whole.format(cpu * 100)} % CPU`,
    resident === null ? "" : `${joined(bytes(resident))} in memory`].filter(Boolean).join(" · "));
}
function renderNamespaces(doc) {
  const namespaces = doc.namespaces || [];
  fill($("namespaces"), namespaces.map(({ name, stats, durability, backpressure: gate }) => [
    [name, "theirs"], zero(stats.pendingCount), zero(stats.activeLeaseCount), zero(stats.delayedCount),
    zero(stats.deadLetterCount, "warn"),
    gate.isActive ? ["holds back", "wide warn"] : ["open", "wide"], [durability, "wide"]]));
  const isEmpty = namespaces.length > 0 && readings.at(-1).kinds.enqueue === 0
    && namespaces.every(({ stats }) => Object.values(stats).every(n => n === 0));
  $("e-namespaces").hidden = !isEmpty;
  if (isEmpty && !$("e-namespaces").hasChildNodes()) {
    const address = doc.addresses.listen === "127.0.0.1:7420" ? "" : ` --address ${doc.addresses.listen}`;
    $("e-namespaces").append("No work yet. Try ",
      el("code", {}, `omnirelay lease enqueue --type table --id orders --body vacuum${address}`));
  }
  const select = $("x-namespace"), names = namespaces.map(namespace => namespace.name);
  const shown = [...select.options].map(option => option.value);
  if (names.length && names.join("\n") !== shown.join("\n")) {
    const chosen = select.value;
    select.replaceChildren(...names.map(name => el("option", { value: name }, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
}
function renderCalls(now, oldest) {
  const rows = [];
  for (const [procedure, { requests, failed, cells }] of now.calls) {
    if (!requests) continue;
    const before = oldest?.calls.get(procedure);
    const over = value => rate(now, oldest, r => value(r.calls.get(procedure)));
    const fails = over(call => call.failed);
    rows.push([[procedure], [joined(perSecond(over(call => call.requests))), "num"],
      [fails ? joined(perSecond(fails)) : "–", fails ? "num warn" : "num zero"],
      [joined(micros(before && quantile(.5, cells, before.cells))), "num"],
      [joined(micros(before && quantile(.99, cells, before.cells))), "num"]]);
  }
  fill($("calls"), rows);
  $("e-calls").hidden = rows.length > 0;
}
function renderCores(doc, now, before, oldest) {
  const shards = new Map();
  for (const shard of doc.shards || []) {
    const { pendingCount: waiting, activeLeaseCount: active, delayedCount: delayed, deadLetterCount: dead } = shard.stats;
    const items = waiting + active + delayed + dead;
    const title = `shard ${shard.shard} of ${shard.namespace}: ${waiting} waiting, ${active} active, `
      + `${delayed} delayed, ${dead} dead; epoch ${shard.epoch}, LSN ${shard.lastLsn}`;
    if (!shards.has(shard.core)) shards.set(shard.core, []);
    shards.get(shard.core).push({ number: shard.shard, items, title });
  }
  const most = Math.max(8, ...[...shards.values()].flat().map(shard => shard.items));
  fill($("cores"), doc.cores.map(core => {
    const head = [[core.core], state(core)], wide = ([text, name]) => [text, `${name} wide`];
    if (!core.up) return [...head, wide(["–", "num"]), ["–", "num"], wide(["–", "num"]), wide(["–", "num"]), ["–", "num"]];
    const log = (core.logs || []).reduce((sum, one) => sum + one.usedBytes, 0);
    const records = rate(now, before, r => r.cores.get(core.core).records);
    const busy = rate(now, oldest, r => r.cores.get(core.core).busy);
    return [...head, wide([busy === null ? "–" : `${whole.format(100 * Math.min(1, busy))} %`, "num"]),
      [joined(perSecond(records)), "num"], wide(zero(core.openCalls)), wide(zero(core.connections.open)),
      [joined(bytes(log)), "num"]];
  }));
  doc.cores.forEach((core, at) => {
    const row = $("cores").rows[at];
    const cell = row.cells[7] || row.appendChild(el("td", {}, el("ul", { class: "shards" })));
    renderShards(cell.firstChild, shards.get(core.core) || [], most);
  });
  $("e-cores").hidden = doc.cores.length > 0;
}
const SHARDS_MAX = 256;
function renderShards(list, shards, most) {
  const shown = shards.slice(0, SHARDS_MAX);
  while (list.children.length > shown.length) list.lastChild.remove();
  shown.forEach((shard, at) => {
    const item = list.children[at]
      || list.appendChild(el("li", {}, el("span"), el("b")));
    const heat = Math.ceil(4 * Math.sqrt(shard.items / most));
    classed(item, `h${heat}`);
    say(item.firstChild, shard.number);
    say(item.lastChild, count(shard.items));
    if (item.title !== shard.title) item.title = shard.title;
  });
}

/* Questions beside the stream */
async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ASK_MS) });
  let told = null;
  try { told = await answer.json(); } catch { /* not this server's */ }
  if (!answer.ok) throw new Error(told?.message || `the node answered with status ${answer.status}`);
  return told;
}

/* Recent events: asked for when the logs have grown; kept still while somebody points at them. */
const WORDS = {
  Enqueue: ["enqueued", "in"], RestoreSnapshot: ["restored", "in"], Redriven: ["redriven", "in"],
  LeaseGranted: ["leased", "out"], Heartbeat: ["heartbeat", ""], LeaseReleased: ["lease undone", ""],
  Completed: ["completed", "done"], Cancelled: ["cancelled", "done"], DrainSnapshot: ["drained", "done"],
  Failed: ["failed", "fail"], Expired: ["lease expired", "fail"], ItemExpired: ["item expired", "fail"],
  EpochStarted: ["shard opened", ""],
};
let eventsAsked = null, eventsAt = "", events = [];
/* What items are about, as far as their events said it. */
const RESOURCES_MAX = 2000;
const resources = new Map();
function learn(events) {
  for (const event of events) {
    if (!event.resourceType) continue;
    resources.set(`${event.namespace} ${event.sequenceId}`, `${event.resourceType} ${event.resourceId}`);
  }
  for (const oldest of resources.keys()) {
    if (resources.size <= RESOURCES_MAX) break;
    resources.delete(oldest);
  }
}
async function refreshEvents(doc) {
  const at = `${doc.startedAt} ${doc.wal.records}`;
  if (eventsAsked || eventsAt === at) return;
  eventsAsked = ask("/omnirelay/control/replication/recent?limit=200");
  try {
    events = (await eventsAsked).events;
    eventsAt = at;
    learn(events);
    renderEvents();
  } catch (error) {
    say($("events-note"), cut(error.message, 120));
  } finally {
    eventsAsked = null;
  }
}
function eventRow(event) {
  const [word, colour] = WORDS[event.eventType] || [event.eventType, ""];
  const known = event.opened > 1 ? `${event.opened} shards: the node started` : event.error ? event.error.message || event.error.code || ""
    : resources.get(`${event.namespace} ${event.sequenceId}`) || "";
  const item = event.sequenceId === undefined ? el("td", { class: "num" })
    : el("td", { class: "num" }, el("button", { type: "button", class: "link", "aria-label": `Explain item ${event.sequenceId}` }, String(event.sequenceId)));
  item.firstChild?.addEventListener("click", () => explain(event.namespace, String(event.sequenceId)));
  return el("tr", {},
    el("td", {}, clock(event.timestamp)),
    el("td", {}, el("i", { class: `dot ${colour}` }), word,
      event.deadLetter ? el("span", { class: "warn" }, ", dead") : null,
      event.attempt > 1 && !event.deadLetter ? el("span", { class: "soft" }, ` ·${event.attempt}`) : null),
    item,
    el("td", { class: "wide theirs about-it", title: known.length > 40 ? cut(known, 600) : null }, cut(known, 120)),
    el("td", { class: "theirs" }, cut(event.peerId || "", 40)),
    el("td", { class: "num wide" }, event.opened > 1 ? "" : String(event.shardId)));
}
/* What is shown: a start opens every shard, which is told once. */
function shownEvents() {
  const shown = [];
  for (const event of events) {
    if (event.eventType === "Heartbeat" && !$("heartbeats").checked) continue;
    const last = shown.at(-1);
    if (event.eventType === "EpochStarted" && last?.opened) last.opened += 1;
    else shown.push(event.eventType === "EpochStarted" ? { ...event, opened: 1 } : event);
    if (shown.length > EVENTS_MAX) break;
  }
  return shown.slice(0, EVENTS_MAX);
}
function renderEvents() {
  const body = $("events"), isHeld = body.matches(":hover") || body.contains(document.activeElement);
  say($("events-note"), isHeld && events.length ? "kept still while you are in it" : "");
  if (isHeld && body.rows.length) return;
  const shown = shownEvents();
  const rows = new Map([...body.rows].map(row => [row.dataset.key, row]));
  body.replaceChildren(...shown.map(event => {
    const key = `${event.shardId} ${event.sequenceNumber} ${event.eventType} ${event.opened}`;
    const row = rows.get(key) || eventRow(event);
    row.dataset.key = key;
    return row;
  }));
  $("e-events").hidden = shown.length > 0;
  say($("e-events"), events.length ? "Nothing but heartbeats." : "Nothing has happened yet: each committed change of an item shows up here.");
}

/* Explain */
async function explain(namespace, item) {
  const select = $("x-namespace");
  if ([...select.options].some(option => option.value === namespace)) select.value = namespace;
  $("x-item").value = item;
  const number = item.trim();
  const region = $("explanation");
  if (!/^[0-9]{1,16}$/.test(number)) {
    const why = number ? `“${cut(number, 40)}” is no sequence id: it is a whole number.` : "Which item? Type its sequence id.";
    $("x-item").setAttribute("aria-invalid", "true");
    region.replaceChildren(el("p", { class: "failed" }, why));
    return;
  }
  $("x-item").removeAttribute("aria-invalid");
  try {
    const query = new URLSearchParams({ namespace, sequenceId: number });
    const told = await ask(`/omnirelay/control/explain?${query}`);
    region.replaceChildren(...explanation(told));
  } catch (error) {
    const message = error.name === "TypeError" || error.name === "TimeoutError" ? "The node does not answer; try again." : error.message;
    region.replaceChildren(el("p", { class: "failed" }, message));
  }
  region.scrollIntoView({ block: "nearest" });
}
function explanation(item) {
  const since = item.since ? ` since ${moment(item.since)}` : "";
  const facts = [
    ["resource", item.resourceType && `${item.resourceType} ${item.resourceId}`],
    ["partition key", item.partitionKey], ["priority", item.priority], ["shard", item.shard],
    ["attempts", item.state === "gone" ? null : `${item.attempt} of ${item.maxAttempts}`],
    ["enqueued", item.enqueuedAt && moment(item.enqueuedAt)], ["expires", item.expiresAt && moment(item.expiresAt)],
    ["owner", item.ownerPeerId], ["leased until", item.leaseExpiresAt && moment(item.leaseExpiresAt)],
    ["last error", item.lastError && [item.lastError.message, item.lastError.code && `(${item.lastError.code})`].filter(Boolean).join(" ")],
  ].filter(([, value]) => value !== undefined && value !== null && value !== "");
  return [
    el("h3", {}, `Item ${item.sequenceId} is ${item.state}${since}`),
    el("ul", {}, ...item.reasons.map(reason => el("li", { class: "theirs" }, cut(reason.message, 600)))),
    el("dl", { class: "about" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { class: "theirs" }, cut(String(value), 600))])),
  ];
}

/* Backpressure: asked for when a gate has moved. */
let gatesAsked = null, gatesAt = "";
async function refreshGates(doc) {
  const namespaces = doc.namespaces || [];
  const closed = namespaces.filter(namespace => namespace.backpressure.isActive).length;
  say($("gates"), closed ? `${closed} of ${namespaces.length} hold producers back` : "");
  const at = [doc.startedAt, ...namespaces.map(namespace => namespace.backpressure.transitions)].join(" ");
  if (gatesAsked || gatesAt === at || !namespaces.length) return;
  gatesAsked = ask("/omnirelay/control/backpressure");
  try {
    renderGates((await gatesAsked).namespaces);
    gatesAt = at;
  } catch (error) {
    say($("gates"), cut(error.message, 120));
  } finally {
    gatesAsked = null;
  }
}
function renderGates(namespaces) {
  const moves = namespaces.flatMap(({ namespace, recent }) => recent.map(move => ({ namespace, ...move })));
  moves.sort((a, b) => a.observedAt < b.observedAt ? 1 : a.observedAt > b.observedAt ? -1 : b.transition - a.transition);
  fill($("transitions"), moves.slice(0, TRANSITIONS_MAX).map(({ observedAt, namespace, isActive, liveCount }) => [
    [moment(observedAt), "time"], [namespace, "theirs"], isActive ? ["holds back", "warn"] : ["open"], [count(liveCount), "num"]]));
  $("transitions-table").hidden = moves.length === 0;
  $("e-transitions").hidden = moves.length > 0;
  const [first] = namespaces;
  say($("e-transitions"), `No gate has moved. ${first.namespace} holds producers back at `
    + `${count(first.highWatermark)} items, until there are ${count(first.lowWatermark)}.`);
}

/* The stream */
let stream = null, lastAt = null, tries = 0, retry = null, isLost = false, isPaused = false;
function connect() {
  clearTimeout(retry);
  close();
  const begun = performance.now();
  stream = new EventSource("/omnirelay/introspect?watch");
  stream.begun = begun;
  stream.onmessage = message => {
    let doc;
    try { doc = JSON.parse(message.data); } catch { return; }
    lastAt = performance.now();
    tries = 0;
    found();
    newest = doc;
    remember(doc);
    render(doc);
    refreshGates(doc);
    refreshEvents(doc);
  };
  stream.addEventListener("end", lost);
  stream.onerror = lost;
}
function close() {
  if (stream) stream.close();
  stream = null;
}
/* The browser's own retrying gives up on some answers, so it is not relied on. */
function lost() {
  close();
  if (isPaused || document.hidden) return;
  clearTimeout(retry);
  retry = setTimeout(connect, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
  if (!isLost) {
    isLost = true;
    classed($("connection"), "banner bad");
    say($("connection"), "Connection lost, trying again. The figures are from before.");
    say($("announced"), "Connection lost, trying again.");
    $("connection").hidden = false;
    say($("phase"), "no answer");
    classed($("phase"), "pill bad");
  }
  tick();
}
function found() {
  if (!isLost) return;
  isLost = false;
  eventsAt = gatesAt = "";
  resources.clear();
  $("connection").hidden = true;
  say($("announced"), "Connected again.");
}
/* How old the figures are, once a second. */
function tick() {
  const age = lastAt === null ? null : (performance.now() - lastAt) / 1000;
  const isOld = isLost || (age !== null && age * 1000 > LATE_MS);
  document.body.classList.toggle("stale", isOld && newest !== null);
  const told = age === null ? "" : isPaused ? `paused, ${duration(age)} old` : isOld ? `${duration(age)} old` : "live";
  say($("age"), told);
  const silent = stream && performance.now() - Math.max(stream.begun, lastAt ?? 0) > LATE_MS;
  if (silent && !isPaused && !document.hidden) lost();
}
function pause(on) {
  isPaused = on;
  $("pause").setAttribute("aria-pressed", String(on));
  say($("pause"), on ? "Go on" : "Pause");
  if (on) { clearTimeout(retry); close(); } else { resume(); }
  tick();
}
function resume() {
  if (isPaused || document.hidden) return;
  readings = [];
  connect();
}

/* Keys */
const keys = {
  e: () => { $("x-item").focus(); $("x-item").select(); },
  v: () => { ($("events").querySelector("button") || $("heartbeats")).focus(); },
  p: () => pause(!isPaused),
  t: () => nextTheme(),
  "?": () => $("shortcuts").showModal(),
};
function onKey(event) {
  const field = event.target.closest?.("input:not([type=checkbox]), select, textarea");
  if (event.key === "Escape" && field) return field.blur();
  if (field || event.ctrlKey || event.metaKey || event.altKey || $("shortcuts").open) return;
  if (!$("keys-on").checked || !Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
}
function nextTheme() {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  choices.set("theme", theme);
  showTheme();
  say($("theme"), `Theme: ${theme}`);
}

document.addEventListener("DOMContentLoaded", () => {
  charts = [
    new Chart("c-throughput", perSecond, [["enqueue", "enqueue"], ["lease", "lease"], ["settle", "settle"]]),
    new Chart("c-latency", micros, [["p50", "p50"], ["p99", "p99"], ["sync", "sync p99"]]),
    new Chart("c-depth", n => [count(n), ""], [["waiting", "waiting"], ["active", "active"], ["delayed", "delayed"]]),
  ];
  say($("theme"), `Theme: ${theme}`);
  $("theme").addEventListener("click", nextTheme);
  $("pause").addEventListener("click", () => pause(!isPaused));
  $("help").addEventListener("click", () => $("shortcuts").showModal());
  $("keys-on").checked = choices.get("keys") !== "off";
  $("keys-on").addEventListener("change", () => choices.set("keys", $("keys-on").checked ? "on" : "off"));
  $("heartbeats").checked = choices.get("heartbeats") === "on";
  $("heartbeats").addEventListener("change", () => {
    choices.set("heartbeats", $("heartbeats").checked ? "on" : "off");
    renderEvents();
  });
  // What happened while they were kept still is shown once they are left.
  $("events").addEventListener("mouseleave", renderEvents);
  $("events").addEventListener("focusout", () => setTimeout(renderEvents));
  $("explain").addEventListener("submit", event => {
    event.preventDefault();
    explain($("x-namespace").value, $("x-item").value);
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { clearTimeout(retry); close(); } else { resume(); }
  });
  setInterval(tick, 1000);
  resume();
});
