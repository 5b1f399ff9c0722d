// The page: one event stream in, tables and pictures out. Whatever comes from outside becomes text, never markup.

import { ask, note } from "./ask.js";
import { Timeline, told } from "./chart.js";
import { Curves } from "./curves.js";
import { History } from "./history.js";
import { Pictures } from "./pictures.js";
import { Refused, Router } from "./router.js";
import { clock, colourOf, element, forgetColours, seconds, versionName } from "./words.js";
import { ACTIONS, STYLES, Workers, swatch } from "./workers.js";

const byId = (id) => document.getElementById(id);
const router = new Router();
const history = new History();
const timeline = new Timeline(byId("canvas"), history);
const curves = new Curves(byId("curves"), history);
const workers = new Workers(byId("workers"), byId("find"), byId("found"));
const pictures = new Pictures(byId("images"), router);
const EVENTS_SHOWN = 200;
const RATE_OVER_S = 5;

let last = null;
let finished = [];

// What the router tells.

function take(frame) {
  if (frame.reset) {
    for (const part of [workers, history, pictures]) part.clear();
    forgetColours();
    byId("events").replaceChildren();
    finished = [];
  }
  last = frame;
  // A version has its colour by when it came, not by where it is shown first.
  for (const [, , , , , version] of frame.bars) colourOf(version, false);
  workers.take(frame);
  history.take(frame, workers.all);
  pictures.take(frame.thumbnails, new Map(workers.all.map((worker) => [worker.url, worker.display_id])));
  if (!timeline.held) timeline.now = frame.now;
  figures(frame);
  events(frame.changes);
  draw();
}

async function link(how, error) {
  byId("link").textContent = how === "refused" ? error.message : how;
  byId("link").className = how === "live" ? "good" : "bad";
  if (error instanceof Refused && error.wantsKey && !byId("ask").open) await askKey(error.message);
}

function figures(frame) {
  const counts = new Map();
  for (const { status } of workers.all) counts.set(status, (counts.get(status) ?? 0) + 1);
  const chips = [...counts].sort().map(([status, count]) => {
    const chip = element("button", `${count} ${status}`, STYLES[status]);
    chip.dataset.find = status;
    chip.title = `Show those that are ${status}`;
    return chip;
  });
  const running = workers.all.reduce((sum, worker) => sum + worker.active_requests, 0);
  const oldest = frame.queue.oldest_seconds === null ? "" : `oldest ${seconds(frame.queue.oldest_seconds)}`;
  const late = [...history.stragglers.values()].sort((one, other) => other.took - one.took);
  const targets = Object.entries(frame.targets);
  figure("f-workers", chips.length ? chips : ["none"]);
  figure("f-running", [running], late.length ? `${late.length} late: ${late[0].name}, ${seconds(late[0].took)}` : "", "warn");
  figure("f-waiting", [frame.queue.requests], [oldest, frame.paused && "paused"].filter(Boolean).join(", "), "warn");
  figure("f-rate", [rate(frame)], `${frame.finished} in all`);
  figure("f-weights", targets.length ? targets.flatMap(([group, version]) => weights(group, version, targets.length)) : ["base"]);
  byId("pause").textContent = frame.paused ? "Continue" : "Pause";
}

function weights(group, version, groups) {
  const shown = element("span", `${groups > 1 ? `${group}: ` : ""}${version ?? "base"}`);
  shown.title = group;
  shown.prepend(swatch(version ?? "0"));
  return [shown];
}

/** Change a figure only where it is another: a button that has the focus, or is being clicked, stays. */
function figure(id, parts, more = "", style = "") {
  const [value, side] = byId(id).children;
  const now = parts.map((part) => part.textContent ?? part).join("|");
  if (value.dataset.now !== now) {
    value.dataset.now = now;
    value.replaceChildren(...parts);
  }
  side.textContent = more;
  side.className = style;
}

function rate(frame) {
  finished.push([frame.now, frame.finished]);
  while (finished.length > 2 && frame.now - finished[1][0] >= RATE_OVER_S) finished.shift();
  const [at, count] = finished[0];
  return frame.now - at < 1 ? "…" : Math.max((frame.finished - count) / (frame.now - at), 0).toFixed(1);
}

function events(changes) {
  const list = byId("events");
  for (const [at, url, was, now] of changes) {
    const item = element("li");
    const name = element("span", workers.byUrl.get(url)?.display_id ?? url, "name");
    name.title = url;
    item.append(element("time", clock(at)), name, element("span", `${was ?? "new"} → ${now}`, STYLES[now]));
    list.prepend(item);
  }
  while (list.children.length > EVENTS_SHOWN) list.lastChild.remove();
  byId("calm").hidden = Boolean(list.children.length);
}

