// The table of the workers, with a button for each thing that can be asked of one.

import { colourOf, element, versionName } from "./words.js";

export const STYLES = { active: "good", quarantined: "bad", suspect: "bad", stale: "warn", draining: "warn",
  updating: "blue", releasing: "blue", sleeping: "blue", resuming: "blue", joining: "blue" };

/** What can be asked of a worker: what the button says, what it means, and how it is asked for. */
export const ACTIONS = {
  drain: ["Drain", "It gets no new work; what it has goes on.", "PUT", { state: "drained" }],
  undrain: ["Undrain", "It gets work again.", "PUT", { state: "active" }],
  quarantine: ["Quarantine", "It is kept out until it is recovered; what it has goes on.", "PUT", { is_dead: true }],
  recover: ["Recover", "Its quarantine ends, and it is probed.", "PUT", { is_dead: false }],
  restart: ["Restart", "Its process is replaced once its work has ended; it stays registered.", "POST", undefined, "/restart"],
  remove: ["Remove", "It ends its work and is forgotten, with its jobs.", "DELETE", undefined],
};
const COLUMNS = ["", "", "load", "weights", "speed", "", ""];

export class Workers {
  constructor(body, find, told) {
    this.body = body;
    this.find = find;
    this.told = told;
    this.byUrl = new Map();
    this.rows = new Map();
    find.addEventListener("input", () => this.filter());
  }

  get all() {
    return [...this.byUrl.values()];
  }

  clear() {
    this.byUrl.clear();
    this.rows.clear();
    this.body.replaceChildren();
  }

  /** Take one frame of the event stream. */
  take(frame) {
    for (const url of frame.removed) {
      this.byUrl.delete(url);
      this.rows.get(url)?.remove();
      this.rows.delete(url);
    }
    for (const worker of frame.workers) {
      this.byUrl.set(worker.url, worker);
      fill(this.#row(worker.url), worker);
    }
    if (frame.workers.length || frame.removed.length) this.filter();
  }

  #row(url) {
    let row = this.rows.get(url);
    if (!row) {
      row = element("tr");
      row.dataset.url = url;
      for (const label of COLUMNS) {
        const cell = element("td");
        if (label) cell.dataset.label = label;
        row.append(cell);
      }
      this.rows.set(url, row);
      this.body.append(row);
    }
    return row;
  }

  /** Show those alone in which all the words occur that are looked for. */
  filter() {
    const words = this.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [url, row] of this.rows) {
      const worker = this.byUrl.get(url);
      const text = `${worker.url} ${worker.status} ${worker.reason} ${worker.weight_version} ${worker.model}`.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    this.told.textContent = words.length ? `${shown} of ${this.rows.size}` : "";
  }
}

function fill(row, worker) {
  const [name, status, running, weights, speed, why, actions] = row.children;
  name.textContent = worker.display_id;
  name.title = worker.url;
  status.textContent = worker.status;
  status.className = STYLES[worker.status] ?? "";
  running.textContent = worker.max_concurrency ? `${worker.active_requests} / ${worker.max_concurrency}` : worker.active_requests;
  weights.replaceChildren(swatch(worker.weight_version), versionName(worker.weight_version));
  speed.textContent = worker.speed === null ? "" : worker.speed.toPrecision(3);
  why.textContent = worker.reason;
  const wanted = [
    worker.status === "draining" ? "undrain" : "drain",
    worker.is_dead ? "recover" : "quarantine",
    ...(worker.launcher ? ["restart"] : []),
    "remove",
  ];
  const there = [...actions.children].map((button) => button.dataset.action).join();
  if (there === wanted.join()) return;
  // A button that has the focus would lose it.
  actions.replaceChildren(...wanted.map((action) => {
    const button = element("button", ACTIONS[action][0]);
    button.dataset.action = action;
    button.setAttribute("aria-label", `${ACTIONS[action][0]} ${worker.display_id}`);
    return button;
  }));
}

/** A patch in the colour of a weight version. */
export function swatch(version) {
  const patch = element("i", undefined, "swatch");
  patch.style.background = `light-dark(${colourOf(version, false)}, ${colourOf(version, true)})`;
  return patch;
}
