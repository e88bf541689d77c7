// Mixtures of Gaussians in the plane, whose noised score is known exactly, as in ncsn/distributions.py.
import { type Grid, type Points, type Random, type Score, VIEW, cellsFor, centre, gridPoints } from "./plane.ts";

const NEGLIGIBLE = -30; // a log weight relative to the largest one: e⁻³⁰ = 10⁻¹³
const REACH = 4.5; // standard deviations at which a component has no density left that could be seen

/** Σ_k w_k N(μ_k, s²I): noise of level σ makes each component N(μ_k, (s² + σ²)I), and so its score is exact. */
export class Mixture {
  readonly means: Points;
  readonly std: number;
  readonly weights: Float64Array;
  readonly #logWeights: Float64Array;
  readonly #scratch: Float64Array;

  constructor(means: Points, std: number, weights?: number[]) {
    const count = means.length / 2;
    [this.means, this.std] = [means, std];
    const sum = weights?.reduce((a, b) => a + b, 0) ?? count;
    this.weights = Float64Array.from({ length: count }, (_, k) => (weights ? weights[k] : 1) / sum);
    this.#logWeights = this.weights.map(Math.log);
    this.#scratch = new Float64Array(count);
  }

  readonly score: Score = (x, sigma) => {
    const s = new Float64Array(x.length);
    for (let i = 0; i < x.length; i += 2) {
      const { dx, dy } = this.#at(x[i], x[i + 1], sigma);
      s[i] = dx;
      s[i + 1] = dy;
    }
    return s;
  };

  /** In nats. */
  logDensity(x: Points, sigma: number): Float64Array {
    return Float64Array.from({ length: x.length / 2 }, (_, i) => this.#at(x[2 * i], x[2 * i + 1], sigma).log);
  }

  /** The score at the centres of count × count squares, row by row from the bottom. */
  field(count: number, sigma: number, view = VIEW): Points {
    return this.score(gridPoints(count, view), sigma);
  }

  sample(n: number, random: Random): Points {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      let left = random.uniform();
      let k = 0;
      while (k < this.weights.length - 1 && left >= this.weights[k]) left -= this.weights[k++];
      const [meanX, meanY] = this.means.subarray(2 * k);
      x.set([meanX + this.std * random.normal(), meanY + this.std * random.normal()], 2 * i);
    }
    return x;
  }

  /** log p_σ, and its gradient (E[μ_k | x] − x)/(s² + σ²), where k is distributed as x suggests. */
  #at(x: number, y: number, sigma: number): { log: number; dx: number; dy: number } {
    const variance = this.std ** 2 + sigma ** 2;
    const weights = this.#scratch;
    let peak = -Infinity;
    for (let k = 0; k < weights.length; k++) {
      const dx = x - this.means[2 * k];
      const dy = y - this.means[2 * k + 1];
      weights[k] = this.#logWeights[k] - (dx * dx + dy * dy) / (2 * variance);
      if (weights[k] > peak) peak = weights[k];
    }
    let [total, meanX, meanY] = [0, 0, 0];
    for (let k = 0; k < weights.length; k++) {
      if (weights[k] - peak < NEGLIGIBLE) continue;
      const weight = Math.exp(weights[k] - peak);
      total += weight;
      meanX += weight * this.means[2 * k];
      meanY += weight * this.means[2 * k + 1];
    }
    const log = peak + Math.log(total) - Math.log(2 * Math.PI * variance);
    return { log, dx: (meanX / total - x) / variance, dy: (meanY / total - y) / variance };
  }

  /** p_σ on [−view, view]², on a grid as fine as it needs: each component is a column times a row, as far as it reaches. */
  density(sigma: number, view = VIEW): Grid {
    const variance = this.std ** 2 + sigma ** 2;
    const std = Math.sqrt(variance);
    const cells = cellsFor(std, view);
    const values = new Float64Array(cells * cells);
    const column = new Float64Array(cells);
    const reach = REACH * std;
    const index = (at: number): number => ((at / view + 1) * cells - 1) / 2;
    const bell = (i: number, mean: number): number =>
      Math.exp(-((centre(i, cells, view) - mean) ** 2) / (2 * variance));
    const span = (mean: number): [first: number, last: number] => {
      return [Math.max(0, Math.ceil(index(mean - reach))), Math.min(cells - 1, Math.floor(index(mean + reach)))];
    };
    for (let k = 0; k < this.weights.length; k++) {
      const [x, y] = this.means.subarray(2 * k);
      const [left, right] = span(x);
      const [bottom, top] = span(y);
      for (let i = left; i <= right; i++) column[i] = bell(i, x);
      for (let j = bottom; j <= top; j++) {
        const row = (this.weights[k] / (2 * Math.PI * variance)) * bell(j, y);
        for (let i = left; i <= right; i++) values[j * cells + i] += row * column[i];
      }
    }
    return { cells, values };
  }
}

/** w·N((−5,−5), I) + (1 − w)·N((5,5), I): Song & Ermon 2019, figures 2 and 3, with their w = 1/5. */
export function twoGaussians(weight = 0.2): Mixture {
  return new Mixture(Float64Array.of(-5, -5, 5, 5), 1, [weight, 1 - weight]);
}

/** A circle of radius 5, drawn as 256 Gaussians of std 0.1: its scores are within a thousandth of those of the package's. */
export function circle(): Mixture {
  const angle = (i: number): number => (2 * Math.PI * (i >> 1)) / 256;
  return new Mixture(
    Float64Array.from({ length: 512 }, (_, i) => 5 * (i % 2 ? Math.sin(angle(i)) : Math.cos(angle(i)))),
    0.1,
  );
}

/** Two interleaved half circles of radius 4, drawn as 2 × 128 Gaussians of std 0.25. */
export function twoMoons(): Mixture {
  const means = new Float64Array(512);
  for (let i = 0; i < 128; i++) {
    const t = (Math.PI * i) / 127;
    means.set([4 * Math.cos(t) - 2, 4 * Math.sin(t) - 1], 2 * i);
    means.set([2 - 4 * Math.cos(t), 1 - 4 * Math.sin(t)], 2 * (i + 128));
  }
  return new Mixture(means, 0.25);
}

export const DISTRIBUTIONS: Record<string, { title: string; make: () => Mixture }> = {
  gaussian: { title: "Two Gaussians", make: twoGaussians },
  circle: { title: "Circle", make: circle },
  moons: { title: "Moons", make: twoMoons },
};

/** Their titles by their names. */
export const TITLES = Object.fromEntries(Object.entries(DISTRIBUTIONS).map(([name, { title }]) => [name, title]));
