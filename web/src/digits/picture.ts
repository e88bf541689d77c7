// A picture of which some pixels are hidden: drawn on, erased, and written into an address.
import { DIGITS } from "../parts/own.ts";
import { Mulberry } from "../maths/plane.ts";
import { type Shape, sizeOf } from "./task.ts";

export type Tool = "ink" | "blank" | "hide";

const TOP = 62; // levels between black and white; one more stands for what is hidden
const HIDDEN = 63;
const RANDOM_SHARE = 0.25; // of the pixels that are known when the hidden ones are random
export const WRITTEN = /^[\w-]*$/;

/** Regions that can be hidden, as in ncsn inpaint. */
export const REGIONS = {
  bottom: "lower half",
  top: "upper half",
  left: "left half",
  right: "right half",
  centre: "centre",
  random: "three quarters, at random",
  nothing: "nothing",
};

export class Picture {
  constructor(
    readonly shape: Shape,
    readonly codes = new Uint8Array(sizeOf(shape)),
  ) {}

  static of(shape: Shape, x: ArrayLike<number>): Picture {
    const code = (value: number): number => Math.round(TOP * Math.min(1, Math.max(0, value)));
    return new Picture(shape, Uint8Array.from(x, code));
  }

  copy(): Picture {
    return new Picture(this.shape, this.codes.slice());
  }

  /** What an address says; undefined if it is of another shape. */
  static read(shape: Shape, text: string): Picture | undefined {
    const codes = Uint8Array.from(text, (digit) => DIGITS.indexOf(digit));
    return codes.length === sizeOf(shape) ? new Picture(shape, codes) : undefined;
  }

  write(): string {
    return Array.from(this.codes, (code) => DIGITS[code]).join("");
  }

  /** Which numbers are known, and what they are. */
  get given(): { known: Uint8Array; y: Float32Array } {
    return {
      known: this.codes.map((code) => Number(code !== HIDDEN)),
      y: Float32Array.from(this.codes, (code) => (code === HIDDEN ? 0 : code / TOP)),
    };
  }

  hidden(row: number, column: number): boolean {
    return this.codes[row * this.shape[2] + column] === HIDDEN;
  }

  get anyHidden(): boolean {
    return this.codes.includes(HIDDEN);
  }

  hide(region: string, seed: number): void {
    const [, height, width] = this.shape;
    const random = new Mulberry(seed);
    const [halfHigh, halfWide] = [Math.floor(height / 2), Math.floor(width / 2)];
    const middle = (place: number, length: number): boolean =>
      place >= Math.floor(length / 4) && place < length - Math.floor(length / 4);
    const inside: Record<string, (row: number, column: number) => boolean> = {
      top: (row) => row < halfHigh,
      bottom: (row) => row >= halfHigh,
      left: (_, column) => column < halfWide,
      right: (_, column) => column >= halfWide,
      centre: (row, column) => middle(row, height) && middle(column, width),
      random: () => random.uniform() >= RANDOM_SHARE,
      nothing: () => false,
    };
    this.#change((row, column) => (inside[region](row, column) ? HIDDEN : undefined));
  }

  /** A tool's mark around a place in pixels: as wide as a stroke of a digit, of which a pen leaves soft edges. */
  mark(tool: Tool, row: number, column: number): void {
    const [, height, width] = this.shape;
    const radius = ((tool === "ink" ? 1 : 2) * Math.max(height, width)) / 28;
    this.#change((y, x, before) => {
      const share = Math.min(1, radius + 0.5 - Math.hypot(y + 0.5 - row, x + 0.5 - column));
      if (share <= 0) return undefined;
      const ink = Math.round(TOP * share);
      if (tool === "ink") return before === HIDDEN ? ink : Math.max(before, ink);
      return share < 0.5 ? undefined : tool === "hide" ? HIDDEN : 0;
    });
  }

  /** Other pixels, in all their channels; undefined leaves one as it is. */
  #change(to: (row: number, column: number, before: number) => number | undefined): void {
    const [, height, width] = this.shape;
    for (let at = 0; at < height * width; at++) {
      const code = to(Math.floor(at / width), at % width, this.codes[at]);
      if (code === undefined) continue;
      for (let i = at; i < this.codes.length; i += height * width) this.codes[i] = code;
    }
  }
}

/** The mean of images that lie in a row, and their standard deviation. */
export function moments(x: Float32Array, n: number): { mean: Float64Array; std: Float64Array } {
  const size = x.length / n;
  const [mean, std] = [new Float64Array(size), new Float64Array(size)];
  for (let i = 0; i < x.length; i++) mean[i % size] += x[i] / n;
  for (let i = 0; i < x.length; i++) std[i % size] += (x[i] - mean[i % size]) ** 2 / (n - 1);
  return { mean, std: std.map(Math.sqrt) };
}
