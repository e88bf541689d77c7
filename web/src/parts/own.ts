// Points drawn by the user, and how addresses encode them.
import { type Points, VIEW, within } from "../maths/plane.ts";

export const MOST_POINTS = 500;
/** The digits of numbers in addresses. */
export const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const PLACES = DIGITS.length ** 2; // along an axis: two digits each, 0.004 apart

export const WRITTEN = new RegExp(`^(?:[\\w-]{4}){0,${MOST_POINTS}}$`);

/** Four characters per point. */
export function encode(points: ArrayLike<number>): string {
  return Array.from(points, (value) => {
    const place = Math.round(((within(value) / VIEW + 1) / 2) * (PLACES - 1));
    return DIGITS[place >> 6] + DIGITS[place & 63];
  }).join("");
}

export function decode(text: string): Points {
  return Float64Array.from({ length: text.length / 2 }, (_, i) => {
    const place = 64 * DIGITS.indexOf(text[2 * i]) + DIGITS.indexOf(text[2 * i + 1]);
    return ((2 * place) / (PLACES - 1) - 1) * VIEW;
  });
}

/** The initial points: a wave of 24. */
export function example(): number[] {
  return Array.from({ length: 24 }, (_, i) => -6 + (12 * i) / 23).flatMap((x) => [x, 3 * Math.sin(x)]);
}
