// The last images that were generated, as far as the router keeps them.

import { clock, element, versionName } from "./words.js";

const SHOWN = 96;
const AT_ONCE = 3;

export class Pictures {
  constructor(section, router) {
    this.section = section;
    this.list = section.querySelector("ol");
    this.dialog = document.getElementById("picture");
    this.router = router;
    this.byName = new Map();
    this.byPiece = new Map();
    this.wanted = [];
    this.fetching = 0;
    this.list.addEventListener("click", (event) => {
      const name = event.target.closest("button")?.dataset.name;
      if (name) this.#enlarge(this.byName.get(name));
    });
    this.dialog.addEventListener("close", () => this.#put(this.dialog.querySelector("img"), null));
  }

  clear() {
    for (const picture of this.byName.values()) this.#drop(picture);
    this.section.hidden = true;
  }

  /** Take the images of one frame of the event stream. names: of workers, by their URL. */
  take(rows, names) {
    for (const [name, at, url, route, weights, piece, width, height] of rows) {
      const made = `${names.get(url) ?? url}, weights ${versionName(weights)}, ${clock(at)}`;
      const picture = { name, key: `${url} ${piece}`, told: `${made}, ${width} × ${height}`, route, src: null };
      picture.item = this.#item(picture);
      this.byName.set(name, picture);
      this.byPiece.set(picture.key, picture);
      this.list.prepend(picture.item);
      this.wanted.push(picture);
    }
    const oldest = [...this.byName.values()].slice(0, Math.max(this.byName.size - SHOWN, 0));
    for (const picture of oldest) this.#drop(picture);
    this.section.hidden = !this.byName.size;
    this.#fetch();
  }

  /** Where the small image of a bar is to be had; null when there is none. */
  of(url, piece) {
    return this.byPiece.get(`${url} ${piece}`)?.src ?? null;
  }

  #item(picture) {
    const item = element("li");
    const button = element("button");
    button.dataset.name = picture.name;
    button.title = picture.told;
    const image = element("img");
    image.alt = `Generated on ${picture.told}`;
    button.append(image);
    item.append(button);
    return item;
  }

  /** Fetch a few at a time, the newest first: the browser has six connections, and one is the event stream's. */
  async #fetch() {
    while (this.fetching < AT_ONCE && this.wanted.length) {
      const picture = this.wanted.pop();
      if (!this.byName.has(picture.name)) continue;
      this.fetching++;
      this.#load(picture).finally(() => {
        this.fetching--;
        this.#fetch();
      });
    }
  }

  async #load(picture) {
    try {
      const image = await this.router.image(picture.name, "small");
      if (!this.byName.has(picture.name)) return;
      picture.src = URL.createObjectURL(image);
      picture.item.querySelector("img").src = picture.src;
    } catch {
      // It has given way to newer ones.
      this.#drop(picture);
    }
  }

  #drop(picture) {
    this.byName.delete(picture.name);
    if (this.byPiece.get(picture.key) === picture) this.byPiece.delete(picture.key);
    picture.item.remove();
    if (picture.src) URL.revokeObjectURL(picture.src);
  }

  async #enlarge(picture) {
    if (!picture) return;
    const image = this.dialog.querySelector("img");
    image.alt = `Generated on ${picture.told}`;
    this.#put(image, null);
    if (picture.src) image.src = picture.src;
    this.dialog.querySelector("p").textContent = picture.told;
    this.dialog.showModal();
    try {
      const large = await this.router.image(picture.name, "large");
      if (this.dialog.open) this.#put(image, URL.createObjectURL(large));
    } catch {
      // The small one is better than none.
    }
  }

  #put(image, src) {
    if (this.large) URL.revokeObjectURL(this.large);
    this.large = src;
    if (src) image.src = src;
    else image.removeAttribute("src");
  }
}
