// The page: one event stream in, tables and the timeline out. Whatever comes from outside becomes text, never markup.

import { Timeline, clock, colourOf, seconds } from "./chart.js";

const byId = (id) => document.getElementById(id);
const workers = new Map();
const timeline = new Timeline(byId("canvas"));
const STYLES = { active: "good", quarantined: "bad", suspect: "bad", stale: "warn", draining: "warn", sleeping: "blue" };
const EVENTS_SHOWN = 200;

let last = null;
let before = null;
let ratePerS = null;
let key = "";

// What the router tells.

function connect() {
  const source = new EventSource("events?interval_s=0.5");
  source.addEventListener("frame", (event) => take(JSON.parse(event.data)));
  source.addEventListener("open", () => link("live", "good"));
  // It tries again by itself.
  source.addEventListener("error", () => link("no answer", "bad"));
}

function link(text, style) {
  byId("link").textContent = text;
  byId("link").className = style;
}

function take(frame) {
  if (frame.reset) {
    workers.clear();
    timeline.clear();
    byId("workers").replaceChildren();
    byId("events").replaceChildren();
    before = null;
  }
  for (const worker of frame.workers) workers.set(worker.url, worker);
  for (const url of frame.removed) workers.delete(url);
  if (before && frame.now - before.now >= 2) {
    ratePerS = Math.max(frame.finished - before.finished, 0) / (frame.now - before.now);
    before = frame;
  }
  before ??= frame;
  last = frame;
  const shown = [...workers.values()];
  timeline.take(frame, shown);
  figures(frame, shown);
  rows(frame);
  events(frame.changes);
  draw();
}

function figures(frame, shown) {
  const counts = {};
  for (const worker of shown) counts[worker.status] = (counts[worker.status] ?? 0) + 1;
  const told = Object.entries(counts).sort().map(([status, count]) => `${count} ${status}`).join(", ") || "none";
  const oldest = frame.queue.oldest_seconds === null ? "" : `, oldest ${seconds(frame.queue.oldest_seconds)}`;
  const targets = Object.entries(frame.targets).map(([group, version]) => `${group}: ${version ?? "base"}`).join(", ");
  const facts = {
    workers: told,
    running: shown.reduce((sum, worker) => sum + worker.active_requests, 0),
    waiting: `${frame.queue.requests}${oldest}${frame.paused ? ", paused" : ""}`,
    "finished a second": ratePerS === null ? "…" : ratePerS.toFixed(1),
    ...(targets && { weights: targets }),
  };
  byId("figures").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", name), element("dd", value));
    return pair;
  }));
  byId("pause").textContent = frame.paused ? "Continue" : "Pause";
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Workers.

function rows(frame) {
  const body = byId("workers");
  const present = new Map([...body.children].map((row) => [row.dataset.url, row]));
  for (const url of frame.removed) present.get(url)?.remove();
  for (const worker of frame.workers) {
    let row = present.get(worker.url);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.url = worker.url;
      for (const className of ["", "", "num", "", "num", "", ""]) row.append(element("td", "", className));
      body.append(row);
    }
    fill(row, worker);
  }
  filter();
}

function fill(row, worker) {
  const [name, status, running, weights, speed, why, actions] = row.children;
  name.textContent = worker.display_id;
  name.title = worker.url;
  status.textContent = worker.status;
  status.className = STYLES[worker.status] ?? "";
  running.textContent = worker.active_requests;
  weights.textContent = worker.weight_version ?? "?";
  speed.textContent = worker.speed === null ? "" : worker.speed.toPrecision(3);
  why.textContent = worker.reason;
  const wanted = [
    worker.status === "draining" ? ["undrain", "Undrain"] : ["drain", "Drain"],
    worker.is_dead ? ["recover", "Recover"] : ["quarantine", "Quarantine"],
    ["remove", "Remove"],
  ];
  const there = [...actions.children].map((button) => button.dataset.action).join();
  if (there === wanted.map(([action]) => action).join()) return;
  // A button that has the focus would lose it.
  actions.replaceChildren(...wanted.map(([action, text]) => {
    const button = element("button", text);
    button.dataset.action = action;
    button.setAttribute("aria-label", `${text} ${worker.display_id}`);
    return button;
  }));
}

function filter() {
  const wanted = byId("find").value.trim().toLowerCase();
  for (const row of byId("workers").children) {
    const worker = workers.get(row.dataset.url);
    const text = worker && `${worker.url} ${worker.status} ${worker.reason} ${worker.weight_version}`.toLowerCase();
    row.hidden = Boolean(wanted) && !text?.includes(wanted);
  }
}

function events(changes) {
  const list = byId("events");
  for (const [at, url, was, now] of changes) {
    const item = document.createElement("li");
    item.append(element("time", clock(at)), element("span", url), element("span", `${was ?? "new"} → ${now}`, STYLES[now] ?? ""));
    list.prepend(item);
  }
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
}

