// What the package computed, and comparison with it.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { Random } from "../src/maths/plane.ts";

// The compiled tests lie in web/build/test.
const place = new URL("../../../web/test/values.json", import.meta.url);
export const values = JSON.parse(readFileSync(place, "utf8"));

/** Every number is as near to the expected one as it says, relative to the largest of them. */
export function close(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, what = ""): void {
  assert.equal(actual.length, expected.length);
  const scale = Math.max(...Array.from(expected, Math.abs), 1e-300);
  for (let i = 0; i < expected.length; i++) {
    const off = Math.abs(actual[i] - expected[i]) / scale;
    assert.ok(off <= tolerance, `${what} [${i}] is ${actual[i]}, not ${expected[i]}`);
  }
}

/** Normal numbers from a list. */
export class Listed implements Random {
  readonly #numbers: number[];
  #at = 0;

  constructor(numbers: number[]) {
    this.#numbers = numbers;
  }

  uniform(): number {
    throw new Error("no uniform number is listed");
  }

  normal(): number {
    return this.#numbers[this.#at++];
  }
}
