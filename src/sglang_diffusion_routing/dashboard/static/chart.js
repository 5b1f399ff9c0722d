// The timeline: a row for each worker, a bar for each request, bands for what keeps a worker from work.

const NAMES_WIDTH = 132;
const AXIS_HEIGHT = 18;
const KEPT_S = 3700;

const BANDS = { updating: "refit", draining: "drain", releasing: "sleep", sleeping: "sleep", resuming: "sleep",
  quarantined: "out", suspect: "out", stale: "out", joining: "join" };

/** Colours by weight version: the same name has the same colour, neighbours in time differ. */
export function colourOf(version, dark) {
  if (version === null) return dark ? "#8892a3" : "#8a94a5";
  let hash = 2166136261;
  for (const character of String(version)) hash = Math.imul(hash ^ character.codePointAt(0), 16777619) >>> 0;
  // The golden angle keeps 1, 2, 3, ... apart.
  const hue = (hash * 137.508) % 360;
  return `hsl(${hue.toFixed(0)} 62% ${dark ? 62 : 44}%)`;
}

export class Timeline {
  constructor(canvas) {
    this.canvas = canvas;
    this.rows = [];
    this.bars = new Map();
    this.bands = new Map();
    this.running = new Map();
    this.spanS = 120;
    this.now = 0;
    this.held = false;
    this.places = [];
  }

  clear() {
    for (const map of [this.bars, this.bands, this.running]) map.clear();
  }

  /** Take one frame of the event stream. */
  take(frame, workers) {
    this.rows = workers.map((worker) => ({ url: worker.url, name: worker.display_id, weights: worker.weight_version }));
    for (const [url, route, began, ended, queued, weights, result, status] of frame.bars) {
      listOf(this.bars, url).push({ route, began, ended, queued, weights, result, status });
    }
    for (const [at, url, , now] of frame.changes) listOf(this.bands, url).push({ at, status: now });
    this.running.clear();
    for (const [url, route, began] of frame.running) listOf(this.running, url).push({ route, began });
    const oldest = frame.now - KEPT_S;
    for (const bars of this.bars.values()) while (bars.length && bars[0].ended < oldest) bars.shift();
    for (const bands of this.bands.values()) while (bands.length > 1 && bands[1].at < oldest) bands.shift();
    for (const map of [this.bars, this.bands]) {
      for (const url of map.keys()) if (!map.get(url).length) map.delete(url);
    }
    if (!this.held) this.now = frame.now;
  }

  /** The weight versions that can be seen now. */
  versions() {
    const seen = new Set();
    const from = this.now - this.spanS;
    for (const bars of this.bars.values()) for (const bar of bars) if (bar.ended >= from) seen.add(bar.weights);
    for (const row of this.rows) if (this.running.has(row.url)) seen.add(row.weights);
    return [...seen];
  }

  draw() {
    const { canvas } = this;
    const style = getComputedStyle(document.documentElement);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const width = canvas.clientWidth || 600;
    const rowHeight = Math.max(5, Math.min(20, Math.floor(440 / Math.max(this.rows.length, 1))));
    const height = AXIS_HEIGHT + rowHeight * Math.max(this.rows.length, 1);
    const scale = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const names = width > 520 && rowHeight >= 10 ? NAMES_WIDTH : 0;
    const from = this.now - this.spanS;
    const x = (at) => names + ((at - from) / this.spanS) * (width - names);
    const paint = canvas.getContext("2d");
    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.clearRect(0, 0, width, height);
    paint.font = `${Math.min(12, rowHeight)}px system-ui, sans-serif`;
    paint.textBaseline = "middle";
    this.places = [];
    this.#axis(paint, style, from, x, width, height);
    const tints = { refit: dark ? "#3b4f86" : "#c9d6f7", drain: dark ? "#4b4632" : "#f3ead0",
      sleep: dark ? "#27313f" : "#dfe5ee", out: dark ? "#5b2a31" : "#f8d3d5", join: dark ? "#2c3a34" : "#dcefe4" };
    this.rows.forEach((row, index) => {
      const top = AXIS_HEIGHT + index * rowHeight;
      const inner = rowHeight > 8 ? 2 : 1;
      this.#bandsOf(row, x, from, tints, paint, top, rowHeight);
      // A worker does one piece after the other: a piece that was there early begins when the one before it has ended.
      let free = -Infinity;
      for (const bar of this.bars.get(row.url) ?? []) {
        const shown = { ...bar, starts: Math.max(bar.began, Math.min(free, bar.ended)) };
        free = Math.max(free, bar.ended);
        if (bar.ended >= from) this.#bar(paint, x, row, shown, colourOf(bar.weights, dark), top + inner, rowHeight - 2 * inner, names);
      }
      paint.globalAlpha = 0.55;
      for (const piece of (this.running.get(row.url) ?? []).slice(0, 1)) {
        const starts = Math.max(piece.began, Math.min(free, this.now));
        const open = { ...piece, starts, ended: this.now, weights: row.weights, result: "running" };
        this.#bar(paint, x, row, open, colourOf(row.weights, dark), top + inner, rowHeight - 2 * inner, names);
      }
      paint.globalAlpha = 1;
      if (names) {
        paint.fillStyle = style.getPropertyValue("--soft");
        paint.fillText(row.name, 0, top + rowHeight / 2, names - 8);
      }
    });
  }