// The timeline.

let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    timeline.draw();
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const versions = timeline.versions().slice(-8);
    byId("legend").replaceChildren(...versions.map((version) => {
      const entry = element("span", version ?? "unknown");
      const patch = document.createElement("i");
      patch.style.background = colourOf(version, dark);
      entry.prepend(patch);
      return entry;
    }));
  });
}

byId("span").addEventListener("change", (event) => {
  timeline.spanS = Number(event.target.value);
  draw();
});
byId("hold").addEventListener("click", (event) => {
  timeline.held = !timeline.held;
  event.target.setAttribute("aria-pressed", String(timeline.held));
});
byId("canvas").addEventListener("mousemove", (event) => {
  byId("hint").textContent = timeline.at(event.offsetX, event.offsetY) || "\u00a0";
});
byId("canvas").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -0.25, ArrowRight: 0.25 }[event.key];
  if (!step || !last) return;
  timeline.held = true;
  byId("hold").setAttribute("aria-pressed", "true");
  timeline.now = Math.min(timeline.now + step * timeline.spanS, last.now);
  draw();
});
byId("find").addEventListener("input", filter);
window.addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

// What people ask for.

const FLEET = {
  sleep: ["Put the fleet to sleep?", "Workers end their work, then release their memory. Work gets 503 until they are woken.",
    "POST", "release_memory_occupation"],
  wake: ["Wake the fleet?", "Sleeping workers take their memory back.", "POST", "resume_memory_occupation"],
  pause: ["Hold the queue?", "What runs goes on, what comes waits.", "POST", "pause_generation"],
  continue: ["Release the queue?", "What waits goes to the workers.", "POST", "continue_generation"],
};
const WORKER = {
  drain: ["Drain", "It gets no new work; what it has goes on.", "PUT", { state: "drained" }],
  undrain: ["Undrain", "It gets work again.", "PUT", { state: "active" }],
  quarantine: ["Quarantine", "It is kept out until it is recovered; what it has goes on.", "PUT", { is_dead: true }],
  recover: ["Recover", "Its quarantine ends, and it is probed.", "PUT", { is_dead: false }],
  remove: ["Remove", "It ends its work and is forgotten, with its jobs.", "DELETE", undefined],
};

document.querySelector("nav").addEventListener("click", async (event) => {
  const what = event.target.dataset.fleet;
  if (event.target.id === "keys") {
    const given = await ask("Key", "Sent with what you ask for; kept until this page is closed.", "Admin key", key, "password");
    if (given !== null) key = given;
  } else if (what === "refit") {
    const path = await ask("Refit the fleet", "Each worker loads this checkpoint once it has ended its work.", "Path, as workers see it");
    if (path) await send("POST", "update_weights_from_disk", { model_path: path });
  } else if (what) {
    const [title, text, method, path] = FLEET[what === "pause" && last?.paused ? "continue" : what];
    if ((await ask(title, text)) !== null) await send(method, path);
  }
});

byId("workers").addEventListener("click", async (event) => {
  const action = WORKER[event.target.dataset?.action];
  const url = event.target.closest("tr")?.dataset.url;
  if (!action || !url) return;
  const [title, text, method, body] = action;
  if ((await ask(`${title} ${url}?`, text)) !== null) await send(method, `workers/${encodeURIComponent(url)}`, body);
});

let asked = Promise.resolve();

/** Ask for a yes, or for a line of text; null when it is a no. */
async function ask(title, text, label, value = "", type = "text") {
  // A dialog tells that it was closed a moment later, and not of which question.
  await asked;
  const dialog = byId("ask");
  const input = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-field").hidden = !label;
  byId("ask-label").textContent = label ?? "";
  input.type = type;
  input.value = value;
  dialog.returnValue = "no";
  dialog.showModal();
  (label ? input : byId("ask-yes")).focus();
  asked = new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? input.value.trim() : null);
    }, { once: true });
  });
  return asked;
}

// Enter in the field is a yes, not the first button of the form.
byId("ask-input").addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    byId("ask").close("yes");
  }
});

async function send(method, path, body) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  try {
    const reply = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    const said = await reply.json().catch(() => ({}));
    if (reply.ok && said.success !== false) note(`done: ${path}`);
    else note(said.error ?? failures(said) ?? `${path} got ${reply.status}`);
  } catch (error) {
    note(`no answer: ${error.message}`);
  }
}

function failures(said) {
  const failed = said.results?.filter((row) => row.status_code !== 200 || row.body?.success === false) ?? [];
  if (!failed.length) return said.message;
  return failed.map((row) => `${row.worker_url}: ${row.body?.message ?? row.body?.error ?? row.status_code}`).join("; ");
}

function note(text) {
  const shown = element("p", text);
  byId("notes").append(shown);
  setTimeout(() => shown.remove(), 8000);
}

connect();
