// Throughput, waits and the queue over the timeline's time.

import { colourOf, fitted, isDark, median, painted, seconds } from "./words.js";

const BUCKETS = 60;
const HEIGHT = 96;
const TOP = 18;

export class Curves {
  constructor(root, history) {
    this.history = history;
    [this.done, this.waits, this.queue] = ["done", "waits", "queue"].map((name) => {
      const figure = root.querySelector(`[data-curve=${name}]`);
      return { canvas: figure.querySelector("canvas"), says: figure.querySelector("output") };
    });
  }

  /** Draw the time from here to there. */
  draw(from, now) {
    this.dark = isDark();
    this.colours = painted("soft", "line", "bad", "blue", "text", "wash");
    const width = (now - from) / BUCKETS;
    const buckets = this.#buckets(from, width);
    this.#drawDone(buckets, width);
    this.#drawWaits(buckets);
    this.#drawQueue(from, now);
  }

  #buckets(from, width) {
    const buckets = Array.from({ length: BUCKETS }, () => ({ done: new Map(), failed: 0, waits: [], longest: null, count: 0 }));
    for (const bars of this.history.bars.values()) {
      for (const bar of bars) {
        const bucket = buckets[Math.floor((bar.ended - from) / width)];
        if (!bucket) continue;
        if (bar.result === "ok") bucket.done.set(bar.weights, (bucket.done.get(bar.weights) ?? 0) + 1);
        else bucket.failed++;
        bucket.count++;
        bucket.waits.push(bar.queued);
        bucket.longest = Math.max(bucket.longest, bar.queued);
      }
    }
    return buckets;
  }

  #drawDone(buckets, width) {
    const most = Math.max(...buckets.map((bucket) => bucket.count));
    const { paint, x, y } = this.#frame(this.done, most / width, (rate) => `${shown(rate)} / s`);
    // What has ended in the last tenth of the time, without the part of a bucket that has just begun.
    const last = buckets.slice(-7, -1);
    const ended = last.reduce((sum, bucket) => sum + bucket.count - bucket.failed, 0);
    this.done.says.textContent = `${shown(ended / (last.length * width))} / s`;
    buckets.forEach((bucket, index) => {
      let height = 0;
      const parts = [...bucket.done].map(([version, count]) => [colourOf(version, this.dark), count]);
      for (const [colour, count] of [...parts, [this.colours.bad, bucket.failed]]) {
        if (!count) continue;
        const bottom = y(height / width);
        height += count;
        paint.fillStyle = colour;
        paint.fillRect(x(index / BUCKETS), y(height / width), x(1 / BUCKETS) - 1, bottom - y(height / width));
      }
    });
  }

  #drawWaits(buckets) {
    const longest = buckets.map((bucket) => bucket.longest);
    const usual = buckets.map((bucket) => (bucket.waits.length ? median(bucket.waits) : null));
    const frame = this.#frame(this.waits, Math.max(...longest), seconds);
    const last = usual.findLast((value) => value !== null);
    this.waits.says.textContent = last === undefined ? "–" : seconds(last);
    const points = (values) => values.map((value, index) => [(index + 0.5) / BUCKETS, value]).filter(([, value]) => value !== null);
    line(frame, points(longest), this.colours.soft, [3, 3]);
    line(frame, points(usual), this.colours.blue);
  }

  #drawQueue(from, now) {
    const samples = this.history.samples.filter((sample) => sample.at >= from && sample.at <= now);
    const most = samples.reduce((highest, sample) => Math.max(highest, sample.queued, sample.running), 0);
    const frame = this.#frame(this.queue, most, shown);
    const last = samples.at(-1);
    this.queue.says.textContent = last ? `${last.queued}` : "–";
    const points = (name) => samples.map((sample) => [(sample.at - from) / (now - from), sample[name]]);
    line(frame, points("running"), this.colours.soft, [3, 3]);
    line(frame, points("queued"), this.colours.blue, [], this.colours.wash);
  }

  #frame({ canvas }, highest, written) {
    const width = canvas.clientWidth || 200;
    const paint = fitted(canvas, width, HEIGHT);
    const top = highest > 0 ? highest : 1;
    const x = (part) => part * width;
    const y = (value) => HEIGHT - 1 - (value / top) * (HEIGHT - TOP - 1);
    paint.strokeStyle = this.colours.line;
    paint.lineWidth = 1;
    for (const value of [0, top]) {
      paint.beginPath();
      paint.moveTo(0, Math.round(y(value)) + 0.5);
      paint.lineTo(width, Math.round(y(value)) + 0.5);
      paint.stroke();
    }
    paint.fillStyle = this.colours.soft;
    paint.font = "11px system-ui, sans-serif";
    paint.textBaseline = "middle";
    if (highest > 0) paint.fillText(written(highest), 2, TOP - 9);
    return { paint, x, y };
  }
}

function line({ paint, x, y }, points, colour, dash = [], wash = null) {
  if (!points.length) return;
  paint.beginPath();
  points.forEach(([part, value], index) => (index ? paint.lineTo(x(part), y(value)) : paint.moveTo(x(part), y(value))));
  paint.strokeStyle = colour;
  paint.lineWidth = 1.5;
  paint.setLineDash(dash);
  paint.stroke();
  paint.setLineDash([]);
  if (!wash) return;
  paint.lineTo(x(points.at(-1)[0]), y(0));
  paint.lineTo(x(points[0][0]), y(0));
  paint.fillStyle = wash;
  paint.fill();
}

function shown(value) {
  return value >= 10 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}
