// The router as the page knows it: one event stream, images, and what people ask for; with the key, once there is one.

const SILENT_MS = 10_000;
const RETRY_MS = 1_000;

/** The reply to something that was asked for, when it is no success. */
export class Refused extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }

  /** Whether another key might do. */
  get wantsKey() {
    return this.status === 401 || this.code === "admin_key_needed";
  }
}

export class Router {
  key = "";

  /** Follow the events for ever. onFrame gets each frame, onLink is told how the stream does, with what is wrong. */
  async follow(onFrame, onLink) {
    for (;;) {
      try {
        await this.#frames(onFrame, onLink);
        onLink("no answer");
      } catch (error) {
        onLink(error instanceof Refused ? "refused" : "no answer", error);
        if (error instanceof Refused && error.wantsKey) await this.#anotherKey();
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  async #frames(onFrame, onLink) {
    const breaker = new AbortController();
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      // A connection that nobody ended may still be dead.
      timer = setTimeout(() => breaker.abort(), SILENT_MS);
    };
    alive();
    try {
      const reply = await this.#ask("events?interval_s=0.5", { signal: breaker.signal });
      const decoder = new TextDecoder();
      let isLive = false;
      let text = "";
      for (const reader = reply.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) return;
        alive();
        text += decoder.decode(value, { stream: true });
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
          if (!data.length) continue;
          const frame = JSON.parse(data.join("\n"));
          try {
            onFrame(frame);
          } catch (error) {
            // A fault of the page is none of the stream's.
            reportError(error);
          }
          if (!isLive) onLink("live");
          isLive = true;
        }
      }
    } finally {
      clearTimeout(timer);
      breaker.abort();
    }
  }

  #keyChanged = () => {};

  #anotherKey() {
    return new Promise((resolve) => { this.#keyChanged = resolve; });
  }

  /** Send this key from now on. */
  use(key) {
    this.key = key;
    this.#keyChanged();
  }

  /** Give one of the last images. */
  async image(name, size) {
    return (await this.#ask(`dashboard/thumbnails/${encodeURIComponent(name)}?size=${size}`)).blob();
  }

  /** Ask for a change. Raises Refused. */
  async send(method, path, body) {
    const json = body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
    const reply = await this.#ask(path, { method, ...json });
    const said = await reply.json().catch(() => ({}));
    if (said.success === false) throw new Refused(failures(said) ?? `${path} failed`, "", reply.status);
  }

  async #ask(path, options = {}) {
    const headers = { ...options.headers, ...(this.key && { authorization: `Bearer ${this.key}` }) };
    const reply = await fetch(path, { cache: "no-store", ...options, headers });
    if (reply.ok) return reply;
    const said = await reply.json().catch(() => ({}));
    throw new Refused(said.error ?? failures(said) ?? `${path} got ${reply.status}`, said.code, reply.status);
  }
}

function failures(said) {
  const failed = said.results?.filter((row) => row.status_code !== 200 || row.body?.success === false) ?? [];
  if (!failed.length) return said.message;
  return failed.map((row) => `${row.worker_url}: ${row.body?.message ?? row.body?.error ?? row.status_code}`).join("; ");
}
