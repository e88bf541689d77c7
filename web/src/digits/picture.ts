// A picture of which some pixels are hidden: drawn on, erased, and written into an address.
import { DIGITS } from "../parts/own.ts";
import { Mulberry } from "../maths/random.ts";
import type { Shape } from "./card.ts";

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
  readonly shape: Shape;
  readonly codes: Uint8Array;

  constructor(shape: Shape, codes?: Uint8Array) {
    this.shape = shape;
    this.codes = codes ?? new Uint8Array(shape[0] * shape[1] * shape[2]);
  }

  static of(shape: Shape, x: ArrayLike<number>): Picture {
    return new Picture(
      shape,
      Uint8Array.from({ length: x.length }, (_, i) => Math.round(TOP * Math.min(1, Math.max(0, x[i])))),
    );
  }

  copy(): Picture {
    return new Picture(this.shape, this.codes.slice());
  }

  /** What an address says; undefined if it is of another shape. */
  static read(shape: Shape, text: string): Picture | undefined {
    const codes = Uint8Array.from(text, (digit) => DIGITS.indexOf(digit));
    return codes.length === shape[0] * shape[1] * shape[2] ? new Picture(shape, codes) : undefined;
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
    const [quarterHigh, quarterWide] = [Math.floor(height / 4), Math.floor(width / 4)];
    const inside: Record<string, (row: number, column: number) => boolean> = {
      top: (row) => row < Math.floor(height / 2),
      bottom: (row) => row >= Math.floor(height / 2),
      left: (_, column) => column < Math.floor(width / 2),
      right: (_, column) => column >= Math.floor(width / 2),
      centre: (row, column) =>
        row >= quarterHigh && row < height - quarterHigh && column >= quarterWide && column < width - quarterWide,
      random: () => random.uniform() >= RANDOM_SHARE,
      nothing: () => false,
    };
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) if (inside[region](row, column)) this.#set(row, column, HIDDEN);
    }
  }

  /** A tool's mark around a place in pixels: as wide as a stroke of a digit, of which a pen leaves soft edges. */
  mark(tool: Tool, row: number, column: number): void {
    const [, height, width] = this.shape;
    const radius = ((tool === "ink" ? 1 : 2) * Math.max(height, width)) / 28;
    for (let y = Math.max(0, Math.floor(row - radius - 1)); y <= Math.min(height - 1, row + radius + 1); y++) {
      for (let x = Math.max(0, Math.floor(column - radius - 1)); x <= Math.min(width - 1, column + radius + 1); x++) {
        const share = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(y + 0.5 - row, x + 0.5 - column)));
        if (share === 0) continue;
        if (tool === "ink") this.#darken(y, x, Math.round(TOP * share));
        else if (share >= 0.5) this.#set(y, x, tool === "hide" ? HIDDEN : 0);
      }
    }
  }

  /** Ink on what is there; on what is hidden, it is the ink alone. */
  #darken(row: number, column: number, ink: number): void {
    const before = this.codes[row * this.shape[2] + column];
    this.#set(row, column, before === HIDDEN ? ink : Math.max(before, ink));
  }

  /** A pixel, in all its channels. */
  #set(row: number, column: number, code: number): void {
    const [channels, height, width] = this.shape;
    for (let c = 0; c < channels; c++) this.codes[(c * height + row) * width + column] = code;
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