// The timeline and what is under it.

let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    timeline.draw();
    curves.draw(timeline.from, timeline.now);
    legend(history.versions(timeline.from).slice(-8));
    if (pointed) point(pointed);
  });
}

function legend(versions) {
  const now = versions.join("|");
  if (byId("legend").dataset.now === now) return;
  byId("legend").dataset.now = now;
  byId("legend").replaceChildren(...versions.map((version) => {
    const entry = element("span", versionName(version));
    entry.prepend(swatch(version));
    return entry;
  }));
}

function hold(held) {
  timeline.held = held;
  if (!held && last) timeline.now = last.now;
  byId("hold").setAttribute("aria-pressed", String(held));
  draw();
}

let pointed = null;

function point(where) {
  pointed = where;
  show(timeline.at(where.offsetX, where.offsetY), where.offsetX, where.offsetY);
}

/** Say what is there, and show the image that came of it beside the pointer. */
function show(place, left, top) {
  const words = place ? told(place) : "\u00a0";
  if (byId("hint").textContent !== words) byId("hint").textContent = words;
  const src = place?.bar && pictures.of(place.row.url, place.bar.piece);
  const card = byId("card");
  card.hidden = !src;
  if (!src) return;
  const image = card.querySelector("img");
  if (image.src !== src) image.src = src;
  const chart = byId("chart");
  card.style.left = `${Math.max(0, Math.min(left + 14, chart.clientWidth - 156))}px`;
  card.style.top = `${top - chart.scrollTop + 18}px`;
}

byId("span").addEventListener("change", (event) => {
  timeline.spanS = Number(event.target.value);
  draw();
});
byId("hold").addEventListener("click", () => hold(!timeline.held));
byId("canvas").addEventListener("mousemove", ({ offsetX, offsetY }) => point({ offsetX, offsetY }));
byId("canvas").addEventListener("mouseleave", () => {
  pointed = null;
  show(null);
});
byId("canvas").addEventListener("keydown", (event) => {
  if (!last) return;
  const step = { ArrowLeft: -0.25, ArrowRight: 0.25 }[event.key];
  const row = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step) {
    hold(true);
    timeline.now = Math.min(timeline.now + step * timeline.spanS, last.now);
  } else if (row) {
    const place = timeline.select(row);
    if (place) show(place, place.right ?? 0, place.bottom ?? 0);
  } else if (event.key === "Escape") {
    timeline.selected = null;
    hold(false);
  } else return;
  event.preventDefault();
});
byId("f-workers").addEventListener("click", (event) => {
  const status = event.target.dataset.find;
  if (!status) return;
  byId("find").value = byId("find").value === status ? "" : status;
  workers.filter();
});
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

async function askKey(why) {
  const given = await ask("Key", `${why}\nIt is sent with what you ask for, and forgotten when this page is closed.`,
    "Key", router.key, "password");
  if (given !== null) router.use(given);
  return given !== null;
}

/** Have something done, and say how it went; where a key is wanted, with another one. */
async function send(what, method, path, body) {
  note(`asked: ${what}`);
  for (;;) {
    try {
      await router.send(method, path, body);
      note(`done: ${what}`);
    } catch (error) {
      if (error instanceof Refused && error.wantsKey && (await askKey(error.message))) continue;
      note(error instanceof Refused ? `${what}: ${error.message}` : `${what}: no answer (${error.message})`);
    }
    return;
  }
}

document.querySelector("nav").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  const what = button?.dataset.fleet;
  if (button?.id === "keys") {
    await askKey("The router's key, where it has one.");
  } else if (what === "refit") {
    const path = await ask("Refit the fleet", "Each worker loads this checkpoint once it has ended its work.", "Path, as workers see it");
    if (path) await send("refit", "POST", "update_weights_from_disk", { model_path: path });
  } else if (what) {
    const chosen = what === "pause" && last?.paused ? "continue" : what;
    const [title, text, method, path] = FLEET[chosen];
    if ((await ask(title, text)) !== null) await send(chosen, method, path);
  }
});

byId("workers").addEventListener("click", async (event) => {
  const action = ACTIONS[event.target.dataset?.action];
  const url = event.target.closest("tr")?.dataset.url;
  if (!action || !url) return;
  const [title, text, method, body, more = ""] = action;
  if ((await ask(`${title} ${url}?`, text)) === null) return;
  await send(`${title.toLowerCase()} ${url}`, method, `workers/${encodeURIComponent(url)}${more}`, body);
});

router.follow(take, link);
