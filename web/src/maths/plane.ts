// Points and grids in the plane, and seeded random numbers.

/** Points in the plane, x and y in turn: x₀, y₀, x₁, y₁, … */
export type Points = Float64Array;

/** The sum of factor · points over its terms. */
export function sum(...terms: [factor: number, points: Points][]): Points {
  const total = new Float64Array(terms[0][1].length);
  for (const [factor, points] of terms) {
    for (let i = 0; i < total.length; i++) total[i] += factor * points[i];
  }
  return total;
}

/** Pictures show [−VIEW, VIEW]², where the paper's figures are, or a wider view. */
export const VIEW = 8;

/** The nearest number between −VIEW and VIEW. */
export const within = (value: number): number => Math.max(-VIEW, Math.min(VIEW, value));

/** The view that holds the data with noise of σ: modes at (±5, ±5), and 2.5 standard deviations around them. */
export const viewOf = (sigma: number): number => Math.max(VIEW, 5 + 2.5 * Math.hypot(1, sigma));

/** The centre of cell ``i`` of ``cells`` between −view and view. */
export function centre(i: number, cells: number, view = VIEW): number {
  return ((2 * i + 1) / cells - 1) * view;
}

/** The centres of cells × cells squares, row by row from the bottom. */
export function gridPoints(cells: number, view = VIEW): Points {
  const points = new Float64Array(2 * cells * cells);
  for (let at = 0; at < cells * cells; at++) {
    points.set([centre(at % cells, cells, view), centre(Math.floor(at / cells), cells, view)], 2 * at);
  }
  return points;
}

/** A density at the centres of cells × cells squares, row by row from the bottom. */
export interface Grid {
  cells: number;
  values: Float64Array;
}

/** Cells that show detail of size ``std``: three to one, at least 24 and at most 192 a side. */
export function cellsFor(std: number, view = VIEW): number {
  return Math.min(192, Math.max(24, Math.ceil((6 * view) / std)));
}

/** A score: ∇ log p_σ at each of the points. */
export type Score = (x: Points, sigma: number) => Points;

export type Random = Pick<Mulberry, "uniform" | "normal">;

/** Mulberry32 (Tommy Ettinger, public domain): 32 bits of state, a period of 2³². Normals by Box and Muller. */
export class Mulberry {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** Standard normal. */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }
}
