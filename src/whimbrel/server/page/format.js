// Numbers as people read them, and positions as the server counts them. Pure.

/** 1234567 -> "1,234,567" */
export function count(number) {
  return Math.round(number).toLocaleString("en-US");
}

/** Seconds left or passed: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min". */
export function duration(seconds) {
  if (seconds < 10) return `${Math.max(seconds, 0).toFixed(seconds < 1 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return whole % 60 ? `${Math.floor(whole / 60)} min ${whole % 60} s` : `${whole / 60} min`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}

/** 123456789 -> "118 MB" (powers of 1024, as the program's own figures) */
export function bytes(number) {
  let unit = 0;
  while (number >= 1024 && unit < 4) {
    number /= 1024;
    unit += 1;
  }
  const digits = unit > 0 && number < 10 ? 1 : 0;
  return `${number.toFixed(digits)} ${["B", "KB", "MB", "GB", "TB"][unit]}`;
}

/** Tokens per second: "8.4", "86", "1,240". */
export function speed(perSecond) {
  return perSecond < 10 ? perSecond.toFixed(1) : count(perSecond);
}

/** A share of one: "12%", "0.4%". */
export function percent(share) {
  const value = share * 100;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1).replace(/\.0$/, "")}%`;
}

/** "today 14:05", "3 May", "3 May 2025" of milliseconds since 1970. */
export function day(milliseconds, now = Date.now()) {
  const [date, today] = [new Date(milliseconds), new Date(now)];
  if (date.toDateString() === today.toDateString()) {
    return `today ${date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" })}`;
  }
  const year = date.getFullYear() === today.getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year });
}

/** One line of at most `length` characters. */
export function line(text, length) {
  const flat = text.replace(/\s+/g, " ").trim();
  const characters = Array.from(flat.slice(0, 2 * length));
  return characters.length > length ? `${characters.slice(0, length - 1).join("").trimEnd()}…` : flat;
}

/**
 * Positions in a text: the server counts code points, JavaScript counts UTF-16 units, of which 😀 has two.
 * Holds the places of such characters only, so most texts cost nothing.
 */
export class CodePoints {
  #wide = [];

  constructor(text) {
    this.units = text.length;
    if (/[\ud800-\udbff]/.test(text)) {
      for (const match of text.matchAll(/[\ud800-\udbff][\udc00-\udfff]/g)) this.#wide.push(match.index);
    }
    this.length = text.length - this.#wide.length;
  }

  /** UTF-16 position of a code point position. */
  toUnits(point) {
    let [low, high] = [0, this.#wide.length]; // how many wide characters begin before it: the i-th is at code point wide[i] - i
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#wide[middle] - middle < point) low = middle + 1;
      else high = middle;
    }
    return Math.min(Math.max(point, 0) + low, this.units);
  }

  /** Code point position of a UTF-16 position. */
  toPoints(unit) {
    let [low, high] = [0, this.#wide.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#wide[middle] < unit) low = middle + 1;
      else high = middle;
    }
    return unit - low;
  }
}