  #axis(paint, style, from, x, width, height) {
    const step = [5, 10, 30, 60, 300, 600].find((seconds) => this.spanS / seconds <= 8) ?? 600;
    for (let at = Math.ceil(from / step) * step; at < this.now; at += step) {
      paint.strokeStyle = style.getPropertyValue("--line");
      paint.beginPath();
      paint.moveTo(x(at), AXIS_HEIGHT - 4);
      paint.lineTo(x(at), height);
      paint.stroke();
      paint.fillStyle = style.getPropertyValue("--soft");
      const label = clock(at);
      if (x(at) + 50 < width) paint.fillText(label, x(at) + 3, AXIS_HEIGHT / 2);
    }
  }

  #bandsOf(row, x, from, tints, paint, top, height) {
    const bands = this.bands.get(row.url) ?? [];
    bands.forEach((band, index) => {
      const kind = BANDS[band.status];
      const until = bands[index + 1]?.at ?? this.now;
      if (!kind || until < from) return;
      const left = x(Math.max(band.at, from));
      const wide = Math.max(x(Math.min(until, this.now)) - left, 1);
      paint.fillStyle = tints[kind];
      paint.fillRect(left, top, wide, height);
      this.places.push({ left, top, right: left + wide, bottom: top + height, row, band, until });
    });
  }

  #bar(paint, x, row, bar, colour, top, height, names) {
    const left = Math.max(x(bar.starts), names);
    const right = Math.max(x(bar.ended), left + 1);
    if (bar.starts > this.now) return;
    paint.fillStyle = colour;
    paint.fillRect(left, top, Math.max(right - left - 1, 1), Math.max(height, 2));
    if (bar.result !== "ok" && bar.result !== "running") {
      paint.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--bad");
      paint.fillRect(Math.max(right - 3, left), top, 3, Math.max(height, 2));
    }
    this.places.push({ left, top, right, bottom: top + height, row, bar });
  }

  /** Say what is at a point of the canvas; the bar before the band under it. */
  at(px, py) {
    let found = null;
    for (const place of this.places) {
      if (px < place.left - 1 || px > place.right + 1 || py < place.top || py > place.bottom) continue;
      if (!found || place.bar) found = place;
    }
    if (!found) return "";
    const { row, bar, band, until } = found;
    if (!bar) return `${row.name}: ${band.status}, ${seconds(until - band.at)}`;
    const queued = bar.queued ? `, waited ${seconds(bar.queued)}` : "";
    const ended = bar.result === "running" ? "running for" : bar.result === "ok" ? "took" : `${bar.result} after`;
    return `${row.name}: ${bar.route} ${ended} ${seconds(bar.ended - bar.starts)}${queued}, weights ${bar.weights ?? "unknown"}`;
  }
}

function listOf(map, key) {
  let list = map.get(key);
  if (!list) map.set(key, (list = []));
  return list;
}

export function seconds(value) {
  return value < 10 ? `${value.toFixed(2)} s` : `${value.toFixed(0)} s`;
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
}
