// The timeline: a row for each worker, a bar for each request, bands for what keeps a worker from work.

import { clock, colourOf, fitted, isDark, painted, seconds, versionName } from "./words.js";

const NAMES_WIDTH = 136;
const AXIS_HEIGHT = 20;
const LATE_WIDTH = 2;

/** What a worker's status looks like behind its bars; statuses of the same kind look the same. */
export const BANDS = { updating: "refit", draining: "drain", releasing: "sleep", sleeping: "sleep", resuming: "sleep",
  quarantined: "out", suspect: "out", stale: "out", joining: "join" };

export class Timeline {
  constructor(canvas, history) {
    this.canvas = canvas;
    this.history = history;
    this.spanS = 120;
    this.now = 0;
    this.held = false;
    this.selected = null;
    this.places = [];
  }

  get from() {
    return this.now - this.spanS;
  }

  draw() {
    const { rows } = this.history;
    const width = this.canvas.clientWidth || 600;
    const rowHeight = Math.max(5, Math.min(22, Math.floor(440 / Math.max(rows.length, 1))));
    const height = AXIS_HEIGHT + rowHeight * Math.max(rows.length, 1);
    const paint = this.paint = fitted(this.canvas, width, height);
    this.dark = isDark();
    this.colours = painted("soft", "text", "line", "bad", "warn", "blue", "refit", "drain", "sleep", "out", "join");
    this.names = width > 520 && rowHeight >= 10 ? NAMES_WIDTH : 0;
    this.x = (at) => this.names + ((at - this.from) / this.spanS) * (width - this.names);
    paint.font = "12px system-ui, sans-serif";
    paint.textBaseline = "middle";
    this.places = [];
    this.#axis(width, height);
    paint.font = `${Math.min(12, rowHeight)}px system-ui, sans-serif`;
    rows.forEach((row, index) => this.#row(row, AXIS_HEIGHT + index * rowHeight, rowHeight));
  }

  #axis(width, height) {
    const { paint, colours } = this;
    const step = [5, 10, 30, 60, 300, 600].find((length) => (this.spanS / length) * 70 <= width - this.names) ?? 900;
    paint.lineWidth = 1;
    for (let at = Math.ceil(this.from / step) * step; at < this.now; at += step) {
      const left = Math.round(this.x(at)) + 0.5;
      paint.strokeStyle = colours.line;
      paint.beginPath();
      paint.moveTo(left, AXIS_HEIGHT - 4);
      paint.lineTo(left, height);
      paint.stroke();
      paint.fillStyle = colours.soft;
      const label = clock(at);
      if (left + 6 + paint.measureText(label).width < width) paint.fillText(label, left + 3, AXIS_HEIGHT / 2 - 2);
    }
  }

  #row(row, top, height) {
    const { paint, history, colours } = this;
    this.#bands(row, top, height);
    const margin = height > 8 ? 2 : 1;
    const inner = [top + margin, Math.max(height - 2 * margin, 2)];
    for (const bar of history.bars.get(row.url) ?? []) {
      if (bar.ended >= this.from) this.#bar(row, bar, colourOf(bar.weights, this.dark), ...inner);
    }
    const piece = history.current(row.url, this.now);
    if (piece) this.#open(row, piece, ...inner);
    if (this.names) {
      paint.fillStyle = row.url === this.selected ? colours.text : colours.soft;
      paint.fillText(row.name, 2, top + height / 2, this.names - 10);
    }
    if (row.url === this.selected) {
      paint.strokeStyle = colours.blue;
      paint.lineWidth = 1;
      paint.strokeRect(0.5, top + 0.5, this.canvas.clientWidth - 1, height - 1);
    }
  }

  #bands(row, top, height) {
    const bands = this.history.bands.get(row.url) ?? [];
    bands.forEach((band, index) => {
      const kind = BANDS[band.status];
      const until = bands[index + 1]?.at ?? this.now;
      if (!kind || until < this.from) return;
      const left = this.x(Math.max(band.at, this.from));
      const right = Math.max(this.x(Math.min(until, this.now)), left + 1);
      this.paint.fillStyle = this.colours[kind];
      this.paint.fillRect(left, top, right - left, height);
      this.places.push({ left, top, right, bottom: top + height, row, band, until });
    });
  }

  #bar(row, bar, colour, top, height) {
    const left = Math.max(this.x(bar.starts), this.names);
    if (bar.starts > this.now) return;
    const right = Math.max(this.x(Math.min(bar.ended, this.now)), left + 1);
    this.paint.fillStyle = colour;
    this.paint.fillRect(left, top, Math.max(right - left - 1, 1), height);
    const failed = bar.result !== "ok" && bar.result !== "running";
    if (failed && bar.ended <= this.now) {
      this.paint.fillStyle = this.colours.bad;
      this.paint.fillRect(Math.max(right - 4, left), top, Math.min(4, right - left), height);
    }
    this.places.push({ left, top, right, bottom: top + height, row, bar });
  }

  /** A piece that runs: lighter, and framed when it takes longer than such pieces do. */
  #open(row, piece, top, height) {
    const { paint } = this;
    const bar = { ...piece, ended: this.now, weights: row.weights, result: "running" };
    paint.globalAlpha = 0.5;
    this.#bar(row, bar, colourOf(row.weights, this.dark), top, height);
    paint.globalAlpha = 1;
    const late = this.held ? undefined : this.history.stragglers.get(row.url);
    if (!late) return;
    bar.late = late;
    const left = Math.max(this.x(bar.starts), this.names);
    paint.strokeStyle = this.colours.warn;
    paint.lineWidth = LATE_WIDTH;
    paint.strokeRect(left + 1, top, Math.max(this.x(this.now) - left - 2, 2), height);
    const told = seconds(late.took);
    if (height >= 9 && this.x(this.now) - left > 52) {
      paint.fillStyle = this.colours.text;
      paint.textAlign = "right";
      paint.fillText(told, this.x(this.now) - 5, top + height / 2);
      paint.textAlign = "left";
    }
  }

  /** What is at a point of the canvas: the bar before the band under it; null where nothing is. */
  at(px, py) {
    let found = null;
    for (const place of this.places) {
      if (px < place.left - 1 || px > place.right + 1 || py < place.top || py > place.bottom) continue;
      if (!found || place.bar) found = place;
    }
    return found;
  }

  /** Go to the row before or after the one that is looked at; give the last bar of it, or band, or nothing. */
  select(step) {
    const { rows } = this.history;
    if (!rows.length) return null;
    const index = rows.findIndex((row) => row.url === this.selected);
    const next = index < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(Math.max(index + step, 0), rows.length - 1);
    this.selected = rows[next].url;
    this.draw();
    const places = this.places.filter((place) => place.row.url === this.selected);
    return places.findLast((place) => place.bar) ?? places.at(-1) ?? { row: rows[next] };
  }
}

/** Say what a place of the timeline is. */
export function told({ row, bar, band, until }) {
  if (band) return `${row.name}: ${band.status}, ${seconds(until - band.at)}`;
  if (!bar) return `${row.name}: nothing in this time`;
  const took = seconds(bar.ended - bar.starts);
  const how = { running: "running for", ok: "took" }[bar.result] ?? `${bar.result} after`;
  const queued = bar.queued ? `, waited ${seconds(bar.queued)}` : "";
  const late = bar.late ? `, such take ${seconds(bar.late.usually)}` : "";
  return `${row.name}: ${bar.route} ${how} ${took}${queued}${late}, weights ${versionName(bar.weights)}`;
}
