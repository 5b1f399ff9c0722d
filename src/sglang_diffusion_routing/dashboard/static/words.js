// How numbers, instants and weight versions are written and coloured.

export function seconds(value) {
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 600) return `${value.toFixed(0)} s`;
  return value < 36_000 ? `${(value / 60).toFixed(0)} min` : `${(value / 3600).toFixed(1)} h`;
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
}

export function versionName(version) {
  return version ?? "unknown";
}

// Far apart, also for those who see few colours; red and orange are for what fails and what is late.
const HUES = [215, 145, 285, 65, 185, 320, 100, 250];
const known = new Map();

/** Colours by weight version, in the order in which versions come: neighbours in time differ. */
export function colourOf(version, dark) {
  if (version === null) return dark ? "#8892a3" : "#8a94a5";
  if (!known.has(version)) known.set(version, HUES[known.size % HUES.length]);
  return `hsl(${known.get(version)} ${dark ? "55% 62%" : "58% 44%"})`;
}

export function forgetColours() {
  known.clear();
}

export function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Colours that the style declares, for what is painted. */
export function painted(...names) {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
}

export function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Make a canvas as fine as the screen; give what to paint it with. */
export function fitted(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.height = `${height}px`;
  }
  const paint = canvas.getContext("2d");
  paint.setTransform(scale, 0, 0, scale, 0, 0);
  paint.clearRect(0, 0, width, height);
  return paint;
}

/** The value in the middle; there is at least one. */
export function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[sorted.length >> 1];
}
