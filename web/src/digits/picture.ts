// A picture with hidden pixels that can be drawn on, erased, and written into an address.
import { DIGITS } from "../parts/own.ts";
import { Mulberry } from "../maths/plane.ts";
import { type Shape, sizeOf } from "./task.ts";

export type Tool = "look" | "hide" | "ink" | "blank";

const TOP = 31; // levels from black to white: a code is twice the level, and one more where that is hidden
const RANDOM_SHARE = 0.25; // of the pixels that are known when the hidden ones are random
export const WRITTEN = /^[\w-]*$/;

/** Regions that can be hidden, as in ncsn inpaint. */
export const REGIONS = {
  bottom: "lower half",
  top: "upper half",
  random: "three quarters of the pixels",
  nothing: "nothing",
};

export class Picture {
  constructor(
    readonly shape: Shape,
    readonly codes = new Uint8Array(sizeOf(shape)),
  ) {}

  static of(shape: Shape, x: ArrayLike<number>): Picture {
    const code = (value: number): number => 2 * Math.round(TOP * Math.min(1, Math.max(0, value)));
    return new Picture(shape, Uint8Array.from(x, code));
  }

  /** Reads a picture from an address; undefined if its shape differs. */
  static read(shape: Shape, text: string): Picture | undefined {
    const codes = Uint8Array.from(text, (digit) => DIGITS.indexOf(digit));
    return codes.length === sizeOf(shape) ? new Picture(shape, codes) : undefined;
  }

  write(): string {
    return Array.from(this.codes, (code) => DIGITS[code]).join("");
  }

  /** The mask of known values, and the values. */
  get given(): { known: Uint8Array; y: Float32Array } {
    return {
      known: this.codes.map((code) => 1 - (code & 1)),
      y: Float32Array.from(this.codes, (code) => (code & 1 ? 0 : code / 2 / TOP)),
    };
  }

  hidden(row: number, column: number): boolean {
    return (this.codes[row * this.shape[2] + column] & 1) === 1;
  }

  get anyHidden(): boolean {
    return this.codes.some((code) => code & 1);
  }

  /** Hides a region and shows everything else. */
  hide(region: string, seed: number): void {
    const [, height] = this.shape;
    const random = new Mulberry(seed);
    const half = Math.floor(height / 2);
    const inside: Record<string, (row: number) => boolean> = {
      top: (row) => row < half,
      bottom: (row) => row >= half,
      random: () => random.uniform() >= RANDOM_SHARE,
      nothing: () => false,
    };
    this.#change((row) => {
      const hidden = Number(inside[region](row));
      return (code) => (code & ~1) | hidden;
    });
  }

  /** Applies a tool around a position in pixels, as wide as the stroke of a digit; the pen has soft edges. */
  mark(tool: Tool, row: number, column: number): void {
    const [, height, width] = this.shape;
    const radius = ((tool === "ink" ? 1 : 2) * Math.max(height, width)) / 28;
    this.#change((y, x) => {
      const share = Math.min(1, radius + 0.5 - Math.hypot(y + 0.5 - row, x + 0.5 - column));
      const ink = 2 * Math.round(TOP * share);
      if (share <= 0 || (share < 0.5 && tool !== "ink")) return undefined;
      if (tool === "ink") return (code) => (code & 1 ? ink : Math.max(code, ink));
      return (code) => (tool === "hide" ? code | 1 : 0);
    });
  }

  /** Changes the codes of pixels in all channels; undefined leaves a pixel unchanged. */
  #change(at: (row: number, column: number) => ((code: number) => number) | undefined): void {
    const [, height, width] = this.shape;
    for (let pixel = 0; pixel < height * width; pixel++) {
      const to = at(Math.floor(pixel / width), pixel % width);
      if (!to) continue;
      for (let i = pixel; i < this.codes.length; i += height * width) this.codes[i] = to(this.codes[i]);
    }
  }
}

/** The mean and the standard deviation of images that are stored one after another. */
export function moments(x: Float32Array, n: number): { mean: Float64Array; std: Float64Array } {
  const size = x.length / n;
  const [mean, std] = [new Float64Array(size), new Float64Array(size)];
  for (let i = 0; i < x.length; i++) mean[i % size] += x[i] / n;
  for (let i = 0; i < x.length; i++) std[i % size] += (x[i] - mean[i % size]) ** 2 / (n - 1);
  return { mean, std: std.map(Math.sqrt) };
}
