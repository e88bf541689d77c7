// Mixtures of equal round Gaussians, of which a set of points is the case std = 0.
import { Distribution, type Grid, type Points, VIEW, cellsFor, centre, gridPoints } from "./plane.ts";
import type { Random } from "./random.ts";

const NEGLIGIBLE = -30; // a log weight beside the largest one: e⁻³⁰ = 10⁻¹³
const REACH = 4.5; // standard deviations at which a component has no density left that could be seen
const TINY = 1e-200; // sums of products below it have lost digits

/** Σ_k w_k N(μ_k, s²I): noise of level σ makes each component N(μ_k, (s² + σ²)I), and so its score is exact. */
export class Mixture extends Distribution {
  readonly means: Points;
  readonly std: number;
  readonly weights: Float64Array;
  readonly #logWeights: Float64Array;
  readonly #scratch: Float64Array;

  constructor(means: Points, std: number, weights?: number[]) {
    super();
    const count = means.length / 2;
    [this.means, this.std] = [means, std];
    const sum = weights?.reduce((a, b) => a + b, 0) ?? count;
    this.weights = Float64Array.from({ length: count }, (_, k) => (weights ? weights[k] : 1) / sum);
    this.#logWeights = this.weights.map(Math.log);
    this.#scratch = new Float64Array(count);
  }

  sample(n: number, random: Random): Points {
    const x = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      let left = random.uniform();
      let k = 0;
      while (k < this.weights.length - 1 && left >= this.weights[k]) left -= this.weights[k++];
      x[2 * i] = this.means[2 * k] + this.std * random.normal();
      x[2 * i + 1] = this.means[2 * k + 1] + this.std * random.normal();
    }
    return x;
  }

  /** The gradient is (E[μ_k | x] − x)/(s² + σ²), where k is drawn from what x says of it. */
  at(x: number, y: number, sigma: number): { log: number; dx: number; dy: number } {
    const variance = this.std ** 2 + sigma ** 2;
    const weights = this.#scratch;
    let peak = -Infinity;
    for (let k = 0; k < weights.length; k++) {
      const dx = x - this.means[2 * k];
      const dy = y - this.means[2 * k + 1];
      weights[k] = this.#logWeights[k] - (dx * dx + dy * dy) / (2 * variance);
      if (weights[k] > peak) peak = weights[k];
    }
    for (let k = 0; k < weights.length; k++) {
      const log = weights[k] - peak;
      weights[k] = log < NEGLIGIBLE ? 0 : Math.exp(log);
    }
    const { total, meanX, meanY } = this.#mean();
    const log = peak + Math.log(total) - Math.log(2 * Math.PI * variance);
    return { log, dx: (meanX - x) / variance, dy: (meanY - y) / variance };
  }

  /** The mean of the means by the weights in the scratch, and the sum of these. */
  #mean(): { total: number; meanX: number; meanY: number } {
    const { means } = this;
    let [total, x, y] = [0, 0, 0];
    for (let k = 0; k < this.#scratch.length; k++) {
      const weight = this.#scratch[k];
      total += weight;
      x += weight * means[2 * k];
      y += weight * means[2 * k + 1];
    }
    return { total, meanX: x / total, meanY: y / total };
  }

  /**
   * Several times faster than point by point: a weight is a product of what belongs to the column and what belongs to
   * the row.  Where all products vanish, points are visited one by one.
   */
  override field(count: number, sigma: number): Points {
    const variance = this.std ** 2 + sigma ** 2;
    const n = this.weights.length;
    const [columns, rows] = [this.#factors(count, 0, variance), this.#factors(count, 1, variance)];
    const points = gridPoints(count);
    for (let at = 0; at < count * count; at++) {
      const [x, y] = points.subarray(2 * at);
      const [column, row] = [(at % count) * n, Math.floor(at / count) * n];
      for (let k = 0; k < n; k++) this.#scratch[k] = columns[column + k] * rows[row + k];
      const { total, meanX, meanY } = this.#mean();
      const [dx, dy] = [(meanX - x) / variance, (meanY - y) / variance];
      points.set(total < TINY ? this.score(Float64Array.of(x, y), sigma) : [dx, dy], 2 * at);
    }
    return points;
  }

  /** e^(−d²/(2v)) for each centre along an axis and each component, but for a factor of each centre; weighted once. */
  #factors(count: number, axis: 0 | 1, variance: number): Float64Array {
    const n = this.weights.length;
    const out = new Float64Array(count * n);
    for (let i = 0; i < count; i++) {
      const at = centre(i, count);
      let least = Infinity;
      for (let k = 0; k < n; k++) least = Math.min(least, (at - this.means[2 * k + axis]) ** 2);
      for (let k = 0; k < n; k++) {
        const factor = Math.exp((least - (at - this.means[2 * k + axis]) ** 2) / (2 * variance));
        out[i * n + k] = axis === 0 ? factor : factor * this.weights[k];
      }
    }
    return out;
  }

  /** p_σ on a grid as fine as it needs: each component is a column times a row, as far as it reaches. */
  density(sigma: number): Grid {
    const variance = this.std ** 2 + sigma ** 2;
    const std = Math.sqrt(variance);
    const cells = cellsFor(std);
    const values = new Float64Array(cells * cells);
    const column = new Float64Array(cells);
    const reach = REACH * std;
    const index = (at: number): number => ((at / VIEW + 1) * cells - 1) / 2;
    const bell = (i: number, mean: number): number => Math.exp(-((centre(i, cells) - mean) ** 2) / (2 * variance));
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
