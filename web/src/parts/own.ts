// Points that somebody draws, and how they are written into an address.
import type { Points } from "../maths/plane.ts";
import { VIEW } from "../maths/plane.ts";

export const MOST_POINTS = 2000;
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const PLACES = DIGITS.length ** 2; // along an axis: two digits each, 0.004 apart

export const WRITTEN = new RegExp(`^(?:[\\w-]{4}){0,${MOST_POINTS}}$`);

/** Four characters for each point. */
export function encode(points: ArrayLike<number>): string {
  return Array.from(points, (value) => {
    const place = Math.min(PLACES - 1, Math.max(0, Math.round(((value / VIEW + 1) / 2) * (PLACES - 1))));
    return DIGITS[place >> 6] + DIGITS[place & 63];
  }).join("");
}

export function decode(text: string): Points {
  const points = new Float64Array(text.length / 2);
  for (let i = 0; i < points.length; i++) {
    const place = 64 * DIGITS.indexOf(text[2 * i]) + DIGITS.indexOf(text[2 * i + 1]);
    points[i] = ((2 * place) / (PLACES - 1) - 1) * VIEW;
  }
  return points;
}

/** What is there before anything is drawn: a wave of 24 points. */
export function example(): Points {
  const points = new Float64Array(48);
  for (let i = 0; i < 24; i++) {
    const x = -6 + (12 * i) / 23;
    points.set([x, 3 * Math.sin(x)], 2 * i);
  }
  return points;
}
