// Points, grids and distributions in the plane, and seeded random numbers.

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

/** Everything is drawn on [−VIEW, VIEW]², where the paper's figures are. */
export const VIEW = 8;

/** The nearest number between −VIEW and VIEW. */
export const within = (value: number): number => Math.max(-VIEW, Math.min(VIEW, value));

/** The centre of cell ``i`` of ``cells`` between −VIEW and VIEW. */
export function centre(i: number, cells: number): number {
  return ((2 * i + 1) / cells - 1) * VIEW;
}

/** The centres of cells × cells squares, row by row from the bottom. */
export function gridPoints(cells: number): Points {
  const points = new Float64Array(2 * cells * cells);
  for (let at = 0; at < cells * cells; at++) {
    points.set([centre(at % cells, cells), centre(Math.floor(at / cells), cells)], 2 * at);
  }
  return points;
}

/** A density at the centres of cells × cells squares, row by row from the bottom. */
export interface Grid {
  cells: number;
  values: Float64Array;
}

/** Cells that show detail of size ``std``: three to one, at least 24 and at most 192 a side. */
export function cellsFor(std: number): number {
  return Math.min(192, Math.max(24, Math.ceil((6 * VIEW) / std)));
}

/** A score: ∇ log p_σ at each of the points. */
export type Score = (x: Points, sigma: number) => Points;

/** A distribution whose noised density p_σ and score are known exactly. */
export abstract class Distribution {
  /** n draws of the clean data. */
  abstract sample(n: number, random: Random): Points;
  /** log p_σ at a point, in nats, and its gradient. */
  abstract at(x: number, y: number, sigma: number): { log: number; dx: number; dy: number };
  /** p_σ on the square that is drawn, as fine as it needs. */
  abstract density(sigma: number): Grid;

  readonly score: Score = (x, sigma) => {
    const s = new Float64Array(x.length);
    for (let i = 0; i < x.length; i += 2) {
      const { dx, dy } = this.at(x[i], x[i + 1], sigma);
      s[i] = dx;
      s[i + 1] = dy;
    }
    return s;
  };

  logDensity(x: Points, sigma: number): Float64Array {
    return Float64Array.from({ length: x.length / 2 }, (_, i) => this.at(x[2 * i], x[2 * i + 1], sigma).log);
  }

  /** The score at the centres of count × count squares, row by row from the bottom. */
  field(count: number, sigma: number): Points {
    return this.score(gridPoints(count), sigma);
  }
}

export type Random = Pick<Mulberry, "uniform" | "normal">;

/** Mulberry32 (Tommy Ettinger, public domain): 32 bits of state, a period of 2³². Normals by Box and Muller. */
export class Mulberry {
  #state: number;
  #spare = Number.NaN;

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
    if (!Number.isNaN(this.#spare)) {
      const spare = this.#spare;
      this.#spare = Number.NaN;
      return spare;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}
