// What has happened, as far as it can be shown: bars, bands, what runs, and how long the queue was.

import { median } from "./words.js";

const KEPT_S = 3700;
const MAX_BARS = 60_000;
const JUDGED = 200;
const LATE_FACTOR = 2;
const LATE_AT_LEAST_S = 0.5;

export class History {
  constructor() {
    this.rows = [];
    this.bars = new Map();
    this.bands = new Map();
    this.running = new Map();
    this.samples = [];
    this.stragglers = new Map();
    this.count = 0;
    this.durations = new Map();
  }

  clear() {
    for (const map of [this.bars, this.bands, this.running, this.stragglers, this.durations]) map.clear();
    this.samples = [];
    this.count = 0;
  }

  /** Take one frame of the event stream. */
  take(frame, workers) {
    this.rows = workers.map((worker) => ({ url: worker.url, name: worker.display_id, weights: worker.weight_version }));
    for (const [url, route, began, ended, queued, weights, result, status, piece] of frame.bars) {
      const bars = listOf(this.bars, url);
      // A worker does one piece after the other: one that was there early begins when the one before it has ended.
      const free = bars.at(-1)?.ended ?? -Infinity;
      const starts = Math.max(began, Math.min(free, ended));
      bars.push({ route, began, starts, ended, queued, weights, result, status, piece });
      this.count++;
      if (result === "ok") this.#judge(route, ended - starts);
    }
    for (const [at, url, , now] of frame.changes) listOf(this.bands, url).push({ at, status: now });
    this.running.clear();
    for (const [url, route, began] of frame.running) listOf(this.running, url).push({ route, began });
    this.samples.push({ at: frame.now, queued: frame.queue.requests, running: frame.running.length });
    this.#forget(frame.now);
    this.#findStragglers(frame.now);
  }

  /** The piece that a worker is at: the first of those that it has. */
  current(url, now) {
    const [first] = this.running.get(url) ?? [];
    if (!first) return null;
    const free = this.bars.get(url)?.at(-1)?.ended ?? -Infinity;
    return { ...first, starts: Math.max(first.began, Math.min(free, now)) };
  }

  /** The weight versions seen since then, in the order in which they came. */
  versions(from) {
    const seen = new Map();
    for (const bars of this.bars.values()) {
      for (const bar of bars) {
        if (bar.ended >= from && !(seen.get(bar.weights) <= bar.ended)) seen.set(bar.weights, bar.ended);
      }
    }
    for (const row of this.rows) if (this.running.has(row.url) && !seen.has(row.weights)) seen.set(row.weights, Infinity);
    return [...seen.keys()].sort((one, other) => seen.get(one) - seen.get(other));
  }

  #judge(route, took) {
    const durations = listOf(this.durations, route);
    durations.push(took);
    if (durations.length > JUDGED) durations.shift();
  }

  #findStragglers(now) {
    const usual = new Map();
    for (const [route, durations] of this.durations) usual.set(route, median(durations));
    this.stragglers.clear();
    for (const row of this.rows) {
      const piece = this.current(row.url, now);
      const usually = piece && usual.get(piece.route);
      const took = piece && now - piece.starts;
      if (usually !== undefined && took > Math.max(LATE_FACTOR * usually, LATE_AT_LEAST_S)) {
        this.stragglers.set(row.url, { name: row.name, took, usually });
      }
    }
  }

  #forget(now) {
    const oldest = this.count > MAX_BARS ? this.#middle() : now - KEPT_S;
    for (const bars of this.bars.values()) {
      const keep = bars.findIndex((bar) => bar.ended >= oldest);
      this.count -= bars.splice(0, keep < 0 ? bars.length : keep).length;
    }
    for (const bands of this.bands.values()) while (bands.length > 1 && bands[1].at < now - KEPT_S) bands.shift();
    while (this.samples.length && this.samples[0].at < now - KEPT_S) this.samples.shift();
    for (const [url, bars] of this.bars) if (!bars.length) this.bars.delete(url);
    const known = new Set(this.rows.map((row) => row.url));
    for (const [url, bands] of this.bands) if (!known.has(url) && bands.at(-1).at < now - KEPT_S) this.bands.delete(url);
  }

  /** The instant that half of the bars are older than. */
  #middle() {
    const ends = [...this.bars.values()].flatMap((bars) => bars.map((bar) => bar.ended)).sort((a, b) => a - b);
    return ends[ends.length >> 1];
  }
}

function listOf(map, key) {
  let list = map.get(key);
  if (!list) map.set(key, (list = []));
  return list;
}
